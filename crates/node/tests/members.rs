//! Groups whose members change: nodes that come, vote, lead, leave and return.

mod lanes;

use atoll_base::{Code, Epoch, LogIndex, NodeId, ShardId};
use atoll_coord::plan::members;
use atoll_coord::{AnswerBody, RequestBody};
use atoll_node::Upkeep;
use atoll_raft::Role;

use lanes::{Cluster, DATA, SECOND};

const FOUR: NodeId = NodeId(4);

fn add(cluster: &mut Cluster, shard: ShardId, node: NodeId) {
    cluster.settle(shard);
    cluster.change(|c| members::add(c, shard, node, Role::Learner));
    cluster.settle(shard);
    cluster.change(|c| members::promote(c, shard, node));
    cluster.settle(shard);
}

/// What the group agreed on when `node` was out of it.
fn remove(cluster: &mut Cluster, shard: ShardId, node: NodeId) -> (Epoch, LogIndex) {
    cluster.settle(shard);
    cluster.change(|c| members::remove(c, shard, node));
    cluster.settle(shard)
}

fn retire(cluster: &mut Cluster, shard: ShardId, node: NodeId, at: (Epoch, LogIndex)) {
    let (epoch, index) = at;
    let answer = cluster.ask(node, shard, RequestBody::Retire { epoch, index });
    assert!(matches!(answer, Ok(AnswerBody::Retired)), "{answer:?}");
    assert!(!cluster.has_replica(node, shard));
}

fn voters(cluster: &mut Cluster, shard: ShardId) -> Vec<u64> {
    let leader = cluster.leader(shard);
    let status = cluster.status(leader, shard);
    status.members.iter().filter(|m| m.role == Role::Voter).map(|m| m.node.0).collect()
}

fn others(cluster: &mut Cluster, shard: ShardId) -> Vec<NodeId> {
    let leader = cluster.leader(shard);
    (1..=3).map(NodeId).filter(|n| *n != leader).collect()
}

#[test]
fn a_fourth_node_joins_catches_up_and_votes() {
    let mut cluster = Cluster::new(3, Upkeep::default());
    for n in 0..30 {
        cluster.put(DATA, &format!("k{n}"), "v");
    }
    cluster.join(4);
    cluster.settle(DATA);
    cluster.change(|c| members::add(c, DATA, FOUR, Role::Learner));
    cluster.settle(DATA);
    cluster.run(SECOND);
    assert_eq!(cluster.status(FOUR, DATA).state, "learner");
    assert_eq!(voters(&mut cluster, DATA), [1, 2, 3]);
    cluster.change(|c| members::promote(c, DATA, FOUR));
    let (epoch, _) = cluster.settle(DATA);
    assert_eq!(epoch, Epoch(3));
    assert_eq!(voters(&mut cluster, DATA), [1, 2, 3, 4]);
    cluster.put(DATA, "after", "v");
    cluster.assert_equal(DATA);
    // Three of four decide: with two of the first ones down nothing does, with one all goes on.
    let others = others(&mut cluster, DATA);
    cluster.crash(others[0]);
    cluster.put(DATA, "with three", "v");
    assert_eq!(cluster.get(DATA, "k7").as_deref(), Some(&b"v"[..]));
}

#[test]
fn every_step_can_be_repeated() {
    let mut cluster = Cluster::new(3, Upkeep::default());
    cluster.join(4);
    for _ in 0..3 {
        add(&mut cluster, DATA, FOUR);
    }
    assert_eq!(cluster.descriptor(DATA).epoch, Epoch(3));
    let mut at = (Epoch::ZERO, LogIndex::ZERO);
    for _ in 0..3 {
        at = remove(&mut cluster, DATA, FOUR);
    }
    assert_eq!((cluster.descriptor(DATA).epoch, at.0), (Epoch(4), Epoch(4)));
    for _ in 0..3 {
        retire(&mut cluster, DATA, FOUR, at);
    }
    add(&mut cluster, DATA, FOUR);
    assert_eq!(cluster.descriptor(DATA).epoch, Epoch(6));
    assert_eq!(voters(&mut cluster, DATA), [1, 2, 3, 4]);
    cluster.put(DATA, "k", "v");
    cluster.assert_equal(DATA);
}

#[test]
fn a_leader_that_is_removed_hands_over_first() {
    for shard in [DATA, ShardId::SYSTEM] {
        let mut cluster = Cluster::new(3, Upkeep::default());
        cluster.put(DATA, "before", "v");
        let leader = cluster.leader(shard);
        let at = remove(&mut cluster, shard, leader);
        let now = cluster.leader(shard);
        assert_ne!(now, leader);
        assert_eq!(cluster.status(leader, shard).state, "left");
        assert_eq!(voters(&mut cluster, shard).len(), 2);
        cluster.put(DATA, "after", "v");
        retire(&mut cluster, shard, leader, at);
        // Not even a restart with the founding list brings it back.
        cluster.run(SECOND);
        cluster.crash(leader);
        cluster.start(leader);
        cluster.run(3 * SECOND);
        assert!(!cluster.has_replica(leader, shard), "shard {shard}");
        assert_eq!(cluster.get(DATA, "before").as_deref(), Some(&b"v"[..]));
    }
}

#[test]
fn a_node_that_is_down_can_be_removed_and_keeps_its_data_until_told() {
    let mut cluster = Cluster::new(3, Upkeep::default());
    cluster.put(DATA, "k", "v");
    let down = others(&mut cluster, DATA)[0];
    cluster.crash(down);
    let at = remove(&mut cluster, DATA, down);
    assert_eq!(voters(&mut cluster, DATA).len(), 2);
    for n in 0..20 {
        cluster.put(DATA, &format!("k{n}"), "v");
    }
    cluster.start(down);
    cluster.run(3 * SECOND);
    assert_eq!(cluster.status(down, DATA).state, "left");
    retire(&mut cluster, DATA, down, at);
}

/// Trap T16: a removal during a partition loses nothing and stops nobody.
#[test]
fn a_removal_that_would_leave_no_majority_waits_and_says_for_whom() {
    let mut cluster = Cluster::new(3, Upkeep::default());
    cluster.put(DATA, "k", "1");
    cluster.settle(DATA);
    let others = others(&mut cluster, DATA);
    cluster.cut.insert(others[0]);
    cluster.run(2 * SECOND);
    cluster.change(|c| members::remove(c, DATA, others[1]));
    let reason = cluster.stuck(DATA);
    assert!(reason.contains(&format!("silent: node {}", others[0])), "{reason}");
    cluster.put(DATA, "k", "2");
    cluster.cut.clear();
    cluster.settle(DATA);
    assert_eq!(voters(&mut cluster, DATA).len(), 2);
    assert_eq!(cluster.get(DATA, "k").as_deref(), Some(&b"2"[..]));
}

/// Trap T15: that a description leaves a node out deletes nothing.
#[test]
fn an_order_to_retire_is_refused_while_the_replica_may_count() {
    let mut cluster = Cluster::new(3, Upkeep::default());
    cluster.join(4);
    add(&mut cluster, DATA, FOUR);
    let (epoch, index) = cluster.settle(DATA);
    let order = RequestBody::Retire { epoch, index };
    let failure = cluster.ask(FOUR, DATA, order).unwrap_err();
    assert_eq!(failure.code, Code::PreconditionFailed, "a member: {failure}");
    let later = RequestBody::Retire { epoch: Epoch(99), index };
    let failure = cluster.ask(FOUR, DATA, later).unwrap_err();
    assert_eq!(failure.code, Code::StaleEpoch, "it knows of no such epoch: {failure}");
    // Removed and taken in again before the order arrives.
    let (epoch, index) = remove(&mut cluster, DATA, FOUR);
    add(&mut cluster, DATA, FOUR);
    let failure = cluster.ask(FOUR, DATA, RequestBody::Retire { epoch, index }).unwrap_err();
    assert_eq!(failure.code, Code::PreconditionFailed, "a member again: {failure}");
    cluster.put(DATA, "k", "v");
    cluster.assert_equal(DATA);
}

#[test]
fn newcomers_alone_elect_nobody() {
    let mut cluster = Cluster::new(1, Upkeep::default());
    cluster.put(DATA, "k", "v");
    cluster.join(2);
    cluster.join(3);
    cluster.settle(DATA);
    cluster.cut.extend([NodeId(2), NodeId(3)]);
    cluster.change(|c| members::add(c, DATA, NodeId(2), Role::Learner));
    cluster.change(|c| members::add(c, DATA, NodeId(3), Role::Learner));
    cluster.change(|c| members::promote(c, DATA, NodeId(2)));
    cluster.change(|c| members::promote(c, DATA, NodeId(3)));
    // Node 1 goes before it could tell them anything; they know that they shall vote.
    cluster.crash(NodeId(1));
    cluster.cut.clear();
    cluster.run(5 * SECOND);
    for node in [NodeId(2), NodeId(3)] {
        if cluster.has_replica(node, DATA) {
            assert_eq!(cluster.status(node, DATA).state, "joining");
        }
    }
    cluster.start(NodeId(1));
    cluster.settle(DATA);
    assert_eq!(voters(&mut cluster, DATA), [1, 2, 3]);
    assert_eq!(cluster.get(DATA, "k").as_deref(), Some(&b"v"[..]));
}

#[test]
fn a_cluster_moves_to_other_machines_under_load() {
    let upkeep = Upkeep {
        persist_bytes: 1,
        persist_interval: std::time::Duration::from_millis(1),
        log_keep_entries: 3,
        ..Upkeep::default()
    };
    let mut cluster = Cluster::new(3, upkeep);
    let mut written = 0;
    let mut load = |cluster: &mut Cluster| {
        for _ in 0..20 {
            cluster.put(DATA, &format!("k{written}"), "v");
            written += 1;
        }
        written
    };
    for node in 4..=6 {
        cluster.join(node);
        for shard in [ShardId::SYSTEM, DATA] {
            load(&mut cluster);
            add(&mut cluster, shard, NodeId(node));
        }
    }
    for node in 1..=3 {
        for shard in [DATA, ShardId::SYSTEM] {
            load(&mut cluster);
            let at = remove(&mut cluster, shard, NodeId(node));
            cluster.run(SECOND);
            retire(&mut cluster, shard, NodeId(node), at);
        }
        cluster.change(|c| members::forget_node(c, NodeId(node)));
        cluster.crash(NodeId(node));
    }
    let written = load(&mut cluster);
    for shard in [ShardId::SYSTEM, DATA] {
        assert_eq!(voters(&mut cluster, shard), [4, 5, 6]);
        cluster.assert_equal(shard);
    }
    for n in 0..written {
        assert!(cluster.get(DATA, &format!("k{n}")).is_some(), "k{n}");
    }
    // The first three come back as they were told to in the beginning, and found nothing anew.
    (1..=3).for_each(|n| cluster.start(NodeId(n)));
    cluster.run(5 * SECOND);
    (1..=3).for_each(|n| assert!(!cluster.has_replica(NodeId(n), ShardId::SYSTEM), "node {n}"));
}

#[test]
fn the_preferred_leader_changes_with_the_description() {
    let mut cluster = Cluster::new(3, Upkeep::default());
    cluster.put(DATA, "k", "v");
    for node in [2, 3, 1] {
        cluster.settle(DATA);
        cluster.change(|c| members::prefer(c, DATA, NodeId(node)));
        cluster.settle(DATA);
        let leader = cluster.leader(DATA);
        if leader != NodeId(node) {
            cluster.ask_leader(DATA, &RequestBody::Transfer(NodeId(node))).unwrap();
        }
        cluster.run(10 * SECOND);
        assert_eq!(cluster.leader(DATA), NodeId(node));
    }
}

#[test]
fn a_replica_that_is_ordered_away_never_wakes_as_a_founder() {
    let mut cluster = Cluster::new(3, Upkeep::default());
    cluster.put(DATA, "k", "v");
    // The engines keep the founding description, and nothing of what comes now.
    cluster.run(11 * SECOND);
    cluster.join(4);
    add(&mut cluster, DATA, FOUR);
    let node = others(&mut cluster, DATA)[0];
    let (epoch, index) = remove(&mut cluster, DATA, node);
    for rounds in 1..8 {
        cluster.call(node, DATA, RequestBody::Retire { epoch, index });
        for _ in 0..rounds {
            cluster.round();
        }
        cluster.crash(node);
        cluster.start(node);
        if cluster.has_replica(node, DATA) {
            let status = cluster.status(node, DATA);
            assert!(status.last_index > LogIndex(0), "after {rounds} rounds: {status:?}");
        }
    }
    cluster.run(SECOND);
    retire(&mut cluster, DATA, node, (epoch, index));
}

#[test]
fn nobody_hears_that_a_replica_went_before_its_log_says_so() {
    let mut cluster = Cluster::new(3, Upkeep::default());
    cluster.put(DATA, "k", "v");
    cluster.join(4);
    add(&mut cluster, DATA, FOUR);
    let node = others(&mut cluster, DATA)[0];
    let (epoch, index) = remove(&mut cluster, DATA, node);
    cluster.run(SECOND);
    cluster.stalled.insert(node);
    let call = cluster.call(node, DATA, RequestBody::Retire { epoch, index });
    cluster.run(20 * SECOND);
    assert!(cluster.take_answers().iter().all(|answer| answer.id != call));
    // Its log still has it when power is lost.
    cluster.crash(node);
    cluster.stalled.clear();
    cluster.start(node);
    assert!(cluster.has_replica(node, DATA));
    cluster.run(SECOND);
    retire(&mut cluster, DATA, node, (epoch, index));
}

#[test]
fn an_order_that_comes_before_the_description_leaves_nothing_behind() {
    let mut cluster = Cluster::new(3, Upkeep::default());
    cluster.join(4);
    let (_, index) = cluster.settle(DATA);
    let epoch = Epoch(cluster.descriptor(DATA).epoch.0 + 2);
    let answer = cluster.ask(FOUR, DATA, RequestBody::Retire { epoch, index });
    assert!(matches!(answer, Ok(AnswerBody::Retired)), "{answer:?}");
    cluster.change(|c| members::add(c, DATA, FOUR, Role::Learner));
    cluster.run(SECOND);
    assert!(!cluster.has_replica(FOUR, DATA), "the order was given for a later description");
}

#[test]
fn an_old_order_lets_nothing_in_that_a_later_one_keeps_out() {
    for is_at_once in [false, true] {
        let mut cluster = Cluster::new(3, Upkeep::default());
        cluster.join(4);
        add(&mut cluster, DATA, FOUR);
        let member = cluster.descriptor(DATA);
        let (epoch, index) = remove(&mut cluster, DATA, FOUR);
        cluster.run(SECOND);
        let order = cluster.call(FOUR, DATA, RequestBody::Retire { epoch, index });
        if !is_at_once {
            cluster.answer(order).unwrap();
        }
        let old = RequestBody::Retire { epoch: Epoch(1), index };
        assert!(matches!(cluster.ask(FOUR, DATA, old), Ok(AnswerBody::Retired)));
        cluster.crash(FOUR);
        cluster.start(FOUR);
        cluster.tell(FOUR, vec![member]);
        cluster.run(SECOND);
        assert!(!cluster.has_replica(FOUR, DATA), "at once: {is_at_once}");
    }
}
