use atoll_base::{Revision, Rng, Time};

use super::*;

/// `(called, returned or 0 for never, call, return)`
type Row = (u64, u64, Call, Option<Return>);

fn history(rows: &[Row]) -> Vec<Operation> {
    rows.iter()
        .map(|(called, stamp, call, returned)| Operation {
            client: 0,
            shard: ShardId(2),
            key: KeyNumber(1),
            call: *call,
            called: *called,
            called_at: Time(*called),
            outcome: match returned {
                Some(returned) => {
                    Outcome::Done { stamp: *stamp, returned: *returned, revision: Revision::ZERO }
                }
                None if *stamp > 0 => Outcome::Refused { stamp: *stamp },
                None => Outcome::Unknown,
            },
        })
        .collect()
}

fn is_linearizable(rows: &[Row]) -> bool {
    let report = check(&history(rows), 100_000);
    assert_eq!(report.undecided, 0);
    report.violations.is_empty()
}

const GOT_1: Option<Return> = Some(Return::Got(Some(1)));
const GOT_2: Option<Return> = Some(Return::Got(Some(2)));
const PUT: Option<Return> = Some(Return::Put);

#[test]
fn a_read_after_a_write_sees_it() {
    assert!(is_linearizable(&[(1, 2, Call::Put(1), PUT), (3, 4, Call::Get, GOT_1)]));
    let stale = [(1, 2, Call::Put(1), PUT), (3, 4, Call::Get, Some(Return::Got(None)))];
    assert!(!is_linearizable(&stale));
}

#[test]
fn a_read_beside_a_write_may_see_either() {
    for got in [GOT_1, Some(Return::Got(None))] {
        assert!(is_linearizable(&[(1, 4, Call::Put(1), PUT), (2, 3, Call::Get, got)]));
    }
}

#[test]
fn two_reads_may_not_go_back() {
    let rows = [
        (1, 2, Call::Put(1), PUT),
        (3, 10, Call::Put(2), PUT),
        (4, 5, Call::Get, GOT_2),
        (6, 7, Call::Get, GOT_1),
    ];
    assert!(!is_linearizable(&rows));
}

#[test]
fn an_unknown_write_may_come_late_or_never_but_not_twice() {
    let late = [
        (1, 0, Call::Put(1), None),
        (2, 3, Call::Put(2), PUT),
        (4, 5, Call::Get, GOT_2),
        (6, 7, Call::Get, GOT_1),
    ];
    assert!(is_linearizable(&late));
    assert!(is_linearizable(&late[..3]));
    let mut twice = late.to_vec();
    twice.push((8, 9, Call::Put(3), PUT));
    twice.push((10, 11, Call::Get, GOT_1));
    assert!(!is_linearizable(&twice));
}

#[test]
fn a_refused_write_never_happens() {
    assert!(!is_linearizable(&[(1, 2, Call::Put(1), None), (3, 4, Call::Get, GOT_1)]));
}

#[test]
fn swaps_and_deletes_are_what_they_say() {
    let swap = |expect, value| Call::Swap { expect, value };
    let (yes, no) = (Some(Return::Swapped(Found::Yes)), Some(Return::Swapped(Found::No)));
    assert!(is_linearizable(&[(1, 2, swap(None, 1), yes), (3, 4, swap(None, 2), no)]));
    assert!(!is_linearizable(&[(1, 2, swap(None, 1), yes), (3, 4, swap(None, 2), yes)]));
    let deleted = Some(Return::Deleted(Found::Yes));
    assert!(is_linearizable(&[(1, 2, Call::Put(1), PUT), (3, 4, Call::Delete(2), deleted)]));
    assert!(!is_linearizable(&[(1, 2, Call::Delete(1), deleted)]));
}

/// A correct register driven by overlapping calls, then one answer falsified.
#[test]
fn long_histories_are_decided_both_ways() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut rows: Vec<Row> = Vec::new();
        let mut state = None;
        for n in 0..200_u64 {
            // Takes effect at 100 * n; calls and returns spread around it.
            let called = (100 * n + 1_000).saturating_sub(rng.below(400)) * 2;
            let stamp = (100 * n + 1_000 + rng.below(400)) * 2 + 1;
            if rng.chance(1, 2) {
                rows.push((called, stamp, Call::Get, Some(Return::Got(state))));
            } else {
                let unknown = rng.chance(1, 30);
                state = Some(n + 1);
                let returned = (!unknown).then_some(Return::Put);
                rows.push((called, if unknown { 0 } else { stamp }, Call::Put(n + 1), returned));
            }
        }
        assert!(is_linearizable(&rows), "seed {seed}");
        let last = rows.len() as u64 * 200 + 4_000;
        let known = rows.iter().find_map(|row| row.3.and(row.2.write())).expect("a known write");
        rows.push((last, last + 1, Call::Put(999), PUT));
        rows.push((last + 2, last + 3, Call::Get, Some(Return::Got(Some(known)))));
        let report = check(&history(&rows), 1_000_000);
        assert_eq!(report.violations.len(), 1, "seed {seed}");
    }
}
