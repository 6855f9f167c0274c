//! Which nodes a new shard's replicas go to: a pure function of what the nodes already carry.
//!
//! Greedy, one shard at a time: the leader's place goes to the node that leads least, the others to
//! the nodes that hold least. Ties fall to the node with fewer of the other kind, then to the lower
//! id. From level loads, replicas stay level to within one and preferred leaders, whose choice is
//! limited to the nodes that got a replica, nearly so; `plan`'s property test holds both.

use std::collections::BTreeMap;

use atoll_base::NodeId;

use crate::catalog::Catalog;

/// What a node carries.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Load {
    /// Replicas, leading or not.
    pub replicas: u64,
    /// Shards whose preferred leader it is.
    pub leaders: u64,
}

/// What each node of the catalog carries. A shard's preferred leader is its first member.
#[must_use]
pub fn loads(catalog: &Catalog) -> BTreeMap<NodeId, Load> {
    let mut loads: BTreeMap<NodeId, Load> =
        catalog.nodes().map(|n| (n.id, Load::default())).collect();
    for shard in catalog.descriptors().filter(|d| !d.dropped) {
        for (place, member) in shard.members.iter().enumerate() {
            let Some(load) = loads.get_mut(&member.node) else { continue };
            load.replicas += 1;
            load.leaders += u64::from(place == 0);
        }
    }
    loads
}

/// Chooses the members of `shards` new shards with `replicas` copies each and adds them to `loads`.
/// The first member of each is its preferred leader. There must be at least `replicas` nodes.
///
/// # Panics
/// When `loads` has fewer nodes than `replicas`: the caller checks that, because it can say what
/// the user asked for.
#[must_use]
pub fn place(
    shards: usize,
    replicas: usize,
    loads: &mut BTreeMap<NodeId, Load>,
) -> Vec<Vec<NodeId>> {
    assert!(loads.len() >= replicas, "{replicas} replicas on {} nodes", loads.len());
    (0..shards).map(|_| place_one(replicas, loads)).collect()
}

fn place_one(replicas: usize, loads: &mut BTreeMap<NodeId, Load>) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = loads.keys().copied().collect();
    nodes.sort_by_key(|n| (loads[n].replicas, loads[n].leaders, *n));
    nodes.truncate(replicas);
    nodes.sort_by_key(|n| (loads[n].leaders, loads[n].replicas, *n));
    for (place, node) in nodes.iter().enumerate() {
        let load = loads.get_mut(node).expect("the nodes are the keys of the loads");
        load.replicas += 1;
        load.leaders += u64::from(place == 0);
    }
    nodes
}
