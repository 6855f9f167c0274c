//! What a core wants done, in lists that keep the order of obligations apart.
//!
//! Order in which the owner carries an output out:
//! 1. `write.entries` become visible to the [`LogReader`](crate::LogReader) before the next step
//!    (any entries at or above the first one's index are replaced).
//! 2. `messages` may leave at once, also before the write is durable.
//! 3. `write` goes to disk; when it is durable its `after` messages leave and
//!    [`Input::Written`](crate::Input::Written) comes back with the write's id.
//! 4. Everything up to `commit` may be applied, in order, once each.
//! 5. `reads` may be served when their index is applied.

use atoll_base::{Entry, LogIndex, NodeId, Term};

use crate::input::ReadContext;
use crate::membership::Membership;
use crate::message::Message;
use crate::quorum::Amnesia;

/// What must survive a restart besides entries (Raft paper, figure 2).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// Who got this term's vote.
    pub vote: Option<NodeId>,
    /// A commit index known at that time; a hint that speeds recovery up.
    pub commit: LogIndex,
    /// Grows by one whenever entries that this replica may have acknowledged were lost; named by
    /// its acknowledgements, so that those of an earlier life are not taken for promises of now.
    pub life: u64,
    /// What is missing since such a loss, until all of it is here again.
    pub amnesia: Amnesia,
}

/// One write to the log. May be empty but for `after`: then those wait for the writes before it.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Write {
    /// Its number in this core, growing by one; comes back in `Input::Written`.
    pub id: u64,
    /// Term of the log's last entry once this is written; comes back in `Input::Written`.
    pub term: Term,
    /// Index of the log's last entry once this is written; comes back in `Input::Written`.
    pub index: LogIndex,
    /// The hard state to record, if it changed.
    pub hard_state: Option<HardState>,
    /// Entries to append; the first one's index may lie inside the log and then replaces its
    /// suffix.
    pub entries: Vec<Entry>,
    /// Messages that may leave only when this write is durable (votes, follower acknowledgements).
    pub after: Vec<Message>,
}

/// What became of a proposal batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProposalOutcome {
    /// Appended at `first..first + count` in `term`; committed or lost later.
    Appended {
        /// The leader's term.
        term: Term,
        /// The first entry's index.
        first: LogIndex,
    },
    /// Not the leader.
    NotLeader {
        /// Who is, if known.
        leader: Option<NodeId>,
    },
    /// Did not happen: too many uncommitted bytes, or leadership is being handed over. For a change
    /// of members also: nothing is committed in this term yet (trap R10), another change is under
    /// way, or [`Membership::check_target`](crate::Membership::check_target) refuses it.
    Refused,
}

/// Everything that one step produced. Reused between steps: take what it holds, then `clear`.
#[derive(Default, Debug)]
pub struct Output {
    /// May leave at once.
    pub messages: Vec<Message>,
    /// At most one write a step.
    pub write: Option<Write>,
    /// Everything up to here may be applied, if that moved: it is committed *and* durable on this
    /// replica, so that an applied index never lies beyond the log after a crash.
    pub commit: Option<LogIndex>,
    /// The outcome of this step's `Propose` or `ChangeMembership`.
    pub proposal: Option<ProposalOutcome>,
    /// Reads that may be served once `LogIndex` is applied.
    pub reads: Vec<(ReadContext, LogIndex)>,
    /// Reads that this core can't confirm: ask the leader, if one is named.
    pub reads_failed: Vec<(ReadContext, Option<NodeId>)>,
    /// Followers that need a snapshot: take one at or below the applied index, send its chunks and
    /// the message of [`RaftCore::snapshot_message`](crate::RaftCore::snapshot_message), then
    /// report `SnapshotSent`.
    pub snapshots_wanted: Vec<NodeId>,
    /// An incoming snapshot to fetch and install: `(from, index, term, membership)`.
    pub snapshot_offered: Option<(NodeId, LogIndex, Term, Membership)>,
    /// Leadership, term or role changed: look at the getters.
    pub role_changed: bool,
    /// The configuration in force changed.
    pub membership: Option<Membership>,
    spare: Spare,
}

/// Empty buffers that the owner gave back.
#[derive(Default, Debug)]
struct Spare {
    entries: Vec<Vec<Entry>>,
    messages: Vec<Vec<Message>>,
}

/// Buffers of a kind that an output keeps.
const SPARE_MAX: usize = 64;

impl Output {
    /// Empties all lists and keeps their memory.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.write = None;
        self.commit = None;
        self.proposal = None;
        self.reads.clear();
        self.reads_failed.clear();
        self.snapshots_wanted.clear();
        self.snapshot_offered = None;
        self.role_changed = false;
        self.membership = None;
    }

    /// Gives a carried-out write's memory back. An owner that does so, and does the same with the
    /// entries of the messages that it sent, makes replication free of allocations. At most 64
    /// buffers of a kind are kept.
    pub fn reuse(&mut self, write: Write) {
        self.reuse_entries(write.entries);
        let mut after = write.after;
        if after.capacity() > 0 && self.spare.messages.len() < SPARE_MAX {
            after.clear();
            self.spare.messages.push(after);
        }
    }

    /// Gives the memory of an append's entries back; see [`Output::reuse`].
    pub fn reuse_entries(&mut self, mut entries: Vec<Entry>) {
        if entries.capacity() > 0 && self.spare.entries.len() < SPARE_MAX {
            entries.clear();
            self.spare.entries.push(entries);
        }
    }

    /// An empty buffer for entries.
    pub(crate) fn entries_buffer(&mut self) -> Vec<Entry> {
        self.spare.entries.pop().unwrap_or_default()
    }

    /// An empty buffer for messages.
    pub(crate) fn messages_buffer(&mut self) -> Vec<Message> {
        self.spare.messages.pop().unwrap_or_default()
    }

    /// True when nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.write.is_none()
            && self.commit.is_none()
            && self.proposal.is_none()
            && self.reads.is_empty()
            && self.reads_failed.is_empty()
            && self.snapshots_wanted.is_empty()
            && self.snapshot_offered.is_none()
            && !self.role_changed
            && self.membership.is_none()
    }
}
