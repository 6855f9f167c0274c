//! The catalog: who the nodes are, which keyspaces exist, and where each of their shards is.
//!
//! It is data like any other: records under ordinary keys of the keyspace `system`, whose only
//! shard is [`ShardId::SYSTEM`]. So it is replicated, made durable, watched and changed by
//! compare-and-set with what the store has anyway, and there is no second mechanism that could
//! disagree with it.
//!
//! [`Catalog`] is a view: it is built from the records of one read of the shard and kept up to date
//! by the shard's events. Nodes follow it to learn which replicas they hold, clients to find
//! shards. `plan` makes its changes.
//!
//! ```text
//!   range over shard 1 ─> put(key, value, revision)*  ┐
//!   watch, or apply    ─> apply(event)*               ┴─> Catalog ─> lookups, changed descriptors
//! ```
//!
//! Invariants:
//! - I1 A shard's epoch never goes down in a view.
//! - I2 Shards of a keyspace that are not dropped don't overlap, so a key has at most one shard.
//! - I3 A record that is missing deletes nothing: a shard is given up only where a record says
//!   `dropped`.
//! - I4 Keys of unknown kinds are ignored; records keep fields of later versions.

mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound;

use atoll_base::{Epoch, Incarnation, KeyspaceId, NodeId, Revision, ShardId};
use atoll_machine::{Event, EventKind};
use atoll_raft::Role;
use bytes::Bytes;

pub use record::{
    ClusterRecord, KeyspaceRecord, NextRecord, NodeRecord, RECORD_VERSION, Record, RecordError,
    RecordKey, ShardRecord,
};

use crate::descriptor::{Descriptor, Protocol, ReplicaMember, ShardOptions};

/// A record and the revision at which it was written, for compare-and-set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct At<T> {
    /// The record.
    pub record: T,
    /// Its key's `mod_revision`.
    pub revision: Revision,
}

/// The catalog as of one revision of shard 1.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Catalog {
    revision: Revision,
    cluster: Option<At<ClusterRecord>>,
    next: Option<At<NextRecord>>,
    nodes: BTreeMap<NodeId, At<NodeRecord>>,
    keyspaces: BTreeMap<String, At<KeyspaceRecord>>,
    names: BTreeMap<KeyspaceId, String>,
    shards: BTreeMap<ShardId, At<ShardRecord>>,
    order: BTreeMap<KeyspaceId, BTreeMap<Bytes, ShardId>>,
}

impl Catalog {
    /// The view before anything is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The descriptor of shard 1 in a cluster that begins with `nodes`: each of them votes. It is
    /// known before the catalog is, because the catalog lies there.
    #[must_use]
    pub fn system_descriptor(nodes: &[NodeId]) -> Descriptor {
        let member = |&node| ReplicaMember { node, incarnation: Incarnation(1), role: Role::Voter };
        let mut members: Vec<ReplicaMember> = nodes.iter().map(member).collect();
        members.sort_unstable_by_key(|m| m.node);
        members.dedup();
        Descriptor {
            shard: ShardId::SYSTEM,
            keyspace: KeyspaceId::SYSTEM,
            start: Bytes::new(),
            end: None,
            epoch: Epoch(1),
            members,
            protocol: Protocol::Raft,
            options: ShardOptions::default(),
            dropped: false,
        }
    }

    /// Takes in one change of shard 1 and returns the descriptors that changed by it.
    ///
    /// # Errors
    /// [`RecordError`] when the record cannot be read; the view is then as before.
    pub fn apply(&mut self, event: &Event) -> Result<Vec<Descriptor>, RecordError> {
        match &event.kind {
            EventKind::Put(new) => self.put(&event.key, &new.value, event.revision),
            EventKind::Delete => {
                self.delete(&event.key, event.revision)?;
                Ok(Vec::new())
            }
        }
    }

    /// Takes in one record that a read of shard 1 returned (or that an event put there) and returns
    /// the descriptors that changed by it.
    ///
    /// # Errors
    /// [`RecordError`] when the record cannot be read; the view is then as before.
    pub fn put(
        &mut self,
        key: &[u8],
        value: &Bytes,
        revision: Revision,
    ) -> Result<Vec<Descriptor>, RecordError> {
        let record = Record::decode(key, value)?;
        self.revision = self.revision.max(revision);
        match record {
            None => {}
            Some(Record::Cluster(record)) => self.cluster = Some(At { record, revision }),
            Some(Record::Next(record)) => self.next = Some(At { record, revision }),
            Some(Record::Node(record)) => {
                self.nodes.insert(record.id, At { record, revision });
            }
            Some(Record::Keyspace(record)) => self.put_keyspace(record, revision),
            Some(Record::Shard(record)) => return Ok(self.put_shard(record, revision)),
        }
        Ok(Vec::new())
    }

    fn put_keyspace(&mut self, record: KeyspaceRecord, revision: Revision) {
        self.names.insert(record.id, record.name.clone());
        self.keyspaces.insert(record.name.clone(), At { record, revision });
    }

    fn put_shard(&mut self, record: ShardRecord, revision: Revision) -> Vec<Descriptor> {
        let new = record.descriptor.clone();
        if let Some(old) = self.shards.get(&new.shard) {
            let old = &old.record.descriptor;
            if new.epoch < old.epoch {
                return Vec::new(); // I1
            }
            let starts = self.order.entry(old.keyspace).or_default();
            if starts.get(&old.start) == Some(&new.shard) {
                starts.remove(&old.start);
            }
        }
        if !new.dropped {
            self.order.entry(new.keyspace).or_default().insert(new.start.clone(), new.shard);
        }
        self.shards.insert(new.shard, At { record, revision });
        vec![new]
    }

    /// Takes in that a key of shard 1 was deleted at `revision`. Deleting a shard's record changes
    /// no descriptor (I3).
    ///
    /// # Errors
    /// [`RecordError`] when the key is malformed.
    pub fn delete(&mut self, key: &[u8], revision: Revision) -> Result<(), RecordError> {
        let key = RecordKey::parse(key)?;
        self.revision = self.revision.max(revision);
        match key {
            None => {}
            Some(RecordKey::Cluster) => self.cluster = None,
            Some(RecordKey::Next) => self.next = None,
            Some(RecordKey::Node(id)) => {
                self.nodes.remove(&id);
            }
            Some(RecordKey::Keyspace(name)) => {
                if let Some(old) = self.keyspaces.remove(&name) {
                    self.names.remove(&old.record.id);
                }
            }
            Some(RecordKey::Shard(id)) => {
                let old = self.shards.remove(&id).map(|s| s.record.descriptor);
                if let Some(starts) = old.as_ref().and_then(|d| self.order.get_mut(&d.keyspace)) {
                    starts.retain(|_, shard| *shard != id);
                }
            }
        }
        Ok(())
    }

    /// Says that the view includes everything up to `revision`, though the last changes touched
    /// nothing that it holds.
    pub fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// The newest revision of shard 1 that the view includes.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Who the cluster is; `None` before its first records are written.
    #[must_use]
    pub fn cluster(&self) -> Option<&ClusterRecord> {
        self.cluster.as_ref().map(|c| &c.record)
    }

    /// The next free ids.
    #[must_use]
    pub fn next_ids(&self) -> Option<&At<NextRecord>> {
        self.next.as_ref()
    }

    /// Every node, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values().map(|n| &n.record)
    }

    /// One node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&id).map(|n| &n.record)
    }

    /// One node and the revision of its record.
    #[must_use]
    pub fn node_at(&self, id: NodeId) -> Option<&At<NodeRecord>> {
        self.nodes.get(&id)
    }

    /// Every keyspace, by name.
    pub fn keyspaces(&self) -> impl Iterator<Item = &KeyspaceRecord> {
        self.keyspaces.values().map(|k| &k.record)
    }

    /// The keyspace of this name.
    #[must_use]
    pub fn keyspace(&self, name: &str) -> Option<&At<KeyspaceRecord>> {
        self.keyspaces.get(name)
    }

    /// The name of the keyspace with this id.
    #[must_use]
    pub fn keyspace_name(&self, id: KeyspaceId) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }

    /// Every shard that is known, dropped ones too, by id.
    pub fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        self.shards.values().map(|s| &s.record.descriptor)
    }

    /// One shard and the revision of its record.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> Option<&At<ShardRecord>> {
        self.shards.get(&id)
    }

    /// The shard that `key` of a keyspace belongs to.
    #[must_use]
    pub fn shard_of(&self, keyspace: KeyspaceId, key: &[u8]) -> Option<&Descriptor> {
        let starts = self.order.get(&keyspace)?;
        let upto = (Bound::Unbounded, Bound::Included(key));
        let (_, id) = starts.range::<[u8], _>(upto).next_back()?;
        let descriptor = &self.shards.get(id)?.record.descriptor;
        descriptor.contains(key).then_some(descriptor)
    }

    /// The shards of a keyspace that hold keys from `start` up to `end` (`None`: to the last), in
    /// key order.
    pub fn shards_in<'a>(
        &'a self,
        keyspace: KeyspaceId,
        start: &'a [u8],
        end: Option<&'a [u8]>,
    ) -> impl DoubleEndedIterator<Item = &'a Descriptor> {
        let starts = self.order.get(&keyspace);
        let ids = starts.into_iter().flat_map(|starts| starts.values());
        ids.filter_map(|id| self.shards.get(id)).map(|s| &s.record.descriptor).filter(move |d| {
            let begins_before = end.is_none_or(|end| d.start[..] < *end);
            let ends_after = d.end.as_ref().is_none_or(|e| e[..] > *start);
            begins_before && ends_after
        })
    }
}
