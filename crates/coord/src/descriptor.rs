//! What the catalog says about one shard.

use atoll_base::{Epoch, Incarnation, KeyspaceId, NodeId, ShardId};
use atoll_raft::Role;
use bytes::Bytes;

/// How the copies of a keyspace agree. The numbers are persisted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// Strict, by majority.
    Raft = 1,
}

/// One replica of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaMember {
    /// Where it is.
    pub node: NodeId,
    /// Which life of its disk is meant.
    pub incarnation: Incarnation,
    /// What it does in the group.
    pub role: Role,
}

/// What holds for every shard of a keyspace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShardOptions {
    /// Serve reads under a leader lease (trusts a bounded clock drift).
    pub lease_reads: bool,
    /// Revisions of history to keep; 0: the node's default.
    pub history_revisions: u64,
}

/// A shard as the catalog knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// The shard.
    pub shard: ShardId,
    /// The keyspace that it is a slice of.
    pub keyspace: KeyspaceId,
    /// Its first key.
    pub start: Bytes,
    /// The first key behind it; `None`: it reaches to the end.
    pub end: Option<Bytes>,
    /// Grows with every change.
    pub epoch: Epoch,
    /// Its replicas.
    pub members: Vec<ReplicaMember>,
    /// How they agree.
    pub protocol: Protocol,
    /// What its keyspace asks for.
    pub options: ShardOptions,
    /// Set when the keyspace was dropped: the one order that lets a node delete the data.
    pub dropped: bool,
}

impl Descriptor {
    /// Whether `key` lies in the shard's range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start[..] <= *key && self.end.as_ref().is_none_or(|end| *key < end[..])
    }
}
