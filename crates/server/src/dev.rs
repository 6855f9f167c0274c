//! `atoll dev`: a whole cluster in one process, to try things with.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use atoll_base::NodeId;
use clap::Args;

use crate::config::{self, Bootstrap, Member, NodeConfig};
use crate::instance::{Instance, Listeners};
use crate::serve::{runtime, start_logging, stop_signal};

/// Threads that serve the connections of all nodes.
const NETWORK_THREADS: usize = 2;

/// The flags of `atoll dev`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DevArgs {
    /// Where the nodes keep their data; without it a temporary folder that goes when the cluster
    /// stops
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// The first node's client port; each node takes three ports, one after the other. 0: any that
    /// are free
    #[arg(long, default_value_t = 7400)]
    port: u16,
    /// What is logged
    #[arg(long, default_value = "warn", env = "ATOLL_LOG")]
    log: String,
}

/// Runs the cluster until Ctrl-C or SIGTERM.
///
/// # Errors
/// When a node can't start.
pub(crate) fn run(args: &DevArgs) -> anyhow::Result<ExitCode> {
    if args.port == 0 && args.data.is_some() {
        bail!(
            "--port 0 with --data: a cluster that is kept needs ports that stay, since its \
            catalog names them"
        );
    }
    let temporary = match &args.data {
        Some(_) => None,
        None => Some(TemporaryFolder::new()?),
    };
    let folder = args.data.as_deref().or(temporary.as_ref().map(|t| t.0.as_path()));
    let folder = folder.context("there is a data folder")?;
    start_logging(&defaults(&args.log)?)?;
    runtime(NETWORK_THREADS)?.block_on(async {
        let nodes = start_all(args, folder).await?;
        if let Some(why) = wait_ready(&nodes).await {
            stop_all(nodes).await;
            bail!(why);
        }
        tell(&nodes, folder, temporary.is_some());
        stop_signal().await?;
        println!("stopping");
        stop_all(nodes).await;
        Ok(ExitCode::SUCCESS)
    })
}

async fn stop_all(nodes: Vec<Instance>) {
    let mut stopping = tokio::task::JoinSet::new();
    for node in nodes {
        stopping.spawn(node.stop());
    }
    stopping.join_all().await;
}

/// A node's default settings, but for small sizes: several nodes share this machine.
fn defaults(log: &str) -> anyhow::Result<NodeConfig> {
    let command = config::matches_of(clap::Command::new("dev").no_binary_name(true));
    let flags = command.try_get_matches_from([
        "--node-id=1",
        "--data=.",
        "--lanes=1",
        "--one-thread=false",
        "--log-segment-bytes=32MiB",
        "--disk-reserve-bytes=64MiB",
        "--engine-cache-bytes=64MiB",
        "--engine-write-buffer-bytes=16MiB",
        "--election-timeout=500ms",
        "--heartbeat-interval=50ms",
        &format!("--log={log}"),
    ])?;
    Ok(config::load_flags(&flags)?)
}

/// Binds every node's ports first, since the list of nodes names them all.
async fn start_all(args: &DevArgs, folder: &Path) -> anyhow::Result<Vec<Instance>> {
    let mut bound = Vec::new();
    let mut members = Vec::new();
    for i in 0..args.nodes {
        let port = |offset: u16| match args.port {
            0 => Some(0),
            first => first.checked_add(i * 3 + offset),
        };
        let address = |offset| port(offset).map(|port| format!("127.0.0.1:{port}"));
        let (Some(listen), Some(peer_listen), Some(http_listen)) =
            (address(0), address(1), address(2))
        else {
            bail!("port {} leaves no room for {} nodes of three ports each", args.port, args.nodes);
        };
        let mut config = defaults(&args.log)?;
        config.node_id = NodeId(u64::from(i) + 1);
        config.data = folder.join(format!("node-{}", config.node_id));
        (config.listen, config.peer_listen, config.http_listen) =
            (listen, peer_listen, http_listen);
        let listeners = Listeners::bind(&config)
            .await
            .map_err(|error| anyhow::anyhow!("{error}; --port takes others"))?;
        members.push(Member {
            node: config.node_id,
            client: listeners.client.local_addr()?.to_string(),
            peer: listeners.peer.local_addr()?.to_string(),
            http: listeners.http.local_addr()?.to_string(),
        });
        bound.push((config, listeners));
    }
    let mut nodes = Vec::new();
    for (mut config, listeners) in bound {
        config.bootstrap = Bootstrap { members: members.clone() };
        "dev".clone_into(&mut config.cluster_name);
        let id = config.node_id;
        let node = Instance::start(&config, listeners).await;
        nodes.push(node.with_context(|| format!("node {id} can't start"))?);
    }
    Ok(nodes)
}

/// Waits until the cluster is founded and led everywhere; gives the reason where that can't be.
async fn wait_ready(nodes: &[Instance]) -> Option<String> {
    for node in nodes {
        let mut readiness = node.hub().catalog.readiness();
        tokio::select! {
            _ = readiness.wait_for(|r| r.is_founded && r.has_leader) => {}
            why = node.is_doomed() => return Some(why),
        }
    }
    None
}

fn tell(nodes: &[Instance], folder: &Path, is_temporary: bool) {
    println!("a cluster of {} is up", nodes.len());
    for node in nodes {
        let at = node.addresses();
        println!("  node {}: clients {}, http://{}", node.hub().node, at.client, at.http);
    }
    let fate = if is_temporary { " (goes when this stops; --data DIR keeps it)" } else { "" };
    println!("data: {}{fate}", folder.display());
    if let Some(first) = nodes.first() {
        let endpoint = match first.addresses().client {
            at if at.port() == 7400 => String::new(),
            at => format!(" --endpoints {at}"),
        };
        println!("try:  atoll put{endpoint} hello world");
        println!("      atoll get{endpoint} hello");
    }
    println!("Ctrl-C stops it");
}

/// A folder that is removed when dropped.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("atoll-dev-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
