//! Quorums against brute force, the log view against a naive log, windows against their bounds;
//! each over thousands of cases from a seed.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "the helpers of a test are not seen as one")]

mod world;

use std::collections::BTreeMap;

use atoll_base::{Entry, EntryKind, LogIndex, NodeId, Rng, Term};
use atoll_raft::quorum::{Ballot, Tally, reached, replicates, tally};
use atoll_raft::tail::LogView;
use atoll_raft::{LogReader, Membership, QuorumRule, Role};
use world::mem_log::MemLog;
use world::n;

/// A half of a configuration and all sets of its voters that decide, by definition.
struct Half {
    voters: Vec<NodeId>,
    data: Vec<NodeId>,
    rule: QuorumRule,
}

impl Half {
    fn subsets(&self, size: usize) -> Vec<Vec<NodeId>> {
        let sets = 0..1_u32 << self.voters.len();
        let pick = |set: u32| -> Vec<NodeId> {
            let chosen = |(at, node): (usize, &NodeId)| (set >> at & 1 == 1).then_some(*node);
            self.voters.iter().enumerate().filter_map(chosen).collect()
        };
        sets.map(pick).filter(|s| s.len() >= size).collect()
    }
}

fn random_half(rng: &mut Rng) -> (BTreeMap<NodeId, Role>, QuorumRule, Half) {
    let roles = [Role::Voter, Role::Voter, Role::Learner, Role::Witness];
    let mut members = BTreeMap::from([(n(rng.range(1, 8)), Role::Voter)]);
    for _ in 0..rng.below(6) {
        members.entry(n(rng.range(1, 8))).or_insert(*rng.pick(&roles).unwrap());
    }
    let voters: Vec<_> = members.iter().filter(|(_, r)| r.votes()).map(|(n, _)| *n).collect();
    let data: Vec<_> =
        members.iter().filter(|(_, r)| **r == Role::Voter).map(|(n, _)| *n).collect();
    let mut rule = QuorumRule::Majority;
    if rng.chance(1, 2) {
        let count = voters.len() as u64;
        let election = rng.range(count / 2 + 1, count + 1);
        let replication = rng.range(count - election + 1, count + 1);
        let (election, replication) = (election as u8, replication as u8);
        rule = QuorumRule::Sizes { election, replication };
    }
    (members, rule, Half { voters, data, rule })
}

fn random_membership(rng: &mut Rng) -> (Membership, Vec<Half>) {
    let (members, quorum, half) = random_half(rng);
    let mut m = Membership { members, quorum, ..Membership::default() };
    let mut halves = vec![half];
    if rng.chance(1, 2) {
        let (outgoing, rule, half) = random_half(rng);
        (m.outgoing, m.outgoing_quorum) = (Some(outgoing), rule);
        halves.push(half);
    }
    m.check().unwrap();
    (m, halves)
}

#[test]
fn quorums_agree_with_brute_force() {
    let mut rng = Rng::new(1);
    for _ in 0..4_000 {
        let (m, halves) = random_membership(&mut rng);
        let index: Vec<_> = (0..8).map(|_| LogIndex(rng.below(5))).collect();
        let of = |node: NodeId| index[node.0 as usize];
        // An index is reached when, in each half, some deciding set has reached it, and some data.
        let is_reached = |i: LogIndex| {
            halves.iter().all(|h| {
                let sets = h.subsets(h.rule.replication(h.voters.len()));
                sets.iter().any(|s| s.iter().all(|n| of(*n) >= i))
                    && h.data.iter().any(|n| of(*n) >= i)
            })
        };
        let expected = (0..5).map(LogIndex).filter(|i| is_reached(*i)).max().unwrap();
        assert_eq!(reached(&m, of), expected, "{m:?} {index:?}");

        let (granted, amnesic) = (Some(Ballot::Granted), Some(Ballot::Amnesic));
        let answers = [None, granted, granted, Some(Ballot::Refused), amnesic];
        let votes: Vec<_> = (0..8).map(|_| answers[rng.below(5) as usize]).collect();
        let vote = |node: NodeId| votes[node.0 as usize];
        // Some electing set says yes, and no committing set is without one that remembers.
        let could = |vote: &dyn Fn(NodeId) -> Option<Ballot>| {
            halves.iter().all(|h| {
                let elects = h.subsets(h.rule.election(h.voters.len()));
                let commits = h.subsets(h.rule.replication(h.voters.len()));
                elects.iter().any(|s| s.iter().all(|n| vote(*n).is_some_and(Ballot::is_yes)))
                    && commits.iter().all(|s| s.iter().any(|n| vote(*n) == granted))
            })
        };
        let expected = if could(&vote) {
            Tally::Won
        } else if could(&|n| vote(n).or(granted)) {
            Tally::Pending
        } else {
            Tally::Lost
        };
        assert_eq!(tally(&m, vote), expected, "{m:?} {votes:?}");

        let yes = |node: NodeId| vote(node) == granted;
        let expected = halves.iter().all(|h| {
            let sets = h.subsets(h.rule.replication(h.voters.len()));
            sets.iter().any(|s| s.iter().all(|n| yes(*n)))
        });
        assert_eq!(replicates(&m, yes), expected);
    }
}

#[test]
fn deciding_sets_always_intersect() {
    let mut rng = Rng::new(2);
    for _ in 0..300 {
        let (_, halves) = random_membership(&mut rng);
        for h in halves {
            let elects = h.subsets(h.rule.election(h.voters.len()));
            let commits = h.subsets(h.rule.replication(h.voters.len()));
            for a in &elects {
                let meets = |b: &Vec<NodeId>| a.iter().any(|n| b.contains(n));
                assert!(elects.iter().all(meets) && commits.iter().all(meets));
            }
        }
    }
}

#[test]
fn the_log_view_agrees_with_a_naive_log() {
    let mut rng = Rng::new(3);
    for _ in 0..200 {
        let mut view = LogView::new(LogIndex::ZERO, Term::ZERO, 300);
        let mut naive = MemLog::default();
        let mut term = 1;
        for _ in 0..60 {
            let (first, last) = (naive.first_index(), naive.last_index());
            match rng.below(8) {
                0 => term += 1,
                1 if last >= first => {
                    // Cut off a suffix and put one entry of a later term in its place.
                    let from = LogIndex(rng.range(first.0, last.0 + 1));
                    term += 1;
                    view.truncate(from);
                    let entry = entry(from, term);
                    naive.replace_from(std::slice::from_ref(&entry));
                    view.push(entry);
                }
                2 => {
                    let first = LogIndex(rng.range(first.0, last.0 + 2));
                    view.compact(first);
                    naive.compact(first);
                }
                3 => {
                    let settled = LogIndex(rng.range(0, last.0 + 2));
                    view.trim(naive.last_index(), settled);
                    assert!(view.tail_bytes() <= if settled >= last { 75 } else { 300 });
                }
                4 => {
                    let entry = entry(last.next(), term);
                    naive.replace_from(std::slice::from_ref(&entry));
                    view.push(entry);
                }
                _ => {
                    // Some of the batch may be of a later term than the rest.
                    let count = rng.below(5);
                    let turn = rng.below(count + 1);
                    let batch: Vec<Entry> = (0..count)
                        .map(|at| entry(last.plus(at + 1), term + u64::from(at >= turn)))
                        .collect();
                    term += u64::from(turn < count);
                    naive.replace_from(&batch);
                    view.extend_from_slice(&batch);
                }
            }
            compare(&view, &naive, &mut rng);
        }
    }
}

fn entry(index: LogIndex, term: u64) -> Entry {
    let payload = vec![index.0 as u8; (index.0 % 7) as usize].into();
    Entry { term: Term(term), index, kind: EntryKind::Commands, payload }
}

fn compare(view: &LogView, naive: &MemLog, rng: &mut Rng) {
    let (first, last) = (naive.first_index(), naive.last_index());
    assert_eq!((view.first(), view.last()), (first, last));
    for index in first.0 - 1..=last.0 {
        assert_eq!(view.term(LogIndex(index)), naive.term(LogIndex(index)).ok());
    }
    assert_eq!(view.term(last.next()), None);
    let (at, bound) = (LogIndex(rng.range(first.0 - 1, last.0 + 1)), Term(rng.below(20)));
    let fits = |i: &u64| naive.term(LogIndex(*i)).unwrap() <= bound;
    let expected = (first.0 - 1..=at.0).rev().find(fits);
    let found = view.last_at_most(at, bound);
    assert_eq!(found.0, expected.unwrap_or((first.0 - 1).saturating_sub(1)), "{at} {bound}");
    if last < first {
        return;
    }
    let from = LogIndex(rng.range(first.0, last.0 + 1));
    let bytes_max = rng.below(200) as usize;
    // What is in the buffer stays there and does not count.
    let mut got = vec![entry(LogIndex(99), 1)];
    let cost = view.entries(from, bytes_max, naive, &mut got).unwrap();
    got.remove(0);
    assert!(!got.is_empty(), "one entry at least");
    let sum = |entries: &[Entry]| entries.iter().map(Entry::cost).sum::<usize>();
    assert_eq!(cost, sum(&got));
    assert!(sum(&got[..got.len() - 1]) <= bytes_max, "no more than asked for but one");
    for (at, entry) in got.iter().enumerate() {
        assert_eq!(Some(entry), naive.get(from.plus(at as u64)));
    }
}

#[test]
fn windows_count_what_is_in_flight() {
    let mut rng = Rng::new(4);
    for _ in 0..200 {
        let mut window = atoll_raft::progress::Window::default();
        let mut naive: Vec<(u64, usize)> = Vec::new();
        let mut last = 0;
        for _ in 0..50 {
            if rng.chance(1, 2) && !window.is_full(8, 500) {
                last += rng.range(1, 4);
                let bytes = rng.below(200) as usize;
                window.push(LogIndex(last), bytes);
                naive.push((last, bytes));
            } else {
                let matched = rng.below(last + 2);
                window.free_to(LogIndex(matched));
                naive.retain(|(l, _)| *l > matched);
            }
            let bytes: usize = naive.iter().map(|(_, b)| b).sum();
            assert_eq!((window.messages(), window.bytes()), (naive.len(), bytes));
            assert!(window.messages() <= 8 && window.bytes() < 500 + 200, "one may cross");
        }
    }
}
