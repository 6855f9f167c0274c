//! The rules of the Raft paper's figure 2 and of the thesis's sections, one test each, named by
//! where they stand. Each looks at one core, or a few, from outside: messages in, messages out.
//!
//! Figure 2 is that of "In Search of an Understandable Consensus Algorithm" (Ongaro and Ousterhout
//! 2014); sections are those of Ongaro's thesis (2014).
#![allow(missing_docs, reason = "a test")]

mod figure_2;
mod thesis;
#[path = "../world/mod.rs"]
mod world;

use std::time::Duration;

use atoll_base::{Entry, EntryKind, LogIndex, NodeId, Term, Time};
use atoll_raft::{
    Ballot, Body, CoreRole, Input, Membership, Message, ProposalOutcome, ReadContext, Role,
    SendState,
};
use bytes::Bytes;
use world::{Disks, World, config, n};

fn group(nodes: &[u64]) -> World {
    let founding = Membership::of_voters(nodes.iter().map(|id| n(*id)));
    World::new(&founding, Disks::Manual, |id| config(id, 11))
}

/// `nodes`, with 1 elected and everything delivered.
fn led(nodes: &[u64]) -> World {
    let mut w = group(nodes);
    elect(&mut w, n(1));
    w
}

fn elect(w: &mut World, node: NodeId) {
    let due = w.core(node).next_deadline().expect("a timer");
    w.now = w.now.max(due).after(Duration::from_millis(100));
    w.step(node, Input::Tick);
    w.settle();
    assert!(w.core(node).is_leader(), "{node} is elected");
}

/// Gives node 1 a message of `from`; what it answers at once, and what waits for its disk.
fn say(w: &mut World, from: u64, term: u64, body: Body) -> (Vec<Body>, Vec<Body>) {
    w.net.clear();
    w.step(n(1), Input::Message(Message { from: n(from), to: n(1), term: Term(term), body }));
    let now: Vec<Body> = w.net.drain(..).map(|m| m.body).collect();
    w.write_done(n(1), usize::MAX);
    let after: Vec<Body> = w.net.drain(..).map(|m| m.body).collect();
    w.tell_written(n(1));
    (now, after)
}

fn entry(index: u64, term: u64) -> Entry {
    let payload = Bytes::from(format!("{index} of {term}"));
    Entry { term: Term(term), index: LogIndex(index), kind: EntryKind::Commands, payload }
}

fn append(prev: (u64, u64), commit: u64, entries: Vec<Entry>) -> Body {
    let (prev_index, prev_term) = (LogIndex(prev.0), Term(prev.1));
    Body::Append { prev_index, prev_term, commit: LogIndex(commit), entries }
}

fn vote(last: (u64, u64)) -> Body {
    Body::Vote { last_index: LogIndex(last.0), last_term: Term(last.1), transfer: false }
}

fn has(matched: u64) -> Body {
    Body::AppendReply { matched: LogIndex(matched), life: 0 }
}

fn granted(bodies: &[Body]) -> bool {
    bodies.iter().any(|b| matches!(b, Body::VoteReply { ballot: Ballot::Granted }))
}

/// Appends that are in flight to `to`: the entry before, and how many entries.
fn in_flight(w: &World, to: u64) -> Vec<(u64, usize)> {
    let to_it = w.net.iter().filter(|m| m.to == n(to));
    let appends = to_it.filter_map(|m| match &m.body {
        Body::Append { prev_index, entries, .. } => Some((prev_index.0, entries.len())),
        _ => None,
    });
    appends.collect()
}

/// Node 1 a candidate of term 1, its own vote durable.
fn candidate(w: &mut World) {
    let due = w.core(n(1)).next_deadline().expect("a timer");
    w.now = due;
    w.step(n(1), Input::Tick);
    for from in [2, 3] {
        say(w, from, 1, Body::PreVoteReply { ballot: Ballot::Granted });
    }
    assert_eq!(w.core(n(1)).role(), CoreRole::Candidate);
}
