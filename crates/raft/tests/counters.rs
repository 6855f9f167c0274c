//! What cores count, beside what happened to them.
#![allow(missing_docs, reason = "a test")]

mod world;

use atoll_raft::{Config, Counters, Input, Membership};
use bytes::Bytes;
use world::{Disks, World, n};

#[test]
fn what_happens_is_counted_once_where_it_happens() {
    let founding = Membership::of_voters([n(1), n(2), n(3)]);
    let mut w = World::new(&founding, Disks::Sync, |id| Config::new(id, 7));
    let leader = w.elect();
    let of = |w: &World, at| w.core(at).counters();
    let elected = of(&w, leader);
    assert_eq!((elected.pre_campaigns, elected.campaigns, elected.terms_led), (1, 1, 1));
    let others: Vec<_> = (1..=3).map(n).filter(|id| *id != leader).collect();
    for id in &others {
        assert_eq!(of(&w, *id), Counters::default(), "a follower only answers");
    }
    w.step(leader, Input::Propose(vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]));
    assert!(w.until(|w| w.core(leader).commit() == w.core(leader).last_index()));
    let sent = of(&w, leader).entries_sent - elected.entries_sent;
    assert_eq!(sent, 4, "two entries to two followers");
    w.read(leader, 1);
    assert!(w.until(|w| !w.served.is_empty()));
    let counted = of(&w, leader);
    assert_eq!((counted.reads, counted.read_rounds, counted.reads_failed), (1, 1, 0));
    w.step(leader, Input::Transfer(others[0]));
    assert!(w.until(|w| w.core(others[0]).is_leader()));
    assert_eq!((of(&w, leader).transfers, of(&w, leader).transfers_given_up), (1, 0));
    let next = of(&w, others[0]);
    assert_eq!((next.pre_campaigns, next.campaigns, next.terms_led), (0, 1, 1), "at once");
}
