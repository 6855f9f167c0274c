//! Every read shows exactly the state at the revision that it names.
//!
//! Source: DESIGN "reads" (linearizable, stale and historical reads all name the revision they saw;
//! a stale read is an old state, never a mixture); Berenson et al. 1995, Adya 2000 (snapshot
//! reads). Linearizability says nothing of stale and historical reads, and sees keys one by one;
//! this checker compares every row that any reader got with the shard's history of changes.

use std::collections::BTreeMap;

use atoll_base::{Revision, ShardId};

use super::Violation;
use super::effects::Aftermath;
use crate::history::{KeyNumber, Value};

/// What a reader got of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The shard read.
    pub shard: ShardId,
    /// The key.
    pub key: KeyNumber,
    /// The revision that the answer names.
    pub revision: Revision,
    /// What the key held.
    pub value: Option<Value>,
}

/// Checks all rows of one shard. Rows older than the history that is left can't be judged.
///
/// # Errors
/// The first row that is not what the key held at that revision.
pub fn check(shard: ShardId, rows: &[Row], after: &Aftermath) -> Result<(), Violation> {
    let mut changes: BTreeMap<(KeyNumber, Revision), Option<Value>> = BTreeMap::new();
    for effect in &after.effects {
        changes.insert((effect.key, effect.revision), effect.value);
    }
    for row in rows.iter().filter(|row| row.shard == shard) {
        let span = (row.key, Revision::ZERO)..=(row.key, row.revision);
        let held = match changes.range(span).next_back() {
            Some((_, held)) => *held,
            None if after.complete_from <= Revision(2) => None,
            None => continue,
        };
        if row.revision.next() < after.complete_from || held == row.value {
            continue;
        }
        let what = format!("{row:?}, but the key held {held:?} at that revision");
        return Err(Violation::new("reads", what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::effects::Effect;

    const S: ShardId = ShardId(2);
    const K: KeyNumber = KeyNumber(7);

    fn after() -> Aftermath {
        let effect = |revision, value| Effect { revision: Revision(revision), key: K, value };
        let effects = vec![effect(2, Some(1)), effect(4, Some(2)), effect(6, None)];
        Aftermath { effects, complete_from: Revision(2), newest: BTreeMap::new() }
    }

    fn row(revision: u64, value: Option<Value>) -> Result<(), Violation> {
        check(S, &[Row { shard: S, key: K, revision: Revision(revision), value }], &after())
    }

    #[test]
    fn reads_of_the_state_at_their_revision_are_fine() {
        for (revision, value) in [(1, None), (2, Some(1)), (3, Some(1)), (5, Some(2)), (9, None)] {
            assert_eq!(row(revision, value), Ok(()), "revision {revision}");
        }
    }

    #[test]
    fn older_newer_and_invented_values_are_caught() {
        for (revision, value) in [(1, Some(1)), (4, Some(1)), (3, Some(2)), (4, None), (3, Some(8))]
        {
            assert!(row(revision, value).is_err(), "revision {revision}");
        }
    }
}
