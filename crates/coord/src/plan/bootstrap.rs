//! The first records of a cluster.

use std::collections::BTreeMap;

use atoll_base::{Code, Failure, Incarnation, KeyspaceId, NodeId, ShardId};
use atoll_machine::TxnOp;
use atoll_raft::Role;
use bytes::Bytes;

use super::{put, unchanged};
use crate::catalog::{
    Catalog, ClusterRecord, KeyspaceRecord, NextRecord, NodeRecord, Record, RecordKey, ShardRecord,
};
use crate::descriptor::{Descriptor, Protocol, ReplicaMember, ShardOptions};
use crate::placement::{self, Load};

/// Votes that a new keyspace's shard has where there are enough nodes.
const REPLICAS: usize = 3;

/// One of the nodes that a cluster begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootstrapNode {
    /// Its id, never 0.
    pub id: NodeId,
    /// Where clients reach it.
    pub client_address: String,
    /// Where other nodes reach it.
    pub peer_address: String,
    /// Where its console is; may be empty.
    pub http_address: String,
}

/// The transaction that makes shard 1 a catalog: the cluster's id, its nodes, and the keyspaces
/// `system` (on all nodes) and `default` (one shard on three of them). It does nothing where a
/// catalog exists already, so every leader of shard 1 may propose it.
///
/// # Errors
/// `InvalidArgument` when there are no nodes, an id is 0 or given twice, or an address is given
/// twice.
pub fn bootstrap(cluster_id: u64, nodes: &[BootstrapNode]) -> Result<TxnOp, Failure> {
    check(nodes)?;
    let ids: Vec<NodeId> = nodes.iter().map(|n| n.id).collect();
    let system = Catalog::system_descriptor(&ids);
    let default = default_descriptor(&system);
    let mut then = vec![
        put(&Record::Cluster(ClusterRecord { cluster_id, format: 1, unknown: Bytes::new() })),
        put(&Record::Next(NextRecord {
            keyspace: KeyspaceId(KeyspaceId::DEFAULT.0 + 1),
            shard: ShardId(default.shard.0 + 1),
            unknown: Bytes::new(),
        })),
        put(&keyspace("system", &system)),
        put(&keyspace("default", &default)),
        put(&Record::Shard(ShardRecord { descriptor: system, unknown: Bytes::new() })),
        put(&Record::Shard(ShardRecord { descriptor: default, unknown: Bytes::new() })),
    ];
    then.extend(nodes.iter().map(|n| {
        put(&Record::Node(NodeRecord {
            id: n.id,
            // Listed, and not known to have been here: each node marks itself when it is.
            incarnation: Incarnation::ZERO,
            client_address: n.client_address.clone(),
            peer_address: n.peer_address.clone(),
            http_address: n.http_address.clone(),
            unknown: Bytes::new(),
        }))
    }));
    Ok(TxnOp { compares: vec![unchanged(&RecordKey::Cluster, None)], then, otherwise: Vec::new() })
}

fn check(nodes: &[BootstrapNode]) -> Result<(), Failure> {
    let refuse = |why: String| {
        Err(Failure::new(Code::InvalidArgument, format!("bootstrap list refused: {why}")))
    };
    if nodes.is_empty() {
        return refuse("it names no node".to_owned());
    }
    let mut ids = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for node in nodes {
        if node.id.0 == 0 {
            return refuse("node ids begin at 1, it names node 0".to_owned());
        }
        if ids.insert(node.id, ()).is_some() {
            return refuse(format!("it names node {} twice", node.id));
        }
        for address in [&node.client_address, &node.peer_address] {
            if let Some(other) = addresses.insert(address, node.id) {
                return refuse(format!("nodes {other} and {} both have {address}", node.id));
            }
        }
    }
    Ok(())
}

/// `default` lies on an odd number of nodes, led elsewhere than shard 1's first member where there
/// is a choice.
fn default_descriptor(system: &Descriptor) -> Descriptor {
    let mut loads: BTreeMap<NodeId, Load> =
        system.members.iter().map(|m| (m.node, Load { replicas: 1, leaders: 0 })).collect();
    if let Some(load) = loads.get_mut(&system.members[0].node) {
        load.leaders = 1;
    }
    let replicas = if loads.len() >= REPLICAS { REPLICAS } else { 1 };
    let nodes = placement::place(1, replicas, &mut loads).remove(0);
    let member = |node| ReplicaMember { node, incarnation: Incarnation(1), role: Role::Voter };
    Descriptor {
        shard: ShardId(ShardId::SYSTEM.0 + 1),
        keyspace: KeyspaceId::DEFAULT,
        members: nodes.into_iter().map(member).collect(),
        ..system.clone()
    }
}

fn keyspace(name: &str, shard: &Descriptor) -> Record {
    Record::Keyspace(KeyspaceRecord {
        name: name.to_owned(),
        id: shard.keyspace,
        protocol: Protocol::Raft,
        replicas: u32::try_from(shard.members.len()).expect("a cluster begins with few nodes"),
        options: ShardOptions::default(),
        unknown: Bytes::new(),
    })
}
