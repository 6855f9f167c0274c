//! The sending side: one owner task per connection to a peer.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use atoll_base::{NodeId, Rng};
use atoll_replica::{PeerBody, PeerMessage};
use atoll_wire::peer::FORMAT;
use atoll_wire::peer_v1::Hello;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;

use super::queue::{Queue, QueueBounds};
use super::stats::{LinkStats, add};
use super::{Identity, LinkSettings, PeerSink};
use crate::stub::peer_v1::peer_client::PeerClient;

/// A node to talk to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Where it listens for its peers, `host:port`.
    pub address: String,
}

/// All links of a node. `send` may be called from any thread and never blocks.
pub struct Links {
    identity: Identity,
    settings: LinkSettings,
    runtime: Handle,
    stats: Arc<LinkStats>,
    alive: Arc<Liveness>,
    peers: RwLock<BTreeMap<NodeId, Link>>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

struct Link {
    address: watch::Sender<String>,
    consensus: Arc<Queue>,
    bulk: Arc<Queue>,
}

/// Which of the two connections to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Traffic {
    /// Opened at once and kept.
    Consensus,
    /// Opened when there is something to send.
    Bulk,
}

impl Links {
    /// Links of `identity`; connections live on `runtime`, changes of liveness go to `sink`.
    #[must_use]
    pub fn new(
        identity: Identity,
        settings: LinkSettings,
        sink: Arc<dyn PeerSink>,
        runtime: Handle,
    ) -> Self {
        Self {
            identity,
            settings,
            runtime,
            stats: Arc::default(),
            alive: Arc::new(Liveness::new(sink)),
            peers: RwLock::default(),
            stop: watch::Sender::new(false),
            tasks: Mutex::default(),
        }
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<LinkStats> {
        &self.stats
    }

    pub(super) fn liveness(&self) -> &Arc<Liveness> {
        &self.alive
    }

    pub(super) fn settings(&self) -> &LinkSettings {
        &self.settings
    }

    /// Whether `node` is a peer of this one.
    #[must_use]
    pub fn knows(&self, node: NodeId) -> bool {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).contains_key(&node)
    }

    /// Starts to talk to a peer, or moves an existing link to the peer's new address.
    pub fn connect(&self, peer: Peer) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if peer.node == self.identity.node {
            return;
        }
        if let Some(link) = peers.get(&peer.node) {
            link.address.send_if_modified(|old| {
                let changed = *old != peer.address;
                old.clone_from(&peer.address);
                changed
            });
            return;
        }
        let bounds = QueueBounds {
            messages_max: self.settings.queue_messages_max,
            bytes_max: self.settings.queue_bytes_max,
            frame_bytes: self.settings.frame_bytes,
            message_bytes_max: self.settings.wire.message_bytes_max,
            sign_of_life: self.settings.silence_max / 8,
        };
        let queue = || Arc::new(Queue::new(bounds, self.stats.clone()));
        let link =
            Link { address: watch::Sender::new(peer.address), consensus: queue(), bulk: queue() };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for (traffic, queue) in [(Traffic::Consensus, &link.consensus), (Traffic::Bulk, &link.bulk)]
        {
            let owner = Owner {
                traffic,
                to: peer.node,
                identity: self.identity,
                settings: self.settings,
                queue: queue.clone(),
                alive: self.alive.clone(),
                stats: self.stats.clone(),
                address: link.address.subscribe(),
                stop: self.stop.subscribe(),
            };
            tasks.push(self.runtime.spawn(owner.run()));
        }
        peers.insert(peer.node, link);
    }

    /// Queues messages for a peer, in order; drops what does not fit and what is for nobody known.
    pub fn send(&self, to: NodeId, messages: Vec<PeerMessage>) {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = peers.get(&to) else {
            add(&self.stats.dropped_down, messages.len());
            return;
        };
        let is_bulk = |m: &PeerMessage| matches!(m.body, PeerBody::SnapshotChunk { .. });
        if messages.iter().any(is_bulk) {
            let (bulk, rest): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_bulk);
            link.bulk.push(bulk);
            link.consensus.push(rest);
        } else {
            link.consensus.push(messages);
        }
    }

    /// Ends all links and waits for their tasks.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            if let Err(error) = task.await
                && error.is_panic()
            {
                tracing::error!(%error, "a peer link's task panicked");
            }
        }
    }
}

/// Who can be talked with: both directions stand (L4).
pub(super) struct Liveness {
    sink: Arc<dyn PeerSink>,
    peers: Mutex<BTreeMap<NodeId, Directions>>,
}

#[derive(Clone, Copy, Default)]
struct Directions {
    outbound: bool,
    /// Open streams from the peer that are heard; an old one may overlap with its successor.
    inbound: u32,
    told: bool,
}

impl Liveness {
    fn new(sink: Arc<dyn PeerSink>) -> Self {
        Self { sink, peers: Mutex::default() }
    }

    pub(super) fn sink(&self) -> &Arc<dyn PeerSink> {
        &self.sink
    }

    fn outbound(&self, node: NodeId, connection: super::queue::Connection) {
        self.change(node, |d| d.outbound = connection == super::queue::Connection::Up);
    }

    pub(super) fn inbound_opened(&self, node: NodeId) {
        self.change(node, |d| d.inbound += 1);
    }

    pub(super) fn inbound_closed(&self, node: NodeId) {
        self.change(node, |d| d.inbound = d.inbound.saturating_sub(1));
    }

    fn change(&self, node: NodeId, change: impl FnOnce(&mut Directions)) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let directions = peers.entry(node).or_default();
        change(directions);
        let alive = directions.outbound && directions.inbound > 0;
        if alive != directions.told {
            directions.told = alive;
            // Told under the lock, so that two changes are never told in the wrong order.
            self.sink.liveness(node, alive);
        }
    }
}

/// Owns one connection to one peer.
struct Owner {
    traffic: Traffic,
    to: NodeId,
    identity: Identity,
    settings: LinkSettings,
    queue: Arc<Queue>,
    alive: Arc<Liveness>,
    stats: Arc<LinkStats>,
    address: watch::Receiver<String>,
    stop: watch::Receiver<bool>,
}

impl Owner {
    async fn run(mut self) {
        let seed = (self.identity.node.0 << 32) ^ self.to.0 ^ u64::from(std::process::id());
        let mut rng = Rng::new(seed);
        let mut pause = self.settings.backoff_min;
        let mut told = String::new();
        loop {
            if self.traffic == Traffic::Bulk && !self.wait_for_work().await {
                return;
            }
            let began = tokio::time::Instant::now();
            let Some(error) = self.connection().await else { return };
            self.queue.disconnected();
            if self.traffic == Traffic::Consensus {
                self.alive.outbound(self.to, super::queue::Connection::Down);
            }
            if began.elapsed() > self.settings.backoff_max {
                pause = self.settings.backoff_min;
            }
            // Once per reason: a peer that is down for an hour is one line.
            let text = error.to_string();
            if told != text {
                let address = self.address.borrow().clone();
                tracing::info!(peer = %self.to, %address, traffic = ?self.traffic, error = %text,
                    "peer link is down, connecting again");
                told = text;
            }
            let jitter = Duration::from_nanos(rng.below(pause.as_nanos() as u64 / 2));
            tokio::select! {
                () = tokio::time::sleep(pause / 2 + jitter) => {}
                _ = self.stop.wait_for(|stop| *stop) => return,
            }
            pause = (pause * 2).min(self.settings.backoff_max);
        }
    }

    /// False when the node stops.
    async fn wait_for_work(&mut self) -> bool {
        let queue = &self.queue;
        tokio::select! {
            () = poll_fn(|cx| queue.poll_waiting(cx)) => true,
            _ = self.stop.wait_for(|stop| *stop) => false,
        }
    }

    /// Connects and feeds the connection until it breaks; `None` when the node stops.
    async fn connection(&mut self) -> Option<LinkError> {
        let address = self.address.borrow_and_update().clone();
        let wire = self.settings.wire;
        let endpoint = match wire.endpoint(&address) {
            Ok(endpoint) => endpoint,
            Err(source) => return Some(LinkError::Connect(source)),
        };
        let channel = tokio::select! {
            channel = endpoint.connect() => channel,
            _ = self.stop.wait_for(|stop| *stop) => return None,
        };
        let channel = match channel {
            Ok(channel) => channel,
            Err(source) => return Some(LinkError::Connect(source)),
        };
        add(&self.stats.connects, 1);
        let mut client = PeerClient::new(channel).max_encoding_message_size(wire.message_bytes_max);
        let frames = self.queue.connected(Hello {
            cluster: self.identity.cluster,
            from: self.identity.node.0,
            to: self.to.0,
            format: FORMAT,
        });
        let alive = self.alive.clone();
        let (to, traffic) = (self.to, self.traffic);
        if traffic == Traffic::Consensus {
            alive.outbound(to, super::queue::Connection::Up);
        }
        let delivery = async {
            match traffic {
                Traffic::Consensus => client.deliver(frames).await,
                Traffic::Bulk => client.deliver_bulk(frames).await,
            }
        };
        tokio::select! {
            ended = delivery => Some(match ended {
                Ok(_) => LinkError::Closed,
                Err(status) => LinkError::Refused(Box::new(status)),
            }),
            _ = self.address.changed() => Some(LinkError::Moved),
            _ = self.stop.wait_for(|stop| *stop) => None,
        }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("connect failed: {}", deepest(.0))]
    Connect(#[source] tonic::transport::Error),
    #[error("the peer ended the stream")]
    Closed,
    #[error("{}", .0.message())]
    Refused(#[source] Box<Status>),
    #[error("the peer has a new address")]
    Moved,
}

/// The innermost cause: "connection refused" rather than "transport error".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
