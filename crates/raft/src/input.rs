//! What happens to a core.
//!
//! Fields are explained by the text of the variant that holds them.
#![allow(missing_docs, reason = "the text of a variant says what its fields are")]

use atoll_base::{LogIndex, NodeId, Term};
use bytes::Bytes;

use crate::membership::Membership;
use crate::message::Message;
use crate::quorum::Amnesia;

/// The caller's name for a read request; comes back when the read may be served.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadContext(pub u64);

/// One input of [`RaftCore::step`](crate::RaftCore::step). None of them fails: what can't be done
/// is answered in the output, or ignored where its text says so.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// Nothing but time passing: the deadline may have been reached (thesis 3.4, 6.2).
    Tick,
    /// A message from a peer, in any order, any number of times (thesis 3.2, 3.8). One that is for
    /// another node is ignored.
    Message(Message),
    /// Payloads to append, one entry each, all or none (thesis 3.5). Answered in
    /// `Output::proposal`; refused beyond `Config::uncommitted_bytes_max` bytes.
    Propose(Vec<Bytes>),
    /// A linearizable read (thesis 6.4), on leaders and followers; answered, now or by a later
    /// step, in `Output::reads` or `Output::reads_failed`. A context in use must not be used again.
    Read(ReadContext),
    /// Many of them, for the price of one: they share a confirmation.
    Reads(Vec<ReadContext>),
    /// Hand leadership over to this voter (thesis 3.10). Ignored by cores that don't lead, and for
    /// others than voters; given up after `Config::election_timeout_min`. `Output::role_changed`
    /// and `RaftCore::is_transferring` tell how it goes; proposals are refused meanwhile.
    Transfer(NodeId),
    /// Make these the members, through a joint configuration where needed (thesis 4.3). Answered in
    /// `Output::proposal`; done when `membership()` is not joint and its entry is committed.
    ChangeMembership(Membership),
    /// The write that ended with `(term, index)` is durable, with the hard state it carried, *and
    /// so is every write before it*: a log has one order (traps R5, R9). Completions may be merged
    /// (only the last one reported) or arrive late; one that names another write than this core
    /// made with that number is ignored. `term` and `index` come from [`Write`](crate::Write).
    Written { write: u64, term: Term, index: LogIndex },
    /// The owner has applied everything up to here; never beyond what `Output::commit` gave, which
    /// is asserted (I5).
    Applied(LogIndex),
    /// The owner has cut its log: the first entry kept is `first`, the one before has term
    /// `prev_term` (thesis 5). Only entries that are applied may be cut, which is asserted.
    Compacted { first: LogIndex, prev_term: Term },
    /// The owner installed a snapshot that ends here and made it durable (thesis 5). Before it
    /// replaces its
    /// state it must ask [`RaftCore::accepts_snapshot`](crate::RaftCore::accepts_snapshot); and
    /// when it is done, whether its log goes too
    /// ([`RaftCore::snapshot_replaces_log`](crate::RaftCore::snapshot_replaces_log)): then the
    /// log must be empty after `index` before this input.
    SnapshotInstalled { index: LogIndex, term: Term, membership: Membership },
    /// A snapshot sent to this follower, ending at `index`, arrived or failed (thesis 5.1). Ignored
    /// by cores that don't lead.
    SnapshotSent { to: NodeId, index: LogIndex, ok: bool },
    /// The node layer says whether a peer's node is alive (quiet groups). One that was gone for a
    /// moment, however short, must be told as gone and then as alive.
    PeerLiveness { node: NodeId, alive: bool },
    /// Somebody needs this group: if it is quiet, its leader shows up or is replaced; and it does
    /// not go quiet for some heartbeats.
    Wake,
    /// The owner begins to replace its state by a snapshot that
    /// [`RaftCore::accepts_snapshot`](crate::RaftCore::accepts_snapshot) accepted: until
    /// `SnapshotInstalled` or `StateLost` the replica follows, acknowledges and votes as before
    /// (its log is whole), but it neither campaigns nor leads nor reads: it has no state to do it
    /// with.
    InstallBegun,
    /// The state is gone, half-way into a snapshot, and the log with its promises is whole: the
    /// replica still votes, for whoever has at least its log, but doesn't lead until it is
    /// rebuilt. It asks its leader for another snapshot.
    StateLost,
    /// Entries are gone that this replica may have acknowledged, or can't be told from others: the
    /// log counts for nothing, the state neither, until both are rebuilt (traps T14, T20). With
    /// [`Amnesia::Votes`] the hard state can't be trusted either.
    Damaged(Amnesia),
}
