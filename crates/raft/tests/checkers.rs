//! Each checker of the world sees what it is for; the random walk relies on them.
#![allow(missing_docs, reason = "a test")]

mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use atoll_base::{Entry, EntryKind, LogIndex, NodeId, Term};
use atoll_raft::{Ballot, Body, Input, Membership, Message, ReadContext};
use world::checks::Checks;
use world::shrink::text_of;
use world::{Disks, Health, World, config, n};

/// A group of three in which `leader` was elected, in term 1.
fn led_by(leader: u64) -> World {
    let founding = Membership::of_voters([n(1), n(2), n(3)]);
    let mut w = Some(World::new(&founding, Disks::Manual, |id| config(id, 7)));
    world::script::play(&mut w, &format!("elect {leader}"));
    w.expect("it was given")
}

fn says(expected: &str, check: impl FnOnce()) {
    let text = match catch_unwind(AssertUnwindSafe(check)) {
        Ok(()) => "nothing".to_owned(),
        Err(panic) => text_of(panic.as_ref()),
    };
    assert!(text.contains(expected), "{expected:?} was expected, it says {text}");
}

fn entry(payload: &'static [u8]) -> Entry {
    let (term, index, kind) = (Term(1), LogIndex(2), EntryKind::Commands);
    Entry { term, index, kind, payload: payload.into() }
}

fn message(from: NodeId, body: Body) -> Message {
    Message { from, to: n(1), term: Term(1), body }
}

#[test]
fn two_leaders_of_a_term_are_seen() {
    let (mut a, b) = (led_by(1), led_by(2));
    says("I1: two leaders in term 1", || a.checks.on_step(&b.replicas, n(2)));
}

#[test]
fn an_entry_that_differs_is_seen() {
    let mut w = led_by(1);
    let mut log = w.replica(n(1)).log.clone();
    log.replace_from(&[entry(b"a")]);
    w.checks.on_entries(n(1), &log, &[entry(b"a")]);
    w.checks.on_entries(n(2), &log, &[entry(b"a")]);
    says("I3: content of 2 on node 3", || w.checks.on_entries(n(3), &log, &[entry(b"b")]));
}

#[test]
fn a_configuration_that_is_not_the_logs_is_seen() {
    let mut w = led_by(1);
    w.checks.on_log(w.replica(n(2)));
    let others = Membership::of_voters([n(1), n(2)]);
    let carrying = |index| {
        let (term, kind) = (Term(1), EntryKind::Membership);
        Entry { term, index: LogIndex(index), kind, payload: others.encode() }
    };
    // In the log and not in force.
    w.replicas.get_mut(&n(2)).expect("it is there").log.replace_from(&[carrying(2)]);
    says("I9: 2 follows another entry", || w.checks.on_log(w.replica(n(2))));
    // In force, and cut off from the log.
    let append = Body::Append {
        prev_index: LogIndex(1),
        prev_term: Term(1),
        commit: LogIndex(1),
        entries: vec![carrying(2)],
    };
    w.step(n(3), Input::Message(Message { from: n(1), to: n(3), term: Term(1), body: append }));
    assert_eq!(w.core(n(3)).membership(), &others);
    w.replicas.get_mut(&n(3)).expect("it is there").log.truncate(LogIndex(2));
    says("I9: 3 follows 2, its log holds no", || w.checks.on_log(w.replica(n(3))));
    // The founding one is another than the core follows.
    w.replicas.get_mut(&n(1)).expect("it is there").base = others;
    says("I9: 1 follows other members", || w.checks.on_log(w.replica(n(1))));
}

#[test]
fn a_commit_index_that_falls_is_seen() {
    let (mut a, b) = (led_by(1), led_by(1));
    a.propose(n(1), &["x"]);
    a.settle();
    // The other group's node 1 leads the same term, and has not heard of entry 2.
    says("the commit index of 1 fell", || a.checks.on_step(&b.replicas, n(1)));
}

/// Node 1 led, and then 2 in term 2, which has committed nothing of its own yet.
fn led_again() -> World {
    let mut w = led_by(1);
    let node = n(2);
    w.now = w.core(node).next_deadline().expect("a timer").after(Duration::from_millis(200));
    w.step(node, Input::Tick);
    while !w.core(node).is_leader() {
        assert!(!w.net.is_empty(), "it is elected");
        w.deliver(0);
        for id in w.up() {
            w.write_done(id, usize::MAX);
            w.tell_written(id);
        }
    }
    w
}

/// Node 1 leads and has committed entry 2.
fn with_an_entry() -> World {
    let mut w = led_by(1);
    w.propose(n(1), &["x"]);
    w.settle();
    w
}

#[test]
fn a_leader_that_lacks_a_committed_entry_is_seen() {
    // Node 2 was down when it was committed.
    let without_2 = || {
        let mut w = led_by(1);
        w.crash(n(2), 0);
        w.propose(n(1), &["x"]);
        w.settle();
        w
    };
    let (mut a, b) = (without_2(), led_again());
    assert_eq!(b.core(n(2)).commit(), LogIndex(1));
    says("I4: leader 2 lacks committed 2", || a.checks.on_step(&b.replicas, n(2)));
    // And when it has committed something else there.
    let (mut a, mut b) = (without_2(), led_again());
    b.settle();
    says("node 2 commits another entry at 2", || a.checks.on_step(&b.replicas, n(2)));
}

#[test]
fn a_term_that_falls_is_seen() {
    let (mut a, b) = (led_again(), led_by(1));
    says("I7: the term of 2 fell", || a.checks.on_step(&b.replicas, n(2)));
}

#[test]
fn a_commit_without_a_quorum_of_disks_is_seen() {
    let mut w = with_an_entry();
    let mut checks = Checks::default();
    checks.on_step(&w.replicas, n(1));
    for id in [2, 3] {
        w.replicas.get_mut(&n(id)).expect("it is there").disk.truncate(LogIndex(2));
    }
    let mut checks = Checks::default();
    says("I8: 2 of term 1 commits on 1 without", || checks.on_step(&w.replicas, n(1)));
}

#[test]
fn a_leader_without_its_state_is_seen() {
    let mut w = led_by(1);
    w.replicas.get_mut(&n(1)).expect("it is there").health = Health::NoState;
    says("T14: 1 leads without its state", || w.checks.on_step(&w.replicas, n(1)));
}

#[test]
fn a_state_that_differs_is_seen() {
    let mut w = led_by(1);
    w.checks.on_apply(n(1), &entry(b"a"), 5);
    w.checks.on_apply(n(2), &entry(b"a"), 5);
    says("node 3 applied something else", || w.checks.on_apply(n(3), &entry(b"a"), 6));
}

#[test]
fn promises_that_are_not_durable_are_seen() {
    let mut w = led_by(1);
    let (matched, life) = (LogIndex(9), 0);
    let early = message(n(2), Body::AppendReply { matched, life });
    says("I8: 2 acknowledges 9", || w.checks.on_send(&w.replicas, &early));
    let other_life = message(n(2), Body::AppendReply { matched: LogIndex(1), life: 3 });
    says("I8: 2 speaks of life 3", || w.checks.on_send(&w.replicas, &other_life));
    let mut vote = message(n(2), Body::VoteReply { ballot: Ballot::Granted });
    w.checks.on_send(&w.replicas, &vote);
    vote.to = n(3);
    says("I7: 2 votes twice in term 1", || w.checks.on_send(&w.replicas, &vote));
    vote.term = Term(2);
    says("I8: 2 votes in 2", || w.checks.on_send(&w.replicas, &vote));
}

#[test]
fn a_stale_read_is_seen() {
    let mut w = led_by(1);
    w.propose(n(1), &["x"]);
    w.settle();
    let context = ReadContext(1);
    w.checks.on_read(&w.replicas, n(1), context);
    says("stale read 1 on 1", || w.checks.on_read_served(context, LogIndex(1)));
}
