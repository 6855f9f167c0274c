use atoll_client::{EventKind, Keys, KeyspaceSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_leader_left_and_after_a_restart_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(3, folder.path()).await;
    let client = cluster.client().await;
    let spec = KeyspaceSpec { shards: Some(4), ..KeyspaceSpec::new("orders") };
    client.create_keyspace(&spec).await.unwrap();
    let orders = client.keyspace("orders");
    let mut watch = orders.watch(Keys::all()).start().await.unwrap();
    for i in 0..40_u8 {
        orders.put(vec![i * 6, i], vec![i]).await.unwrap();
    }
    let mut seen = 0;
    while seen < 40 {
        let changes = watch.next().await.unwrap().unwrap();
        seen += changes.events.iter().filter(|e| matches!(e.kind, EventKind::Put(_))).count();
    }
    cluster.stop(0).await;
    for i in 0..40_u8 {
        orders.put(vec![i * 6, i], vec![i, 1]).await.unwrap();
    }
    assert_eq!(orders.scan(Keys::all()).collect().await.unwrap().len(), 40);
    drop((watch, orders, client));
    cluster.stop_all().await;
    for index in 0..3 {
        cluster.restart(index).await;
    }
    let client = cluster.client().await;
    let all = client.keyspace("orders").scan(Keys::all()).collect().await.unwrap();
    assert_eq!(all.len(), 40);
    assert!(all.iter().all(|kv| kv.value.len() == 2 && kv.version == 2));
    let status = client.cluster_status().await.unwrap();
    assert_eq!(status.nodes.len(), 3);
    drop(client);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_moved_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(3, folder.path()).await;
    let client = cluster.client().await;
    client.keyspace("default").put("k", "1").await.unwrap();
    cluster.stop(2).await;
    let mut config = cluster.configs[2].clone();
    for address in [&mut config.listen, &mut config.peer_listen, &mut config.http_listen] {
        "127.0.0.1:0".clone_into(address);
    }
    let listeners = Listeners::bind(&config).await.unwrap();
    let moved = &mut config.bootstrap.members[2];
    moved.client = listeners.client.local_addr().unwrap().to_string();
    moved.peer = listeners.peer.local_addr().unwrap().to_string();
    let wanted = moved.client.clone();
    cluster.nodes[2] = Some(Instance::start(&config, listeners).await.unwrap());
    for node in cluster.nodes.iter().flatten() {
        let mut readiness = node.hub().catalog.readiness();
        let found = readiness.wait_for(|_| {
            let known = node.hub().catalog.with(|c| c.node(NodeId(3)).cloned());
            known.is_some_and(|n| n.client_address == wanted)
        });
        let found = tokio::time::timeout(Duration::from_secs(20), found).await;
        assert!(found.is_ok_and(|r| r.is_ok()), "node {} knows the old address", node.hub().node);
    }
    cluster.stop(0).await;
    let put = client.keyspace("default").put("k", "2").await.unwrap();
    assert!(put.revision.0 >= 2, "nodes 2 and 3 are a majority again");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_says_how_the_node_is_and_idle_or_foreign_connections_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(1, folder.path()).await;
    let client = cluster.client().await;
    let at = &cluster.configs[0].listen;
    let mut idle = Vec::new();
    for i in 0..200 {
        let mut stream = TcpStream::connect(at).await.unwrap();
        if i % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        }
        idle.push(stream);
    }
    client.keyspace("default").put("k", "v").await.unwrap();
    for (path, wanted) in [
        ("/health", "\"status\":\"ok\""),
        ("/ready", "\"ready\":true"),
        ("/version", env!("CARGO_PKG_VERSION")),
        ("/metrics", "atoll_stage_log_write_seconds_count"),
        ("/metrics", "\natoll_process_memory_bytes "),
        ("/metrics", "\natoll_link_messages_sent_total "),
    ] {
        let text = get(&cluster.configs[0].http_listen, path).await;
        assert!(text.contains(wanted), "{path}: {text}");
    }
    drop(client);
    cluster.stop_all().await;
}

/// How often a histogram was observed.
async fn observations(address: &str, name: &str) -> u64 {
    let text = get(address, "/metrics").await;
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("atoll_{name}_seconds_count ")));
    line.unwrap_or_else(|| panic!("{name} is missing: {text}")).trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_moves_the_histogram_of_every_stage() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(3, folder.path()).await;
    let client = cluster.client().await;
    let keyspace = client.keyspace("default");
    keyspace.put("k", "0").await.unwrap();
    let stages = ["queue", "log_write", "fsync", "replicate", "apply", "reply"];
    let mut before = Vec::new();
    for stage in stages {
        let mut sum = 0;
        for config in &cluster.configs {
            sum += observations(&config.http_listen, &format!("stage_{stage}")).await;
        }
        before.push(sum);
    }
    for i in 0..20 {
        keyspace.put("k", format!("{i}")).await.unwrap();
    }
    for (stage, before) in stages.iter().zip(before) {
        let mut sum = 0;
        for config in &cluster.configs {
            sum += observations(&config.http_listen, &format!("stage_{stage}")).await;
        }
        // One caller, one put at a time: each is a batch of its own everywhere.
        assert!(sum >= before + 20, "{stage} was observed {} times by 20 puts", sum - before);
    }
    drop(client);
    cluster.stop_all().await;
}

/// The value of a metric without labels.
async fn value(address: &str, name: &str) -> u64 {
    let text = get(address, "/metrics").await;
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name} is missing: {text}")).trim().parse().unwrap()
}

/// Waits until a metric satisfies `wanted`.
async fn value_until(address: &str, name: &str, wanted: impl Fn(u64) -> bool) {
    let found = async { while !wanted(value(address, name).await) {} };
    let found = tokio::time::timeout(Duration::from_secs(60), found).await;
    assert!(found.is_ok(), "{name} is {}", value(address, name).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elections_are_counted_and_stay_counted_when_their_shards_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(1, folder.path()).await;
    let client = cluster.client().await;
    let address = &cluster.configs[0].http_listen.clone();
    let (leading, won) = ("atoll_leading", "atoll_raft_terms_led_total");
    client.keyspace("default").put("k", "v").await.unwrap();
    value_until(address, leading, |n| n == 2).await;
    let before = value(address, won).await;
    assert!(before >= 2, "two shards are led, {before} elections were won");
    let spec = KeyspaceSpec { shards: Some(5), ..KeyspaceSpec::new("many") };
    client.create_keyspace(&spec).await.unwrap();
    value_until(address, leading, |n| n == 7).await;
    let after = value(address, won).await;
    assert!(after >= before + 5, "five more shards are led: {before} elections, then {after}");
    client.drop_keyspace("many").await.unwrap();
    value_until(address, leading, |n| n == 2).await;
    let last = value(address, won).await;
    assert!(last >= after, "{won} went back from {after} to {last}");
    let text = get(address, "/metrics").await;
    for line in [
        "# HELP atoll_raft_terms_led Elections won",
        "# TYPE atoll_raft_terms_led counter",
        "# TYPE atoll_raft_damaged counter",
        "atoll_raft_damaged_total 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
    drop(client);
    cluster.stop_all().await;
}

async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}
