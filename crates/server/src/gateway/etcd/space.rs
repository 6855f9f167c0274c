//! An etcd store as this node knows it: its shard, and how that is at the moment; and reads of it.
//!
//! A read asks this node's own replica first, whether it leads or not. A follower asks its leader
//! how far the log is, once for all reads that wait, and answers when it has applied that: no value
//! crosses the network between nodes, and the leader's lane is left to changes. Where the own
//! replica can't tell, the leader is asked, and for a while it alone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use atoll_base::{Code, Failure, Revision, ShardId, Time};
use atoll_coord::{AnswerBody, Consistency, ReplicaStatus, RequestBody};
use atoll_wire::etcd::etcdserverpb::ResponseHeader;

use super::Call;
use crate::drive::{Caller, Hub};

/// How often it is looked who leads, in which term.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long this node's replica may take to say how it is.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long this node's replica may take over a read before the leader is asked instead.
pub(super) const NEAR_TIMEOUT: Duration = Duration::from_secs(2);
/// How long reads go to the leader after this node's replica refused one,
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// or did not answer in time: it is behind.
const AFTER_SILENCE: Duration = Duration::from_secs(10);

/// One store.
pub(super) struct Space {
    pub(super) hub: Arc<Hub>,
    pub(super) shard: ShardId,
    /// The newest revision seen in an answer.
    newest: AtomicU64,
    term: AtomicU64,
    /// The node that leads the shard; 0 for none known.
    leader: AtomicU64,
    is_followed: AtomicBool,
    /// Until then, on the node's clock, reads go to the leader.
    elsewhere_until: AtomicU64,
}

impl Space {
    pub(super) fn new(hub: Arc<Hub>, shard: ShardId) -> Self {
        let number = AtomicU64::default;
        let (newest, term, leader) = (AtomicU64::new(1), number(), number());
        let (is_followed, elsewhere_until) = (AtomicBool::new(false), number());
        Self { hub, shard, newest, term, leader, is_followed, elsewhere_until }
    }

    /// Whether this node's replica is to be asked first.
    pub(super) fn answers_here(&self) -> bool {
        self.hub.now() >= Time(self.elsewhere_until.load(Relaxed))
    }

    /// This node's replica did not answer a read; what is wrong with the request itself counts
    /// nothing.
    pub(super) fn refused_here(&self, failure: &Failure) {
        let pause = match failure.code {
            Code::InvalidArgument
            | Code::TooLarge
            | Code::Compacted
            | Code::FutureRevision
            | Code::Unsupported => return,
            Code::DeadlineExceeded => AFTER_SILENCE,
            _ => AFTER_REFUSAL,
        };
        self.elsewhere_until.store(self.hub.now().after(pause).0, Relaxed);
    }

    /// Who answers. The term is that of the last look.
    pub(super) fn header(&self, revision: Revision) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.hub.cluster,
            member_id: self.hub.node.0,
            revision: revision.0 as i64,
            raft_term: self.term.load(Relaxed),
        }
    }

    /// An answer was of this revision.
    pub(super) fn saw(&self, revision: Revision) {
        self.newest.fetch_max(revision.0, Relaxed);
    }

    /// The newest revision that this node has seen.
    pub(super) fn newest(&self) -> Revision {
        Revision(self.newest.load(Relaxed))
    }

    /// Whether somebody led the shard at the last look.
    pub(super) fn has_leader(&self) -> bool {
        self.leader.load(Relaxed) != 0
    }

    /// Asks this node's replica how it is, if there is one.
    pub(super) async fn look(&self) -> Option<ReplicaStatus> {
        let mut caller = Caller::new(self.hub.clone());
        let answer = caller.call(self.shard, RequestBody::Status, LOOK_TIMEOUT).await;
        let status = match answer.body {
            Ok(AnswerBody::Status(status)) if status.state != "witness" => status,
            // A node without data asks others; that they lead is all it can say.
            _ => {
                self.leader.store(self.hub.node.0, Relaxed);
                return None;
            }
        };
        self.saw(status.revision);
        self.term.fetch_max(status.term.0, Relaxed);
        self.leader.store(status.leader.unwrap_or_default().0, Relaxed);
        Some(status)
    }
}

/// The same read as one that a follower answers, too; `None` for what only leaders answer.
pub(super) fn near(body: &RequestBody) -> Option<RequestBody> {
    let consistency = Consistency::Stale { max: Some(Duration::ZERO) };
    match body {
        RequestBody::Get { key, at, consistency: Consistency::Linearizable } => {
            Some(RequestBody::Get { key: key.clone(), at: *at, consistency })
        }
        RequestBody::Range { query, consistency: Consistency::Linearizable } => {
            Some(RequestBody::Range { query: query.clone(), consistency })
        }
        _ => None,
    }
}

impl Call {
    /// Asks for something that changes nothing. Cancel safe: yes.
    pub(super) async fn ask(&self, body: RequestBody) -> Result<AnswerBody, Failure> {
        if let Some(body) = near(&body)
            && self.space.answers_here()
        {
            let (node, shard) = (self.space.hub.node, self.space.shard);
            let timeout = self.timeout.min(NEAR_TIMEOUT);
            match self.client.ask_node(node, shard, body, timeout).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.space.refused_here(&failure),
            }
        }
        self.keyspace.ask(body).await
    }
}

/// Keeps term and leader up to date for as long as the store is known.
pub(super) fn follow(space: &Arc<Space>) {
    if space.is_followed.swap(true, Relaxed) {
        return;
    }
    let space: Weak<Space> = Arc::downgrade(space);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let Some(space) = space.upgrade() else { return };
            if space.hub.is_stopping() {
                return;
            }
            space.look().await;
        }
    });
}
