//! What replicas of one shard say to each other, whatever their protocol.

use atoll_base::{Epoch, LogIndex, ShardId, Term};
use bytes::Bytes;

/// A message from a replica to another of the same shard. Carried by a link between two nodes,
/// which may lose, repeat or reorder it.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerMessage {
    /// The shard whose replicas talk.
    pub shard: ShardId,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// What is said.
    pub body: PeerBody,
}

/// The kinds of peer messages.
#[derive(Clone, PartialEq, Debug)]
pub enum PeerBody {
    /// Consensus.
    Raft(atoll_raft::Message),
    /// "Send me this chunk of the snapshot that ends at `(index, term)`."
    SnapshotPull {
        /// The snapshot's last entry.
        index: LogIndex,
        /// That entry's term.
        term: Term,
        /// The chunk wanted, from 0.
        chunk: u64,
    },
    /// A piece of a snapshot; travels on the bulk stream.
    SnapshotChunk {
        /// The snapshot's last entry.
        index: LogIndex,
        /// That entry's term.
        term: Term,
        /// Which chunk, from 0.
        chunk: u64,
        /// The chunk's bytes.
        data: Bytes,
        /// Their CRC32C.
        crc32c: u32,
        /// What follows it.
        end: ChunkEnd,
    },
}

/// What comes after a snapshot chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkEnd {
    /// More chunks.
    More,
    /// Nothing: the snapshot is whole.
    Last,
    /// The sender no longer has this snapshot: start over.
    Gone,
}
