//! Shards without traffic rest, and are there when somebody needs them, whatever became of their
//! leaders meanwhile.
//!
//! A group that rests has no timers. So whoever leads after a kill or a pause does so because the
//! links between nodes told of it: the tests ask nothing of any shard until then, only for metrics.

use std::time::{Duration, Instant};

use atoll_base::Term;
use atoll_client::{Client, KeyspaceSpec, ShardId};

use crate::harness::{Cluster, Signal, Turn, eventually, http_get, leader, sized};

const LONG: Duration = Duration::from_secs(90);
const DEFAULT: ShardId = ShardId(2);
/// Shards of a new cluster: the catalog's and that of the keyspace `default`.
const FOUNDED: u64 = 2;
const QUIET: &str = "--quiet-groups=true";

/// The sum of a metric over some nodes.
fn sum(cluster: &Cluster, nodes: &[usize], metric: &str) -> Result<u64, String> {
    let mut sum = 0;
    for node in nodes {
        let (_, text) = http_get(&cluster.http_address(*node), "/metrics")?;
        let mut lines = text.lines().filter_map(|l| l.split_once(' '));
        let value = lines.find(|(name, _)| *name == metric);
        let value = value.and_then(|(_, v)| v.trim().parse::<u64>().ok());
        sum += value.ok_or_else(|| format!("node {node} has no {metric}: {text}"))?;
    }
    Ok(sum)
}

/// Waits until a second passes in which the nodes send each other fewer than `messages` messages
/// and their lanes take fewer than `turns` turns.
async fn rests(cluster: &Cluster, nodes: &[usize], (messages, turns): (f64, f64)) {
    let count = || -> Result<(u64, u64), String> {
        let messages = sum(cluster, nodes, "atoll_link_messages_sent_total")?;
        Ok((messages, sum(cluster, nodes, "atoll_turns_total")?))
    };
    let mut last: Option<(Instant, (u64, u64))> = None;
    eventually("the groups rest", LONG, async || {
        let Some((at, before)) = last else {
            last = Some((Instant::now(), count()?));
            return Err("it is measured".to_owned());
        };
        let passed = at.elapsed().as_secs_f64();
        if passed < 1.0 {
            return Err("it is measured".to_owned());
        }
        let now = count()?;
        last = Some((Instant::now(), now));
        let rate = |now: u64, before: u64| (now - before) as f64 / passed;
        let (sent, taken) = (rate(now.0, before.0), rate(now.1, before.1));
        println!("{sent:.1} messages and {taken:.1} turns a second");
        if sent < messages && taken < turns {
            Ok(())
        } else {
            Err(format!("{sent:.0} messages and {taken:.0} turns a second"))
        }
    })
    .await;
}

/// Waits until `nodes` lead `shards` shards; nobody but the metrics is asked.
async fn lead(cluster: &Cluster, nodes: &[usize], shards: u64) {
    eventually(&format!("{nodes:?} lead all shards"), LONG, async || {
        let led = sum(cluster, nodes, "atoll_leading")?;
        if led == shards { Ok(()) } else { Err(format!("they lead {led} of {shards}")) }
    })
    .await;
}

/// A keyspace of many shards, all of them led.
async fn many_shards(cluster: &Cluster, client: &Client, count: u32) {
    let mut spec = KeyspaceSpec::new("many");
    spec.shards = Some(count);
    client.create_keyspace(&spec).await.expect("the keyspace is made");
    lead(cluster, &[1, 2, 3], u64::from(count) + FOUNDED).await;
}

/// A cluster that rests when it can, in which `k` is `v`, all shards led.
async fn with_a_key() -> (Cluster, Client) {
    let cluster = Cluster::start(3, &[QUIET]).await;
    let client = cluster.client(Duration::from_secs(30)).await;
    client.keyspace("default").put("k", "v").await.expect("a put");
    lead(&cluster, &[1, 2, 3], FOUNDED).await;
    (cluster, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_without_traffic_cost_nothing_and_wake_for_a_write() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[QUIET]).await;
    let client = cluster.client(Duration::from_secs(30)).await;
    let shards = sized(60, 200);
    many_shards(&cluster, &client, shards).await;
    // Awake, each of them sends about 60 messages a second, and takes as many turns.
    let limit = f64::from(shards);
    rests(&cluster, &[1, 2, 3], (limit, limit)).await;
    let many = client.keyspace("many");
    let before = sum(&cluster, &[1, 2, 3], "atoll_leading").expect("metrics");
    for key in 0..20_u8 {
        many.put(vec![key * 12], "v").await.expect("a shard that rests takes a write");
    }
    // They rest again, with the leaders that they had.
    rests(&cluster, &[1, 2, 3], (limit, limit)).await;
    assert_eq!(sum(&cluster, &[1, 2, 3], "atoll_leading").expect("metrics"), before);
    for key in 0..20_u8 {
        let value = many.get(vec![key * 12]).await.expect("a get");
        assert_eq!(value.expect("it is there").value, "v");
    }
    cluster.check_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_killed_while_its_shards_rest_is_replaced_though_nobody_asks() {
    let _turn = Turn::among_others();
    let (mut cluster, client) = with_a_key().await;
    let data = client.keyspace("default");
    for round in 0..sized(1, 10) {
        let gone = leader(&client, DEFAULT).await;
        let before = term(&cluster, &client, gone).await;
        rests(&cluster, &[1, 2, 3], (10.0, 20.0)).await;
        cluster.kill_node(gone);
        let killed = Instant::now();
        let others: Vec<usize> = cluster.all().filter(|n| *n != gone).collect();
        lead(&cluster, &others, FOUNDED).await;
        println!("a killed leader of shards that rest was missed for {:?}", killed.elapsed());
        let value = data.get("k").await.expect("a get");
        assert_eq!(value.expect("it is there").value, if round == 0 { "v" } else { "w" });
        data.put("k", "w").await.expect("a put");
        // One that is down keeps nobody awake.
        rests(&cluster, &others, (10.0, 20.0)).await;
        cluster.start_node(gone);
        cluster.node_ready(gone).await;
        follows(&cluster, &client, gone, before).await;
    }
    rests(&cluster, &[1, 2, 3], (10.0, 20.0)).await;
    cluster.check_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stands_still_while_its_shards_rest_is_replaced() {
    let _turn = Turn::among_others();
    let (mut cluster, client) = with_a_key().await;
    let data = client.keyspace("default");
    let gone = leader(&client, DEFAULT).await;
    let before = term(&cluster, &client, gone).await;
    rests(&cluster, &[1, 2, 3], (10.0, 20.0)).await;
    // Its connections stay open.
    cluster.send(gone, Signal::Stop);
    let others: Vec<usize> = cluster.all().filter(|n| *n != gone).collect();
    lead(&cluster, &others, FOUNDED).await;
    data.put("k", "w").await.expect("a put");
    cluster.send(gone, Signal::Continue);
    cluster.node_ready(gone).await;
    follows(&cluster, &client, gone, before).await;
    let value = data.get("k").await.expect("a get");
    assert_eq!(value.expect("it is there").value, "w");
    cluster.check_sound();
}

/// The term in which `node` knows its group to be.
async fn term(cluster: &Cluster, client: &Client, node: usize) -> Term {
    cluster.replica(client, node, DEFAULT).await.expect("it has a replica").term
}

/// Waits until `node` is in a later term than `before` and holds what that term's leader holds. It
/// may be that leader itself: leadership goes back to who is preferred.
async fn follows(cluster: &Cluster, client: &Client, node: usize, before: Term) {
    eventually(&format!("node {node} follows"), LONG, async || {
        let newest = leader(client, DEFAULT).await;
        let leads = cluster.replica(client, newest, DEFAULT).await;
        let Some(leads) = leads else { return Err("no leader".to_owned()) };
        match cluster.replica(client, node, DEFAULT).await {
            Some(replica)
                if replica.term > before
                    && (replica.term, replica.revision) == (leads.term, leads.revision) =>
            {
                Ok(())
            }
            other => Err(format!("{other:?} of {leads:?}")),
        }
    })
    .await;
}
