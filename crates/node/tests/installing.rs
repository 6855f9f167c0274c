//! Snapshots whose way in is cut off.

mod lanes;

use std::time::Duration;

use atoll_base::{NodeId, ShardId};
use atoll_coord::plan::{self, KeyspaceSpec};
use atoll_coord::{AnswerBody, Consistency, RequestBody};
use atoll_node::{Input, Upkeep};
use atoll_raft::Body;
use atoll_replica::{PeerBody, PeerMessage};
use bytes::Bytes;

use lanes::{Cluster, DATA, SECOND};

/// Several chunks, and more than is installed in one turn.
const KEYS: usize = 24;

/// Logs are cut soon.
fn upkeep() -> Upkeep {
    Upkeep {
        persist_bytes: 1,
        persist_interval: Duration::from_millis(1),
        log_keep_entries: 3,
        ..Upkeep::default()
    }
}

/// A cluster in which one node needs a snapshot of the data, of which it gets `chunks`.
fn behind(chunks: u64) -> (Cluster, NodeId) {
    let mut cluster = Cluster::new(3, upkeep());
    cluster.put(DATA, "old", "seen");
    cluster.run(SECOND);
    let leader = cluster.leader(DATA);
    let away = cluster.nodes.keys().copied().find(|id| *id != leader).expect("a follower");
    cluster.cut.insert(away);
    let value = "v".repeat(100_000);
    for n in 0..KEYS {
        cluster.put(DATA, &format!("new{n}"), &value);
    }
    // In a later term than the node that is away has heard of.
    cluster.crash(leader);
    cluster.start(leader);
    cluster.put(DATA, "term", "later");
    cluster.loses = Box::new(move |_, _, message| {
        let PeerBody::SnapshotChunk { chunk, .. } = &message.body else { return false };
        *chunk >= chunks
    });
    cluster.cut.clear();
    (cluster, away)
}

fn stale(cluster: &mut Cluster, node: NodeId, key: &str) -> Option<usize> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let consistency = Consistency::Stale { max: None };
    match cluster
        .ask(node, DATA, RequestBody::Get { key, at: None, consistency })
        .expect("an answer")
    {
        AnswerBody::Get { kv, .. } => kv.map(|kv| kv.value.len()),
        other => panic!("get answered {other:?}"),
    }
}

fn trouble(cluster: &Cluster, node: NodeId) -> String {
    cluster.nodes[&node].lane.trouble(DATA).unwrap_or_default()
}

#[test]
fn the_old_state_serves_until_all_of_the_new_one_is_here() {
    let (mut cluster, away) = behind(3);
    cluster.run(2 * SECOND);
    assert_eq!(cluster.status(away, DATA).state, "installing");
    assert_eq!(trouble(&cluster, away), "");
    assert_eq!(stale(&mut cluster, away, "old"), Some(4));
    assert_eq!(stale(&mut cluster, away, "new0"), None);

    // The sender dies: what came of its snapshot is worth nothing, and nothing is lost with it.
    let sender = cluster.leader(DATA);
    cluster.crash(sender);
    cluster.loses = Box::new(|_, _, _| false);
    cluster.put(DATA, "later", "seen");
    cluster.start(sender);
    cluster.run(2 * SECOND);
    cluster.assert_equal(DATA);
    assert_eq!(stale(&mut cluster, away, "new0"), Some(100_000));
}

#[test]
fn an_install_that_power_loss_cut_off_goes_on_without_its_sender() {
    let (mut cluster, away) = behind(u64::MAX);
    while !trouble(&cluster, away).contains("is being installed") {
        if !cluster.round() {
            cluster.now = cluster.now.after(Duration::from_millis(1));
        }
    }
    cluster.persist(away);
    cluster.crash(away);
    cluster.cut.insert(away);
    cluster.start(away);
    assert!(trouble(&cluster, away).contains("not finished"), "{}", trouble(&cluster, away));
    cluster.run(SECOND);
    assert_eq!(trouble(&cluster, away), "");
    assert_eq!(stale(&mut cluster, away, "new0"), Some(100_000));
    cluster.cut.clear();
    cluster.assert_equal(DATA);
}

#[test]
fn a_snapshot_whose_log_was_not_begun_is_no_lost_log() {
    let (mut cluster, away) = behind(u64::MAX);
    cluster.stalled.insert(away);
    let old = cluster.nodes[&away].lane.revision(DATA);
    while cluster.nodes[&away].lane.revision(DATA).is_none_or(|now| Some(now) == old) {
        cluster.run(Duration::from_micros(100));
    }
    cluster.crash(away);
    cluster.stalled.clear();
    cluster.cut.insert(away);
    cluster.start(away);
    assert_eq!(trouble(&cluster, away), "");
    assert_eq!(stale(&mut cluster, away, "new0"), Some(100_000));

    // It votes as ever: with it, and without the third node, there is a leader.
    let leader = cluster.leader(DATA);
    let other =
        cluster.nodes.keys().copied().find(|id| ![leader, away].contains(id)).expect("a third");
    cluster.crash(other);
    cluster.cut.clear();
    cluster.put(DATA, "later", "seen");
    cluster.start(other);
    for shard in [ShardId::SYSTEM, DATA] {
        cluster.assert_equal(shard);
    }
}

#[test]
fn a_snapshot_that_came_before_anything_was_logged_is_no_lost_log() {
    let mut cluster = Cluster::new(3, upkeep());
    let away = NodeId(3);
    // The log of a founder takes nothing of the new shard, and its peers cut theirs.
    cluster.stalled.insert(away);
    cluster.loses =
        Box::new(move |from, to, message| message.shard > DATA && (from == away || to == away));
    let mut spec = KeyspaceSpec::new("orders");
    (spec.replicas, spec.shards) = (Some(3), Some(1));
    cluster.change(|catalog| match catalog.keyspace("orders") {
        Some(_) => Ok(None),
        None => plan::create_keyspace(catalog, &spec).map(|planned| Some(planned.txn)),
    });
    let keyspace = cluster.newest.keyspace("orders").expect("it was made").record.id;
    let mut shards = cluster.newest.descriptors();
    let descriptor = shards.find(|d| d.keyspace == keyspace).expect("it has a shard").clone();
    drop(shards);
    let shard = descriptor.shard;
    cluster.tell(away, vec![descriptor]);
    cluster.run(SECOND);
    for n in 0..KEYS {
        cluster.put(shard, &format!("new{n}"), "seen");
    }
    cluster.loses = Box::new(|_, _, _| false);
    let leader = cluster.leader(shard);
    let newest = cluster.nodes[&leader].lane.revision(shard);
    while cluster.nodes[&away].lane.revision(shard) < newest {
        cluster.run(Duration::from_micros(100));
    }
    cluster.persist(away);
    cluster.crash(away);
    cluster.stalled.clear();
    cluster.cut.insert(away);
    cluster.start(away);
    assert_eq!(cluster.nodes[&away].lane.trouble(shard), None);

    // It votes: with it, and without the third node, there is a leader.
    let leader = cluster.leader(shard);
    let other =
        cluster.nodes.keys().copied().find(|id| ![leader, away].contains(id)).expect("a third");
    cluster.crash(other);
    cluster.cut.clear();
    cluster.put(shard, "later", "seen");
    cluster.start(other);
    cluster.assert_equal(shard);
}

fn raft(message: &PeerMessage) -> Option<&Body> {
    match &message.body {
        PeerBody::Raft(message) => Some(&message.body),
        _ => None,
    }
}

#[test]
fn a_snapshot_may_end_before_what_was_known_to_be_committed() {
    let mut cluster = Cluster::new(3, Upkeep::default());
    cluster.put(DATA, "old", "seen");
    cluster.run(SECOND);
    let leader = cluster.leader(DATA);
    let mut others = cluster.nodes.keys().copied().filter(|id| *id != leader);
    let (next, hurt) = (others.next().expect("a second"), others.next().expect("a third"));
    drop(others);
    // The next leader has the last entry, and does not hear that it is committed.
    cluster.loses = Box::new(move |_, to, message| {
        to == next && message.shard == DATA && matches!(raft(message), Some(Body::Heartbeat { .. }))
    });
    cluster.put(DATA, "new", "seen");
    cluster.run(Duration::from_millis(10));
    let known = cluster.nodes[&hurt].lane.applied(DATA);
    assert!(cluster.nodes[&next].lane.applied(DATA) < known);
    cluster.crash(leader);
    cluster.start(leader);
    // And can't commit in its term before the third node is rebuilt.
    cluster.loses = Box::new(move |from, _, message| {
        let body = raft(message).filter(|_| from == leader && message.shard == DATA);
        matches!(body, Some(Body::AppendReply { .. } | Body::PreVote { .. }))
    });
    let reason = "a bit turned over".to_owned();
    let damage = Input::Damaged { shard: DATA, reason };
    cluster.nodes.get_mut(&hurt).expect("it is there").inputs.push(damage);
    cluster.run(5 * SECOND);
    assert_eq!(cluster.leader(DATA), next);
    assert_eq!(trouble(&cluster, hurt), "");
    assert!(cluster.nodes[&hurt].lane.applied(DATA) > known);
    assert_eq!(cluster.nodes[&hurt].lane.counters().damaged, 1);
}
