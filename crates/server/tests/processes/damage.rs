//! Flipped bits in the log and in the engine: found, told, never served, and repaired from the
//! others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_client::{Client, Keys, Keyspace, NodeId, ShardId};

use crate::harness::{Cluster, Turn, eventually, leader};

const LONG: Duration = Duration::from_secs(90);
const KEYS: u64 = 6_000;

fn key(n: u64) -> String {
    format!("key/{n:06}")
}

/// Distinct and recognisable on disk.
fn value(n: u64) -> String {
    format!("value-{n:06}-{}", "abcdefgh".repeat(30))
}

/// Flips one bit of the file's byte at `offset`.
fn flip(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).expect("the file is there");
    bytes[offset] ^= 0x10;
    std::fs::write(path, bytes).expect("the file can be written");
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Where the bytes of `wanted` are, in which file.
fn places(folder: &Path, wanted: &str) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    for path in files_below(folder) {
        let bytes = std::fs::read(&path).unwrap_or_default();
        let hits = bytes.windows(wanted.len()).enumerate().filter(|(_, w)| *w == wanted.as_bytes());
        found.extend(hits.map(|(at, _)| (path.clone(), at)));
    }
    found
}

struct Scene {
    cluster: Cluster,
    client: Client,
    keyspace: Keyspace,
    shard: ShardId,
    /// The node to be damaged; it does not lead.
    victim: usize,
}

impl Scene {
    /// Three nodes with data.
    async fn new(settings: &[&str]) -> Self {
        let cluster = Cluster::start(3, settings).await;
        let client = cluster.client(Duration::from_secs(30)).await;
        let (keyspace, info) = cluster.keyspace(&client, "data", &[]).await;
        let shard = info.shards[0].shard;
        for first in (0..KEYS).step_by(100) {
            let mut batch = keyspace.batch();
            for n in first..first + 100 {
                batch = batch.put(key(n), value(n));
            }
            batch.commit().await.expect("a batch");
        }
        let victim = leader(&client, shard).await % 3 + 1;
        eventually("the victim has everything", LONG, async || {
            let replica = cluster.replica(&client, victim, shard).await.ok_or("no answer")?;
            let done = replica.revision.0 >= KEYS / 100;
            if done { Ok(()) } else { Err(format!("{replica:?}")) }
        })
        .await;
        Self { cluster, client, keyspace, shard, victim }
    }

    /// All keys, as the cluster serves them.
    async fn check_all(&self) {
        let all = self.keyspace.scan(Keys::all()).collect().await.expect("the cluster serves");
        assert_eq!(all.len() as u64, KEYS);
        for (n, kv) in (0..KEYS).zip(all) {
            assert_eq!(kv.key, key(n));
            assert_eq!(kv.value, value(n), "a damaged value was served");
        }
    }

    /// Any replica's answer, the damaged one's too, is right or none.
    async fn check_stale(&self) {
        for n in (0..KEYS).step_by(37) {
            if let Ok(read) = self.keyspace.get_stale(key(n), None).await
                && let Some(kv) = read.kv
            {
                assert_eq!(kv.value, value(n), "a damaged value was served");
            }
        }
    }

    /// Waits until the victim takes part again, makes it lead, and compares everything.
    async fn repaired(&mut self) {
        let Self { cluster, client, shard, victim, .. } = self;
        eventually("the damaged replica is rebuilt", LONG, async || {
            if let Some(status) = cluster.node(*victim).ended() {
                panic!("it ended with {status}");
            }
            let replica = cluster.replica(client, *victim, *shard).await.ok_or("no answer")?;
            let is_well = matches!(replica.state, "follower" | "leader");
            if is_well { Ok(()) } else { Err(format!("{replica:?}")) }
        })
        .await;
        self.check_stale().await;
        self.cluster.lead(&self.client, self.victim, self.shard).await;
        self.check_all().await;
        self.keyspace.put("key/000000", value(0)).await.expect("it takes writes");
        self.cluster.check_sound();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_log_is_found_and_the_replica_rebuilt() {
    let _turn = Turn::among_others();
    // Nothing is persisted in the engine, so the log is all that there is.
    let mut scene = Scene::new(&["--persist-interval=1h", "--persist-bytes=1GiB"]).await;
    scene.cluster.kill_node(scene.victim);
    let log = scene.cluster.data(scene.victim).join("log");
    let (path, at) = places(&log, &value(KEYS / 2)).pop().expect("the value is in the log");
    flip(&path, at + 20);
    // The engine's journal may have survived the kill: without it the log must tell everything.
    std::fs::remove_dir_all(scene.cluster.data(scene.victim).join("engine")).expect("it is there");
    scene.cluster.start_node(scene.victim);
    let file = path.file_name().expect("a name").to_string_lossy().into_owned();
    eventually("the damage is told with its file", LONG, async || {
        let said = scene.cluster.node(scene.victim).said();
        let tells = said.lines().any(|l| l.contains("damage") && l.contains(&file));
        if tells { Ok(()) } else { Err(said) }
    })
    .await;
    scene.check_all().await;
    scene.check_stale().await;
    scene.repaired().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_engine_is_found_and_the_replica_rebuilt() {
    let _turn = Turn::among_others();
    // Small write buffers, so that there are table files; a log too short to repair from.
    let settings = [
        "--persist-interval=100ms",
        "--persist-bytes=1MiB",
        "--log-keep-entries=0",
        "--engine-write-buffer-bytes=1MiB",
    ];
    let mut scene = Scene::new(&settings).await;
    let engine = scene.cluster.data(scene.victim).join("engine");
    let wanted = value(7);
    let tables = eventually("a table holds the value", LONG, async || {
        let mut places = places(&engine, &wanted);
        places.retain(|(path, _)| path.components().any(|c| c.as_os_str() == "tables"));
        if places.is_empty() { Err(format!("{:?}", files_below(&engine))) } else { Ok(places) }
    })
    .await;
    scene.cluster.kill_node(scene.victim);
    for (path, at) in &tables {
        flip(path, at + 20);
    }
    scene.cluster.start_node(scene.victim);
    scene.cluster.node_ready(scene.victim).await;
    // Made to lead, it reads what is damaged, and stops rather than serve it. The others go on.
    let to = NodeId(scene.victim as u64);
    eventually("the damage is found", LONG, async || {
        if scene.cluster.node(scene.victim).ended().is_some() {
            return Ok(());
        }
        let asked = scene.client.transfer_leader(scene.shard, to).await;
        scene.check_all().await;
        Err(format!("it runs; transfer: {asked:?}"))
    })
    .await;
    scene.check_all().await;
    let said = scene.cluster.node(scene.victim).said();
    assert!(said.contains("damaged") && said.contains("start it again"), "{said}");
    scene.cluster.kill_node(scene.victim);
    scene.cluster.start_node(scene.victim);
    scene.check_all().await;
    scene.repaired().await;
}
