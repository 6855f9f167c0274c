//! Why a machine can't go on. What a command does wrong is a reply instead.

use atoll_base::codec::DecodeError;
use atoll_base::{LogIndex, ShardId};
use atoll_storage::EngineError;

/// The replica must be quarantined or, where the variant says so, opened again.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The engine failed.
    #[error("shard {shard}: engine failed")]
    Engine {
        /// Whose machine.
        shard: ShardId,
        /// What the engine says.
        #[source]
        source: EngineError,
    },
    /// An entry's payload can't be read by this build.
    #[error("shard {shard}: entry {index} can't be read")]
    Entry {
        /// Whose machine.
        shard: ShardId,
        /// Which entry.
        index: LogIndex,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// An entry came out of order.
    #[error("shard {shard}: entry {index} does not follow applied index {applied}")]
    OutOfOrder {
        /// Whose machine.
        shard: ShardId,
        /// The last entry applied.
        applied: LogIndex,
        /// The entry that came.
        index: LogIndex,
    },
    /// A record in the engine can't be read.
    #[error("shard {shard}: {what} record is damaged")]
    Record {
        /// Whose machine.
        shard: ShardId,
        /// Which kind of record.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// A check of the machine's invariants failed.
    #[error("shard {shard}: {what}")]
    Inconsistent {
        /// Whose machine.
        shard: ShardId,
        /// What does not hold, with both values.
        what: String,
    },
    /// A snapshot was being installed when the node stopped: install one from its start.
    #[error("shard {shard}: snapshot install was not finished")]
    SnapshotUnfinished {
        /// Whose machine.
        shard: ShardId,
    },
    /// A snapshot chunk is not what it should be: fetch the snapshot again.
    #[error("shard {shard}: snapshot chunk {number} refused: {what}")]
    Chunk {
        /// Whose machine.
        shard: ShardId,
        /// Which chunk.
        number: u64,
        /// What is wrong with it, with both values.
        what: String,
    },
}
