//! Groups with a member that votes and holds no data.

mod lanes;

use std::time::Duration;

use atoll_base::{Code, LogIndex, NodeId, ShardId};
use atoll_coord::plan::members;
use atoll_coord::{AnswerBody, Consistency, RequestBody};
use atoll_node::Upkeep;
use atoll_raft::Role;
use bytes::Bytes;

use lanes::{Cluster, DATA, SECOND};

const WITNESS: NodeId = NodeId(3);
const BOTH: [ShardId; 2] = [ShardId::SYSTEM, DATA];

/// Persists and cuts its logs all the time.
fn short_logs() -> Upkeep {
    Upkeep {
        persist_bytes: 1,
        persist_interval: Duration::from_millis(1),
        log_keep_entries: 3,
        ..Upkeep::default()
    }
}

fn add(cluster: &mut Cluster, shard: ShardId, role: Role) {
    cluster.settle(shard);
    cluster.change(|c| members::add(c, shard, WITNESS, role));
    cluster.settle(shard);
    for _ in 0..100 {
        let wanted = if role == Role::Witness { "witness" } else { "learner" };
        if cluster.status(WITNESS, shard).state == wanted {
            return;
        }
        cluster.run(Duration::from_millis(50));
    }
    panic!("node 3 did not begin: {:?}", cluster.status(WITNESS, shard));
}

/// Two nodes with data, and a third one that is a witness of everything.
fn two_and_a_witness(upkeep: Upkeep) -> Cluster {
    let mut cluster = Cluster::new(2, upkeep);
    for n in 0..10 {
        cluster.put(DATA, &format!("before{n}"), "v");
    }
    cluster.join(3);
    for shard in BOTH {
        // Two copies are worth no more than one, so a cluster of two begins with one.
        for node in [NodeId(1), NodeId(2)] {
            cluster.settle(shard);
            cluster.change(|c| members::add(c, shard, node, Role::Learner));
            cluster.settle(shard);
            cluster.change(|c| members::promote(c, shard, node));
            cluster.settle(shard);
        }
        add(&mut cluster, shard, Role::Witness);
    }
    cluster
}

/// The other one of the two that hold data.
fn other(leader: NodeId) -> NodeId {
    if leader == NodeId(1) { NodeId(2) } else { NodeId(1) }
}

fn revision(cluster: &Cluster, node: NodeId) -> Option<u64> {
    cluster.nodes[&node].lane.revision(DATA).map(|r| r.0)
}

#[test]
fn either_voter_and_the_witness_go_on_without_the_other() {
    for upkeep in [Upkeep::default(), short_logs()] {
        let mut cluster = two_and_a_witness(upkeep);
        cluster.put(DATA, "k", "v");
        assert_eq!(revision(&cluster, WITNESS), None, "it holds no data");
        for round in 0..4 {
            let gone = match round % 2 {
                0 => cluster.leader(DATA),
                _ => other(cluster.leader(DATA)),
            };
            cluster.crash(gone);
            let left = other(gone);
            cluster.put(DATA, &format!("without{round}"), "v");
            assert_eq!(cluster.leader(DATA), left);
            assert_eq!(cluster.get(DATA, "k").as_deref(), Some(&b"v"[..]));
            cluster.start(gone);
            cluster.run(2 * SECOND);
            cluster.assert_equal(DATA);
            assert_eq!(revision(&cluster, gone), revision(&cluster, left));
        }
        assert!(cluster.status(WITNESS, DATA).term.0 > 1);
    }
}

#[test]
fn a_witness_keeps_a_voter_that_lags_from_leading() {
    let mut cluster = two_and_a_witness(Upkeep::default());
    let leader = cluster.leader(DATA);
    let behind = other(leader);
    cluster.cut.insert(behind);
    for n in 0..5 {
        cluster.put(DATA, &format!("acknowledged{n}"), "v");
    }
    // The only copy of what was acknowledged goes, and the others meet again, also after restarts.
    cluster.crash(leader);
    cluster.cut.clear();
    for restart in [None, Some(WITNESS), Some(behind)] {
        if let Some(node) = restart {
            cluster.crash(node);
            cluster.start(node);
        }
        cluster.run(5 * SECOND);
        for node in [behind, WITNESS] {
            assert_ne!(cluster.status(node, DATA).state, "leader", "node {node}");
        }
        let asked = cluster.ask(behind, DATA, get("k", Consistency::Linearizable));
        assert!(asked.is_err(), "{asked:?}");
    }
    cluster.start(leader);
    for n in 0..5 {
        let value = cluster.get(DATA, &format!("acknowledged{n}"));
        assert_eq!(value.as_deref(), Some(&b"v"[..]));
    }
    cluster.assert_equal(DATA);
}

fn get(key: &str, consistency: Consistency) -> RequestBody {
    let key = Bytes::copy_from_slice(key.as_bytes());
    RequestBody::Get { key, at: None, consistency }
}

#[test]
fn a_witness_answers_no_question_and_names_the_leader() {
    let mut cluster = two_and_a_witness(Upkeep::default());
    cluster.put(DATA, "k", "v");
    let leader = cluster.leader(DATA);
    for consistency in [Consistency::Linearizable, Consistency::Stale { max: None }] {
        let failure = cluster.ask(WITNESS, DATA, get("k", consistency)).unwrap_err();
        assert_eq!(failure.code, Code::NotLeader);
        assert_eq!(failure.leader, Some(leader));
        assert!(failure.message.contains("node 3 is a witness of shard 2"), "{failure}");
    }
    let failure = cluster.ask(leader, DATA, RequestBody::Transfer(WITNESS)).unwrap_err();
    assert_eq!(failure.code, Code::InvalidArgument);
    assert!(failure.message.contains("node 3 is a witness of shard 2"), "{failure}");
}

#[test]
fn a_witness_that_was_away_for_long_goes_on_from_a_shorter_log() {
    let mut cluster = two_and_a_witness(short_logs());
    let leader = cluster.leader(DATA);
    cluster.crash(WITNESS);
    for n in 0..60 {
        cluster.put(DATA, &format!("k{n}"), "v");
    }
    cluster.run(SECOND);
    let gone = cluster.status(leader, DATA).first_index;
    cluster.start(WITNESS);
    cluster.run(2 * SECOND);
    let status = cluster.status(WITNESS, DATA);
    assert_eq!(status.state, "witness");
    assert!(status.last_index >= gone, "{status:?}");
    assert!(status.first_index > LogIndex(20), "its own log is cut too: {status:?}");
    cluster.crash(leader);
    cluster.put(DATA, "after", "v");
    assert_eq!(cluster.get(DATA, "k59").as_deref(), Some(&b"v"[..]));
}

#[test]
fn a_witness_that_was_removed_can_come_back_as_anything() {
    let mut cluster = two_and_a_witness(Upkeep::default());
    for role in [Role::Learner, Role::Witness, Role::Learner] {
        // Its replica is not even told to retire: only the descriptions follow each other.
        cluster.change(|c| members::remove(c, DATA, WITNESS));
        add(&mut cluster, DATA, role);
        cluster.put(DATA, &format!("{role:?}"), "v");
        cluster.run(2 * SECOND);
        let holds = revision(&cluster, WITNESS);
        let leader = cluster.leader(DATA);
        let wanted = if role == Role::Learner { revision(&cluster, leader) } else { None };
        assert_eq!(holds, wanted, "as {role:?}");
    }
    cluster.change(|c| members::promote(c, DATA, WITNESS));
    cluster.settle(DATA);
    let leader = cluster.leader(DATA);
    cluster.crash(leader);
    cluster.put(DATA, "with a voter that was a witness", "v");
    assert_eq!(cluster.get(DATA, "before7").as_deref(), Some(&b"v"[..]));
    cluster.start(leader);
    cluster.assert_equal(DATA);
}

#[test]
fn a_witness_that_is_removed_leaves_nothing_behind() {
    let mut cluster = two_and_a_witness(Upkeep::default());
    cluster.change(|c| members::remove(c, DATA, WITNESS));
    let (epoch, index) = cluster.settle(DATA);
    let answer = cluster.ask(WITNESS, DATA, RequestBody::Retire { epoch, index });
    assert!(matches!(answer, Ok(AnswerBody::Retired)), "{answer:?}");
    cluster.crash(WITNESS);
    cluster.start(WITNESS);
    cluster.run(SECOND);
    assert!(!cluster.has_replica(WITNESS, DATA));
    assert_eq!(cluster.status(WITNESS, ShardId::SYSTEM).state, "witness");
    add(&mut cluster, DATA, Role::Witness);
    let gone = cluster.leader(DATA);
    cluster.crash(gone);
    cluster.put(DATA, "k", "v");
}
