//! Groups that begin and groups that end, with power that fails meanwhile.

#![allow(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod lanes;

use std::path::Path;
use std::time::Duration;

use atoll_base::{Epoch, LogIndex, NodeId, ShardId};
use atoll_coord::plan::{self, KeyspaceSpec, members};
use atoll_coord::{AnswerBody, Consistency, RequestBody};
use atoll_node::Upkeep;
use atoll_raft::Role;
use atoll_storage::MemDisk;
use bytes::Bytes;

use lanes::{Cluster, DATA, SECOND};

const FOUNDING: Epoch = Epoch(1);
const SEGMENT: &str = "log/0000000000000001.seg";

/// Makes a keyspace of one shard with a replica on each node; its shard.
fn create(cluster: &mut Cluster, name: &str) -> ShardId {
    let mut spec = KeyspaceSpec::new(name);
    spec.replicas = Some(3);
    spec.shards = Some(1);
    cluster.change(|catalog| match catalog.keyspace(name) {
        Some(_) => Ok(None),
        None => plan::create_keyspace(catalog, &spec).map(|planned| Some(planned.txn)),
    });
    let made = cluster.newest.keyspace(name).unwrap().record.id;
    let mut shards = cluster.newest.descriptors().filter(|d| d.keyspace == made);
    shards.next().unwrap().shard
}

fn restart_all(cluster: &mut Cluster) {
    let all: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    all.iter().for_each(|node| cluster.crash(*node));
    all.iter().for_each(|node| cluster.start(*node));
}

/// Founders that hold no entry yet must know who votes when they wake after their description has
/// moved on: or all of them count as newcomers, and nobody leads for good.
#[test]
fn founders_without_entries_know_their_group_after_its_description_moved_on() {
    for persisted in [Duration::ZERO, 11 * SECOND] {
        let mut cluster = Cluster::new(3, Upkeep::default());
        // No message of another shard than the catalog's arrives.
        cluster.loses = Box::new(|_, _, m| m.shard.0 > DATA.0);
        let shard = create(&mut cluster, "orders");
        cluster.join(4);
        cluster.change(|c| members::add(c, shard, NodeId(4), Role::Learner));
        cluster.run(persisted);
        assert!(cluster.descriptor(shard).epoch > FOUNDING);
        restart_all(&mut cluster);
        cluster.loses = Box::new(|_, _, _| false);
        cluster.settle(shard);
        cluster.put(shard, "k", "v");
        restart_all(&mut cluster);
        assert_eq!(cluster.get(shard, "k").as_deref(), Some(&b"v"[..]));
    }
}

/// A dropped keyspace's keys go last: wherever power fails, no replica stands over keys that are
/// gone.
#[test]
fn a_keyspace_that_is_dropped_goes_in_an_order_that_survives_power_loss() {
    let (mut stood, mut went) = (0, 0);
    for rounds in 0..12 {
        let mut cluster = Cluster::new(3, Upkeep::default());
        let shard = create(&mut cluster, "orders");
        cluster.put(shard, "k", "v");
        cluster.run(11 * SECOND);
        let node = NodeId(2);
        let mut dropped = cluster.descriptor(shard);
        dropped.epoch = dropped.epoch.next();
        dropped.dropped = true;
        // Its log works for some rounds, then what it writes is lost with the power.
        cluster.cut.insert(node);
        cluster.tell(node, vec![dropped.clone()]);
        let works = rounds / 2;
        for round in 0..works + 3 {
            if round == works {
                cluster.stalled.insert(node);
            }
            cluster.round();
        }
        cluster.crash(node);
        cluster.stalled.clear();
        cluster.start(node);
        cluster.run(Duration::from_millis(20));
        if cluster.has_replica(node, shard) {
            let (key, consistency) = (Bytes::from_static(b"k"), Consistency::Stale { max: None });
            match cluster.ask(node, shard, RequestBody::Get { key, at: None, consistency }) {
                Ok(AnswerBody::Get { kv, .. }) => {
                    stood += 1;
                    assert!(kv.is_some(), "after {rounds} rounds its key is gone");
                }
                other => panic!("after {rounds} rounds get answered {other:?}"),
            }
        } else {
            went += 1;
        }
        cluster.tell(node, vec![dropped]);
        cluster.run(SECOND);
        assert!(!cluster.has_replica(node, shard), "after {rounds} rounds");
    }
    assert!(stood > 0 && went > 0, "{stood} {went}: power failed on one side only");
}

/// Turns everything that the log of one segment holds up to the last record of `shard` to garbage.
/// Nothing is left that says whose records they were.
fn lose_stretch(disk: &MemDisk, shard: ShardId) {
    let bytes = disk.contents(Path::new(SEGMENT)).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut end) = (64, 64);
    while word(at) > 0 {
        let next = at + word(at).next_multiple_of(8);
        if u64::from_le_bytes(bytes[at + 24..at + 32].try_into().unwrap()) == shard.0 {
            end = next;
        }
        at = next;
    }
    assert!(64 < end && end < at, "a later record shows that the stretch was durable");
    disk.overwrite(Path::new(SEGMENT), 64, &vec![0xee; end - 64]).unwrap();
}

/// Trap T14: a hole in the log that may have held all of a replica takes its vote.
#[test]
fn a_replica_whose_whole_log_lay_in_a_lost_stretch_does_not_vote() {
    let mut cluster = Cluster::new(3, Upkeep::default());
    let leader = cluster.leader(DATA);
    let others: Vec<NodeId> = (1..=3).map(NodeId).filter(|n| *n != leader).collect();
    let (hurt, behind) = (others[0], others[1]);
    // Only the leader and the one that will be hurt hold the last write.
    cluster.cut.insert(behind);
    cluster.put(DATA, "k", "v");
    cluster.run(Duration::from_millis(100));
    for n in 4..10 {
        cluster.join(n);
        cluster.crash(NodeId(n));
    }
    (1..=3).for_each(|n| cluster.crash(NodeId(n)));
    lose_stretch(&cluster.nodes[&hurt].disk, DATA);
    cluster.cut.clear();
    for restarts in 0..3 {
        // What the damaged one writes meanwhile must not make it whole.
        cluster.start(hurt);
        cluster.start(behind);
        cluster.run(5 * SECOND);
        let status = cluster.status(hurt, DATA);
        assert_eq!(status.state, "rebuilding", "restart {restarts}: {status:?}");
        let status = cluster.status(behind, DATA);
        assert_ne!(status.state, "leader", "restart {restarts}: elected by who forgot");
        cluster.crash(hurt);
        cluster.crash(behind);
    }
    for node in [leader, hurt, behind] {
        cluster.start(node);
    }
    assert_eq!(cluster.get(DATA, "k").as_deref(), Some(&b"v"[..]));
    cluster.run(5 * SECOND);
    let status = cluster.status(hurt, DATA);
    assert!(status.applied_index > LogIndex(0), "it is rebuilt: {status:?}");
}
