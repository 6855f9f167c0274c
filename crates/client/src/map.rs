//! Where everything is: the catalog, with what only this client knows beside it (sessions to nodes,
//! leaders last heard of, ids for exactly-once requests).
//!
//! A [`ShardMap`] never changes; `follow` puts a new one in place when the catalog does. Sessions
//! and per-shard state are shared between one map and the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use atoll_base::{Code, Epoch, Failure, NodeId, ShardId};
use atoll_coord::{Catalog, Descriptor, routing};

use crate::ids::CommandIds;
use crate::link::Links;
use crate::options::Options;
use crate::session::Session;

/// What this client keeps about one shard.
#[derive(Debug, Default)]
pub(crate) struct ShardState {
    /// The leader last heard of; 0: none.
    leader: AtomicU64,
    /// Names for its changes.
    pub(crate) ids: CommandIds,
    /// Names for requests that wait for locks, apart: one that waits for long keeps back what comes
    /// behind it.
    pub(crate) wait_ids: CommandIds,
}

impl ShardState {
    pub(crate) fn leader(&self) -> Option<NodeId> {
        match self.leader.load(Ordering::Relaxed) {
            0 => None,
            node => Some(NodeId(node)),
        }
    }

    pub(crate) fn learn_leader(&self, node: Option<NodeId>) {
        self.leader.store(node.map_or(0, |n| n.0), Ordering::Relaxed);
    }
}

/// The connections to one node.
pub(crate) struct NodeSessions {
    pub(crate) address: String,
    sessions: Vec<Session>,
    turn: AtomicUsize,
}

impl NodeSessions {
    pub(crate) fn start(
        address: &str,
        links: &dyn Links,
        options: &Options,
    ) -> Result<Self, Failure> {
        let count = options.connections_per_node.clamp(1, 4);
        let link = links.link(address)?;
        let start = |_| Session::start(address, Arc::clone(&link), options.session());
        let sessions = (0..count).map(start).collect();
        Ok(Self { address: address.to_owned(), sessions, turn: AtomicUsize::new(0) })
    }

    /// One of the connections, in turn.
    pub(crate) fn session(&self) -> &Session {
        match &*self.sessions {
            [only] => only,
            many => &many[self.turn.fetch_add(1, Ordering::Relaxed) % many.len()],
        }
    }
}

/// A shard to ask, and where.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
    pub(crate) node: NodeId,
    pub(crate) state: Arc<ShardState>,
}

/// The cluster as this client knows it.
#[derive(Default)]
pub(crate) struct ShardMap {
    pub(crate) catalog: Catalog,
    nodes: BTreeMap<NodeId, Arc<NodeSessions>>,
    shards: BTreeMap<ShardId, Arc<ShardState>>,
}

impl ShardMap {
    /// The map of a newer catalog: takes over what is still of use.
    pub(crate) fn next(&self, catalog: Catalog, links: &dyn Links, options: &Options) -> Self {
        let mut nodes = BTreeMap::new();
        for node in catalog.nodes() {
            let kept = self.nodes.get(&node.id).filter(|s| s.address == node.client_address);
            let sessions = match kept {
                Some(sessions) => Ok(Arc::clone(sessions)),
                None => NodeSessions::start(&node.client_address, links, options).map(Arc::new),
            };
            match sessions {
                Ok(sessions) => drop(nodes.insert(node.id, sessions)),
                Err(failure) => {
                    tracing::warn!(node = %node.id, %failure, "node has no usable address")
                }
            }
        }
        let state = |d: &Descriptor| {
            let state = self.shards.get(&d.shard).cloned().unwrap_or_default();
            (d.shard, state)
        };
        let shards = catalog.descriptors().filter(|d| !d.dropped).map(state).collect();
        Self { catalog, nodes, shards }
    }

    /// The connections to a node.
    pub(crate) fn node(&self, node: NodeId) -> Result<&Arc<NodeSessions>, Failure> {
        self.nodes.get(&node).ok_or_else(|| {
            let text = format!("node {node} is not in the catalog of this cluster");
            Failure::new(Code::Unreachable, text)
        })
    }

    /// The shard that a key of the named keyspace belongs to.
    pub(crate) fn find(&self, keyspace: &str, key: &[u8]) -> Result<&Descriptor, Failure> {
        let Some(known) = self.catalog.keyspace(keyspace) else {
            return Err(no_keyspace(keyspace));
        };
        self.catalog.shard_of(known.record.id, key).ok_or_else(|| {
            let key = key.escape_ascii();
            let text =
                format!("no shard of keyspace {keyspace} holds key \"{key}\" at this moment");
            Failure::new(Code::StaleEpoch, text)
        })
    }

    /// The shards of the named keyspace between two keys, in key order.
    pub(crate) fn find_range(
        &self,
        keyspace: &str,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<Vec<Descriptor>, Failure> {
        let Some(known) = self.catalog.keyspace(keyspace) else {
            return Err(no_keyspace(keyspace));
        };
        Ok(self.catalog.shards_in(known.record.id, start, end).cloned().collect())
    }

    /// Whom to ask about a shard.
    pub(crate) fn place(&self, descriptor: &Descriptor) -> Result<Place, Failure> {
        let shard = descriptor.shard;
        let state = self.shards.get(&shard).ok_or_else(|| no_shard(shard))?;
        // A leader that the catalog doesn't know can't be asked.
        let hint = state.leader().filter(|n| self.nodes.contains_key(n));
        let route = routing::route(descriptor, hint).ok_or_else(|| {
            Failure::new(Code::NoLeader, format!("the catalog names no voter of shard {shard}"))
        })?;
        Ok(Place { shard, epoch: route.epoch, node: route.node, state: Arc::clone(state) })
    }

    /// A shard by its id.
    pub(crate) fn shard(&self, id: ShardId) -> Result<&Descriptor, Failure> {
        let at = self.catalog.shard(id).map(|s| &s.record.descriptor);
        at.filter(|d| !d.dropped).ok_or_else(|| no_shard(id))
    }
}

/// What came of the last look at the catalog.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Requests up to this number are served.
    pub(crate) served: u64,
    /// Why the catalog could not be read, if it could not.
    pub(crate) failure: Option<Failure>,
}

impl Outcome {
    pub(crate) const NONE: Self = Self { served: 0, failure: None };
}

fn no_shard(shard: ShardId) -> Failure {
    Failure::new(Code::NotFound, format!("shard {shard} does not exist"))
}

fn no_keyspace(name: &str) -> Failure {
    Failure::new(Code::NotFound, format!("keyspace {name} does not exist"))
}
