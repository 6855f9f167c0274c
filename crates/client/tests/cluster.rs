//! The client against a cluster that misbehaves.

#![allow(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod fake;

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_client::{
    Bytes, Code, EventKind, Failure, Happened, Keys, KeyspaceSpec, Options, Previous, ReadOptions,
    Revision, ShardId, when,
};
use fake::{Fake, Fault};

fn short() -> Options {
    Options { timeout: Duration::from_secs(5), ..Options::default() }
}

async fn split(fake: &Fake) -> atoll_client::Client {
    let client = fake.client().await;
    let mut spec = KeyspaceSpec::new("split");
    spec.split_keys = ["f", "m", "t"].map(Bytes::from).to_vec();
    client.create_keyspace(&spec).await.unwrap();
    client
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn keys_are_written_read_and_deleted() {
    let client = Fake::new(3).client().await;
    let keys = client.keyspace("default");
    assert_eq!(keys.get("a").await.unwrap(), None);
    let first = keys.put("a", "1").await.unwrap();
    keys.put("a", "2").await.unwrap();
    let kv = keys.get("a").await.unwrap().unwrap();
    assert_eq!((&kv.value[..], kv.version), (&b"2"[..], 2));
    let options = ReadOptions { at: Some(first.revision), ..ReadOptions::default() };
    assert_eq!(keys.get_with("a", options).await.unwrap().kv.unwrap().value, "1");
    let deleted = keys.delete_with("a", Previous::Return).await.unwrap();
    assert_eq!((deleted.count, &deleted.previous[0].value[..]), (1, &b"2"[..]));
    assert!(!keys.delete("a").await.unwrap());
}

#[tokio::test]
async fn an_unknown_keyspace_is_not_found_and_a_new_one_is() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let failure = client.keyspace("nope").get("a").await.unwrap_err();
    assert_eq!((failure.code, failure.happened), (Code::NotFound, Happened::No));
    let other = fake.builder(2).connect().await.unwrap();
    other.create_keyspace(&KeyspaceSpec::new("nope")).await.unwrap();
    assert_eq!(client.keyspace("nope").get("a").await.unwrap(), None);
    let failure = client.create_keyspace(&KeyspaceSpec::new("nope")).await.unwrap_err();
    assert_eq!(failure.code, Code::AlreadyExists);
    other.drop_keyspace("nope").await.unwrap();
    assert_eq!(other.keyspace("nope").get("a").await.unwrap_err().code, Code::NotFound);
    let names: Vec<String> =
        client.keyspaces().await.unwrap().into_iter().map(|k| k.keyspace.name).collect();
    assert_eq!(names, ["default", "system"]);
}

#[tokio::test]
async fn a_moved_leader_is_found_by_redirection_and_remembered() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let keys = client.keyspace("default");
    for leader in [3, 1, 2] {
        fake.move_leader(2, leader);
        keys.put("a", "1").await.unwrap();
        let before: Vec<u64> = (1..=3).map(|n| fake.asked(n)).collect();
        keys.put("a", "2").await.unwrap();
        let after: Vec<u64> = (1..=3).map(|n| fake.asked(n)).collect();
        let asked: u64 = after.iter().sum::<u64>() - before.iter().sum::<u64>();
        assert_eq!(asked, 1, "leader {leader} is known");
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_the_change_made_once() {
    let fake = Fake::new(3);
    let client = fake.client_with(short()).await;
    let keys = client.keyspace("default");
    keys.put("a", "0").await.unwrap();
    fake.fault(Fault::LoseAnswer);
    let put = keys.put("a", "1").await.unwrap();
    let kv = keys.get("a").await.unwrap().unwrap();
    assert_eq!((kv.version, kv.mod_revision), (2, put.revision), "applied once");
    let commands = fake.applied();
    assert_eq!(commands.len(), 3);
    let (sent, again) = (commands[1].id.unwrap(), commands[2].id.unwrap());
    assert_eq!((sent.client, sent.sequence), (again.client, again.sequence));
}

#[tokio::test]
async fn refusals_that_pass_are_waited_out() {
    let fake = Fake::new(1);
    let keys = fake.client_with(short()).await.keyspace("default");
    for code in [Code::NoLeader, Code::Overloaded, Code::NotLeader, Code::Indeterminate] {
        fake.fault(Fault::Refuse(code));
        keys.put("a", "1").await.unwrap();
    }
    assert_eq!(keys.get("a").await.unwrap().unwrap().version, 4);
    fake.fault(Fault::Refuse(Code::PreconditionFailed));
    let failure = keys.put("a", "1").await.unwrap_err();
    assert_eq!((failure.code, failure.happened), (Code::PreconditionFailed, Happened::No));
}

#[tokio::test]
async fn a_deadline_says_whether_the_change_may_have_happened() {
    let fake = Fake::new(1);
    let keys = fake.client().await.keyspace("default").with_timeout(Duration::from_millis(60));
    fake.fault(Fault::SwallowAnswer);
    let failure = keys.put("a", "1").await.unwrap_err();
    assert_eq!((failure.code, failure.happened), (Code::DeadlineExceeded, Happened::Maybe));
    fake.down(1);
    let failure = keys.put("a", "1").await.unwrap_err();
    assert_eq!((failure.code, failure.happened), (Code::DeadlineExceeded, Happened::No));
    fake.up(1);
    let patient = keys.with_timeout(Duration::from_secs(5));
    assert_eq!(patient.get("a").await.unwrap().unwrap().version, 1);
}

#[tokio::test]
async fn many_tasks_share_few_connections_and_every_change_is_made_once() {
    let fake = Fake::new(3);
    let client = fake.client_with(short()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..100 {
        let keys = client.keyspace("default");
        tasks.spawn(async move {
            for i in 0..20 {
                keys.put(format!("k{task}"), format!("{i}")).await?;
            }
            Ok::<(), Failure>(())
        });
        if task % 10 == 0 {
            fake.fault(Fault::LoseAnswer);
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    let all = client.keyspace("default").scan(Keys::all()).collect().await.unwrap();
    assert_eq!(all.len(), 100);
    assert!(all.iter().all(|kv| kv.version == 20 && kv.value == "19"), "each exactly once");
}

#[tokio::test]
async fn a_dropped_call_gives_its_name_back() {
    let fake = Fake::new(1);
    let keys = fake.client().await.keyspace("default");
    keys.put("a", "0").await.unwrap();
    for _ in 0..300 {
        fake.fault(Fault::SwallowAnswer);
        let call = keys.put("a", "1");
        assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
    }
    fake.clear_faults(); // some calls were dropped before they left
    keys.put("a", "2").await.unwrap();
    let id = fake.applied().last().unwrap().id.unwrap();
    assert_eq!(id.sequence, id.first_unacknowledged);
}

#[tokio::test]
async fn scans_go_through_shards_in_order_in_both_directions() {
    let fake = Fake::new(3);
    let keys = split(&fake).await.keyspace("split");
    let names: Vec<String> = ('a'..='z').flat_map(|c| [format!("{c}1"), format!("{c}2")]).collect();
    let mut batch = keys.batch();
    for name in &names {
        batch = batch.put(name.clone(), "v");
    }
    let done = batch.commit().await.unwrap();
    assert_eq!((done.changes, done.parts), (52, 4));
    let got = |kvs: Vec<atoll_client::KeyValue>| -> Vec<String> {
        kvs.into_iter().map(|kv| text(&kv.key)).collect()
    };
    for page in [1, 3, 1000] {
        let scan = keys.scan(Keys::all()).page_keys(page);
        assert_eq!(got(scan.collect().await.unwrap()), names);
        let scan = keys.scan(Keys::all()).page_keys(page).descending();
        let backward: Vec<String> = names.iter().rev().cloned().collect();
        assert_eq!(got(scan.collect().await.unwrap()), backward);
        let scan = keys.scan(Keys::between("e2", "n")).page_keys(page).descending().limit(5);
        assert_eq!(got(scan.collect().await.unwrap()), ["m2", "m1", "l2", "l1", "k2"]);
    }
    assert_eq!(keys.scan(Keys::prefix("m")).count().await.unwrap(), 2);
    assert_eq!(keys.scan(Keys::all()).count().await.unwrap(), 52);
    let deleted = keys.delete_range(Keys::between("b", "y"), Previous::Drop).await.unwrap();
    assert_eq!((deleted.count, deleted.revisions.len()), (46, 4));
    let left = keys.scan(Keys::all()).keys_only().collect().await.unwrap();
    assert_eq!(got(left), ["a1", "a2", "y1", "y2", "z1", "z2"]);
}

#[tokio::test]
async fn a_scan_reads_a_shard_at_one_revision() {
    let fake = Fake::new(1);
    let keys = fake.client().await.keyspace("default");
    for key in ["a", "b", "c"] {
        keys.put(key, "old").await.unwrap();
    }
    let mut scan = keys.scan(Keys::all()).page_keys(1);
    assert_eq!(scan.next().await.unwrap().unwrap().key, "a");
    keys.put("b", "new").await.unwrap();
    keys.put("aa", "new").await.unwrap();
    assert_eq!(scan.next().await.unwrap().unwrap().value, "old");
    assert_eq!(scan.next().await.unwrap().unwrap().key, "c");
    assert_eq!(scan.next().await.unwrap(), None);
}

#[tokio::test]
async fn transactions_compare_and_stay_within_a_shard() {
    let fake = Fake::new(3);
    let keys = split(&fake).await.keyspace("split");
    let create = || keys.txn().when(when::missing("a")).put("a", "1").otherwise().get("a").commit();
    assert!(create().await.unwrap().succeeded);
    let second = create().await.unwrap();
    assert!(!second.succeeded);
    let at = Revision(second.revision.0);
    let swapped = keys.txn().when(when::unchanged_since("a", at)).put("a", "2").commit();
    assert!(swapped.await.unwrap().succeeded);
    let across = keys.txn().put("a", "1").put("z", "2").commit().await.unwrap_err();
    assert_eq!(across.code, Code::Unsupported);
    assert!(across.message.contains("\"a\"") && across.message.contains("\"z\""), "{across}");
    let wide = keys.txn().delete(Keys::from("a")).commit().await.unwrap_err();
    assert_eq!(wide.code, Code::Unsupported);
}

#[tokio::test]
async fn a_watch_sees_all_shards_and_survives_lost_connections_and_moved_leaders() {
    let fake = Fake::new(3);
    let client = split(&fake).await;
    let keys = client.keyspace("split");
    let mut watch = keys.watch(Keys::all()).start().await.unwrap();
    assert_eq!(watch.from().len(), 4);
    let writer = async {
        for round in 0..40_u64 {
            for first in ["a", "g", "n", "u"] {
                keys.put(format!("{first}{round}"), "v").await.unwrap();
            }
            if round % 8 == 3 {
                fake.hang_up();
            }
            if round % 8 == 5 {
                for shard in 3..=6 {
                    fake.move_leader(shard, round % 3 + 1);
                }
            }
            tokio::task::yield_now().await;
        }
    };
    let mut seen = Vec::new();
    let reader = async {
        while seen.len() < 160 {
            let changes = watch.next().await.unwrap().unwrap();
            for event in changes.events {
                assert!(matches!(event.kind, EventKind::Put(_)));
                assert!(event.revision <= changes.through);
                seen.push((changes.shard, event.revision, text(&event.key)));
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(writer, reader) })
        .await
        .expect("every change is delivered");
    let distinct: BTreeSet<&String> = seen.iter().map(|(_, _, key)| key).collect();
    assert_eq!(distinct.len(), 160, "none lost, none twice");
    for shard in 3..=6 {
        let revisions: Vec<Revision> =
            seen.iter().filter(|(s, ..)| *s == ShardId(shard)).map(|(_, r, _)| *r).collect();
        assert!(revisions.is_sorted(), "shard {shard}: {revisions:?}");
    }
}

#[tokio::test]
async fn a_slow_watch_starts_over_and_loses_nothing() {
    let fake = Fake::new(1);
    let options = Options { watch_bytes_max: 500, ..short() };
    let keys = fake.client_with(options).await.keyspace("default");
    let mut watch = keys.watch(Keys::prefix("k")).start().await.unwrap();
    for i in 0..200 {
        keys.put(format!("k{i}"), "0123456789").await.unwrap();
    }
    for i in 0..200 {
        let mut events = Vec::new();
        while events.is_empty() {
            let next = tokio::time::timeout(Duration::from_secs(10), watch.next());
            events = next.await.expect("in time").unwrap().unwrap().events;
        }
        for (offset, event) in events.iter().enumerate() {
            assert_eq!(text(&event.key), format!("k{}", i + offset), "in order");
        }
        if events.len() > 1 {
            return check_rest(watch, i + events.len()).await;
        }
    }
}

async fn check_rest(mut watch: atoll_client::Watch, from: usize) {
    let mut next = from;
    while next < 200 {
        let wait = tokio::time::timeout(Duration::from_secs(10), watch.next());
        for event in wait.await.expect("in time").unwrap().unwrap().events {
            assert_eq!(text(&event.key), format!("k{next}"));
            next += 1;
        }
    }
}

#[tokio::test]
async fn history_that_is_gone_ends_a_watch_with_its_name() {
    let fake = Fake::new(1);
    let keys = fake.client().await.keyspace("default");
    for i in 0..10 {
        keys.put("a", format!("{i}")).await.unwrap();
    }
    fake.compact(2, Revision(8));
    let mut watch = keys.watch(Keys::one("a")).from(Revision(2)).start().await.unwrap();
    let failure = watch.next().await.unwrap().unwrap_err();
    assert_eq!(failure.code, Code::Compacted);
    assert!(failure.message.contains("revision 2"), "{failure}");
    assert!(watch.next().await.is_none());
    let mut watch = keys.watch(Keys::one("a")).from(Revision(9)).start().await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 3);
}

#[tokio::test]
async fn a_client_waits_for_its_cluster_and_says_why_it_cannot_reach_it() {
    let fake = Fake::new(3);
    fake.down(2);
    let options = Options { timeout: Duration::from_millis(100), ..Options::default() };
    let refused = fake.builder(2).options(options).connect().await;
    assert_eq!(refused.err().unwrap().code, Code::Unreachable);
    let client = fake.builder(2).options(short()).start().unwrap();
    fake.up(2);
    client.keyspace("default").put("a", "1").await.unwrap();
}

#[tokio::test]
async fn the_status_names_what_every_node_says_and_who_is_away() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    fake.down(3);
    let status = client.cluster_status().await.unwrap();
    assert_eq!((status.cluster_id, status.nodes.len()), (1, 3));
    assert_eq!(status.nodes[0].replicas.as_ref().unwrap().len(), 2);
    assert_eq!(status.nodes[2].replicas.as_ref().unwrap_err().code, Code::Unreachable);
    client.transfer_leader(ShardId(2), atoll_client::NodeId(1)).await.unwrap();
    client.keyspace("default").put("a", "1").await.unwrap();
    let status = client.cluster_status().await.unwrap();
    let shard = status.nodes[0].replicas.as_ref().unwrap().iter().find(|r| r.shard.0 == 2);
    assert_eq!(shard.unwrap().state, "leader");
}
