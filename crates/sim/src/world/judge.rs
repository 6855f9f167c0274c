//! The end of a run: what clients were told is compared with what became of it.

use std::collections::{BTreeMap, BTreeSet};

use atoll_base::{Revision, ShardId};

use super::World;
use crate::check::effects::{self, Aftermath, Effect};
use crate::check::{Violation, linear, order, reads};
use crate::history::{KeyNumber, Operation, Outcome, Value};
use crate::value::{ACCOUNTS_FROM, COUNTERS_FROM, KEYS_END};

/// Search steps per key before linearizability is left undecided.
const LINEAR_STEPS_MAX: u64 = 200_000;

impl World {
    pub(super) fn judge(&mut self) {
        for shard in self.shell.user_shards() {
            let result = self.judge_shard(shard);
            self.observer.note(result);
        }
        let result = self.record.holding.check();
        self.observer.note(result);
        let result = order::check(self.record.history.operations(), &self.record.sightings);
        self.observer.note(result);
    }

    fn judge_shard(&mut self, shard: ShardId) -> Result<(), Violation> {
        let operations = self.record.history.operations();
        let after = self.aftermath(shard)?;
        effects::check(shard, operations, &after)?;
        reads::check(shard, &self.record.rows, &after)?;
        for watcher in self.agents.watchers.iter().filter(|w| w.shard() == shard) {
            for followed in watcher.all().filter(|w| w.from >= after.complete_from) {
                followed.check(&after.effects)?;
            }
        }
        let (_, pairs) = &self.record.closed[&shard];
        for pair in pairs {
            if (COUNTERS_FROM..ACCOUNTS_FROM).contains(&pair.key.0) {
                effects::check_counter(shard, pair.key, operations, pair.version)?;
            }
        }
        let report = linear::check(&registers(shard, operations, &after), LINEAR_STEPS_MAX);
        self.undecided += report.undecided;
        report.violations.into_iter().next().map_or(Ok(()), Err)
    }

    /// The shard's history as all watchers of all its keys tell it together.
    fn aftermath(&self, shard: ShardId) -> Result<Aftermath, Violation> {
        let whole = 0..KEYS_END;
        let mut told: BTreeMap<(Revision, KeyNumber), Option<Value>> = BTreeMap::new();
        let mut spans = Vec::new();
        for watcher in self.agents.watchers.iter().filter(|w| w.shard() == shard) {
            for followed in watcher.all().filter(|w| w.keys == whole) {
                spans.push((followed.through(), followed.from));
                for effect in followed.events() {
                    let before = told.insert((effect.revision, effect.key), effect.value);
                    if before.is_some_and(|before| before != effect.value) {
                        let what = format!(
                            "shard {shard}: watchers differ: {effect:?}, \
                        {before:?}"
                        );
                        return Err(Violation::new("watch", what));
                    }
                }
            }
        }
        let (last, pairs) = &self.record.closed[&shard];
        let complete_from = complete_from(spans, *last);
        let effects = told
            .into_iter()
            .filter(|((revision, _), _)| *revision >= complete_from)
            .map(|((revision, key), value)| Effect { revision, key, value })
            .collect();
        let newest = pairs.iter().map(|p| (p.key, (p.value, p.revision))).collect();
        Ok(Aftermath { effects, complete_from, newest })
    }
}

/// The revision from which on the spans `(through, from)` cover everything up to `last`.
fn complete_from(mut spans: Vec<(Revision, Revision)>, last: Revision) -> Revision {
    spans.sort_unstable();
    let mut from = last.next();
    for (through, start) in spans.into_iter().rev() {
        if through.next() < from {
            break;
        }
        from = from.min(start);
    }
    from
}

/// The operations on registers. A write of unknown outcome whose value nobody was ever told of had
/// no effect: leaving it out keeps the search small, and can only make it stricter.
fn registers(shard: ShardId, operations: &[Operation], after: &Aftermath) -> Vec<Operation> {
    let stands: BTreeSet<Value> = after.effects.iter().filter_map(|e| e.value).collect();
    let is_whole = after.complete_from <= Revision(2);
    operations
        .iter()
        .filter(|op| op.shard == shard && op.key.0 < COUNTERS_FROM)
        .cloned()
        .map(|mut op| {
            let is_unknown = op.outcome == Outcome::Unknown && is_whole;
            let leaves_value = !matches!(op.call, crate::history::Call::Delete(_));
            if is_unknown
                && leaves_value
                && op.call.write().is_some_and(|value| !stands.contains(&value))
            {
                op.outcome = Outcome::Refused { stamp: op.called };
            }
            op
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_ends_at_the_last_gap() {
        let spans = |spans: &[(u64, u64)]| {
            let spans = spans.iter().map(|(t, f)| (Revision(*t), Revision(*f))).collect();
            complete_from(spans, Revision(20)).0
        };
        assert_eq!(spans(&[(20, 2)]), 2);
        assert_eq!(spans(&[(20, 10), (9, 2)]), 2);
        assert_eq!(spans(&[(20, 10), (8, 2)]), 10);
        assert_eq!(spans(&[(21, 10), (15, 5), (3, 2)]), 5);
        assert_eq!(spans(&[(10, 2)]), 21);
    }
}
