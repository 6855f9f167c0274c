//! Stale reads say how old they are at most, and never less: a follower that is cut off, one that
//! hears its leader and lacks entries, and a leader that was replaced and does not know it. A read
//! that allows no age at all is answered by any replica and misses nothing that was acknowledged.

#![allow(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod lanes;

use std::time::Duration;

use atoll_base::{Code, Happened, NodeId};
use atoll_coord::{AnswerBody, Consistency, RequestBody};
use atoll_node::Upkeep;
use atoll_raft::Body;
use atoll_replica::PeerBody;
use bytes::Bytes;
use lanes::{Cluster, DATA, SECOND};

const MOMENT: Duration = Duration::from_millis(300);

fn read(max: Option<Duration>) -> RequestBody {
    let consistency = Consistency::Stale { max };
    RequestBody::Get { key: Bytes::from_static(b"k"), at: None, consistency }
}

/// The value that a node has, and how old it may be.
fn stale(cluster: &mut Cluster, node: NodeId) -> (Bytes, Duration) {
    match cluster.ask(node, DATA, read(None)).unwrap() {
        AnswerBody::Get { kv, staleness, .. } => (kv.unwrap().value, staleness),
        other => panic!("get answered {other:?}"),
    }
}

/// A cluster in which `k` is 1 everywhere, its leader, and a follower whose age is known.
fn scene() -> (Cluster, NodeId, NodeId) {
    let mut cluster = Cluster::new(3, Upkeep::default());
    cluster.put(DATA, "k", "1");
    cluster.run(MOMENT);
    let leader = cluster.leader(DATA);
    let follower = *cluster.nodes.keys().find(|id| **id != leader).unwrap();
    for node in [leader, follower] {
        let (_, first) = stale(&mut cluster, node);
        cluster.run(MOMENT);
        let (value, age) = stale(&mut cluster, node);
        assert_eq!(value, "1");
        assert!(age <= 2 * MOMENT && age < first, "node {node}: {age:?} after {first:?}");
        cluster.run(MOMENT);
    }
    (cluster, leader, follower)
}

#[test]
fn a_follower_that_is_cut_off_gets_older_and_refuses_what_wants_it_younger() {
    let (mut cluster, _, follower) = scene();
    let since = cluster.now;
    cluster.cut.insert(follower);
    for _ in 0..5 {
        cluster.run(SECOND);
        let (value, age) = stale(&mut cluster, follower);
        assert_eq!(value, "1");
        assert!(age >= cluster.now.since(since), "{age:?} is less than since it was cut off");
    }
    let failure = cluster.ask(follower, DATA, read(Some(SECOND))).unwrap_err();
    assert_eq!(failure.happened, Happened::No, "{failure}");
    assert!(
        matches!(failure.code, Code::NotLeader | Code::NoLeader | Code::DeadlineExceeded),
        "{failure}"
    );
    cluster.cut.clear();
    cluster.run(3 * SECOND);
    match cluster.ask(follower, DATA, read(Some(SECOND))).unwrap() {
        AnswerBody::Get { staleness, .. } => assert!(staleness <= SECOND, "{staleness:?}"),
        other => panic!("get answered {other:?}"),
    }
}

/// A node hears its leader and gets no entries of it.
fn lose_entries_to(cluster: &mut Cluster, follower: NodeId) {
    cluster.loses = Box::new(move |_, to, message| {
        let is_append = matches!(&message.body, PeerBody::Raft(m)
            if matches!(&m.body, Body::Append { entries, .. } if !entries.is_empty()));
        to == follower && message.shard == DATA && is_append
    });
}

#[test]
fn to_hear_the_leader_is_not_to_have_what_it_has() {
    let (mut cluster, _, follower) = scene();
    lose_entries_to(&mut cluster, follower);
    cluster.put(DATA, "k", "2");
    let acknowledged = cluster.now;
    for _ in 0..4 {
        cluster.run(SECOND);
        let (value, age) = stale(&mut cluster, follower);
        assert_eq!(value, "1", "it can't have what it was not sent");
        let least = cluster.now.since(acknowledged);
        assert!(age >= least, "it says {age:?}, and lacks what is {least:?} old");
    }
    cluster.ask(follower, DATA, read(Some(SECOND))).expect_err("it is older than that");
    cluster.loses = Box::new(|_, _, _| false);
    cluster.run(3 * SECOND);
    // The first read says what was known, and asks; the next one knows.
    stale(&mut cluster, follower);
    cluster.run(MOMENT);
    let (value, age) = stale(&mut cluster, follower);
    assert_eq!(value, "2");
    assert!(age <= 2 * MOMENT, "{age:?}");
}

#[test]
fn a_leader_that_is_cut_off_does_not_take_its_state_for_the_newest() {
    let (mut cluster, leader, _) = scene();
    let since = cluster.now;
    cluster.cut.insert(leader);
    for _ in 0..20 {
        cluster.run(Duration::from_millis(100));
        let (value, age) = stale(&mut cluster, leader);
        assert_eq!(value, "1");
        assert!(age >= cluster.now.since(since), "{age:?} is less than since it was cut off");
    }
    cluster.put(DATA, "k", "2");
    let (value, age) = stale(&mut cluster, leader);
    assert_eq!(value, "1");
    assert!(age >= cluster.now.since(since), "{age:?}");
}

/// What a node answers to a read that allows no age.
fn newest(cluster: &mut Cluster, node: NodeId) -> Result<Bytes, atoll_base::Failure> {
    match cluster.ask(node, DATA, read(Some(Duration::ZERO)))? {
        AnswerBody::Get { kv, .. } => Ok(kv.unwrap().value),
        other => panic!("get answered {other:?}"),
    }
}

#[test]
fn a_read_that_allows_no_age_misses_nothing_on_any_replica() {
    let (mut cluster, leader, follower) = scene();
    let other = NodeId(6 - leader.0 - follower.0);
    for n in 2..40 {
        let value = n.to_string();
        // One of the followers hears of the put when it was acknowledged, and not before.
        let behind = if n % 2 == 0 { follower } else { other };
        cluster.loses = Box::new(move |_, to, message| to == behind && message.shard == DATA);
        cluster.put(DATA, "k", &value);
        cluster.loses = Box::new(|_, _, _| false);
        for node in [behind, leader, NodeId(6 - leader.0 - behind.0)] {
            assert_eq!(newest(&mut cluster, node).unwrap(), value, "node {node}");
        }
    }
}

#[test]
fn a_follower_that_lacks_entries_makes_such_a_read_wait() {
    let (mut cluster, _, follower) = scene();
    lose_entries_to(&mut cluster, follower);
    cluster.put(DATA, "k", "2");
    let call = cluster.call(follower, DATA, read(Some(Duration::ZERO)));
    cluster.run(MOMENT);
    assert!(cluster.take_answers().iter().all(|a| a.id != call), "it can't have what it lacks");
    let call = cluster.call(follower, DATA, read(Some(Duration::ZERO)));
    cluster.loses = Box::new(|_, _, _| false);
    match cluster.answer(call).unwrap() {
        AnswerBody::Get { kv, .. } => assert_eq!(kv.unwrap().value, "2"),
        other => panic!("get answered {other:?}"),
    }
}

#[test]
fn who_is_cut_off_refuses_such_a_read_whatever_it_was_before() {
    for cut_leader in [true, false] {
        let (mut cluster, leader, follower) = scene();
        let cut = if cut_leader { leader } else { follower };
        cluster.cut.insert(cut);
        cluster.put(DATA, "k", "2");
        for _ in 0..4 {
            let failure = newest(&mut cluster, cut).unwrap_err();
            assert_eq!(failure.happened, Happened::No, "{failure}");
        }
        cluster.cut.clear();
        for _ in 0..100 {
            if let Ok(value) = newest(&mut cluster, cut) {
                assert_eq!(value, "2", "node {cut}");
                break;
            }
            cluster.run(MOMENT);
        }
        assert_eq!(newest(&mut cluster, cut).unwrap(), "2", "node {cut}");
    }
}
