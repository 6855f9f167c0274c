//! Kills and pauses under load: nothing acknowledged is lost, nothing is done twice, reads are
//! true.

use std::time::Duration;

use atoll_client::{Client, Code, Happened};

use crate::harness::{Cluster, Load, Signal, Turn, eventually, leader, sized, within};

const CLIENTS: u32 = 64;
const HISTORY: &str = "--history-revisions=100000000";

struct Scene {
    cluster: Cluster,
    client: Client,
    load: Load,
    _turn: Turn,
}

async fn scene() -> Scene {
    let turn = Turn::alone();
    let cluster = Cluster::start(3, &[HISTORY]).await;
    let client = cluster.client(Duration::from_secs(20)).await;
    cluster.keyspace(&client, "probe", &["k2", "k4", "k6"]).await;
    let load = Load::start(&cluster, CLIENTS).await;
    Scene { cluster, client, load, _turn: turn }
}

impl Scene {
    /// Writes that must come through before the next step.
    fn enough() -> u64 {
        sized(300, 20_000)
    }

    /// Everybody is up again: looks whether all that was told was true.
    async fn finish(mut self) {
        self.cluster.ready().await;
        self.load.advances(Self::enough()).await;
        self.cluster.check_sound();
        self.load.finish(&self.client).await;
        self.cluster.check_sound();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_one_node_may_be_killed() {
    let mut scene = scene().await;
    for node in scene.cluster.all() {
        scene.cluster.kill_node(node);
        // Two are left: writes to every shard go on without it.
        scene.load.advances(Scene::enough()).await;
        for shard in scene.load.shards() {
            assert_ne!(leader(&scene.client, shard).await, node);
        }
        scene.cluster.start_node(node);
        scene.cluster.node_ready(node).await;
        scene.load.advances(Scene::enough()).await;
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_two_nodes_killed_nothing_is_acknowledged_until_one_returns() {
    let mut scene = scene().await;
    for survivor in scene.cluster.all().take(sized(1, 3)) {
        let others: Vec<usize> = scene.cluster.all().filter(|n| *n != survivor).collect();
        for node in &others {
            scene.cluster.kill_node(*node);
        }
        let probe = scene.client.keyspace("probe").with_timeout(Duration::from_secs(2));
        for key in ["k0", "k2", "k4", "k6"] {
            let put = within("a put is refused", LONG, probe.put(key, "x")).await;
            let failure = put.expect_err("one of three must not acknowledge a write");
            assert!(failure.happened != Happened::Yes, "{failure}");
            let got = within("a get is refused", LONG, probe.get(key)).await;
            let failure = got.expect_err("one of three must not answer a linearizable read");
            assert!(failure.code != Code::NotFound, "{failure}");
        }
        scene.cluster.start_node(others[0]);
        scene.load.advances(Scene::enough()).await;
        scene.cluster.start_node(others[1]);
        scene.cluster.ready().await;
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_may_be_killed_at_once() {
    let mut scene = scene().await;
    for _ in 0..sized(2, 5) {
        for node in scene.cluster.all() {
            scene.cluster.send(node, Signal::Kill);
        }
        for node in scene.cluster.all() {
            scene.cluster.kill_node(node);
        }
        let before = scene.load.acknowledged();
        scene.cluster.start_all();
        scene.cluster.ready().await;
        scene.load.advances(Scene::enough()).await;
        assert!(scene.load.acknowledged() > before);
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_paused_is_replaced_and_tells_no_old_news_afterwards() {
    let mut scene = scene().await;
    for _ in 0..sized(1, 3) {
        let shard = scene.load.shards()[0];
        let paused = leader(&scene.client, shard).await;
        scene.cluster.send(paused, Signal::Stop);
        let pause = std::time::Instant::now();
        // The others go on while it stands still.
        scene.load.advances(Scene::enough()).await;
        eventually("the shard is led by another", LONG, async || {
            let now = leader(&scene.client, shard).await;
            if now == paused { Err(format!("node {now} leads")) } else { Ok(()) }
        })
        .await;
        let least = Duration::from_secs(sized(3, 10));
        eventually("the pause was long enough", LONG, async || {
            let passed = pause.elapsed();
            if passed >= least { Ok(()) } else { Err(format!("{passed:?}")) }
        })
        .await;
        scene.cluster.send(paused, Signal::Continue);
        scene.cluster.node_ready(paused).await;
        scene.load.advances(Scene::enough()).await;
    }
    scene.finish().await;
}

const LONG: Duration = Duration::from_secs(60);
