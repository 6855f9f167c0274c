//! One replica at work: a group that agrees, a machine that applies, and everybody who waits.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_base::{
    Code, Entry, EntryKind, Failure, LogIndex, NodeId, Revision, ShardId, Term, Time, planted,
};
use atoll_coord::Descriptor;
use atoll_machine::{Applied, KeyRange, MachineError, ShardMachine};
use atoll_raft::{Amnesia, CoreRole, Input, Output, ProposalOutcome, ReadContext, Role};
use atoll_replica::RaftGroup;
use bytes::Bytes;

use crate::ask::Ask;
use crate::config::Limits;
use crate::incoming::Incoming;
use crate::leases::Leases;
use crate::members::Members;
use crate::outgoing::Outgoing;
use crate::reads::Reads;
use crate::records;
use crate::turn::Turn;
use crate::watches::Watches;
use crate::witness::is_blank;
use crate::writes::{Writes, hold_replies};

/// How often deadlines of waiting calls are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// What a replica can do at the moment.
pub(crate) enum Condition {
    /// It applies and serves.
    Serving(Box<ShardMachine>),
    /// It votes, acknowledges and holds no data (`witness`).
    Witness,
    /// Its state is missing or damaged: it takes part only to be rebuilt from a snapshot.
    Rebuilding {
        /// What was found.
        reason: String,
    },
    /// Its core failed an assertion: it does nothing until the node is restarted.
    Quarantined {
        /// What the assertion said.
        reason: String,
    },
}

/// A replica of this lane.
pub(crate) struct Replica {
    pub(crate) descriptor: Descriptor,
    pub(crate) group: RaftGroup,
    pub(crate) condition: Condition,
    pub(crate) writes: Writes,
    pub(crate) reads: Reads,
    pub(crate) watches: Watches,
    pub(crate) leases: Leases,
    pub(crate) outgoing: BTreeMap<NodeId, Outgoing>,
    /// Followers that asked for a snapshot in this turn.
    outgoing_wanted: Vec<NodeId>,
    pub(crate) incoming: Option<Incoming>,
    /// A snapshot replaced the catalog: tell the node all of it again.
    pub(crate) catalog_changed: bool,
    /// Applied up to here, and so much of it survives power loss in the engine.
    pub(crate) applied: LogIndex,
    pub(crate) persisted: LogIndex,
    /// The group agrees up to here.
    commit: LogIndex,
    /// The term in which this replica last led, while it still does.
    led: Option<Term>,
    pub(crate) transfer: Option<(Ask, NodeId)>,
    pub(crate) members: Members,
    /// The log's start, where the configuration before it is known from the description only.
    unrecorded: Option<LogIndex>,
    /// It came to a group that existed before and has not got its state yet.
    pub(crate) is_newcomer: bool,
    sweep_at: Option<Time>,
    /// The deadline that the lane's timers hold for it.
    pub(crate) timer: Option<Time>,
    pub(crate) touched: bool,
    /// This replica's log holds a segment back: keep nothing that is persisted.
    pub(crate) pins_log: bool,
    /// History below here was asked to be forgotten.
    pub(crate) trimmed_to: Revision,
}

impl Replica {
    pub(crate) fn new(
        descriptor: Descriptor,
        group: RaftGroup,
        condition: Condition,
        limits: &Limits,
    ) -> Self {
        let applied = group.core().applied();
        let revision = match &condition {
            Condition::Serving(machine) => machine.revision(),
            _ => Revision::ZERO,
        };
        let watches = Watches::new(revision, limits.watches_per_shard_max);
        Self {
            descriptor,
            group,
            condition,
            writes: Writes::default(),
            reads: Reads::default(),
            watches,
            leases: Leases::default(),
            outgoing: BTreeMap::new(),
            outgoing_wanted: Vec::new(),
            incoming: None,
            catalog_changed: false,
            applied,
            persisted: applied,
            commit: applied,
            led: None,
            transfer: None,
            members: Members::default(),
            unrecorded: None,
            is_newcomer: false,
            sweep_at: None,
            timer: None,
            touched: false,
            pins_log: false,
            trimmed_to: Revision::ZERO,
        }
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.descriptor.shard
    }

    pub(crate) fn key_range(&self) -> KeyRange {
        KeyRange { start: self.descriptor.start.clone(), end: self.descriptor.end.clone() }
    }

    pub(crate) fn machine(&self) -> Option<&ShardMachine> {
        match &self.condition {
            Condition::Serving(machine) => Some(machine),
            _ => None,
        }
    }

    /// The revision that readers see here.
    pub(crate) fn revision(&self) -> Revision {
        self.machine().map_or(Revision::ZERO, ShardMachine::revision)
    }

    pub(crate) fn is_quarantined(&self) -> bool {
        matches!(self.condition, Condition::Quarantined { .. })
    }

    /// Gives the core one input.
    pub(crate) fn step(&mut self, input: Input, turn: &mut Turn) {
        self.group.step(turn.now, input, &mut turn.sink);
    }

    /// Takes from the core's output what concerns the lane.
    pub(crate) fn absorb(&mut self, turn: &mut Turn) {
        let output = self.group.output();
        if let Some(commit) = output.commit.take() {
            self.commit = commit;
        }
        let reads = std::mem::take(&mut output.reads);
        let failed = std::mem::take(&mut output.reads_failed);
        let wanted = std::mem::take(&mut output.snapshots_wanted);
        let offered = output.snapshot_offered.take();
        output.role_changed = false;
        let members_changed = output.membership.take().is_some();
        if members_changed {
            self.members.unsettle();
        }
        for (context, index) in reads {
            self.reads.confirmed(context.0, index);
        }
        for (context, leader) in failed {
            self.reads.failed(context.0, leader, turn);
        }
        self.follow_leadership(turn);
        self.outgoing_wanted.extend(wanted);
        if let Some(offer) = offered {
            self.start_incoming(offer, turn);
        }
        if members_changed {
            self.follow_role(turn);
        }
    }

    fn follow_leadership(&mut self, turn: &mut Turn) {
        let core = self.group.core();
        let leads = core.is_leader().then(|| core.term());
        let leader = core.leader();
        if leads != self.led {
            if self.led.is_some() {
                self.writes.leadership_lost(leader, turn);
                self.reads.leadership_lost(leader, turn);
                self.outgoing.clear();
                self.stop_awaiting_members(leader, turn);
                if !self.is_member(turn.config.node) {
                    self.watches.end_all(turn);
                }
            }
            self.members.unsettle();
            self.led = leads;
        }
        self.follow_transfer(turn);
    }

    /// Proposes what the turn gathered and asks for confirmation of its reads.
    pub(crate) fn flush(&mut self, turn: &mut Turn) {
        self.propose_expiries(turn);
        if self.writes.has_queued() {
            if planted!(AnsweredUnapplied) {
                self.writes.answer_puts(self.revision().next(), turn);
            }
            let (payloads, asks) = self.writes.take_queued(turn).split();
            match self.propose(payloads, turn) {
                Ok(place) => self.writes.appended(asks, place, turn.now),
                Err(failure) => self.writes.refused(asks, &failure, turn),
            }
        }
        if let Some(context) = self.reads.take_queued(turn.now) {
            self.step(Input::Read(ReadContext(context)), turn);
            self.absorb(turn);
        }
    }

    /// Appends entries with these payloads; the term and index of the first.
    pub(crate) fn propose(
        &mut self,
        payloads: Vec<Bytes>,
        turn: &mut Turn,
    ) -> Result<(Term, LogIndex), Failure> {
        self.step(Input::Propose(payloads), turn);
        let shard = self.shard();
        let outcome = self.group.output().proposal.take();
        self.absorb(turn);
        match outcome {
            Some(ProposalOutcome::Appended { term, first }) => Ok((term, first)),
            Some(ProposalOutcome::NotLeader { leader }) => Err(not_leader(shard, leader)),
            Some(ProposalOutcome::Refused) | None => {
                let limit = turn.config.raft.uncommitted_bytes_max;
                let text = format!(
                    "shard {shard} takes no write now: {limit} bytes wait for agreement, or \
                     leadership is being handed over"
                );
                Err(Failure::new(Code::Overloaded, text))
            }
        }
    }

    /// Applies what is committed, within the turn's budget. True when more is left.
    pub(crate) fn apply(&mut self, turn: &mut Turn) -> bool {
        let is_witness = matches!(self.condition, Condition::Witness);
        if self.applied >= self.commit || self.machine().is_none() && !is_witness {
            return false;
        }
        let budget = turn.config.limits.apply_bytes_per_turn;
        let mut entries = Vec::new();
        if let Err(e) = self.group.committed(self.applied.next(), self.commit, budget, &mut entries)
        {
            self.damaged(format!("committed entries can't be read: {e}"), turn);
            return false;
        }
        if is_witness {
            self.witness_entries(&entries, turn);
        } else if let Some(blank) = entries.iter().find(|entry| is_blank(entry)) {
            self.give_up_data(blank.index, turn);
            return false;
        } else if let Err(e) = self.apply_entries(&entries, turn) {
            self.damaged(format!("committed entries can't be applied: {e}"), turn);
            return false;
        }
        self.step(Input::Applied(self.applied), turn);
        self.absorb(turn);
        self.applied < self.commit
    }

    fn apply_entries(&mut self, entries: &[Entry], turn: &mut Turn) -> Result<(), MachineError> {
        let Condition::Serving(machine) = &mut self.condition else { return Ok(()) };
        let engine = turn.engine.clone();
        let mut batch = machine.begin(engine.as_ref());
        for entry in entries {
            let mut replies = Vec::new();
            batch.apply(entry, &mut replies)?;
            let asks = self.writes.applied(entry.term, entry.index, turn);
            hold_replies(asks, replies, &mut self.leases.claims, turn);
            if entry.kind == EntryKind::Membership {
                records::put_membership(&mut turn.applied, self.descriptor.shard, &entry.payload);
            }
        }
        let Applied { writes, events, effects } = batch.finish()?;
        self.leases.hold(effects);
        turn.applied.append(writes);
        if self.descriptor.shard == ShardId::SYSTEM {
            turn.catalog.extend(events.iter().cloned());
        }
        self.watches.hold(events);
        if let Some(last) = entries.last() {
            self.applied = last.index;
        }
        Ok(())
    }

    /// A snapshot replaced everything up to `index`. What was known as committed beyond a log that
    /// went with it counts no more: it comes again.
    pub(crate) fn jump_to(&mut self, index: LogIndex) {
        self.applied = index;
        self.persisted = index;
        self.commit = self.commit.min(self.group.core().commit()).max(index);
    }

    /// Serves what the engine now holds: reads and watches. Called after the turn's engine write.
    /// True when more is left.
    pub(crate) fn serve(&mut self, turn: &mut Turn) -> bool {
        for to in std::mem::take(&mut self.outgoing_wanted) {
            self.start_outgoing(to, turn);
        }
        self.sweep_outgoing(turn);
        self.follow_leases(turn);
        let Condition::Serving(machine) = &self.condition else { return false };
        self.reads.serve(self.applied, machine, &mut self.leases, turn);
        match self.watches.serve(machine, turn) {
            Ok(more) => more,
            Err(e) => {
                self.damaged(format!("history can't be read: {e}"), turn);
                false
            }
        }
    }

    /// Its state can't be trusted: serves nothing, votes for nothing, waits for a snapshot.
    pub(crate) fn damaged(&mut self, reason: String, turn: &mut Turn) {
        tracing::error!(
            shard = self.shard().0,
            reason,
            "replica is damaged, rebuilding from peers"
        );
        self.begin_anew(reason, turn);
    }

    /// Takes part only to be rebuilt from a snapshot; nothing of its log counts any more.
    pub(crate) fn begin_anew(&mut self, reason: String, turn: &mut Turn) {
        self.condition = Condition::Rebuilding { reason };
        self.reads.forget_age();
        self.drop_incoming(turn);
        self.step(Input::Damaged(Amnesia::Entries), turn);
        self.absorb(turn);
    }

    /// The state is gone in the middle of a snapshot; the log and its promises are whole.
    pub(crate) fn state_lost(&mut self, reason: String, turn: &mut Turn) {
        tracing::warn!(shard = self.shard().0, reason, "replica waits for another snapshot");
        self.condition = Condition::Rebuilding { reason };
        self.reads.forget_age();
        self.step(Input::StateLost, turn);
        self.absorb(turn);
    }

    /// Answers calls whose deadline has passed.
    pub(crate) fn sweep(&mut self, turn: &mut Turn) {
        let due = self.sweep_at.is_some_and(|at| at <= turn.now);
        if due {
            self.writes.expire(turn);
            self.reads.expire(turn);
            self.leases.claims.expire(turn);
            self.expire_admin(turn);
        }
        let waits = self.writes.len() + self.reads.len() + self.leases.claims.len() > 0
            || self.transfer.is_some()
            || self.members.has_asks();
        if !waits {
            self.sweep_at = None;
        } else if due || self.sweep_at.is_none() {
            self.sweep_at = Some(turn.now.after(SWEEP_INTERVAL));
        }
    }

    fn expire_admin(&mut self, turn: &mut Turn) {
        let now = turn.now;
        let transfer = self.transfer.take_if(|(ask, _)| ask.deadline <= now).map(|(ask, _)| ask);
        if let Some(ask) = transfer {
            let text = format!("shard {} did not change its leader in time", self.descriptor.shard);
            turn.refuse(ask, Failure::new(Code::DeadlineExceeded, text));
        }
        self.expire_members(turn);
    }

    /// When this replica wants to be looked at next.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        if self.is_quarantined() {
            return None;
        }
        let incoming = self.incoming.as_ref().map(Incoming::retry_at);
        let watches = self.machine().and_then(|_| self.watches.next_deadline());
        let leases = self.leases.next_deadline();
        Time::earliest([
            self.group.core().next_deadline(),
            self.sweep_at,
            incoming,
            watches,
            leases,
        ])
    }

    /// The catalog has a newer description of the shard.
    pub(crate) fn describe(&mut self, descriptor: Descriptor, turn: &mut Turn) {
        self.group.advance_epoch(descriptor.epoch);
        self.descriptor = descriptor;
        self.members.unsettle();
        let (shard, epoch) = (self.descriptor.shard, self.descriptor.epoch);
        let text = format!("shard {shard} went to epoch {epoch} meanwhile");
        self.members.refuse_all(&Failure::new(Code::StaleEpoch, text), turn);
        if !self.leads() && !self.is_member(turn.config.node) {
            // Nothing new comes here any more.
            self.watches.end_all(turn);
        }
    }

    /// Whether the description names `node`.
    pub(crate) fn is_member(&self, node: NodeId) -> bool {
        self.descriptor.members.iter().any(|m| m.node == node)
    }

    /// The configuration before the log's start is known from the description only.
    pub(crate) fn founded_at(&mut self, start: LogIndex) {
        self.unrecorded = Some(start);
    }

    /// Whether the configuration in force stands in the log or in the engine.
    pub(crate) fn is_recorded(&self) -> bool {
        self.unrecorded.is_none_or(|start| self.group.core().membership_index() > start)
    }

    /// The term in which this replica leads its group, while it does.
    pub(crate) fn led(&self) -> Option<Term> {
        self.led
    }

    /// True while this replica leads its group.
    pub(crate) fn leads(&self) -> bool {
        self.led.is_some()
    }

    /// What this replica is, in one word.
    pub(crate) fn state_name(&self, node: NodeId) -> &'static str {
        let core = self.group.core();
        match (&self.condition, &self.incoming, core.role()) {
            (Condition::Quarantined { .. }, _, _) => "quarantined",
            (_, Some(_), _) => "installing",
            (_, _, CoreRole::Leader) => "leader",
            _ if !self.is_member(node) => "left",
            _ if self.is_newcomer => "joining",
            (Condition::Witness, _, _) => "witness",
            (Condition::Rebuilding { .. }, _, _) => "rebuilding",
            _ if core.membership().role(node) == Some(Role::Learner) => "learner",
            (_, _, CoreRole::Follower) => "follower",
            (_, _, CoreRole::PreCandidate | CoreRole::Candidate) => "candidate",
        }
    }

    /// Drops what the core's output still holds (after a failed assertion).
    pub(crate) fn quarantine(&mut self, reason: String, turn: &mut Turn) {
        tracing::error!(shard = self.shard().0, reason, "replica is quarantined");
        self.say_goodbye(turn);
        self.abandon(reason, turn);
    }

    /// Does nothing any more; whoever waits is told.
    pub(crate) fn abandon(&mut self, reason: String, turn: &mut Turn) {
        *self.group.output() = Output::default();
        self.condition = Condition::Quarantined { reason };
        let gone = not_leader(self.shard(), None);
        if let Some((ask, _)) = self.transfer.take() {
            turn.refuse(ask, gone.clone());
        }
        self.members.refuse_all(&gone, turn);
        self.writes.leadership_lost(None, turn);
        self.reads.leadership_lost(None, turn);
        self.leases.stop(turn);
        self.watches.end_all(turn);
    }
}

pub(crate) fn not_leader(shard: ShardId, leader: Option<NodeId>) -> Failure {
    match leader {
        Some(node) => Failure::new(Code::NotLeader, format!("shard {shard} is led by node {node}"))
            .with_leader(leader),
        None => Failure::new(Code::NoLeader, format!("shard {shard} has no known leader")),
    }
}
