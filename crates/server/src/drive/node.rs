//! Starting and stopping a node.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use atoll_base::{LaneId, NodeId, ShardId};
use atoll_coord::plan::BootstrapNode;
use atoll_coord::{Catalog, RequestBody};
use atoll_node::{Lane, LaneConfig, LaneStart, Limits, OpenError, RaftSettings, Upkeep};
use atoll_storage::{
    Engine, EngineError, FjallOptions, LogError, LogOptions, LogWriter, Recovered,
};
use atoll_transport::limits::WireLimits;
use atoll_transport::link::{self, LinkSettings, Links, Peer, Receiver};
use atoll_transport::{AcceptLimits, accept};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::catalog::CatalogView;
use super::clock::Clock;
use super::counts::RaftCounts;
use super::found::found;
use super::guarded::{GuardedEngine, Peers};
use super::hub::{Caller, Hub, PeerInbox};
use super::identity::{DataFolder, FolderError, Identity, Origin};
use super::join::{JoinError, cluster_to_join};
use super::lanes::Lanes;
use super::metrics::Metrics;
use super::origins::Origins;
use super::pressure::{Observer, Pressure};
use super::probation::{is_new, prove};
use super::room::Room;
use super::threads::{self, Place, Running};
use super::timed_disk::{SyncTime, TimedDisk};
use super::work::{LogQueue, UpkeepQueue};
use crate::config::NodeConfig;

/// How long a stopping leader waits for somebody to take over.
const HANDOVER: Duration = Duration::from_millis(300);

/// The largest record of the log.
const LOG_RECORD_BYTES_MAX: usize = 16 << 20;

/// Why a node can't start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("the engine in {path} can't be opened: {source}")]
    Engine { path: String, source: EngineError },
    #[error("the log in {path} can't be opened: {source}")]
    Log { path: String, source: LogError },
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Lane(#[from] OpenError),
    #[error("a thread can't be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// A running node. Dropping it without `stop` leaves its threads running.
pub(crate) struct Node {
    hub: Arc<Hub>,
    folder: Arc<DataFolder>,
    lanes: Vec<Running>,
    log: Running,
    upkeep: Running,
    peer_server: tokio::task::JoinHandle<()>,
    founding: tokio::task::JoinHandle<()>,
}

/// What the folder gave.
struct Opened {
    engine: Arc<dyn Engine>,
    writer: LogWriter,
    syncing: SyncTime,
    recovered: Recovered,
}

impl Node {
    /// Steps 2 to 6 of the module's essay; also gives the metrics that the node names. Blocks while
    /// files are read; call it where that is fine. The current tokio runtime carries its
    /// connections.
    pub(crate) async fn start(
        config: &NodeConfig,
        peers: TcpListener,
    ) -> Result<(Self, Registry), StartError> {
        let folder = Arc::new(DataFolder::open(&config.data)?);
        let Identified { identity, is_proven } = identity(config, &folder).await?;
        let room = Room::open(folder.path(), config.disk_reserve_bytes);
        let opened = open(folder.path(), config)?;
        for warning in &opened.recovered.warnings {
            tracing::warn!("log: {warning}");
        }
        let (metrics, registry) = Metrics::new();
        let hub = hub(config, identity.cluster, opened.engine.clone(), metrics, room);
        if let Some(failure) = hub.room.refusal() {
            tracing::error!("new data is refused: {}", failure.message);
            hub.pressure.set(Observer::Upkeep, Some(failure), &hub.lanes);
        }
        let founders = match identity.origin {
            Origin::Founded => founders(config),
            Origin::Joined => Vec::new(),
        };
        hub.probation.send_replace(!is_proven);
        let first = if is_proven { &founders[..] } else { &[] };
        let lanes = open_lanes(config, &hub, &opened.writer, opened.recovered, first)?;
        let place = if config.has_one_thread() { Place::Task } else { Place::Thread };
        let log = threads::log::start(opened.writer, opened.syncing, hub.clone(), place)
            .map_err(StartError::Thread)?;
        let upkeep = threads::upkeep::start(hub.clone()).map_err(StartError::Thread)?;
        let lanes = lanes
            .into_iter()
            .map(|(id, lane)| threads::lane::start(lane, id, hub.clone(), place))
            .collect::<Result<Vec<_>, _>>()
            .map_err(StartError::Thread)?;
        let peer_server = meet_peers(config, &hub, peers);
        let founding = begin(config.clone(), hub.clone(), folder.clone(), identity, founders);
        let founding = tokio::spawn(founding);
        Ok((Self { hub, folder, lanes, log, upkeep, peer_server, founding }, registry))
    }

    /// What its threads share.
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Steps 1 and 2 of stopping: hands leadership over and refuses new calls.
    pub(crate) async fn withdraw(&self) {
        hand_over(&self.hub).await;
        self.hub.stopping.store(true, Relaxed);
        self.founding.abort();
    }

    /// Steps 4 to 8 of stopping.
    pub(crate) async fn stop(self) {
        let Self { hub, folder, lanes, log, upkeep, peer_server, founding } = self;
        let _ = founding.await;
        hub.origins.hang_up();
        hub.links.stop().await;
        peer_server.abort();
        hub.lanes.close();
        for lane in lanes {
            lane.ended().await;
        }
        hub.log.close();
        log.ended().await;
        hub.upkeep.close();
        upkeep.ended().await;
        drop(folder);
    }
}

/// Step 6: calls the peers and hears them.
fn meet_peers(
    config: &NodeConfig,
    hub: &Arc<Hub>,
    listener: TcpListener,
) -> tokio::task::JoinHandle<()> {
    for member in &config.bootstrap.members {
        hub.links.connect(Peer { node: member.node, address: member.peer.clone() });
    }
    let service = Receiver::new(hub.links.clone()).telling(is_new(hub)).service();
    let incoming = accept(listener, AcceptLimits::default());
    let server = WireLimits::default().server().add_service(service);
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(incoming).await {
            tracing::error!(%error, "peers are no longer heard");
        }
    })
}

/// Who this node is.
struct Identified {
    identity: Identity,
    /// The folder says so, or nothing can have been lost. If not, it is written down when the node
    /// has proven that it may take part.
    is_proven: bool,
}

/// Who this node is: as its folder says, or, with a new folder, as the settings or the cluster that
/// it joins say.
async fn identity(config: &NodeConfig, folder: &DataFolder) -> Result<Identified, StartError> {
    let node = config.node_id;
    if let Some(identity) = folder.identity_of(node)? {
        let named = config.bootstrap.cluster_id(&config.cluster_name);
        if identity.origin == Origin::Founded && identity.cluster != named {
            tracing::info!(
                "bootstrap differs from the one that the cluster began with; the catalog counts"
            );
        }
        return Ok(Identified { identity, is_proven: true });
    }
    if config.is_joining() {
        let cluster = cluster_to_join(config).await?;
        let identity = folder.claim(Identity { node, cluster, origin: Origin::Joined })?;
        return Ok(Identified { identity, is_proven: true });
    }
    let cluster = config.bootstrap.cluster_id(&config.cluster_name);
    let new = Identity { node, cluster, origin: Origin::Founded };
    if config.bootstrap.members.len() > 1 {
        return Ok(Identified { identity: new, is_proven: false });
    }
    Ok(Identified { identity: folder.claim(new)?, is_proven: true })
}

/// Takes part as a founder, if this node is one: proves first that it may, then writes down that it
/// did.
async fn begin(
    config: NodeConfig,
    hub: Arc<Hub>,
    folder: Arc<DataFolder>,
    identity: Identity,
    founders: Vec<BootstrapNode>,
) {
    if hub.is_on_probation() {
        let proven = prove(&config, &hub).await.map_err(|e| e.to_string());
        let claimed = proven.and_then(|()| folder.claim(identity).map_err(|e| e.to_string()));
        if let Err(why) = claimed {
            hub.verdict.send_replace(Some(why));
            return;
        }
        let nodes: Vec<NodeId> = founders.iter().map(|n| n.id).collect();
        hub.lanes.describe(&[Catalog::system_descriptor(&nodes)]);
        hub.probation.send_replace(false);
    }
    found(hub, founders).await;
}

fn open(path: &Path, config: &NodeConfig) -> Result<Opened, StartError> {
    let engine_path = path.join("engine");
    let options = FjallOptions {
        cache_bytes: config.engine_cache_bytes,
        layer_bytes: config.engine_write_buffer_bytes,
        ..FjallOptions::default()
    };
    let peers = if config.bootstrap.members.len() > 1 { Peers::Some } else { Peers::None };
    let engine = GuardedEngine::open(path, &options, peers)
        .map_err(|source| StartError::Engine { path: engine_path.display().to_string(), source })?;
    let log_path = path.join("log");
    let segment_bytes = u32::try_from(config.log_segment_bytes).unwrap_or(1 << 30) / 8 * 8;
    let options = LogOptions {
        segment_bytes,
        record_bytes_max: LOG_RECORD_BYTES_MAX.min(segment_bytes as usize - 4096),
        ..LogOptions::default()
    };
    let disk = TimedDisk::default();
    let syncing = disk.sync_time();
    let (writer, recovered) = LogWriter::open(Arc::new(disk), &log_path, options)
        .map_err(|source| StartError::Log { path: log_path.display().to_string(), source })?;
    Ok(Opened { engine: Arc::new(engine), writer, syncing, recovered })
}

pub(super) fn hub(
    config: &NodeConfig,
    cluster: u64,
    engine: Arc<dyn Engine>,
    metrics: Metrics,
    room: Room,
) -> Arc<Hub> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let count = if config.lanes == 0 { cores.min(256) as u16 } else { config.lanes };
    let lanes = Arc::new(Lanes::new(count, config.lane_queue_max));
    let identity = link::Identity { cluster, node: config.node_id };
    let settings = LinkSettings {
        queue_messages_max: config.peer_queue_messages_max,
        queue_bytes_max: config.peer_queue_bytes_max,
        // As long as followers wait for a leader that says nothing.
        silence_max: config.election_timeout,
        ..LinkSettings::default()
    };
    let inbox = Arc::new(PeerInbox { lanes: lanes.clone(), metrics: metrics.clone() });
    let runtime = tokio::runtime::Handle::current();
    Arc::new(Hub {
        node: config.node_id,
        cluster,
        room,
        clock: Clock::new(),
        lanes,
        links: Arc::new(Links::new(identity, settings, inbox, runtime)),
        log: LogQueue::new(),
        log_segment_bytes: config.log_segment_bytes,
        upkeep: UpkeepQueue::new(),
        engine,
        origins: Origins::new(config.answer_queue_max),
        catalog: CatalogView::new(config.node_id),
        pressure: Pressure::default(),
        metrics,
        raft_counts: RaftCounts::new(count),
        stopping: AtomicBool::new(false),
        probation: watch::Sender::new(false),
        verdict: watch::Sender::new(None),
    })
}

fn open_lanes(
    config: &NodeConfig,
    hub: &Hub,
    writer: &LogWriter,
    recovered: Recovered,
    founders: &[BootstrapNode],
) -> Result<Vec<(LaneId, Lane)>, StartError> {
    let nodes: Vec<NodeId> = founders.iter().map(|n| n.id).collect();
    let founding = match nodes.is_empty() {
        true => Vec::new(),
        false => vec![Catalog::system_descriptor(&nodes)],
    };
    let mut by_lane: Vec<_> =
        (0..hub.lanes.count()).map(|_| std::collections::BTreeMap::new()).collect();
    let lost = recovered.unexplained;
    for (shard, state) in recovered.shards {
        by_lane[usize::from(hub.lanes.lane_of(shard).0)].insert(shard, state);
    }
    let mut lanes = Vec::new();
    for (lane, recovered) in (0..).map(LaneId).zip(by_lane) {
        let start = LaneStart {
            engine: hub.engine.clone(),
            log: writer.reader(),
            recovered,
            lost: lost.clone(),
            founding: founding.clone(),
        };
        lanes.push((lane, Lane::open(lane_config(config, hub, lane), hub.now(), start)?));
    }
    Ok(lanes)
}

fn lane_config(config: &NodeConfig, hub: &Hub, lane: LaneId) -> LaneConfig {
    let seed = Clock::wall().0 ^ (u64::from(std::process::id()) << 40);
    LaneConfig {
        node: config.node_id,
        lane,
        lanes: hub.lanes.count(),
        seed: seed ^ u64::from(lane.0),
        raft: RaftSettings {
            election_timeout_min: config.election_timeout,
            heartbeat_interval: config.heartbeat_interval,
            quiesce: config.quiet_groups,
            ..RaftSettings::default()
        },
        limits: Limits {
            key_bytes_max: config.key_bytes_max,
            value_bytes_max: config.value_bytes_max,
            txn_parts_max: config.txn_parts_max,
            requests_per_shard_max: config.calls_per_shard_max,
            ..Limits::default()
        },
        upkeep: Upkeep {
            persist_bytes: config.persist_bytes,
            persist_interval: config.persist_interval,
            log_keep_entries: config.log_keep_entries,
            history_revisions: config.history_revisions,
        },
    }
}

fn founders(config: &NodeConfig) -> Vec<BootstrapNode> {
    let founder = |m: &crate::config::Member| BootstrapNode {
        id: m.node,
        client_address: m.client.clone(),
        peer_address: m.peer.clone(),
        http_address: m.http.clone(),
    };
    config.bootstrap.members.iter().map(founder).collect()
}

/// Asks the replicas that lead here to hand over; does not wait long, since others elect anyway.
async fn hand_over(hub: &Arc<Hub>) {
    let led = hub.catalog.led_by(hub.node);
    let mut caller = Caller::new(hub.clone());
    let work = async {
        for shard in led {
            if let Some(to) = successor(hub, shard) {
                let _ = caller.call(shard, RequestBody::Transfer(to), HANDOVER).await;
            }
        }
    };
    let _ = tokio::time::timeout(HANDOVER, work).await;
}

/// Another voter of the shard.
fn successor(hub: &Hub, shard: ShardId) -> Option<NodeId> {
    hub.catalog.with(|catalog| {
        let descriptor = &catalog.shard(shard)?.record.descriptor;
        let voters = descriptor.members.iter().filter(|m| m.role == atoll_raft::Role::Voter);
        voters.map(|m| m.node).find(|n| *n != hub.node)
    })
}
