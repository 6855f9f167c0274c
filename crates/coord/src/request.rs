//! What can be asked of a shard, and its answers: the one surface that every client path uses,
//! remote streams, in-process gateways and the simulator alike.

use std::time::Duration;

use atoll_base::{Epoch, Failure, LeaseId, LogIndex, NodeId, Revision, ShardId, Term, Time};
use atoll_machine::{
    Command, Event, KeyEnd, KeyValue, Leadership, LockInfo, LockOp, Op, RangePage, RangeQuery,
    Reply, Wait,
};
use atoll_raft::Member;
use bytes::Bytes;

/// Who asks: a connection or an in-process caller of one node. Answers go back to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin(pub u64);

/// One call to one shard.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asks.
    pub origin: Origin,
    /// The asker's number for this call, unique among its calls in flight.
    pub id: u64,
    /// The shard asked.
    pub shard: ShardId,
    /// The epoch at which the asker knows the shard; zero for any.
    pub epoch: Epoch,
    /// When the asker stops waiting, on this node's clock.
    pub deadline: Time,
    /// What is asked.
    pub body: RequestBody,
}

/// The kinds of calls.
#[derive(Clone, Debug)]
pub enum RequestBody {
    /// A mutating command (also transactions, compaction).
    Command(Command),
    /// One key.
    Get {
        /// The key.
        key: Bytes,
        /// At which revision; `None` for the newest.
        at: Option<Revision>,
        /// How fresh.
        consistency: Consistency,
    },
    /// One page of a range.
    Range {
        /// Which page.
        query: RangeQuery,
        /// How fresh.
        consistency: Consistency,
    },
    /// Starts a watch; answers with this call's id keep coming.
    Watch(WatchSpec),
    /// Ends the watch that this origin started with this call id.
    CancelWatch {
        /// The watch call's id.
        watch: u64,
    },
    /// One batch of events of this watch was handed on: another may come. Not answered. A watch may
    /// be [`WATCH_CREDIT`] batches ahead of its reader.
    WatchCredit {
        /// The watch call's id.
        watch: u64,
    },
    /// Keeps these leases alive for another time to live. Costs no log entry: the leader confirms
    /// that it leads and counts anew. A client sends those of all its leases of a shard in one.
    KeepAlive {
        /// Which.
        leases: Vec<LeaseId>,
    },
    /// How long a lease still lives.
    Lease {
        /// Which.
        id: LeaseId,
        /// Whether its keys are told.
        keys: Told,
    },
    /// The shard's leases, in the order of their ids.
    Leases {
        /// Those behind this one.
        after: Option<LeaseId>,
        /// At most so many.
        limit: usize,
    },
    /// Who holds a lock, who leads an election, what is left of a semaphore.
    Lock {
        /// Its name.
        lock: Bytes,
    },
    /// Who leads an election now, and every change from then on, as answers to this call; ended and
    /// paced as watches are. Of changes that come faster than they are read the newest is told.
    Observe {
        /// The lock's name.
        lock: Bytes,
    },
    /// Hands leadership to a member.
    Transfer(NodeId),
    /// Waits until these are the members in force, committed and alone. The leader brings that
    /// about by itself from the shard's description in the catalog, and refuses when that names
    /// others. An empty list stands for whatever the description names.
    Members(Vec<Member>),
    /// Orders a node to delete its replica. Obeyed only where the shard's description of this epoch
    /// or a later one leaves the node out, and the replica knows of no configuration after `index`
    /// that includes it: absence alone never deletes (trap T15).
    Retire {
        /// The epoch whose description leaves the node out.
        epoch: Epoch,
        /// The entry of the committed configuration that leaves the node out.
        index: LogIndex,
    },
    /// Describes this node's replica.
    Status,
}

impl RequestBody {
    /// Whether it may stand in a lock's queue, for as long as its asker likes. Such calls are not
    /// counted among those in flight, which they would crowd out.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        match self {
            Self::Command(Command { op: Op::Lock(LockOp::Acquire(acquire)), .. }) => {
                acquire.wait != Wait::No
            }
            _ => false,
        }
    }

    /// Whether answers to it keep coming until it is cancelled.
    #[must_use]
    pub fn keeps_coming(&self) -> bool {
        matches!(self, Self::Watch(_) | Self::Observe { .. })
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consistency {
    /// Sees every write acknowledged before the read began.
    Linearizable,
    /// Any replica's state, refused when it may be older than `max` (`None`: any age). With a `max`
    /// of zero it sees every write acknowledged before the read began, as a linearizable read does,
    /// and a follower answers it, too: it asks its leader how far the log is and waits until it has
    /// applied that.
    Stale {
        /// The oldest state accepted.
        max: Option<Duration>,
    },
}

/// How many batches of events a watch may be ahead of its reader.
pub const WATCH_CREDIT: u32 = 4;

/// What a watch wants to see.
#[derive(Clone, Debug)]
pub struct WatchSpec {
    /// First key.
    pub start: Bytes,
    /// Where the range ends.
    pub end: KeyEnd,
    /// The first revision to deliver; `None`: from now.
    pub from: Option<Revision>,
    /// Whether puts are told.
    pub puts: Told,
    /// Whether deletes are told.
    pub deletes: Told,
    /// Whether events carry what was there before.
    pub previous: Told,
    /// Whether an idle watch is told how far it got.
    pub progress: Told,
}

/// Whether a watch is told of something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// What a watch is told at once: whole revisions, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchEvents {
    /// The changes.
    pub events: Vec<Event>,
    /// Everything up to this revision was told with it.
    pub through: Revision,
}

/// One answer to one call.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Who asked.
    pub origin: Origin,
    /// The asker's number of the call.
    pub id: u64,
    /// What came of it.
    pub body: Result<AnswerBody, Failure>,
}

/// The kinds of answers; each belongs to the request of the same name.
#[derive(Clone, Debug)]
pub enum AnswerBody {
    /// A command was applied (a `Reply::Failed` becomes a failure before it gets here).
    Command(Reply),
    /// One key, as of `revision`.
    Get {
        /// The key's version, if it exists.
        kv: Option<KeyValue>,
        /// The shard's revision that was read.
        revision: Revision,
        /// An upper bound of the answer's age; zero for linearizable reads.
        staleness: Duration,
    },
    /// One page.
    Range {
        /// The page.
        page: RangePage,
        /// The shard's newest revision, also where an older one was read.
        newest: Revision,
        /// An upper bound of the answer's age; zero for linearizable reads.
        staleness: Duration,
    },
    /// The watch stands; events follow from this revision on.
    WatchStarted {
        /// The first revision that it will deliver.
        from: Revision,
    },
    /// Events of a watch.
    Watch(WatchEvents),
    /// The watch ended: it wanted revisions at or below this one, which are no longer kept.
    WatchCompacted {
        /// The oldest revision still readable.
        compacted: Revision,
    },
    /// The watch was cancelled as asked.
    WatchCancelled,
    /// Which leases live on, in the order in which they were named.
    KeptAlive(Vec<KeptAlive>),
    /// A lease.
    Lease(LeaseStatus),
    /// A page of leases; the next one begins behind the last.
    Leases(Vec<LeaseId>),
    /// A lock; `None` where nobody holds it or waits for it.
    Lock(Option<LockInfo>),
    /// Who leads an election.
    Observed(Option<Leadership>),
    /// Leadership was handed over (or is on its way: look at the status).
    Transferred,
    /// The members that were asked for are in force, committed and alone.
    Members {
        /// The epoch of the description that names them.
        epoch: Epoch,
        /// The entry that made them so.
        index: LogIndex,
    },
    /// The replica is deleted, or was not there.
    Retired,
    /// The replica's state.
    Status(ReplicaStatus),
}

/// What came of a keep-alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeptAlive {
    /// The lease.
    pub id: LeaseId,
    /// It lives for at least so long from when it was asked for; `None`: it ended, or is about to.
    pub ttl: Option<Duration>,
}

/// A lease as the shard's leader sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseStatus {
    /// The lease.
    pub id: LeaseId,
    /// Its time to live.
    pub ttl: Duration,
    /// What is left of it; zero when its end is proposed.
    pub left: Duration,
    /// How many keys are attached to it.
    pub attached: u64,
    /// Those keys in order, as many as are told at once; empty if not asked for.
    pub keys: Vec<Bytes>,
}

/// One replica as its node sees it.
#[derive(Clone, Debug, Default)]
pub struct ReplicaStatus {
    /// The node.
    pub node: NodeId,
    /// The shard.
    pub shard: ShardId,
    /// The shard's epoch there.
    pub epoch: Epoch,
    /// The current term.
    pub term: Term,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// `leader`, `follower`, `candidate`, `learner`, `witness`, `joining`, `rebuilding`,
    /// `installing`,
    /// `left`, `quarantined`.
    pub state: &'static str,
    /// First entry kept in the log.
    pub first_index: LogIndex,
    /// Last entry in the log.
    pub last_index: LogIndex,
    /// Last entry known to be committed.
    pub commit_index: LogIndex,
    /// Last entry applied.
    pub applied_index: LogIndex,
    /// The shard's revision.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    /// The members in force.
    pub members: Vec<Member>,
    /// On the leader: what it waits for on the way to the members that the catalog names; empty
    /// when they are in force.
    pub waits_for: String,
    /// On the leader: how far each follower is.
    pub progress: Vec<FollowerStatus>,
}

/// A follower as its leader sees it.
#[derive(Clone, Debug)]
pub struct FollowerStatus {
    /// The follower.
    pub node: NodeId,
    /// Its log equals the leader's up to here, durably.
    pub matched: LogIndex,
    /// `probe`, `replicate` or `snapshot`.
    pub state: &'static str,
}
