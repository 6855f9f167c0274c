//! Linearizability of every key's history.
//!
//! Source: Wing and Gong 1993 (search for an order of the operations that respects real time and
//! the sequential meaning), Lowe 2017 (memoise what was tried: the set of operations placed and
//! the state they lead to), Herlihy and Wing 1990 (an object made of linearizable objects is
//! linearizable, so keys are checked one by one).
//!
//! An operation of unknown outcome may take effect at any time after its call, or never. A refused
//! one never does, so it is left out: if it did after all, whoever saw its value has no
//! explanation.

use std::collections::{BTreeMap, BTreeSet};

use atoll_base::ShardId;

use super::Violation;
use crate::history::{Call, Found, KeyNumber, Operation, Outcome, Return, Value};

/// What the checker found.
#[derive(Clone, Debug, Default)]
pub struct LinearReport {
    /// Keys whose history has no explanation.
    pub violations: Vec<Violation>,
    /// Keys whose search was given up at the step limit.
    pub undecided: u64,
}

/// Checks every key, spending at most `steps_max` search steps on each.
#[must_use]
pub fn check(operations: &[Operation], steps_max: u64) -> LinearReport {
    let mut keys: BTreeMap<(ShardId, KeyNumber), Vec<&Operation>> = BTreeMap::new();
    for op in operations {
        if is_relevant(op) {
            keys.entry((op.shard, op.key)).or_default().push(op);
        }
    }
    let mut report = LinearReport::default();
    for ((shard, key), ops) in keys {
        match Search::new(&ops).run(steps_max) {
            Verdict::Linearizable => {}
            Verdict::Undecided => report.undecided += 1,
            Verdict::Stuck { placed, at } => {
                let what = format!(
                    "shard {shard} key {}: no order explains {} operations; {placed} fit, then: {}",
                    key.0,
                    ops.len(),
                    ops[at]
                );
                report.violations.push(Violation::new("linearizability", what));
            }
        }
    }
    report
}

fn is_relevant(op: &Operation) -> bool {
    match op.outcome {
        Outcome::Done { .. } => true,
        Outcome::Refused { .. } => false,
        Outcome::Unknown => op.call != Call::Get,
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Verdict {
    Linearizable,
    Undecided,
    /// The most operations that could be placed, and the operation whose return stood in the way.
    Stuck {
        placed: usize,
        at: usize,
    },
}

type State = Option<Value>;

/// The state after `op`, if `op` may return what it did from `state`.
fn step(state: State, op: &Operation) -> Option<State> {
    let returned = match op.outcome {
        Outcome::Done { returned, .. } => Some(returned),
        Outcome::Refused { .. } | Outcome::Unknown => None,
    };
    let (next, would_return) = match op.call {
        Call::Put(value) => (Some(value), Return::Put),
        Call::Delete(_) => (None, Return::Deleted(found(state.is_some()))),
        Call::Swap { expect, value } => {
            let fits = state == expect;
            (if fits { Some(value) } else { state }, Return::Swapped(found(fits)))
        }
        Call::Get => (state, Return::Got(state)),
    };
    returned.is_none_or(|returned| returned == would_return).then_some(next)
}

fn found(yes: bool) -> Found {
    if yes { Found::Yes } else { Found::No }
}

/// Calls and returns of one key in a list that operations are lifted out of as they are placed.
struct Search<'a> {
    ops: &'a [&'a Operation],
    /// `2 * op` is its call, `2 * op + 1` its return, `2 * n` the list's head and end.
    next: Vec<usize>,
    prev: Vec<usize>,
    open: usize,
}

impl<'a> Search<'a> {
    fn new(ops: &'a [&'a Operation]) -> Self {
        let head = 2 * ops.len();
        let mut events: Vec<(u64, usize)> = Vec::with_capacity(head);
        let mut open = 0;
        for (i, op) in ops.iter().enumerate() {
            events.push((op.called, 2 * i));
            if let Outcome::Done { stamp, .. } = op.outcome {
                events.push((stamp, 2 * i + 1));
                open += 1;
            }
        }
        events.sort_unstable();
        let mut search = Self { ops, next: vec![head; head + 1], prev: vec![head; head + 1], open };
        let mut last = head;
        for (_, event) in events {
            search.next[last] = event;
            search.prev[event] = last;
            last = event;
        }
        search.next[last] = head;
        search.prev[head] = last;
        search
    }

    fn run(mut self, steps_max: u64) -> Verdict {
        let head = 2 * self.ops.len();
        let mut placed = Placed::new(self.ops.len());
        let mut seen: BTreeSet<(Placed, State)> = BTreeSet::new();
        let mut path: Vec<(usize, State)> = Vec::new();
        let mut state: State = None;
        let mut event = self.next[head];
        let (mut deepest, mut stuck_at, mut steps) = (0, 0, 0);
        while self.open > 0 {
            steps += 1;
            if steps > steps_max {
                return Verdict::Undecided;
            }
            if event != head && event.is_multiple_of(2) {
                let op = event / 2;
                if let Some(next) = step(state, self.ops[op]) {
                    placed.flip(op);
                    if seen.insert((placed.clone(), next)) {
                        path.push((op, state));
                        state = next;
                        self.lift(op);
                        event = self.next[head];
                        continue;
                    }
                    placed.flip(op);
                }
                event = self.next[event];
                continue;
            }
            // A return of an operation that is not placed, or the end: undo the last choice.
            if path.len() >= deepest && event != head {
                (deepest, stuck_at) = (path.len(), event / 2);
            }
            let Some((op, before)) = path.pop() else {
                return Verdict::Stuck { placed: deepest, at: stuck_at };
            };
            placed.flip(op);
            self.unlift(op);
            state = before;
            event = self.next[2 * op];
        }
        Verdict::Linearizable
    }

    fn is_done(&self, op: usize) -> bool {
        matches!(self.ops[op].outcome, Outcome::Done { .. })
    }

    fn lift(&mut self, op: usize) {
        self.unlink(2 * op);
        if self.is_done(op) {
            self.unlink(2 * op + 1);
            self.open -= 1;
        }
    }

    fn unlift(&mut self, op: usize) {
        if self.is_done(op) {
            self.relink(2 * op + 1);
            self.open += 1;
        }
        self.relink(2 * op);
    }

    fn unlink(&mut self, event: usize) {
        let (prev, next) = (self.prev[event], self.next[event]);
        self.next[prev] = next;
        self.prev[next] = prev;
    }

    fn relink(&mut self, event: usize) {
        let (prev, next) = (self.prev[event], self.next[event]);
        self.next[prev] = event;
        self.prev[next] = event;
    }
}

/// The set of operations placed so far.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Placed(Vec<u64>);

impl Placed {
    fn new(ops: usize) -> Self {
        Self(vec![0; ops.div_ceil(64)])
    }

    fn flip(&mut self, op: usize) {
        self.0[op / 64] ^= 1 << (op % 64);
    }
}

#[cfg(test)]
mod tests;
