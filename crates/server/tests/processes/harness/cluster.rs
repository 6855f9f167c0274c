//! Clusters of `atoll serve` processes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_client::{Client, Keyspace, KeyspaceInfo, KeyspaceSpec, Options, ReplicaStatus, ShardId};
use tempfile::TempDir;

use super::ports::Ports;
use super::process::{Process, Signal, http_get};
use super::wait::eventually;

/// Settings that keep several nodes on one small machine quick; a test adds its own.
const SETTINGS: &[&str] = &[
    "--lanes=2",
    "--election-timeout=500ms",
    "--heartbeat-interval=60ms",
    "--log-segment-bytes=32MiB",
    "--engine-cache-bytes=16MiB",
    "--engine-write-buffer-bytes=8MiB",
    "--disk-reserve-bytes=0",
];

/// How long a cluster may take to get somewhere, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nodes 1 to n, each with a folder and three ports of its own that it keeps over restarts.
pub(crate) struct Cluster {
    nodes: Vec<Option<Process>>,
    addresses: Vec<Addresses>,
    /// The nodes after these joined later.
    founders: usize,
    settings: Vec<String>,
    folder: TempDir,
    ports: Ports,
}

#[derive(Clone, Debug)]
struct Addresses {
    client: u16,
    peer: u16,
    http: u16,
    /// Where the list of nodes says that peers reach it, if that is not where it listens.
    told_peer: Option<u16>,
    /// Variables that it is started with.
    variables: Vec<(String, String)>,
}

impl Addresses {
    fn reserve(ports: &mut Ports) -> Self {
        let (client, peer, http) = (ports.reserve(), ports.reserve(), ports.reserve());
        Self { client, peer, http, told_peer: None, variables: Vec::new() }
    }
}

impl Cluster {
    /// Starts `nodes` nodes and waits until they are ready.
    pub(crate) async fn start(nodes: usize, settings: &[&str]) -> Self {
        let mut this = Self::prepare(nodes, settings);
        this.start_all();
        this.ready().await;
        this
    }

    /// A cluster of which nothing runs yet.
    pub(crate) fn prepare(nodes: usize, settings: &[&str]) -> Self {
        let mut ports = Ports::new();
        let addresses = (0..nodes).map(|_| Addresses::reserve(&mut ports)).collect();
        let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
        let is_given = |flag: &str| settings.iter().any(|s| name(s) == name(flag));
        let common = SETTINGS.iter().filter(|s| !is_given(s));
        let settings = common.chain(settings).map(|&s| s.to_owned()).collect();
        Self {
            nodes: (0..nodes).map(|_| None).collect(),
            addresses,
            settings,
            folder: tempfile::tempdir().expect("a temporary folder"),
            founders: nodes,
            ports,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where `node` keeps its data.
    pub(crate) fn data(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{node}"))
    }

    /// Where clients reach `node`.
    pub(crate) fn client_address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.addresses[node - 1].client)
    }

    pub(crate) fn peer_address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.addresses[node - 1].peer)
    }

    pub(crate) fn http_address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.addresses[node - 1].http)
    }

    /// Before anything runs: the others reach `node` at this port, where something passes on what
    /// they send.
    pub(crate) fn tell_peer_port(&mut self, node: usize, port: u16) {
        self.addresses[node - 1].told_peer = Some(port);
    }

    /// Whenever `node` is started from now on, these are in its environment.
    pub(crate) fn set_variables(&mut self, node: usize, variables: Vec<(String, String)>) {
        self.addresses[node - 1].variables = variables;
    }

    /// All nodes' client addresses, as `--endpoints` wants them.
    pub(crate) fn endpoints(&self) -> String {
        let all: Vec<String> = self.all().map(|node| self.client_address(node)).collect();
        all.join(",")
    }

    /// The ids of all nodes.
    pub(crate) fn all(&self) -> impl Iterator<Item = usize> + use<> {
        1..=self.nodes.len()
    }

    /// The flags that `node` is started with.
    pub(crate) fn args(&self, node: usize) -> Vec<String> {
        let list: Vec<String> = (1..)
            .zip(&self.addresses[..self.founders])
            .map(|(id, at)| {
                let peer = at.told_peer.unwrap_or(at.peer);
                format!("{id}=127.0.0.1:{}/{peer}/{}", at.client, at.http)
            })
            .collect();
        let mut args = vec![
            "serve".to_owned(),
            format!("--node-id={node}"),
            format!("--data={}", self.data(node).display()),
            format!("--listen={}", self.client_address(node)),
            format!("--peer-listen={}", self.peer_address(node)),
            format!("--http-listen={}", self.http_address(node)),
            // Both ways to work, side by side.
            match node % 2 {
                0 => "--worker-threads=2".to_owned(),
                _ => "--one-thread=true".to_owned(),
            },
        ];
        args.push(match node <= self.founders {
            true => format!("--bootstrap={}", list.join(",")),
            false => format!("--join={}", self.endpoints()),
        });
        args.extend(self.settings.iter().cloned());
        args
    }

    /// Starts a node that joins the cluster, and waits until the cluster knows it.
    pub(crate) async fn join_node(&mut self, client: &Client) -> usize {
        self.addresses.push(Addresses::reserve(&mut self.ports));
        self.nodes.push(None);
        let node = self.nodes.len();
        self.start_node(node);
        self.node_ready(node).await;
        eventually(&format!("node {node} is known"), PATIENCE, async || {
            let catalog = client.newest_catalog().await.map_err(|f| f.to_string())?;
            let known = catalog.node(atoll_client::NodeId(node as u64));
            known.map(|_| ()).ok_or_else(|| "it is not in the catalog".to_owned())
        })
        .await;
        node
    }

    /// Runs a command of the binary as a client of this cluster; its exit code and all that it
    /// said.
    pub(crate) async fn run(&self, args: &[&str]) -> (i32, String) {
        let name = format!("command-{}", args.join("-"));
        let _ = std::fs::remove_file(self.folder().join(format!("{name}.log")));
        let mut all: Vec<String> = args.iter().map(|&a| a.to_owned()).collect();
        all.push(format!("--endpoints={}", self.endpoints()));
        let mut process = Process::start(self.folder(), &name, &all);
        let code = process.exit_code(PATIENCE * 2).await;
        (code, process.said())
    }

    /// Starts a node that does not run.
    pub(crate) fn start_node(&mut self, node: usize) {
        assert!(self.nodes[node - 1].is_none(), "node {node} runs already");
        let variables = &self.addresses[node - 1].variables;
        let variables: Vec<_> = variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let name = format!("node-{node}");
        let process = Process::start_with(self.folder(), &name, &self.args(node), &variables);
        self.nodes[node - 1] = Some(process);
    }

    pub(crate) fn start_all(&mut self) {
        for node in self.all() {
            if self.nodes[node - 1].is_none() {
                self.start_node(node);
            }
        }
    }

    /// `kill -9`.
    pub(crate) fn kill_node(&mut self, node: usize) {
        self.nodes[node - 1].take().expect("it runs").kill();
    }

    /// The process of a node that runs.
    pub(crate) fn node(&mut self, node: usize) -> &mut Process {
        self.nodes[node - 1].as_mut().expect("it runs")
    }

    pub(crate) fn send(&mut self, node: usize, signal: Signal) {
        self.node(node).send(signal);
    }

    /// Waits until every node that runs says that it is ready.
    pub(crate) async fn ready(&mut self) {
        for node in self.all() {
            if self.nodes[node - 1].is_some() {
                self.node_ready(node).await;
            }
        }
    }

    /// Waits until a node says that it is ready.
    pub(crate) async fn node_ready(&mut self, node: usize) {
        let address = self.http_address(node);
        eventually(&format!("node {node} is ready"), PATIENCE, async || {
            if let Some(status) = self.node(node).ended() {
                panic!("node {node} ended with {status}");
            }
            match http_get(&address, "/ready")? {
                (200, _) => Ok(()),
                (code, body) => Err(format!("{code}: {body}")),
            }
        })
        .await;
    }

    /// Panics when a node that runs has ended, panicked or quarantined something.
    pub(crate) fn check_sound(&mut self) {
        self.nodes.iter_mut().flatten().for_each(Process::check_sound);
    }

    /// A client that knows all nodes; its calls take at most `timeout`.
    pub(crate) async fn client(&self, timeout: Duration) -> Client {
        let addresses = self.all().map(|node| self.client_address(node));
        let options = Options { timeout, ..Options::default() };
        let client = Client::builder().addresses(addresses).options(options).connect().await;
        client.expect("the cluster is there")
    }

    /// Makes a keyspace whose shards begin at `splits`, and waits until each has a leader.
    pub(crate) async fn keyspace(
        &self,
        client: &Client,
        name: &str,
        splits: &[&str],
    ) -> (Keyspace, KeyspaceInfo) {
        let mut spec = KeyspaceSpec::new(name);
        spec.split_keys = splits.iter().map(|s| s.as_bytes().to_vec().into()).collect();
        let info = client.create_keyspace(&spec).await.expect("the keyspace is made");
        for shard in &info.shards {
            leader(client, shard.shard).await;
        }
        (client.keyspace(name), info)
    }
}

/// What every node that answers says of its replica of a shard.
pub(crate) async fn replicas(client: &Client, shard: ShardId) -> Vec<ReplicaStatus> {
    let Ok(status) = client.cluster_status().await else { return Vec::new() };
    let answered = status.nodes.into_iter().filter_map(|n| n.replicas.ok());
    answered.flatten().filter(|r| r.shard == shard).collect()
}

/// The node that leads a shard; waits until there is one.
pub(crate) async fn leader(client: &Client, shard: ShardId) -> usize {
    eventually(&format!("shard {shard} has a leader"), PATIENCE, async || {
        let replicas = replicas(client, shard).await;
        let leads = replicas.iter().filter(|r| r.state == "leader").max_by_key(|r| r.term);
        let found = leads.map(|r| r.node.0 as usize);
        found.ok_or_else(|| format!("replicas: {replicas:?}"))
    })
    .await
}

impl Cluster {
    /// What `node` says of its replica of a shard.
    pub(crate) async fn replica(
        &self,
        client: &Client,
        node: usize,
        shard: ShardId,
    ) -> Option<ReplicaStatus> {
        replicas(client, shard).await.into_iter().find(|r| r.node.0 as usize == node)
    }

    /// Makes `node` the leader of a shard.
    pub(crate) async fn lead(&self, client: &Client, node: usize, shard: ShardId) {
        eventually(&format!("node {node} leads shard {shard}"), PATIENCE, async || {
            if leader(client, shard).await == node {
                return Ok(());
            }
            let to = atoll_client::NodeId(node as u64);
            let asked = client.transfer_leader(shard, to).await;
            Err(format!("asked: {asked:?}"))
        })
        .await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Stopped ones too: SIGKILL ends them.
        self.nodes.iter_mut().for_each(|node| drop(node.take()));
    }
}

/// A command that must succeed; what it said.
pub(crate) async fn done(cluster: &Cluster, args: &[&str]) -> String {
    let (code, said) = cluster.run(args).await;
    assert_eq!(code, 0, "{args:?}: {said}");
    said
}
