//! What the replicas of a lane leave behind during one turn.

use std::collections::BTreeMap;

use atoll_base::{LogIndex, NodeId, ShardId, Term};
use atoll_storage::LogBatch;

use crate::peer::PeerMessage;

/// One core's write inside the turn's log write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreWrite {
    /// The core's shard.
    pub shard: ShardId,
    /// The core's number of the write.
    pub write: u64,
    /// The term and index at which the core's log ended with it.
    pub term: Term,
    /// See `term`.
    pub index: LogIndex,
}

/// Collects messages and log records of a turn.
#[derive(Default, Debug)]
pub struct Sink {
    /// May leave at once.
    pub messages: BTreeMap<NodeId, Vec<PeerMessage>>,
    /// May leave when `batch` is durable.
    pub after: BTreeMap<NodeId, Vec<PeerMessage>>,
    /// The turn's log records.
    pub batch: LogBatch,
    /// The cores' writes that `batch` completes, in order.
    pub writes: Vec<CoreWrite>,
}

// Most turns have one message for a peer: a list of them begins with room for no more.
impl Sink {
    /// Queues a message that may leave at once.
    pub fn send(&mut self, to: NodeId, message: PeerMessage) {
        self.messages.entry(to).or_insert_with(|| Vec::with_capacity(1)).push(message);
    }

    /// Queues a message that waits for the turn's log write.
    pub fn send_after_write(&mut self, to: NodeId, message: PeerMessage) {
        self.after.entry(to).or_insert_with(|| Vec::with_capacity(1)).push(message);
    }

    /// True when nothing waits for the log.
    #[must_use]
    pub fn has_no_write(&self) -> bool {
        self.batch.records.is_empty() && self.after.is_empty() && self.writes.is_empty()
    }
}
