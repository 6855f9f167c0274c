//! The leader's clock for leases, waits for locks and lock delays.
//!
//! The machine holds durations, this module deadlines: on the lane's monotonic clock, in memory,
//! for one term. When a deadline passes the leader proposes an entry that says so, and only the
//! machine decides, in apply, whether it still fits.
//!
//! * **L1** Deadlines belong to a term. A replica that begins to lead gives everything its full
//!   duration again (trap T29); one that ceases to lead counts nothing, proposes nothing and
//!   forwards nothing (trap T28).
//! * **L2** A keep-alive is a linearizable read: it is answered only once leadership is confirmed
//!   after it came in. So no successor was elected before, and what its client may believe ends
//!   before what any successor counts.
//! * **L3** A lease whose expiry is proposed is not kept alive any more: it may be gone already.
//! * **L4** What was proposed and did not take effect is counted anew, in full.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_base::{Code, Failure, LeaseId, LogIndex, Term, Time, planted};
use atoll_coord::{AnswerBody, KeptAlive, LeaseStatus, Told};
use atoll_machine::refusal::LEASE_NOT_FOUND;
use atoll_machine::{BatchWriter, Command, Effect, LeaseOp, LockOp, Op, ShardMachine};
use bytes::Bytes;

use crate::ask::Ask;
use crate::claims::Claims;
use crate::replica::Replica;
use crate::turn::Turn;

/// Expiries in one entry.
const EXPIRIES_PER_ENTRY: usize = 256;
/// Keys that the leases expired by one entry may have, about.
const KEYS_PER_ENTRY: u64 = 100_000;
/// A proposal that was refused is made again after so long.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Leases in one page of a list, at most.
const LEASES_PER_PAGE: usize = 10_000;
/// Keys of a lease that are told, at most.
const KEYS_TOLD: usize = 10_000;

/// What runs out. The numbers are never given twice, so an older one of the same name is another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Due {
    Lease { id: LeaseId, birth: u64 },
    Wait { lock: Bytes, place: u64 },
    Delay { lock: Bytes, number: u64 },
}

impl Due {
    fn op(&self, term: Term) -> Op {
        match self.clone() {
            Self::Lease { id, birth } => Op::Lease(LeaseOp::Expire { id, birth, term }),
            Self::Wait { lock, place } => Op::Lock(LockOp::ExpireWait { lock, place, term }),
            Self::Delay { lock, number } => Op::Lock(LockOp::EndDelay { lock, number, term }),
        }
    }
}

struct Timer {
    length: Duration,
    /// When it runs out; `None` once that is proposed.
    at: Option<Time>,
}

/// What a client asks of leases and locks without changing them.
pub(crate) enum Question {
    KeepAlive(Vec<LeaseId>),
    Lease { id: LeaseId, keys: Told },
    Leases { after: Option<LeaseId>, limit: usize },
    Lock(Bytes),
    Observe(Bytes),
}

/// Deadlines of one replica while it leads.
#[derive(Default)]
pub(crate) struct Leases {
    pub(crate) claims: Claims,
    /// The term that is counted for (L1).
    term: Option<Term>,
    timers: BTreeMap<Due, Timer>,
    order: BTreeSet<(Time, Due)>,
    /// Proposed, by the entry that says so.
    proposed: BTreeMap<LogIndex, Vec<Due>>,
    /// Applied, but not yet in the engine.
    held: Vec<Effect>,
}

impl Leases {
    /// Takes in what came of applied commands; acted upon after the turn's engine write.
    pub(crate) fn hold(&mut self, effects: Vec<Effect>) {
        self.held.extend(effects);
    }

    fn set(&mut self, due: Due, length_ms: u64, now: Time) {
        self.unset(&due);
        let length = Duration::from_millis(length_ms);
        let at = now.after(if planted!(LeasesCutShort) { length / 4 } else { length });
        self.order.insert((at, due.clone()));
        self.timers.insert(due, Timer { length, at: Some(at) });
    }

    fn unset(&mut self, due: &Due) {
        if let Some(Timer { at: Some(at), .. }) = self.timers.remove(due) {
            self.order.remove(&(at, due.clone()));
        }
    }

    /// Starts it again in full, or at `at`.
    fn rearm(&mut self, due: &Due, at: Option<Time>, now: Time) {
        let Some(timer) = self.timers.get_mut(due) else { return };
        if let Some(at) = timer.at {
            self.order.remove(&(at, due.clone()));
        }
        let at = at.unwrap_or(now.after(timer.length));
        timer.at = Some(at);
        self.order.insert((at, due.clone()));
    }

    /// Follows who leads and what was applied; called after the turn's engine write.
    fn follow(
        &mut self,
        led: Option<Term>,
        applied: LogIndex,
        machine: Option<&ShardMachine>,
        turn: &mut Turn,
    ) {
        let (Some(term), Some(machine)) = (led, machine) else {
            return self.stop(turn);
        };
        let held = std::mem::take(&mut self.held);
        if self.term != Some(term) {
            self.stop(turn);
            self.term = Some(term);
            for effect in machine.timed() {
                atoll_base::reached!("a new leader started a deadline in full");
                self.count(&effect, turn.now);
            }
        } else {
            for effect in held {
                self.count(&effect, turn.now);
                self.claims.tell(effect, turn);
            }
        }
        self.claims.look_up(machine, turn);
        if self.proposed.first_key_value().is_none_or(|(index, _)| *index > applied) {
            return;
        }
        let later = self.proposed.split_off(&applied.next());
        for due in std::mem::replace(&mut self.proposed, later).into_values().flatten() {
            if self.timers.get(&due).is_some_and(|timer| timer.at.is_none()) {
                atoll_base::reached!("a proposed expiry had no effect and is counted anew");
                self.rearm(&due, None, turn.now);
            }
        }
    }

    /// Counts no more; whoever waits must ask elsewhere.
    pub(crate) fn stop(&mut self, turn: &mut Turn) {
        self.held.clear();
        self.claims.leadership_lost(turn);
        // Without a term there is nothing else.
        if self.term.take().is_some() {
            self.timers.clear();
            self.order.clear();
            self.proposed.clear();
        }
    }

    fn count(&mut self, effect: &Effect, now: Time) {
        match effect {
            Effect::LeaseGranted { id, birth, ttl_ms } => {
                self.set(Due::Lease { id: *id, birth: *birth }, *ttl_ms, now);
            }
            Effect::LeaseEnded { id } => {
                let all =
                    Due::Lease { id: *id, birth: 0 }..=Due::Lease { id: *id, birth: u64::MAX };
                let gone: Vec<Due> = self.timers.range(all).map(|(due, _)| due.clone()).collect();
                gone.iter().for_each(|due| self.unset(due));
            }
            Effect::Waits { claim, place, wait_ms: Some(ms) } => {
                self.set(Due::Wait { lock: claim.lock.clone(), place: *place }, *ms, now);
            }
            Effect::Granted { claim, place, .. } | Effect::LeftQueue { claim, place, .. } => {
                self.unset(&Due::Wait { lock: claim.lock.clone(), place: *place });
            }
            Effect::Delayed { lock, number, delay_ms } => {
                let all = Due::Delay { lock: lock.clone(), number: 0 };
                let all = all..=Due::Delay { lock: lock.clone(), number: u64::MAX };
                let old: Vec<Due> = self.timers.range(all).map(|(due, _)| due.clone()).collect();
                old.iter().for_each(|due| self.unset(due));
                self.set(Due::Delay { lock: lock.clone(), number: *number }, *delay_ms, now);
            }
            Effect::DelayEnded { lock, number } => {
                self.unset(&Due::Delay { lock: lock.clone(), number: *number });
            }
            Effect::Waits { wait_ms: None, .. } | Effect::Leads { .. } => {}
        }
    }

    /// What has run out, as much as one entry may say.
    fn due(&self, machine: &ShardMachine, now: Time) -> Vec<Due> {
        let mut keys = 0;
        let mut all = Vec::new();
        for (_, due) in self.order.iter().take_while(|(at, _)| *at <= now) {
            if let Due::Lease { id, .. } = due {
                keys += machine.lease(*id).map_or(0, |lease| lease.keys);
            }
            if all.len() >= EXPIRIES_PER_ENTRY || (keys > KEYS_PER_ENTRY && !all.is_empty()) {
                break;
            }
            all.push(due.clone());
        }
        all
    }

    fn proposed(&mut self, all: Vec<Due>, index: LogIndex) {
        for due in &all {
            if let Some(timer) = self.timers.get_mut(due)
                && let Some(at) = timer.at.take()
            {
                self.order.remove(&(at, due.clone()));
            }
        }
        self.proposed.insert(index, all);
    }

    /// When something runs out next.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Answers a question whose read index is confirmed and applied (L2).
    pub(crate) fn answer(
        &mut self,
        ask: Ask,
        question: Question,
        machine: &ShardMachine,
        turn: &Turn,
    ) -> Result<AnswerBody, Failure> {
        if self.term.is_none() {
            atoll_base::reached!("leadership ended under a question about leases");
            // It did lead when the question came; who does now knows better.
            let text = "leadership changed before the question was answered";
            return Err(Failure::new(Code::NotLeader, text));
        }
        Ok(match question {
            Question::KeepAlive(leases) => AnswerBody::KeptAlive(
                leases.into_iter().map(|id| self.keep_alive(id, machine, turn.now)).collect(),
            ),
            Question::Lease { id, keys } => {
                AnswerBody::Lease(self.lease_status(id, keys, machine, turn)?)
            }
            Question::Leases { after, limit } => {
                let limit = limit.min(LEASES_PER_PAGE);
                let leases = machine.leases_after(after, limit).map(|(id, _)| id).collect();
                AnswerBody::Leases(leases)
            }
            Question::Lock(lock) => AnswerBody::Lock(machine.lock(&lock)),
            Question::Observe(lock) => {
                let max = turn.config.limits.watches_per_shard_max;
                self.claims.observe(ask, &lock, max)?;
                let info = machine.lock(&lock);
                AnswerBody::Observed(info.and_then(|info| info.leadership))
            }
        })
    }

    fn timer_of(&self, id: LeaseId, machine: &ShardMachine) -> Option<(Due, &Timer)> {
        let birth = machine.lease(id)?.birth;
        let due = Due::Lease { id, birth };
        let timer = self.timers.get(&due)?;
        Some((due, timer))
    }

    /// A lease lives for its TTL from now, unless it ended or its end is proposed (L3).
    fn keep_alive(&mut self, id: LeaseId, machine: &ShardMachine, now: Time) -> KeptAlive {
        let found = self
            .timer_of(id, machine)
            .filter(|(_, timer)| timer.at.is_some() || planted!(KeptAliveTooLate));
        let found = found.map(|(due, timer)| (due, timer.length));
        if found.is_none() && machine.lease(id).is_some() {
            atoll_base::reached!("a keep-alive came after the expiry was proposed");
        }
        if let Some((due, _)) = &found {
            self.rearm(due, None, now);
        }
        KeptAlive { id, ttl: found.map(|(_, length)| length) }
    }

    fn lease_status(
        &self,
        id: LeaseId,
        keys: Told,
        machine: &ShardMachine,
        turn: &Turn,
    ) -> Result<LeaseStatus, Failure> {
        let Some(lease) = machine.lease(id) else {
            let text = format!("{LEASE_NOT_FOUND}: lease {id}");
            return Err(Failure::new(Code::NotFound, text));
        };
        let at = self.timer_of(id, machine).and_then(|(_, timer)| timer.at);
        let keys = match keys {
            Told::Yes => machine.lease_keys(turn.engine.as_ref(), id, None, KEYS_TOLD)?,
            Told::No => Vec::new(),
        };
        Ok(LeaseStatus {
            id,
            ttl: Duration::from_millis(lease.ttl_ms),
            left: at.map_or(Duration::ZERO, |at| at.since(turn.now)),
            attached: lease.keys,
            keys,
        })
    }
}

impl Replica {
    /// Follows leadership and what was applied: deadlines, waiting callers, observers.
    pub(crate) fn follow_leases(&mut self, turn: &mut Turn) {
        let (led, applied) = (self.led(), self.applied);
        let machine = match &self.condition {
            crate::replica::Condition::Serving(machine) => Some(&**machine),
            _ => None,
        };
        self.leases.follow(led, applied, machine, turn);
    }

    /// Proposes to end what has run out, in the term in which it was counted (L1).
    pub(crate) fn propose_expiries(&mut self, turn: &mut Turn) {
        let Some(term) = self.led().filter(|term| self.leases.term == Some(*term)) else { return };
        let Some(machine) = self.machine() else { return };
        let all = self.leases.due(machine, turn.now);
        if all.is_empty() {
            return;
        }
        let mut batch = BatchWriter::new(turn.wall);
        for due in &all {
            batch.push(&Command::anonymous(due.op(term)));
        }
        match self.propose(vec![batch.finish()], turn) {
            Ok((_, index)) => self.leases.proposed(all, index),
            Err(failure) => {
                atoll_base::reached!("expiries could not be proposed");
                tracing::debug!(shard = self.shard().0, %failure, "expiries wait");
                let at = turn.now.after(RETRY_AFTER);
                all.iter().for_each(|due| self.leases.rearm(due, Some(at), turn.now));
            }
        }
    }
}
