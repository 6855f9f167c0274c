//! A scan over very many keys takes no more memory than a page, on both sides.

use std::time::Duration;

use atoll_client::Keys;
use tokio::task::JoinSet;

use crate::harness::{Cluster, Turn, resident_bytes, sized};

/// Keys of one batch.
const BATCH: u64 = 500;
const VALUE_BYTES: usize = 100;

fn key(n: u64) -> String {
    format!("key/{n:010}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_over_very_many_keys_takes_bounded_memory_on_both_sides() {
    let _turn = Turn::alone();
    let keys: u64 = sized(20_000, 1_000_000);
    let mut cluster = Cluster::start(3, &["--persist-interval=500ms"]).await;
    let client = cluster.client(Duration::from_secs(60)).await;
    let split = key(keys / 2);
    let (keyspace, _) = cluster.keyspace(&client, "data", &[&split]).await;
    let mut tasks = JoinSet::new();
    for task in 0..4 {
        let keyspace = keyspace.clone();
        tasks.spawn(async move {
            for first in (0..keys).step_by(BATCH as usize).filter(|n| n / BATCH % 4 == task) {
                let mut batch = keyspace.batch();
                for n in first..keys.min(first + BATCH) {
                    batch = batch.put(key(n), vec![n as u8; VALUE_BYTES]);
                }
                batch.commit().await.expect("a batch");
            }
        });
    }
    tasks.join_all().await;

    // The first scan fills caches, which are bounded by settings; the second may add little.
    for round in 0..2 {
        let nodes: Vec<usize> = cluster.all().collect();
        let at: Vec<u64> = nodes.iter().map(|n| cluster.node(*n).resident_bytes()).collect();
        let here = resident_bytes("self");
        let (mut most_there, mut most_here) = (vec![0; nodes.len()], 0);
        let mut scan = keyspace.scan(Keys::all());
        let mut next = 0;
        while let Some(page) = scan.next_page().await.expect("the scan goes on") {
            for kv in &page.kvs {
                assert_eq!(kv.key, key(next));
                assert_eq!(kv.value, vec![next as u8; VALUE_BYTES]);
                assert_eq!(kv.version, 1, "key {next} was put once");
                next += 1;
            }
            for node in &nodes {
                let now = cluster.node(*node).resident_bytes();
                most_there[node - 1] = now.max(most_there[node - 1]);
            }
            most_here = resident_bytes("self").max(most_here);
        }
        assert_eq!(next, keys);
        let grown_here = most_here.saturating_sub(here) >> 20;
        println!("round {round}: this process grew by {grown_here} MiB");
        // All of it would be 100 bytes of value and as much around it per key.
        assert!(grown_here < 24, "the client took {grown_here} MiB more");
        for node in &nodes {
            let grown = most_there[node - 1].saturating_sub(at[node - 1]) >> 20;
            println!("round {round}: node {node} grew by {grown} MiB");
            assert!(round == 0 || grown < 24, "node {node} took {grown} MiB more");
        }
    }
    let backwards = keyspace.scan(Keys::all()).descending().limit(10).collect().await;
    let last: Vec<_> = backwards.expect("a scan").into_iter().map(|kv| kv.key).collect();
    let wanted: Vec<_> = (keys - 10..keys).rev().map(key).collect();
    assert_eq!(last, wanted);
    assert_eq!(keyspace.scan(Keys::all()).count().await.expect("a count"), keys);
    cluster.check_sound();
}
