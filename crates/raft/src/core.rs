//! The core itself: what it holds, the dispatch of one step, and what every step ends with.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use atoll_base::{Entry, EntryKind, LogIndex, NodeId, Rng, Term, Time};

use crate::amnesia::Recollection;
use crate::config::{Config, planted};
use crate::counters::Counters;
use crate::history::History;
use crate::input::Input;
use crate::membership::Membership;
use crate::message::{Body, Message};
use crate::output::{HardState, Output, Write};
use crate::progress::Progress;
use crate::quorum::{Amnesia, Ballot};
use crate::reader::{LogReader, ReadError};
use crate::reads::{Asks, Reads};
use crate::snapshot::StateHeld;
use crate::tail::LogView;
use crate::transfer::Transfer;
use crate::writes::Writes;

/// What a core is at the moment (thesis 3.3; pre-candidates 9.6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CoreRole {
    /// Follows a leader, or waits for one (thesis 3.4).
    Follower,
    /// Asks whether it would win an election (thesis 9.6).
    PreCandidate,
    /// Asks for votes (thesis 3.4).
    Candidate,
    /// Leads (thesis 3.5).
    Leader,
}

/// What one step works with, besides the core.
pub(crate) struct Turn<'a> {
    pub(crate) now: Time,
    pub(crate) log: &'a dyn LogReader,
    pub(crate) out: &'a mut Output,
}

/// One replica's Raft core. See the crate's text for how its parts hang together.
#[derive(Debug)]
pub struct RaftCore {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) role: CoreRole,
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
    /// What was last handed over to be written of [`RaftCore::promises`].
    pub(crate) recorded: HardState,
    pub(crate) leader: Option<NodeId>,

    pub(crate) log: LogView,
    pub(crate) history: History,
    pub(crate) writes: Writes,
    /// The group's commit index as known here.
    pub(crate) commit: LogIndex,
    /// What the owner was told to apply.
    pub(crate) handed: LogIndex,
    pub(crate) applied: LogIndex,
    /// How often entries were lost that may have been acknowledged.
    pub(crate) life: u64,
    pub(crate) amnesia: Amnesia,
    /// Nothing that the log holds can be relied on.
    pub(crate) log_is_lost: bool,
    pub(crate) recollection: Recollection,
    pub(crate) state: StateHeld,

    /// When this term's leader, or an earlier one, was last heard; protects leaders from
    /// candidates.
    pub(crate) heard_at: Option<Time>,
    /// Votes are refused until then after a start, where leases are trusted.
    pub(crate) protected_until: Time,
    pub(crate) election_deadline: Option<Time>,
    /// The timeout drawn last.
    pub(crate) timeout: Duration,
    /// Follower: equal to the leader's log up to here, and acknowledged up to there.
    pub(crate) verified: LogIndex,
    pub(crate) acknowledged: LogIndex,
    pub(crate) asks: Asks,

    /// Candidate: the answers, and the write that makes its own vote durable.
    pub(crate) votes: BTreeMap<NodeId, Ballot>,
    pub(crate) vote_write: Option<u64>,

    /// Leader: its view of every other member, ascending.
    pub(crate) progress: Vec<(NodeId, Progress)>,
    /// The first entry of its term (thesis 6.4).
    pub(crate) term_start: LogIndex,
    /// Batches proposed and not committed: last index and bytes.
    pub(crate) proposed: VecDeque<(LogIndex, usize)>,
    pub(crate) proposed_bytes: usize,
    pub(crate) reads: Reads,
    pub(crate) heartbeat_deadline: Option<Time>,
    pub(crate) transfer: Option<Transfer>,
    /// No takeover by priority before that.
    pub(crate) takeover_after: Time,
    /// Heartbeat intervals without anything to do.
    pub(crate) idle_beats: u32,
    pub(crate) quiet: bool,
    /// Nodes that the owner last told are gone.
    pub(crate) down: BTreeSet<NodeId>,
    pub(crate) counters: Counters,
}

impl RaftCore {
    /// A core that continues where its log and hard state ended.
    ///
    /// `membership` is the one as of `log.first_index() - 1` (the snapshot's, or the founding one);
    /// the log above is scanned for later ones. `applied` is what the owner has applied durably.
    ///
    /// # Errors
    /// [`ReadError`] when the log can't be read or ends before `applied`.
    ///
    /// # Panics
    /// When `config` doesn't pass [`Config::check`].
    pub fn new(
        config: Config,
        now: Time,
        hard_state: HardState,
        membership: Membership,
        applied: LogIndex,
        log: &dyn LogReader,
    ) -> Result<Self, ReadError> {
        config.check().expect("the owner checks settings before it makes cores");
        let (first, last) = (log.first_index(), log.last_index());
        let prev = first.prev();
        let mut view = LogView::new(prev, log.term(prev)?, config.tail_bytes_max);
        let mut history = History::new(prev, membership);
        load(log, &mut view, &mut history)?;
        if applied > last {
            let reason = format!("the log ends there, {applied} is applied");
            return Err(ReadError::Damaged { index: last, reason });
        }
        let (applied, term) = (applied.max(prev), hard_state.term.max(view.last_term()));
        let vote = hard_state.vote.filter(|_| term == hard_state.term);
        // Mixes in what differs between lives even if the owner's seed should not.
        let seed = config.seed ^ now.0.rotate_left(32) ^ term.0.rotate_left(17) ^ last.0;
        let mut rng = Rng::new(seed ^ config.id.0.rotate_left(48));
        let protected_until =
            if config.lease_reads { now.after(config.election_timeout_min) } else { Time::ZERO };
        let asks = Asks::new(rng.next_u64());
        let mut core = Self {
            rng,
            role: CoreRole::Follower,
            term,
            vote,
            recorded: HardState { commit: LogIndex::ZERO, ..hard_state },
            leader: None,
            log: view,
            history,
            writes: Writes::new(),
            commit: hard_state.commit.min(last).max(applied),
            handed: applied,
            applied,
            life: hard_state.life,
            amnesia: hard_state.amnesia,
            log_is_lost: false,
            recollection: Recollection::default(),
            state: StateHeld::Whole,
            heard_at: None,
            protected_until,
            election_deadline: None,
            timeout: config.election_timeout_min,
            verified: LogIndex::ZERO,
            acknowledged: LogIndex::ZERO,
            asks,
            votes: BTreeMap::new(),
            vote_write: None,
            progress: Vec::new(),
            term_start: LogIndex::ZERO,
            proposed: VecDeque::new(),
            proposed_bytes: 0,
            reads: Reads::default(),
            heartbeat_deadline: None,
            transfer: None,
            takeover_after: Time::ZERO,
            idle_beats: 0,
            quiet: false,
            down: BTreeSet::new(),
            counters: Counters::default(),
            config,
        };
        core.keep_election_timer(now);
        Ok(core)
    }

    /// Takes one input and adds what it asks for to `out`, whose `write` must have been taken.
    ///
    /// `now` is monotonic time, and may not fall below that of the step before. `log` must hold
    /// everything that earlier outputs handed over, durable or not. Cost: proportional to what the
    /// input carries and to the members; with buffers given back it allocates nothing.
    ///
    /// # Panics
    /// Where the owner breaks the contract: the last write was not taken, an index is applied that
    /// was not handed over, entries are cut that are not applied.
    pub fn step(&mut self, now: Time, input: Input, log: &dyn LogReader, out: &mut Output) {
        assert!(out.write.is_none(), "the write of the step before was not taken");
        let before = (self.term, self.role, self.leader);
        let membership_before = self.history.index();
        let turn = &mut Turn { now, log, out };
        match input {
            Input::Tick => self.on_tick(turn),
            Input::Message(message) => self.on_message(turn, message),
            Input::Propose(payloads) => self.on_propose(turn, payloads),
            Input::Read(context) => self.on_reads(turn, &[context]),
            Input::Reads(contexts) => self.on_reads(turn, &contexts),
            Input::Transfer(target) => self.on_transfer(turn, target),
            Input::ChangeMembership(target) => self.on_change(turn, target),
            Input::Written { write, term, index } => self.on_written(turn, write, term, index),
            Input::Applied(index) => self.on_applied(index),
            Input::Compacted { first, prev_term } => self.on_compacted(first, prev_term),
            Input::SnapshotInstalled { index, term, membership } => {
                self.on_snapshot_installed(turn, index, term, membership);
            }
            Input::SnapshotSent { to, index, ok } => self.on_snapshot_sent(turn, to, index, ok),
            Input::PeerLiveness { node, alive } => self.on_liveness(turn, node, alive),
            Input::Wake => self.on_wake(turn),
            Input::InstallBegun => self.begin_install(turn),
            Input::StateLost => self.lose_state(turn),
            Input::Damaged(lost) => self.become_damaged(turn, lost),
        }
        self.finish(turn);
        if (self.term, self.role, self.leader) != before {
            turn.out.role_changed = true;
        }
        if self.history.index() != membership_before {
            turn.out.membership = Some(self.history.current().clone());
        }
    }

    fn on_message(&mut self, t: &mut Turn<'_>, message: Message) {
        let Message { from, to, term, body } = message;
        if to != self.config.id || from == self.config.id {
            return;
        }
        if !self.meet_term(t, from, term, &body) {
            return;
        }
        if self.log_is_lost && !matches!(body, Body::PreVote { .. }) {
            return self.on_message_lost(t, from, body);
        }
        self.wake_for(t, from, &body);
        match body {
            Body::PreVote { last_index, last_term } => {
                self.on_pre_vote(t, from, term, last_index, last_term);
            }
            Body::PreVoteReply { ballot } => self.on_pre_vote_reply(t, from, term, ballot),
            Body::Vote { last_index, last_term, .. } => {
                self.on_vote(t, from, last_index, last_term);
            }
            Body::VoteReply { ballot } => self.on_vote_reply(t, from, ballot),
            Body::Append { prev_index, prev_term, commit, entries } => {
                self.on_append(t, from, (prev_index, prev_term), commit, entries);
            }
            Body::AppendReply { matched, life } => self.on_append_reply(t, from, matched, life),
            Body::AppendReject { prev_index, conflict_index, conflict_term } => {
                self.on_append_reject(t, from, prev_index, (conflict_index, conflict_term));
            }
            Body::Heartbeat { commit, round } => self.on_heartbeat(t, from, commit, round),
            Body::HeartbeatReply { round } => self.on_heartbeat_reply(t, from, round),
            Body::ReadIndex { context } => self.on_read_index(t, from, context),
            Body::ReadIndexReply { context, index } => self.on_read_index_reply(t, context, index),
            Body::TimeoutNow => self.on_timeout_now(t, from),
            Body::Snapshot { index, term, membership } => {
                self.on_snapshot(t, from, index, term, membership);
            }
            Body::SnapshotReply { index, installed, life } => {
                self.on_snapshot_reply(t, from, (index, installed), life);
            }
            Body::Amnesia { life, log_is_lost } => self.on_amnesia(t, from, life, log_is_lost),
            Body::Owed { life, to } => self.on_owed(t, from, life, to),
            Body::Quiet { commit } => self.on_quiet(t, from, commit),
            Body::Wake => {}
        }
    }

    /// Compares a message's term with this core's, and adopts a later one (paper, figure 2). True
    /// when the message is to be looked at.
    fn meet_term(&mut self, t: &mut Turn<'_>, from: NodeId, term: Term, body: &Body) -> bool {
        if term > self.term {
            match body {
                // A pre-vote names a term that nobody is in yet.
                Body::PreVote { .. }
                | Body::PreVoteReply { ballot: Ballot::Granted | Ballot::Amnesic } => return true,
                Body::Vote { transfer, .. } if !*transfer && self.is_protected(t.now) => {
                    atoll_base::reached!("a vote was refused to protect the leader");
                    self.wake_for(t, from, body);
                    return false;
                }
                Body::Append { .. }
                | Body::Heartbeat { .. }
                | Body::Snapshot { .. }
                | Body::Quiet { .. }
                | Body::Owed { .. }
                | Body::TimeoutNow => self.become_follower(t, term, Some(from)),
                _ => self.become_follower(t, term, None),
            }
            return true;
        }
        if term == self.term {
            return true;
        }
        // A sender of an earlier term learns of this one, or it might wait for ever (trap R7).
        let ballot = Ballot::Refused;
        match body {
            Body::PreVote { .. } => self.send(t, from, Body::PreVoteReply { ballot }),
            Body::Vote { .. } => self.send(t, from, Body::VoteReply { ballot }),
            Body::ReadIndex { context } => {
                self.send(t, from, Body::ReadIndexReply { context: *context, index: None });
            }
            Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::Snapshot { .. }
            | Body::Quiet { .. } => self.send(t, from, Body::HeartbeatReply { round: 0 }),
            _ => {}
        }
        false
    }

    /// What every step ends with: the hard state, the write's end, what may be applied, the timer.
    fn finish(&mut self, t: &mut Turn<'_>) {
        self.recollect(t);
        let promises = self.promises();
        if self.recorded != promises {
            let commit = self.durable_commit();
            self.open_write(t).hard_state = Some(HardState { commit, ..promises });
            self.recorded = promises;
        }
        if let Some(write) = &mut t.out.write {
            (write.term, write.index) = (self.log.last_term(), self.log.last());
            self.writes.seal(write.term, write.index);
        }
        // This step's entries are shown by the owner's log from the next one on.
        let new = t.out.write.as_ref().and_then(|w| w.entries.first()).map(|e| e.index.prev());
        let settled = self.progress.iter().map(|(_, progress)| progress.matched).min();
        self.log.trim(new.unwrap_or(self.log.last()), settled.unwrap_or(self.log.last()));
        let may_apply = self.durable_commit();
        if may_apply > self.handed && self.has_state() {
            self.handed = may_apply;
            t.out.commit = Some(may_apply);
        }
        self.keep_election_timer(t.now);
    }

    /// The hard state without its hint.
    fn promises(&self) -> HardState {
        let (life, amnesia) = (self.life, self.amnesia);
        HardState { term: self.term, vote: self.vote, commit: LogIndex::ZERO, life, amnesia }
    }

    fn durable_commit(&self) -> LogIndex {
        self.commit.min(self.durable())
    }

    /// This step's write, begun if need be.
    pub(crate) fn open_write<'t>(&mut self, t: &'t mut Turn<'_>) -> &'t mut Write {
        if t.out.write.is_none() {
            let after = t.out.messages_buffer();
            t.out.write = Some(Write { id: self.writes.open(), after, ..Write::default() });
        }
        t.out.write.as_mut().expect("begun above")
    }

    /// Sends at once.
    pub(crate) fn send(&self, t: &mut Turn<'_>, to: NodeId, body: Body) {
        t.out.messages.push(self.message(to, body));
    }

    /// Sends when everything handed over so far, and this step's write, is durable (I8).
    pub(crate) fn send_after(&mut self, t: &mut Turn<'_>, to: NodeId, body: Body) {
        let message = self.message(to, body);
        if self.recorded != self.promises() || t.out.write.is_some() || !self.writes.is_empty() {
            self.open_write(t).after.push(message);
        } else {
            t.out.messages.push(message);
        }
    }

    pub(crate) fn message(&self, to: NodeId, body: Body) -> Message {
        Message { from: self.config.id, to, term: self.term, body }
    }

    /// Replaces the log from the first of `entries` on and hands them over to be written.
    /// `memberships` are those that the entries carry.
    pub(crate) fn append(
        &mut self,
        t: &mut Turn<'_>,
        entries: Vec<Entry>,
        memberships: Vec<(LogIndex, Membership)>,
    ) {
        let Some(first) = entries.first().map(|e| e.index) else { return };
        if first <= self.log.last() {
            assert!(self.role != CoreRole::Leader, "a leader never overwrites its log (I2)");
            atoll_base::reached!("a follower replaced its log's end");
            self.counters.replaced += 1;
            assert!(
                first > self.commit,
                "entry {first} would replace a committed one, commit is {}",
                self.commit
            );
            self.log.truncate(first);
            if !planted!(self.config, KeepCutMembers) {
                self.history.truncate(first);
            }
        }
        self.log.extend_from_slice(&entries);
        for (index, membership) in memberships {
            self.history.push(index, membership);
        }
        self.open_write(t);
        self.writes.hold(first);
        let write = self.open_write(t);
        if write.entries.is_empty() {
            write.entries = entries;
        } else {
            write.entries.extend(entries);
        }
    }

    fn on_written(&mut self, t: &mut Turn<'_>, write: u64, term: Term, index: LogIndex) {
        if !self.writes.complete(write, term, index) {
            return;
        }
        match self.role {
            CoreRole::Leader => self.on_own_write(t),
            CoreRole::Candidate => self.own_vote_written(t, write),
            CoreRole::Follower | CoreRole::PreCandidate => self.acknowledge_written(t),
        }
    }

    fn on_applied(&mut self, index: LogIndex) {
        assert!(index <= self.handed, "{index} was applied, {} may be (I5)", self.handed);
        self.applied = self.applied.max(index);
    }

    fn on_compacted(&mut self, first: LogIndex, prev_term: Term) {
        if first <= self.log.first() {
            return;
        }
        let prev = first.prev();
        assert!(prev <= self.applied, "the log was cut to {first}, {} is applied", self.applied);
        assert_eq!(self.log.term(prev), Some(prev_term), "the term of the cut at {prev}");
        self.log.compact(first);
        self.history.compact(prev);
    }

    /// When to call `step` with [`Input::Tick`] at the latest; `None` when nothing is awaited.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let timer = match self.role {
            CoreRole::Leader => self.heartbeat_deadline,
            _ => self.election_deadline,
        };
        let transfer = self.transfer.as_ref().map(|transfer| transfer.deadline);
        Time::earliest([timer, transfer, self.asks.deadline()])
    }

    /// This replica's node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// The latest term seen (`currentTerm`; paper, figure 2).
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Who got this term's vote (`votedFor`; paper, figure 2).
    #[must_use]
    pub fn vote(&self) -> Option<NodeId> {
        self.vote
    }

    /// Who leads this term, if known (thesis 3.4, 6.2).
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// What this core is.
    #[must_use]
    pub fn role(&self) -> CoreRole {
        self.role
    }

    /// True while it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.role == CoreRole::Leader
    }

    /// The group's commit index as known here (paper, figure 2); may lie beyond `durable()`.
    #[must_use]
    pub fn commit(&self) -> LogIndex {
        self.commit
    }

    /// What the owner has applied (`lastApplied`; paper, figure 2).
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The first entry that the log keeps; one past the last when it keeps none.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.log.first()
    }

    /// The log's last entry, durable or not.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.log.last()
    }

    /// The term at `index`, known from the entry before the first on.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index)
    }

    /// The log's durable end on this replica (thesis 10.2.1).
    #[must_use]
    pub fn durable(&self) -> LogIndex {
        self.writes.durable(self.log.last())
    }

    /// The configuration in force: the last one in the log, committed or not (I9; thesis 4.1).
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.history.current()
    }

    /// The entry that holds it; what lies before the log for the founding one.
    #[must_use]
    pub fn membership_index(&self) -> LogIndex {
        self.history.index()
    }

    /// The configuration as of `index`, for a snapshot (thesis 5); `None` for what is forgotten.
    #[must_use]
    pub fn membership_at(&self, index: LogIndex) -> Option<&Membership> {
        self.history.at(index)
    }

    /// What a leader knows about each follower (thesis 3.5), ascending by node; empty on others.
    #[must_use]
    pub fn progress(&self) -> &[(NodeId, Progress)] {
        &self.progress
    }

    /// True once the log or state was found damaged and until it is rebuilt.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.log_is_lost || self.state == StateHeld::Lost
    }

    /// Bytes proposed in this term and not committed; one batch alone may pass the bound.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> usize {
        self.proposed_bytes
    }
}

/// Reads the whole log once: terms, configurations and the recent entries.
fn load(log: &dyn LogReader, view: &mut LogView, history: &mut History) -> Result<(), ReadError> {
    const CHUNK_BYTES: usize = 1 << 20;
    let last = log.last_index();
    let mut chunk = Vec::new();
    while view.last() < last {
        chunk.clear();
        log.entries(view.last().next(), last.next(), CHUNK_BYTES, &mut chunk)?;
        let (at, prev_term) = (view.last().next(), view.last_term());
        let damaged = |reason: String| ReadError::Damaged { index: at, reason };
        if chunk.is_empty() {
            return Err(damaged("it is missing".into()));
        }
        for entry in chunk.drain(..) {
            if entry.index != view.last().next() || entry.term < prev_term {
                let reason = format!("entry {} of term {} follows", entry.index, entry.term);
                return Err(damaged(reason));
            }
            if entry.kind == EntryKind::Membership {
                let membership =
                    Membership::decode(&entry.payload).map_err(|e| damaged(e.to_string()))?;
                history.push(entry.index, membership);
            }
            view.push(entry);
        }
        view.trim(view.last(), view.last());
    }
    Ok(())
}
