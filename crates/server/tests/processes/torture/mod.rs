//! Real processes under load while everything fails at once, again and again.
//!
//! Where the simulator has virtual time and replaced sockets, threads and the engine, this has the
//! binary itself: nodes are killed, lose their power, stand still; the links between them are cut,
//! slowed and dropped by a proxy. A seed gives the schedule (what the machine makes of it is never
//! twice the same). Faults come in rounds; after each the cluster must be whole again within a
//! generous bound, and in the end everything that clients were told is judged, by the checkers of
//! the simulator.
//!
//! `cargo x torture` runs it longer and prints the schedule. With `ATOLL_TORTURE_LIES=1` the disks
//! lie about the last syncs of the log, and it must fail.

mod links;
mod schedule;
mod unsynced;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use atoll_base::Rng;
use atoll_client::{Client, NodeId};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{Cluster, Load, Signal, Turn, eventually, sized};
use links::Links;
use schedule::{Fault, Step};
use unsynced::{Lost, Preload, Writes};

const CLIENTS: u32 = 24;
const ROUND: Duration = Duration::from_secs(12);
/// Writes that a healed cluster must acknowledge.
const HEALED: u64 = 200;
/// Small enough that logs are cut, engines persisted and followers sent snapshots all the time.
const SETTINGS: &[&str] = &[
    "--history-revisions=100000000",
    "--persist-interval=200ms",
    "--persist-bytes=1MiB",
    "--log-keep-entries=200",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_are_tortured() {
    torture(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_processes_are_tortured() {
    torture(5).await;
}

/// A number from the environment.
fn given(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

async fn torture(nodes: usize) {
    let _turn = Turn::alone();
    let seed = given("ATOLL_TORTURE_SEED").unwrap_or(1);
    let seconds = given("ATOLL_TORTURE_SECONDS").unwrap_or_else(|| sized(6, 60));
    println!("again: cargo x torture --seed {seed} --seconds {seconds} --nodes {nodes}");
    let begin = Instant::now();
    let mut rng = Rng::new(seed ^ (nodes as u64) << 32);
    let mut torture = Torture::begin(nodes, &mut rng).await;
    let length = Duration::from_secs(seconds);
    while begin.elapsed() < length {
        let left = length.saturating_sub(begin.elapsed()).max(Duration::from_secs(4));
        torture.round(&mut rng.fork(), left.min(ROUND)).await;
    }
    torture.finish().await;
    println!("{nodes} processes kept every promise, {:.0} s", begin.elapsed().as_secs_f64());
}

struct Torture {
    cluster: Cluster,
    links: Links,
    preload: Option<Preload>,
    client: Client,
    load: Load,
    /// What was asked besides, whatever becomes of it.
    asides: JoinSet<()>,
    tally: BTreeMap<&'static str, u64>,
    lost: Lost,
}

impl Torture {
    /// Starts `nodes` nodes behind proxies, under load.
    async fn begin(nodes: usize, rng: &mut Rng) -> Self {
        let mut cluster = Cluster::prepare(nodes, SETTINGS);
        let targets: Vec<_> =
            cluster.all().map(|node| (node, cluster.peer_address(node))).collect();
        let links = Links::open(&targets).await.expect("free ports");
        let preload = Preload::compile(cluster.folder());
        if let Err(why) = &preload {
            println!("power failures are only kills, unsynced writes survive: {why}");
        }
        let preload = preload.ok();
        for node in cluster.all() {
            cluster.tell_peer_port(node, links.port(node));
            let writes = match (given("ATOLL_TORTURE_LIES"), rng.chance(1, 4)) {
                (Some(_), _) => Writes::Lying,
                (None, true) => Writes::Direct,
                (None, false) => Writes::Buffered,
            };
            if let Some(preload) = &preload {
                println!("node {node} writes its log {writes:?}");
                cluster.set_variables(node, preload.variables(&cluster.data(node), writes));
            }
        }
        for node in cluster.all() {
            cluster.start_node(node);
            links.started(node, cluster.node(node).id());
        }
        cluster.ready().await;
        let client = cluster.client(Duration::from_secs(20)).await;
        let load = Load::start(&cluster, CLIENTS).await;
        let (asides, tally, lost) = (JoinSet::new(), BTreeMap::new(), Lost::default());
        Self { cluster, links, preload, client, load, asides, tally, lost }
    }

    /// Faults for so long, and the proof that they are over.
    async fn round(&mut self, rng: &mut Rng, length: Duration) {
        let begin = Instant::now();
        for step in schedule::round(rng, self.cluster.all().count(), length) {
            eventually("the clock goes on", length * 2, async || {
                let now = begin.elapsed();
                if now >= step.at { Ok(()) } else { Err(format!("{now:?}")) }
            })
            .await;
            println!("{step}");
            self.carry_out(&step, rng);
        }
        let before = Instant::now();
        self.cluster.ready().await;
        self.load.advances(HEALED).await;
        println!("healed in {:.1} s", before.elapsed().as_secs_f64());
        self.cluster.check_sound();
    }

    fn carry_out(&mut self, step: &Step, rng: &mut Rng) {
        if let Some(name) = step.fault.name() {
            *self.tally.entry(name).or_default() += 1;
        }
        match &step.fault {
            Fault::Kill(node) => {
                self.end(*node);
                if self.preload.is_some() {
                    unsynced::forget(&self.cluster.data(*node)).expect("its journal is there");
                }
            }
            Fault::PowerFails(nodes) => self.power_fails(nodes, rng),
            Fault::Start(node) => {
                self.cluster.start_node(*node);
                self.links.started(*node, self.cluster.node(*node).id());
            }
            Fault::Pause(node) => self.cluster.send(*node, Signal::Stop),
            Fault::Resume(node) => self.cluster.send(*node, Signal::Continue),
            Fault::Cut(pairs) => self.links.cut(pairs),
            Fault::Mend(pairs) => self.links.mend(pairs),
            Fault::Delay(pairs, by) => self.links.delay(pairs, *by),
            Fault::Hasten(pairs) => self.links.delay(pairs, Duration::ZERO),
            Fault::Drop(pairs) => self.links.drop_connections(pairs),
            Fault::Lead(node) => {
                let (client, to) = (self.client.clone(), NodeId(*node as u64));
                let shard = *rng.pick(&self.load.shards()).expect("a load has shards");
                self.asides.spawn(async move { drop(client.transfer_leader(shard, to).await) });
            }
        }
    }

    /// Kills a node that must not have ended by itself.
    fn end(&mut self, node: usize) {
        self.cluster.node(node).check_sound();
        self.cluster.kill_node(node);
    }

    fn power_fails(&mut self, nodes: &[usize], rng: &mut Rng) {
        for node in nodes {
            self.cluster.node(*node).check_sound();
            self.cluster.send(*node, Signal::Kill);
        }
        for node in nodes {
            self.cluster.kill_node(*node);
            if self.preload.is_some() {
                let lost = unsynced::lose_unsynced(&self.cluster.data(*node), rng);
                let lost = lost.expect("its files can be written");
                self.lost.writes += lost.writes;
                self.lost.files += lost.files;
            }
        }
    }

    async fn finish(mut self) {
        let mut summary = String::new();
        for (name, count) in &self.tally {
            let _ = write!(summary, "{name} {count}, ");
        }
        let Lost { writes, files } = self.lost;
        println!("faults: {summary}{writes} unsynced writes lost in {files} files");
        self.load.finish(&self.client).await;
        self.cluster.check_sound();
    }
}
