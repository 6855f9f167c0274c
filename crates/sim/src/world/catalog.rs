//! A simulated node and the catalog: it follows shard 1 through its own replica, or asks others
//! where it has none or hears no leader of it, and tells its lanes what changed.

use std::collections::BTreeMap;

use atoll_base::{KeyspaceId, LaneId, NodeId, ShardId};
use atoll_coord::{Catalog, Descriptor, ReplicaMember};
use atoll_machine::Event;
use atoll_node::Input;
use atoll_raft::Role;
use atoll_storage::Engine;

use super::node::SimNode;
use crate::fabric::{Fabric, Packet};
use crate::shell::Shell;

/// A node that follows from outside asks with every so many of its heartbeats.
const ASK_EVERY: u64 = 3;

impl SimNode {
    /// Shard 1's replica here has applied these changes.
    pub(super) fn follow_catalog(
        &mut self,
        events: Vec<Event>,
        fabric: &mut Fabric,
        shell: &mut Shell,
    ) {
        let Some(running) = self.running.as_mut().filter(|_| !events.is_empty()) else { return };
        // What was heard from outside counts where it is newer.
        let known = running.view.revision();
        let mut changed: BTreeMap<ShardId, Descriptor> = BTreeMap::new();
        for event in events.iter().filter(|event| event.revision > known) {
            match running.view.apply(event) {
                Ok(descriptors) => changed.extend(descriptors.into_iter().map(|d| (d.shard, d))),
                Err(error) => fabric.say(format_args!("n{} catalog: {error}", self.id)),
            }
        }
        self.tell_lanes(changed.into_values().collect(), fabric, shell);
    }

    fn tell_lanes(&mut self, changed: Vec<Descriptor>, fabric: &mut Fabric, shell: &mut Shell) {
        if changed.is_empty() {
            return;
        }
        shell.heard(&changed);
        self.give_all(|| Input::Catalog(changed.clone()), fabric);
    }

    /// Asks some peer for a newer catalog where nobody here would bring one.
    pub(super) fn ask_catalog(&mut self, peers: &[NodeId], fabric: &mut Fabric) {
        let hears = self.lanes().any(|lane| lane.leader(ShardId::SYSTEM).is_some());
        let Some(running) = &mut self.running else { return };
        running.beats += 1;
        let me = self.id;
        let system = running.view.shard(ShardId::SYSTEM).map(|at| &at.record.descriptor);
        // A learner is not told that it was taken out of the group, and misses no leader; a witness
        // has no catalog.
        let votes = |m: &ReplicaMember| m.node == me && m.role == Role::Voter;
        let is_voter = system.is_some_and(|d| d.members.iter().any(votes));
        if (hears && is_voter) || !running.beats.is_multiple_of(ASK_EVERY) {
            return;
        }
        let revision = running.view.revision();
        if let Some(peer) = self.rng.pick(peers).copied() {
            fabric.send(me, peer, Packet::AskCatalog(revision));
        }
    }

    /// A question for the catalog, or an answer to one.
    pub(super) fn on_catalog_packet(
        &mut self,
        from: NodeId,
        packet: Packet,
        fabric: &mut Fabric,
        shell: &mut Shell,
    ) {
        let Some(running) = &mut self.running else { return };
        match packet {
            Packet::AskCatalog(known) if running.view.revision() > known => {
                let view = Box::new(running.view.clone());
                fabric.send(self.id, from, Packet::Catalog(view));
            }
            Packet::Catalog(catalog) if catalog.revision() > running.view.revision() => {
                let is_news = |d: &&Descriptor| {
                    let known = running.view.shard(d.shard);
                    known.is_none_or(|known| known.record.descriptor != **d)
                };
                let changed = catalog.descriptors().filter(is_news).cloned().collect();
                running.view = Catalog::clone(&catalog);
                self.tell_lanes(changed, fabric, shell);
            }
            _ => {}
        }
    }

    /// A lane holds nothing any more of these keyspaces; when no lane does, their data goes.
    pub(super) fn drop_keyspaces(&mut self, lane: LaneId, keyspaces: Vec<KeyspaceId>) {
        let lanes = self.lanes().count();
        let Some(running) = &mut self.running else { return };
        for keyspace in keyspaces {
            let told = running.dropped.entry(keyspace).or_default();
            told.insert(lane);
            if told.len() == lanes {
                running.dropped.remove(&keyspace);
                self.engine.drop_keyspace(keyspace).expect("an engine in memory forgets");
            }
        }
    }
}
