//! Creating and dropping keyspaces.

use atoll_base::{Code, Epoch, Failure, Happened, KeyspaceId, NodeId, ShardId};
use atoll_machine::TxnOp;
use atoll_raft::Role;
use bytes::Bytes;

use super::spec::{KeyspaceSpec, validate_name};
use super::{delete, put, unchanged};
use crate::catalog::{At, Catalog, KeyspaceRecord, NextRecord, Record, RecordKey, ShardRecord};
use crate::descriptor::{Descriptor, ReplicaMember};
use crate::placement;

/// Keyspaces that cannot be dropped.
const KEPT: [&str; 2] = ["system", "default"];

/// How to create a keyspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreatePlan {
    /// The transaction on shard 1.
    pub txn: TxnOp,
    /// The keyspace that it creates.
    pub keyspace: KeyspaceRecord,
    /// Its shards, in key order. Their first members are the preferred leaders.
    pub shards: Vec<Descriptor>,
}

/// Plans a new keyspace in the catalog as it is.
///
/// # Errors
/// `InvalidArgument` for a specification that cannot be met, `AlreadyExists`, and `NoLeader`
/// (retry) while the catalog has no records yet.
pub fn create_keyspace(catalog: &Catalog, spec: &KeyspaceSpec) -> Result<CreatePlan, Failure> {
    validate_name(&spec.name)?;
    if let Some(existing) = catalog.keyspace(&spec.name) {
        return Err(Failure::new(
            Code::AlreadyExists,
            format!("keyspace {} exists already, with id {}", spec.name, existing.record.id),
        ));
    }
    let next = catalog.next_ids().ok_or_else(not_bootstrapped)?;
    let starts = spec.starts()?;
    let mut loads = placement::loads(catalog);
    let replicas = spec.replicas_on(loads.len())?;
    let places = placement::place(starts.len(), replicas as usize, &mut loads);
    let keyspace = KeyspaceRecord {
        name: spec.name.clone(),
        id: next.record.keyspace,
        protocol: spec.protocol,
        replicas,
        options: spec.options,
        unknown: Bytes::new(),
    };
    let shards = descriptors(catalog, &keyspace, next.record.shard, &starts, places);
    let txn = create_txn(next, &keyspace, &shards);
    Ok(CreatePlan { txn, keyspace, shards })
}

fn descriptors(
    catalog: &Catalog,
    keyspace: &KeyspaceRecord,
    first: ShardId,
    starts: &[Bytes],
    places: Vec<Vec<NodeId>>,
) -> Vec<Descriptor> {
    let member = |node| {
        let incarnation = catalog.node(node).map_or_else(Default::default, |n| n.incarnation);
        ReplicaMember { node, incarnation, role: Role::Voter }
    };
    let shard = |(i, nodes): (usize, Vec<NodeId>)| Descriptor {
        shard: ShardId(first.0 + i as u64),
        keyspace: keyspace.id,
        start: starts[i].clone(),
        end: starts.get(i + 1).cloned(),
        epoch: Epoch(1),
        members: nodes.into_iter().map(member).collect(),
        protocol: keyspace.protocol,
        options: keyspace.options,
        dropped: false,
    };
    places.into_iter().enumerate().map(shard).collect()
}

fn create_txn(next: &At<NextRecord>, keyspace: &KeyspaceRecord, shards: &[Descriptor]) -> TxnOp {
    let after = NextRecord {
        keyspace: KeyspaceId(keyspace.id.0 + 1),
        shard: ShardId(next.record.shard.0 + shards.len() as u64),
        unknown: next.record.unknown.clone(),
    };
    let keyspace = Record::Keyspace(keyspace.clone());
    let compares =
        vec![unchanged(&keyspace.key(), None), unchanged(&RecordKey::Next, Some(next.revision))];
    let mut then = vec![put(&Record::Next(after)), put(&keyspace)];
    then.extend(shards.iter().map(|d| {
        put(&Record::Shard(ShardRecord { descriptor: d.clone(), unknown: Bytes::new() }))
    }));
    TxnOp { compares, then, otherwise: Vec::new() }
}

/// Plans the end of a keyspace: its record goes, and each of its shards is marked as dropped, which
/// is the order to delete the data.
///
/// # Errors
/// `NotFound`, and `PreconditionFailed` for the keyspaces that are always there.
pub fn drop_keyspace(catalog: &Catalog, name: &str) -> Result<TxnOp, Failure> {
    if KEPT.contains(&name) {
        return Err(Failure::new(
            Code::PreconditionFailed,
            format!("keyspace {name} cannot be dropped: the cluster itself uses it"),
        ));
    }
    let keyspace = catalog
        .keyspace(name)
        .ok_or_else(|| Failure::new(Code::NotFound, format!("keyspace {name} does not exist")))?;
    let mut compares =
        vec![unchanged(&RecordKey::Keyspace(name.to_owned()), Some(keyspace.revision))];
    let mut then = vec![delete(&RecordKey::Keyspace(name.to_owned()))];
    for shard in catalog.shards_in(keyspace.record.id, b"", None) {
        let at = catalog.shard(shard.shard).expect("a shard in order is a shard of the catalog");
        let mut record = at.record.clone();
        record.descriptor.epoch = record.descriptor.epoch.next();
        record.descriptor.dropped = true;
        let record = Record::Shard(record);
        compares.push(unchanged(&record.key(), Some(at.revision)));
        then.push(put(&record));
    }
    Ok(TxnOp { compares, then, otherwise: Vec::new() })
}

fn not_bootstrapped() -> Failure {
    Failure::new(
        Code::NoLeader,
        "the cluster has no catalog yet: its first records are being written",
    )
    .with_happened(Happened::No)
}
