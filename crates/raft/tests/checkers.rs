//! Each checker of the world sees what it is for; the random walk relies on them.
#![allow(missing_docs, reason = "a test")]

mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use atoll_base::{Entry, EntryKind, LogIndex, NodeId, Term};
use atoll_raft::{Ballot, Body, Membership, Message, ReadContext};
use world::shrink::text_of;
use world::{Disks, World, config, n};

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
fn a_commit_index_that_falls_is_seen() {
    let (mut a, b) = (led_by(1), led_by(1));
    a.propose(n(1), &["x"]);
    a.settle();
    // The other group's node 1 leads the same term, and has not heard of entry 2.
    says("the commit index of 1 fell", || a.checks.on_step(&b.replicas, n(1)));
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
