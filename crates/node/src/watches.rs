//! Watches of one shard: who they belong to, and how far ahead of their readers they may run.
//!
//! The machine's hub knows what changed and keeps one cursor per watch. This module knows the
//! callers: a watch may be `WATCH_CREDIT` batches ahead of its reader; one whose reader is slow
//! simply stays where its cursor is, and goes on from history later. Nothing is buffered per
//! watch, so a slow reader costs the others nothing (trap T43).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_base::{Code, Failure, Revision, Time};
use atoll_coord::{Answer, AnswerBody, Origin, Told, WATCH_CREDIT, WatchEvents, WatchSpec};
use atoll_machine::watch::{PollLimits, WatchLimits};
use atoll_machine::{
    Event, MachineError, Poll, ShardMachine, WatchEnd, WatchHub, WatchId, WatchRequest,
};

use crate::ask::Ask;
use crate::replica::{Condition, Replica};
use crate::turn::Turn;

/// Batches that one turn gives to all watches of a shard together.
const POLLS_PER_TURN: usize = 2_000;
/// How often an idle watch that asked for it is told how far it got.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

struct Watcher {
    origin: Origin,
    call: u64,
    credit: u32,
    progress: Told,
    /// Told up to here.
    through: Revision,
}

/// The watches of one shard.
pub(crate) struct Watches {
    hub: WatchHub,
    watchers: BTreeMap<WatchId, Watcher>,
    calls: BTreeMap<(Origin, u64), WatchId>,
    /// Ready, but without credit.
    parked: BTreeSet<WatchId>,
    /// Applied, but not yet in the engine.
    held: Vec<Event>,
    last_id: u64,
    /// Watchers that are told how far they are, so that a turn need not look for them.
    told_progress: usize,
    progress_at: Option<Time>,
}

impl Watches {
    pub(crate) fn new(through: Revision, watchers_max: usize) -> Self {
        let limits = WatchLimits { watchers_max, ..WatchLimits::default() };
        Self {
            hub: WatchHub::new(through, limits),
            watchers: BTreeMap::new(),
            calls: BTreeMap::new(),
            parked: BTreeSet::new(),
            held: Vec::new(),
            last_id: 0,
            told_progress: 0,
            progress_at: None,
        }
    }

    /// Takes in what was applied; told after the turn's engine write.
    pub(crate) fn hold(&mut self, events: Vec<Event>) {
        self.held.extend(events);
    }

    /// The machine was replaced by a snapshot's.
    pub(crate) fn reset(&mut self, through: Revision) {
        self.held.clear();
        self.hub.reset(through);
    }

    fn start(
        &mut self,
        ask: Ask,
        spec: WatchSpec,
        machine: &ShardMachine,
    ) -> Result<Answer, Failure> {
        if self.calls.contains_key(&(ask.origin, ask.id)) {
            let text = format!("call {} is a watch already", ask.id);
            return Err(Failure::new(Code::AlreadyExists, text));
        }
        self.last_id += 1;
        let id = WatchId(self.last_id);
        let from = spec.from.unwrap_or(machine.revision().next());
        let request = WatchRequest {
            start: spec.start,
            end: spec.end,
            from: Some(from),
            no_put: spec.puts == Told::No,
            no_delete: spec.deletes == Told::No,
            prev_kv: spec.previous == Told::Yes,
            fragment: false,
        };
        self.hub.register(id, request, machine)?;
        let watcher = Watcher {
            origin: ask.origin,
            call: ask.id,
            credit: WATCH_CREDIT,
            progress: spec.progress,
            through: from.prev(),
        };
        self.told_progress += usize::from(watcher.progress == Told::Yes);
        self.watchers.insert(id, watcher);
        self.calls.insert((ask.origin, ask.id), id);
        Ok(ask.answer(Ok(AnswerBody::WatchStarted { from })))
    }

    pub(crate) fn cancel(&mut self, origin: Origin, call: u64) {
        if let Some(id) = self.calls.get(&(origin, call)).copied() {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: WatchId) {
        self.hub.cancel(id);
        self.parked.remove(&id);
        if let Some(watcher) = self.watchers.remove(&id) {
            self.told_progress -= usize::from(watcher.progress == Told::Yes);
            self.calls.remove(&(watcher.origin, watcher.call));
        }
    }

    /// The caller went away.
    pub(crate) fn origin_gone(&mut self, origin: Origin) {
        let calls = self.calls.range((origin, 0)..=(origin, u64::MAX));
        let gone: Vec<WatchId> = calls.map(|(_, id)| *id).collect();
        for id in gone {
            self.forget(id);
        }
    }

    /// The reader took a batch.
    pub(crate) fn credit(&mut self, origin: Origin, call: u64) {
        let Some(id) = self.calls.get(&(origin, call)) else { return };
        if let Some(watcher) = self.watchers.get_mut(id) {
            watcher.credit = (watcher.credit + 1).min(WATCH_CREDIT);
        }
    }

    /// Tells watchers what they may know. True when there is more to tell.
    pub(crate) fn serve(
        &mut self,
        machine: &ShardMachine,
        turn: &mut Turn,
    ) -> Result<bool, MachineError> {
        let held = std::mem::take(&mut self.held);
        self.hub.feed(held, machine.revision());
        if self.watchers.is_empty() {
            self.progress_at = None;
            return Ok(false);
        }
        let mut budget = POLLS_PER_TURN;
        let funded = |w: &BTreeMap<WatchId, Watcher>, id| w.get(id).is_some_and(|w| w.credit > 0);
        let ready: Vec<WatchId> =
            self.parked.iter().filter(|id| funded(&self.watchers, id)).copied().collect();
        for id in ready {
            self.parked.remove(&id);
            self.poll(id, machine, turn)?;
            budget = budget.saturating_sub(1);
        }
        while budget > 0 {
            let Some(id) = self.hub.next_ready() else {
                self.tell_progress(turn);
                return Ok(false);
            };
            self.poll(id, machine, turn)?;
            budget -= 1;
        }
        Ok(true)
    }

    fn poll(
        &mut self,
        id: WatchId,
        machine: &ShardMachine,
        turn: &mut Turn,
    ) -> Result<(), MachineError> {
        let Some(watcher) = self.watchers.get_mut(&id) else { return Ok(()) };
        if watcher.credit == 0 {
            atoll_base::reached!("a watch waited for its reader");
            self.parked.insert(id);
            return Ok(());
        }
        let engine = turn.engine.clone();
        let ask = watcher.ask();
        match self.hub.poll(id, machine, engine.as_ref(), PollLimits::default())? {
            Poll::Batch(batch) => {
                // Without events nothing is told, and so `through` stays: progress will tell it.
                if !batch.events.is_empty() {
                    watcher.through = watcher.through.max(batch.through);
                    watcher.credit -= 1;
                    let told = WatchEvents { events: batch.events, through: batch.through };
                    turn.answers.push(ask.answer(Ok(AnswerBody::Watch(told))));
                }
            }
            Poll::Ended(end) => {
                let body = match end {
                    WatchEnd::Compacted { compact_revision } => {
                        atoll_base::reached!("a watch ended because its history is gone");
                        Ok(AnswerBody::WatchCompacted { compacted: compact_revision })
                    }
                    WatchEnd::Unknown => Err(Failure::new(Code::Internal, "watch was forgotten")),
                };
                turn.answers.push(ask.answer(body));
                self.forget(id);
            }
        }
        Ok(())
    }

    /// Tells idle watchers how far they are. Everything before was told already: a watcher that is
    /// queued or parked is not idle (trap T41).
    fn tell_progress(&mut self, turn: &mut Turn) {
        let due = self.progress_at.is_none_or(|at| at <= turn.now);
        if self.told_progress == 0 {
            self.progress_at = None;
            return;
        }
        if !due {
            return;
        }
        self.progress_at = Some(turn.now.after(PROGRESS_INTERVAL));
        let through = self.hub.through();
        for (id, watcher) in &mut self.watchers {
            let idle = !self.parked.contains(id) && watcher.credit > 0;
            if watcher.progress == Told::Yes && idle && watcher.through < through {
                watcher.through = through;
                watcher.credit -= 1;
                let told = WatchEvents { events: Vec::new(), through };
                turn.answers.push(watcher.ask().answer(Ok(AnswerBody::Watch(told))));
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.progress_at
    }

    /// The replica serves nothing any more: every watcher must go elsewhere.
    pub(crate) fn end_all(&mut self, turn: &mut Turn) {
        let ids: Vec<WatchId> = self.watchers.keys().copied().collect();
        for id in ids {
            if let Some(watcher) = self.watchers.get(&id) {
                let gone = Failure::new(Code::Damaged, "the replica stopped serving this watch");
                turn.answers.push(watcher.ask().answer(Err(gone)));
            }
            self.forget(id);
        }
    }
}

impl Watcher {
    fn ask(&self) -> Ask {
        Ask { origin: self.origin, id: self.call, deadline: Time::MAX }
    }
}

impl Replica {
    /// Starts a watch on this replica. From "now" needs the leader, who knows what now is.
    pub(crate) fn start_watch(&mut self, ask: Ask, spec: WatchSpec, turn: &mut Turn) {
        if spec.from.is_none() && !self.leads() {
            let leader = self.group.core().leader();
            turn.refuse(ask, crate::replica::not_leader(self.shard(), leader));
            return;
        }
        let Condition::Serving(machine) = &self.condition else { return };
        match self.watches.start(ask, spec, machine) {
            Ok(answer) => turn.answers.push(answer),
            Err(failure) => turn.refuse(ask, failure),
        }
    }
}
