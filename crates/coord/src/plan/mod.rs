//! Changes of the catalog, as data: each plan is one transaction on shard 1 that compares what it
//! was made from, so that it is carried out whole or not at all and two planners cannot overwrite
//! each other. Whoever carries it out plans again when a compare fails.
//!
//! The functions are pure. Ids and places come from the catalog, a cluster's id from the caller.

mod bootstrap;
mod keyspace;
pub mod members;
mod spec;
#[cfg(test)]
mod tests;

use atoll_base::Revision;
use atoll_machine::{Compare, CompareTarget, DeleteOp, KeyEnd, PutOp, Relation, TxnStep};

pub use bootstrap::{BootstrapNode, bootstrap};
pub use keyspace::{CreatePlan, create_keyspace, drop_keyspace};
pub use spec::{KeyspaceSpec, NAME_BYTES_MAX, SHARDS_MAX, validate_name};

use crate::catalog::{Record, RecordKey};

/// Holds while the record is as it was at `revision`; with `None`, while there is no such record.
fn unchanged(key: &RecordKey, revision: Option<Revision>) -> Compare {
    let target = match revision {
        Some(revision) => CompareTarget::Mod(revision),
        None => CompareTarget::Version(0),
    };
    Compare { key: key.to_bytes(), end: KeyEnd::Single, target, relation: Relation::Equal }
}

fn put(record: &Record) -> TxnStep {
    let (key, value) = (record.key().to_bytes(), record.encode());
    TxnStep::Put(PutOp { key, value, ..PutOp::default() })
}

fn delete(key: &RecordKey) -> TxnStep {
    TxnStep::Delete(DeleteOp { key: key.to_bytes(), end: KeyEnd::Single, prev_kv: false })
}
