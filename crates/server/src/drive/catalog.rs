//! The node's view of the catalog, and what follows from its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use atoll_base::{KeyspaceId, LaneId, NodeId, ShardId};
use atoll_coord::{Catalog, Descriptor, ReplicaMember};
use atoll_machine::Event;
use atoll_raft::Role;
use atoll_transport::link::{Links, Peer};
use tokio::sync::watch;

use super::lanes::Lanes;

/// What of the catalog others wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Readiness {
    /// The cluster has its first records here.
    pub(crate) is_founded: bool,
    /// This node leads shard 1.
    pub(crate) leads_system: bool,
    /// Somebody leads shard 1, as this node's replica of it knows.
    pub(crate) has_leader: bool,
    /// This node is to have a replica of shard 1 that votes and has data, for all that it knows.
    pub(crate) is_member: bool,
    /// The catalog is followed from outside.
    pub(crate) is_followed: bool,
}

impl Readiness {
    /// Clients may be sent here: the catalog is there and kept up to date.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_founded && (self.has_leader || self.is_followed)
    }
}

/// The catalog as this node has applied it, or as others told it.
pub(crate) struct CatalogView {
    node: NodeId,
    state: Mutex<State>,
    readiness: watch::Sender<Readiness>,
}

#[derive(Default)]
struct State {
    catalog: Catalog,
    leaders: BTreeMap<ShardId, NodeId>,
    /// Which lanes hold nothing any more of a dropped keyspace.
    dropped: BTreeMap<KeyspaceId, BTreeSet<LaneId>>,
}

impl CatalogView {
    pub(crate) fn new(node: NodeId) -> Self {
        let readiness = Readiness { is_member: true, ..Readiness::default() };
        Self { node, state: Mutex::default(), readiness: watch::Sender::new(readiness) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows what others wait for.
    pub(crate) fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// Whether this node is to have a replica of shard 1, for all that it knows.
    pub(crate) fn is_member(&self) -> bool {
        self.readiness.borrow().is_member
    }

    /// Looks something up. Short: lanes wait meanwhile.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&Catalog) -> R) -> R {
        look(&self.lock().catalog)
    }

    /// Takes in changes applied on this node, tells every lane, and connects to new nodes.
    pub(super) fn on_events(&self, events: Vec<Event>, links: &Links, lanes: &Lanes) {
        let mut changed: BTreeMap<ShardId, Descriptor> = BTreeMap::new();
        let mut state = self.lock();
        // The view may be newer than this node's replica: what it has heard from outside counts.
        let known = state.catalog.revision();
        for event in events.into_iter().filter(|e| e.revision > known) {
            match state.catalog.apply(&event) {
                Ok(descriptors) => changed.extend(descriptors.into_iter().map(|d| (d.shard, d))),
                Err(error) => {
                    tracing::error!(%error, revision = event.revision.0,
                        "a catalog record can't be read and is left aside");
                }
            }
        }
        self.tell(state, changed, links, lanes);
    }

    /// Takes in a catalog that others told, if it is newer.
    pub(super) fn adopt(&self, catalog: Catalog, links: &Links, lanes: &Lanes) {
        let mut state = self.lock();
        if catalog.revision() > state.catalog.revision() {
            let is_news = |d: &&Descriptor| {
                let known = state.catalog.shard(d.shard);
                known.is_none_or(|known| known.record.descriptor != **d)
            };
            let changed = catalog.descriptors().filter(is_news).map(|d| (d.shard, d.clone()));
            let changed = changed.collect();
            state.catalog = catalog;
            self.tell(state, changed, links, lanes);
        }
        self.readiness.send_if_modified(|r| !std::mem::replace(&mut r.is_followed, true));
    }

    /// The catalog is not followed from outside any more.
    pub(crate) fn stop_following(&self) {
        self.readiness.send_if_modified(|r| std::mem::replace(&mut r.is_followed, false));
    }

    fn tell(
        &self,
        state: MutexGuard<'_, State>,
        changed: BTreeMap<ShardId, Descriptor>,
        links: &Links,
        lanes: &Lanes,
    ) {
        let peers: Vec<Peer> = state
            .catalog
            .nodes()
            .map(|n| Peer { node: n.id, address: n.peer_address.clone() })
            .collect();
        let is_founded = state.catalog.cluster().is_some();
        let system = state.catalog.shard(ShardId::SYSTEM).map(|s| &s.record.descriptor);
        // A learner is not told that it was taken out of the group, and misses no leader; a witness
        // has no catalog.
        let votes = |m: &ReplicaMember| m.node == self.node && m.role == Role::Voter;
        let is_member = system.is_none_or(|d| d.members.iter().any(votes));
        drop(state);
        for peer in peers {
            links.connect(peer);
        }
        if !changed.is_empty() {
            let descriptors: Vec<Descriptor> = changed.into_values().collect();
            lanes.describe(&descriptors);
        }
        // Also wakes who waits for something else in the catalog.
        self.readiness.send_modify(|r| {
            r.is_founded = is_founded;
            r.is_member = is_member;
        });
    }

    /// A lane holds nothing any more of these keyspaces; returns those of which all `lanes` said
    /// so.
    pub(super) fn on_dropped(
        &self,
        lane: LaneId,
        keyspaces: Vec<KeyspaceId>,
        lanes: u16,
    ) -> Vec<KeyspaceId> {
        let mut state = self.lock();
        let mut free = Vec::new();
        for keyspace in keyspaces {
            let told = state.dropped.entry(keyspace).or_default();
            told.insert(lane);
            if told.len() == usize::from(lanes) {
                state.dropped.remove(&keyspace);
                free.push(keyspace);
            }
        }
        free
    }

    /// Leadership moved; returns how many shards `node` leads now.
    pub(super) fn on_leaders(
        &self,
        leaders: Vec<(ShardId, Option<NodeId>)>,
        node: NodeId,
    ) -> usize {
        let mut state = self.lock();
        let mut system = None;
        for (shard, leader) in leaders {
            match leader {
                Some(leader) => state.leaders.insert(shard, leader),
                None => state.leaders.remove(&shard),
            };
            if shard == ShardId::SYSTEM {
                system = Some(leader);
            }
        }
        let leading = state.leaders.values().filter(|leader| **leader == node).count();
        drop(state);
        if let Some(leader) = system {
            self.readiness.send_modify(|r| {
                r.has_leader = leader.is_some();
                r.leads_system = leader == Some(node);
            });
        }
        leading
    }

    /// The shards that this node leads.
    pub(crate) fn led_by(&self, node: NodeId) -> Vec<ShardId> {
        let state = self.lock();
        state.leaders.iter().filter(|(_, l)| **l == node).map(|(s, _)| *s).collect()
    }
}
