//! Changes of members whose leader is killed in their middle: given again, each command ends with
//! the members that it names, and nothing that was acknowledged meanwhile is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_client::{Client, Role, ShardId};

use crate::harness::{Cluster, Load, Process, Turn, eventually, leader, sized};

const HISTORY: &str = "--history-revisions=100000000";
const LONG: Duration = Duration::from_secs(120);
const CLIENTS: u32 = 8;

/// When the leader is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// As soon as the command's process is there.
    Started,
    /// When the catalog has taken a change in.
    Recorded,
    /// When the command has told of so many steps.
    Told(usize),
}

/// A cluster under load, one of whose shards changes its members.
struct Scene {
    cluster: Cluster,
    client: Client,
    load: Load,
    shard: ShardId,
    /// Who votes in the beginning.
    founders: Vec<u64>,
    /// Who comes and goes.
    newcomer: usize,
    /// Commands given so far.
    commands: usize,
    /// Kills that met a command which had not ended.
    cut_off: usize,
    _turn: Turn,
}

impl Scene {
    async fn new(nodes: usize) -> Self {
        let turn = Turn::alone();
        let mut cluster = Cluster::start(nodes, &[HISTORY]).await;
        let client = cluster.client(Duration::from_secs(20)).await;
        let load = Load::start(&cluster, CLIENTS).await;
        let newcomer = cluster.join_node(&client).await;
        let shard = load.shards()[0];
        let founders = members(&client, shard).await.into_keys().collect();
        let (commands, cut_off) = (0, 0);
        Self { cluster, client, load, shard, founders, newcomer, commands, cut_off, _turn: turn }
    }

    /// Starts `cluster ARGS` for the shard.
    fn begin(&mut self, args: &[&str]) -> Process {
        self.commands += 1;
        let given = args.iter().map(|&a| a.to_owned());
        let shard = format!("--shard={}", self.shard);
        let endpoints = format!("--endpoints={}", self.cluster.endpoints());
        let all: Vec<String> =
            ["cluster".to_owned()].into_iter().chain(given).chain([shard, endpoints]).collect();
        let name = format!("command-{}-{}", self.commands, args[0]);
        Process::start(self.cluster.folder(), &name, &all)
    }

    /// Gives a command, kills the shard's leader at `moment`, and gives the command again until it
    /// succeeds, while that node is down. Then the node comes back.
    async fn interrupt(&mut self, args: &[&str], moment: Moment) {
        let victim = leader(&self.client, self.shard).await;
        let before = self.client.newest_catalog().await.expect("the catalog is there").revision();
        let mut first = self.begin(args);
        eventually(&format!("{args:?} gets to {moment:?}"), LONG, async || {
            if first.ended().is_some() {
                return Ok(());
            }
            let is_there = match moment {
                Moment::Started => true,
                Moment::Recorded => {
                    let catalog = self.client.newest_catalog().await;
                    catalog.map_err(|f| f.to_string())?.revision() > before
                }
                Moment::Told(steps) => first.said().lines().count() >= steps,
            };
            if is_there { Ok(()) } else { Err(first.said()) }
        })
        .await;
        self.cut_off += usize::from(first.ended().is_none());
        self.cluster.kill_node(victim);
        let code = first.exit_code(LONG).await;
        println!("{args:?}, node {victim} killed at {moment:?}: ended with {code}");
        self.repeat(args).await;
        self.cluster.start_node(victim);
        self.cluster.node_ready(victim).await;
        // And once more when nothing is left to be done.
        self.repeat(args).await;
        self.load.advances(sized(100, 2_000)).await;
    }

    /// Gives a command until it succeeds; what it said then.
    async fn repeat(&mut self, args: &[&str]) -> String {
        // Each attempt waits by itself, so this bounds a command that never gets there.
        let mut said = String::new();
        for _ in 0..10 {
            let mut command = self.begin(args);
            let code = command.exit_code(LONG).await;
            said = command.said();
            if code == 0 {
                return said;
            }
            println!("{args:?} again: ended with {code}: {said}");
        }
        panic!("{args:?} does not succeed: {said}");
    }

    /// The catalog, and the group by what its leader says, have the founders and `newcomer`.
    async fn has_members(&self, newcomer: Option<Role>) {
        let mut wanted: BTreeMap<u64, Role> =
            self.founders.iter().map(|node| (*node, Role::Voter)).collect();
        if let Some(role) = newcomer {
            wanted.insert(self.newcomer as u64, role);
        }
        assert_eq!(members(&self.client, self.shard).await, wanted);
        eventually("the members are those of the catalog", LONG, async || {
            let mut found = BTreeMap::new();
            for node in self.cluster.all() {
                let replica = self.cluster.replica(&self.client, node, self.shard).await;
                if let Some(replica) = replica {
                    found.insert(node as u64, replica.state);
                }
            }
            let leaders = found.values().filter(|s| **s == "leader").count();
            let right = found.keys().eq(wanted.keys()) && leaders == 1;
            if right { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }

    /// The newcomer comes, votes, leads and goes, each time with a kill in the middle.
    async fn round(&mut self, moments: [Moment; 4]) {
        let node = self.newcomer.to_string();
        self.interrupt(&["add", &node, "--learner"], moments[0]).await;
        self.has_members(Some(Role::Learner)).await;
        self.interrupt(&["promote", &node], moments[1]).await;
        self.has_members(Some(Role::Voter)).await;
        // A founder leads, and is killed: a dead newcomer can't be given the lead.
        let founder = *self.founders.first().expect("a cluster has founders");
        self.cluster.lead(&self.client, founder as usize, self.shard).await;
        let to = format!("--to={node}");
        self.interrupt(&["transfer-leader", &to], moments[2]).await;
        // It was the last one told to lead, and nobody was killed after that.
        let newcomer = self.newcomer;
        eventually("the newcomer leads", LONG, async || {
            let leads = leader(&self.client, self.shard).await;
            if leads == newcomer { Ok(()) } else { Err(format!("node {leads} does")) }
        })
        .await;
        // Now the one that is killed is the one that is removed.
        self.interrupt(&["remove", &node], moments[3]).await;
        eventually("its replica is deleted", LONG, async || {
            let said = self.repeat(&["remove", &node]).await;
            if said.contains("keeps its replica") { Err(said) } else { Ok(()) }
        })
        .await;
        self.has_members(None).await;
    }

    async fn finish(mut self) {
        assert!(self.cut_off > 0, "no kill met a command under way");
        println!("{} commands, {} cut off", self.commands, self.cut_off);
        self.cluster.check_sound();
        self.load.finish(&self.client).await;
        self.cluster.check_sound();
    }
}

/// The members of a shard as the catalog has them.
async fn members(client: &Client, shard: ShardId) -> BTreeMap<u64, Role> {
    let catalog = client.newest_catalog().await.expect("the catalog is there");
    let members = &catalog.shard(shard).expect("the shard is there").record.descriptor.members;
    members.iter().map(|m| (m.node.0, m.role)).collect()
}

const ROUNDS: [[Moment; 4]; 4] = [
    [Moment::Told(1), Moment::Recorded, Moment::Recorded, Moment::Told(1)],
    [Moment::Started, Moment::Started, Moment::Started, Moment::Started],
    [Moment::Recorded, Moment::Told(1), Moment::Recorded, Moment::Recorded],
    [Moment::Told(2), Moment::Told(2), Moment::Started, Moment::Told(2)],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_three_nodes_a_command_survives_the_death_of_the_leader_in_its_middle() {
    let mut scene = Scene::new(3).await;
    for moments in &ROUNDS[..sized(1, ROUNDS.len())] {
        scene.round(*moments).await;
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_five_nodes_a_command_survives_the_death_of_the_leader_in_its_middle() {
    let mut scene = Scene::new(5).await;
    for moments in &ROUNDS[sized(2, 0)..sized(3, ROUNDS.len())] {
        scene.round(*moments).await;
    }
    scene.finish().await;
}
