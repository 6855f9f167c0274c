//! A follower that was away for long is brought back by a snapshot while clients work.

use std::time::Duration;

use atoll_client::{Keys, Keyspace};
use tokio::task::JoinSet;

use crate::harness::{Cluster, Turn, eventually, leader, sized};

/// A log so short that who is away for long finds it cut.
const SETTINGS: &[&str] = &[
    "--log-keep-entries=100",
    "--persist-interval=200ms",
    "--persist-bytes=1MiB",
    "--history-revisions=1000",
];
/// A multiple of the tasks, so that all puts of one key come from one task, in order.
const KEYS: u64 = 80 * TASKS;
const TASKS: u64 = 64;
const LONG: Duration = Duration::from_secs(180);
/// What a node may take in all, its caches (24 MiB) and the log's tail in memory included.
const RESIDENT_MAX: u64 = 320 << 20;

/// Puts `from..to`, 64 at a time, and returns when all are acknowledged. Put `n` goes to key `n %
/// KEYS`.
async fn put_all(keyspace: &Keyspace, from: u64, to: u64) {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let keyspace = keyspace.clone();
        tasks.spawn(async move {
            for n in (from..to).filter(|n| n % TASKS == task) {
                let done = keyspace.put(key(n % KEYS), value(n)).await;
                done.expect("a put within its timeout");
            }
        });
    }
    tasks.join_all().await;
}

fn key(n: u64) -> String {
    format!("key/{n:08}")
}

fn value(n: u64) -> String {
    format!("{n:016}{}", "v".repeat(100))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_away_for_long_catches_up_by_snapshot() {
    let _turn = Turn::alone();
    let writes = sized(20_000, 200_000);
    let mut cluster = Cluster::start(3, SETTINGS).await;
    let client = cluster.client(Duration::from_secs(30)).await;
    let (keyspace, info) = cluster.keyspace(&client, "data", &[]).await;
    let shard = info.shards[0].shard;
    put_all(&keyspace, 0, KEYS).await;
    let away = leader(&client, shard).await % 3 + 1;
    let before = cluster.replica(&client, away, shard).await.expect("it answers");
    cluster.kill_node(away);
    put_all(&keyspace, KEYS, KEYS + writes).await;

    // Clients go on while it comes back.
    let going_on = tokio::spawn({
        let keyspace = keyspace.clone();
        async move { put_all(&keyspace, KEYS + writes, KEYS + writes + writes / 4).await }
    });
    cluster.start_node(away);
    let mut most = 0;
    let back = eventually("the follower is where the leader was", LONG, async || {
        for node in cluster.all() {
            most = most.max(cluster.node(node).resident_bytes());
        }
        let replica = cluster.replica(&client, away, shard).await.ok_or("it does not answer")?;
        if replica.state == "follower" && replica.revision.0 >= KEYS + writes {
            Ok(replica)
        } else {
            Err(format!("{replica:?}"))
        }
    })
    .await;
    assert!(
        back.first_index > before.last_index.next(),
        "it was given entries, not a snapshot: its log began at {} before and begins at {} now",
        before.last_index,
        back.first_index
    );
    going_on.await.expect("the clients are well");
    assert!(most < RESIDENT_MAX, "a node took {} MiB", most >> 20);

    // What it holds is what the others hold: it leads now, alone with one other.
    cluster.lead(&client, away, shard).await;
    let all = keyspace.scan(Keys::all()).collect().await.expect("the scan goes on");
    assert_eq!(all.len() as u64, KEYS);
    let last = KEYS + writes + writes / 4;
    for (n, kv) in (0..KEYS).zip(&all) {
        let newest = (0..last).rev().find(|m| m % KEYS == n).expect("each key was put");
        assert_eq!(kv.key, key(n));
        assert_eq!(kv.value, value(newest), "key {n}");
        let puts = (last - n).div_ceil(KEYS);
        assert_eq!(kv.version, puts, "key {n} was put {puts} times");
    }
    cluster.check_sound();
}
