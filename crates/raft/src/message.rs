//! What cores say to each other.
//!
//! Fields are explained by the text of the variant that holds them.
#![allow(missing_docs, reason = "the text of a variant says what its fields are")]

use atoll_base::{Entry, LogIndex, NodeId, Term};

use crate::quorum::Ballot;

/// A message from one core to another of the same group.
#[derive(Clone, PartialEq, Debug)]
pub struct Message {
    /// The sender.
    pub from: NodeId,
    /// The addressee.
    pub to: NodeId,
    /// The sender's term; for pre-votes the term it would campaign in.
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// The kinds of messages. Requests and replies come in pairs.
#[derive(Clone, PartialEq, Debug)]
pub enum Body {
    /// Would you vote for me? (thesis 9.6); changes nobody's term.
    PreVote { last_index: LogIndex, last_term: Term },
    /// The answer to a pre-vote.
    PreVoteReply { ballot: Ballot },
    /// Vote for me (thesis 3.4). `transfer` overrides a live leader's protection (thesis 3.10).
    Vote { last_index: LogIndex, last_term: Term, transfer: bool },
    /// The answer to a vote request.
    VoteReply { ballot: Ballot },
    /// Entries after `(prev_index, prev_term)`, and how far the leader has committed (thesis 3.5).
    Append { prev_index: LogIndex, prev_term: Term, commit: LogIndex, entries: Vec<Entry> },
    /// Everything up to `matched` is durable here and equal to the leader's log. `life` is that of
    /// the log which holds it ([`HardState::life`](crate::HardState::life)).
    AppendReply { matched: LogIndex, life: u64 },
    /// The entry before did not match; `conflict_*` say where to try next (thesis 3.5).
    AppendReject { prev_index: LogIndex, conflict_index: LogIndex, conflict_term: Term },
    /// I lead; `commit` never passes what the follower is known to match. `round` is unique within
    /// the leader's term and confirms reads (thesis 6.4, trap R1); 0 confirms nothing and is not
    /// answered (a notice that the commit index moved).
    Heartbeat { commit: LogIndex, round: u64 },
    /// Heard, in this round.
    HeartbeatReply { round: u64 },
    /// A follower asks for a read index (thesis 6.4).
    ReadIndex { context: u64 },
    /// The read index, or `None` when it can't be given.
    ReadIndexReply { context: u64, index: Option<LogIndex> },
    /// Campaign at once (thesis 3.10).
    TimeoutNow,
    /// You need the snapshot that ends at this entry; its chunks travel outside the core.
    Snapshot { index: LogIndex, term: Term, membership: super::Membership },
    /// The snapshot ending at `index` was installed in this life of the log (or failed). Index 0:
    /// this replica's state is gone and its log is whole; it asks for a snapshot.
    SnapshotReply { index: LogIndex, installed: bool, life: u64 },
    /// Before this life, entries were lost that may have been acknowledged. How far may that have
    /// been, and with `log_is_lost`: send a snapshot, nothing is left to append to.
    Amnesia { life: u64, log_is_lost: bool },
    /// All that the addressee acknowledged before this life, and that can count, is in the leader's
    /// log up to `to`. Index 0 says only that the leader knows the addressee in this life, and
    /// heard of an earlier one.
    Owed { life: u64, to: LogIndex },
    /// The leader stops its heartbeats: it and all members have committed everything up to
    /// `commit`, which is its last entry. A follower that has exactly that stops its election
    /// timer, another answers `Wake`. Only with `Config::quiesce`.
    Quiet { commit: LogIndex },
    /// Wakes a quiet follower's leader.
    Wake,
}
