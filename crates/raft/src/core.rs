//! The core itself: what it holds, and the dispatch of one step.

use atoll_base::{LogIndex, NodeId, Term, Time};

use crate::config::Config;
use crate::input::Input;
use crate::membership::Membership;
use crate::message::Message;
use crate::output::{HardState, Output};
use crate::progress::Progress;
use crate::reader::{LogReader, ReadError};

/// What a core is at the moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CoreRole {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would win an election (thesis 9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// One replica's Raft core.
#[derive(Debug)]
pub struct RaftCore {
    config: Config,
    hard: HardState,
    membership: Membership,
}

impl RaftCore {
    /// A core that continues where its log and hard state ended.
    ///
    /// `membership` is the one as of `log.first_index() - 1` (the snapshot's, or the founding one);
    /// the log above is scanned for later ones. `applied` is what the owner has applied durably.
    ///
    /// # Errors
    /// [`ReadError`] when the log can't be read or ends before `applied`.
    pub fn new(
        config: Config,
        _now: Time,
        hard_state: HardState,
        membership: Membership,
        _applied: LogIndex,
        _log: &dyn LogReader,
    ) -> Result<Self, ReadError> {
        Ok(Self { config, hard: hard_state, membership })
    }

    /// Takes one input and adds what it asks for to `out`, whose `write` must have been taken.
    ///
    /// `log` must hold everything that earlier outputs handed over, durable or not.
    pub fn step(&mut self, _now: Time, _input: Input, _log: &dyn LogReader, _out: &mut Output) {}

    /// When to call `step` with [`Input::Tick`] at the latest; `None` when nothing is awaited.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }

    /// Asserts the invariants that one core can see.
    pub fn validate(&self) {}

    /// This replica's node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// The latest term seen.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// Who leads this term, if known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        None
    }

    /// What this core is.
    #[must_use]
    pub fn role(&self) -> CoreRole {
        CoreRole::Follower
    }

    /// True while it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.role() == CoreRole::Leader
    }

    /// The group's commit index as known here; may lie beyond what is durable here.
    #[must_use]
    pub fn commit(&self) -> LogIndex {
        LogIndex::ZERO
    }

    /// What the owner has applied.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        LogIndex::ZERO
    }

    /// The log's last entry, durable or not.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        LogIndex::ZERO
    }

    /// The log's durable end on this replica.
    #[must_use]
    pub fn durable(&self) -> LogIndex {
        LogIndex::ZERO
    }

    /// The configuration in force: the last one in the log, committed or not (I9).
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The entry that holds it; the founding one has none.
    #[must_use]
    pub fn membership_index(&self) -> LogIndex {
        LogIndex::ZERO
    }

    /// What a leader knows about each follower, ascending; empty on others.
    #[must_use]
    pub fn progress(&self) -> &[(NodeId, Progress)] {
        &[]
    }

    /// True when heartbeats and timers rest (`Config::quiesce`).
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        false
    }

    /// True when this replica may campaign: a voter with data, not damaged.
    #[must_use]
    pub fn can_lead(&self) -> bool {
        self.membership.can_lead(self.config.id)
    }

    /// The leader's announcement of a snapshot that ends at `index` (at or below the applied index,
    /// and not below the log's start), to send once its chunks can be fetched. `None` when this core
    /// doesn't lead or doesn't know the index.
    #[must_use]
    pub fn snapshot_message(&self, _to: NodeId, _index: LogIndex) -> Option<Message> {
        None
    }

    /// True when an offered snapshot is still worth installing; ask before replacing any state.
    #[must_use]
    pub fn accepts_snapshot(&self, _index: LogIndex, _term: Term) -> bool {
        false
    }
}
