//! A shard's revisions are a total order of its changes that real time agrees with.
//!
//! Source: promise P2 (strict serializability) for operations on one shard, however many keys they
//! touch: if one operation returned before another was called, the second one's revision is not
//! smaller, and larger when both changed something. Two changes never share a revision.

use std::collections::BTreeMap;

use atoll_base::{Revision, ShardId};

use super::Violation;
use crate::history::{Operation, Outcome, Stamp};

/// A revision seen by somebody between two stamps, besides those of the history's operations.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// The shard.
    pub shard: ShardId,
    /// When the read was called.
    pub called: Stamp,
    /// When it was answered.
    pub answered: Stamp,
    /// What it saw.
    pub revision: Revision,
}

/// Checks all shards.
///
/// # Errors
/// The first pair found that contradicts the order.
pub fn check(operations: &[Operation], sightings: &[Sighting]) -> Result<(), Violation> {
    let mut shards: BTreeMap<ShardId, Vec<(Sighting, bool)>> = BTreeMap::new();
    for op in operations {
        if let Outcome::Done { stamp, revision, .. } = op.outcome {
            let seen = Sighting { shard: op.shard, called: op.called, answered: stamp, revision };
            shards.entry(op.shard).or_default().push((seen, op.changed()));
        }
    }
    for seen in sightings {
        shards.entry(seen.shard).or_default().push((*seen, false));
    }
    for (shard, seen) in shards {
        check_unique(shard, &seen)?;
        check_real_time(shard, &seen)?;
    }
    Ok(())
}

fn check_unique(shard: ShardId, seen: &[(Sighting, bool)]) -> Result<(), Violation> {
    let mut changes: BTreeMap<Revision, Stamp> = BTreeMap::new();
    for (sighting, changed) in seen {
        if !changed {
            continue;
        }
        if let Some(other) = changes.insert(sighting.revision, sighting.called) {
            let what = format!(
                "shard {shard}: the changes called at {other} and {} share revision {}",
                sighting.called, sighting.revision
            );
            return Err(Violation::new("revision order", what));
        }
    }
    Ok(())
}

/// Sweeps the stamps once, keeping the largest revision that was answered so far.
fn check_real_time(shard: ShardId, seen: &[(Sighting, bool)]) -> Result<(), Violation> {
    let mut sweep: Vec<(Stamp, bool, usize)> = Vec::with_capacity(2 * seen.len());
    for (i, (sighting, _)) in seen.iter().enumerate() {
        sweep.push((sighting.called, false, i));
        sweep.push((sighting.answered, true, i));
    }
    sweep.sort_unstable();
    let mut floor = (Revision::ZERO, 0);
    let mut floors = vec![floor; seen.len()];
    for (stamp, is_answer, i) in sweep {
        if !is_answer {
            floors[i] = floor;
            continue;
        }
        let (sighting, changed) = &seen[i];
        let (least, since) = floors[i];
        if sighting.revision < least || (*changed && sighting.revision == least) {
            let what = format!(
                "shard {shard}: the call at {} was given revision {}, but {least} was answered \
                at {since} before it",
                sighting.called, sighting.revision
            );
            return Err(Violation::new("revision order", what));
        }
        if sighting.revision > floor.0 {
            floor = (sighting.revision, stamp);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use atoll_base::Time;

    use super::*;
    use crate::history::{Call, KeyNumber, Return};

    const S: ShardId = ShardId(2);

    fn op(call: Call, called: Stamp, stamp: Stamp, revision: u64) -> Operation {
        let returned = if call == Call::Get { Return::Got(None) } else { Return::Put };
        let revision = Revision(revision);
        Operation {
            client: 0,
            shard: S,
            key: KeyNumber(called as u32),
            call,
            called,
            called_at: Time(called),
            outcome: Outcome::Done { stamp, returned, revision },
        }
    }

    #[test]
    fn revisions_that_follow_real_time_are_fine() {
        let ops = [
            op(Call::Put(1), 1, 4, 2),
            op(Call::Put(2), 2, 3, 1),
            op(Call::Get, 5, 6, 2),
            op(Call::Put(3), 7, 8, 3),
        ];
        let seen = Sighting { shard: S, called: 9, answered: 10, revision: Revision(3) };
        assert_eq!(check(&ops, &[seen]), Ok(()));
    }

    #[test]
    fn a_shared_revision_is_caught() {
        assert!(check(&[op(Call::Put(1), 1, 3, 1), op(Call::Put(2), 2, 4, 1)], &[]).is_err());
    }

    #[test]
    fn a_read_of_an_older_state_is_caught() {
        assert!(check(&[op(Call::Put(1), 1, 2, 5), op(Call::Get, 3, 4, 4)], &[]).is_err());
        let seen = Sighting { shard: S, called: 3, answered: 4, revision: Revision(4) };
        assert!(check(&[op(Call::Put(1), 1, 2, 5)], &[seen]).is_err());
    }

    #[test]
    fn a_change_in_the_past_is_caught() {
        assert!(check(&[op(Call::Put(1), 1, 2, 5), op(Call::Put(2), 3, 4, 3)], &[]).is_err());
    }
}
