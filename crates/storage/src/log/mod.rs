//! The write-ahead log of a node: one sequence of records for all its shards.
//!
//! # Problem
//!
//! Every shard has a log that must be durable before anything is acknowledged, and a node has many
//! shards. A file per shard would cost one fsync per shard and turn; so all shards share one log
//! and one turn of the node costs one write and one fsync, however many shards wrote.
//!
//! # Idea
//!
//! ```text
//!   segment 7 (full)          segment 8 (tail)                    spare
//!  +--------+------------+   +--------+-------+-------+.......+   +..........+
//!  | header | records    |   | header | frame | frame | zeros |   | prepared |
//!  +--------+------------+   +--------+-------+-------+.......+   +..........+
//!    prev = 6, its end         prev = 7, its end  ^ next write
//! ```
//!
//! The log is cut into *segments*, files of equal size that are filled with zeros before use and
//! recycled afterwards, so that the fsync of a write changes no metadata. What one write puts into
//! one segment is a *frame*: some records, whole. A record names its shard, counts it
//! ([`record`]), names the frame it is in, and carries a checksum over itself, its segment's number
//! and its place.
//!
//! The log thread owns the [`LogWriter`]. A lane owns one [`ShardLog`] per replica: the index of
//! that shard's entries and the newest payloads. They exchange values only: [`LogBatch`] to the
//! writer, [`WrittenAt`] back.
//!
//! # Invariants
//!
//! - L1 A frame is written only after the frame before it is durable. So whatever precedes a valid
//!   frame was durable once, and if it can't be read, it was damaged. Opening syncs the last frame.
//! - L2 A torn frame is the last one. Recovery keeps its valid front, cuts the rest and scrubs it,
//!   so
//!   that nothing of it is ever read as part of a later frame.
//! - L3 What is damaged is never silently skipped: each shard that may have lost a record is named,
//!   by the place in the record's own header, by a gap in the shard's count of records, or, where
//!   neither tells, because it can't be ruled out.
//! - L4 A number is given to one segment only, and the checksum covers it, so records of a file's
//!   former life never count.
//! - L5 Segments are recycled from the oldest on, each only when no shard needs one of its entries
//!   and every hard state and log start in it was recorded again later.
//! - L6 A write that fails with [`LogError::DiskFull`] leaves the log as if it had not been asked
//!   for, save that (as after a crash) some of its records may be found by a restart.
//! - L7 A damaged shard stays damaged, whatever is written later, until a snapshot replaces its log
//!   or it is removed: its next record says that it is damaged, and is recorded again before its
//!   segment goes.
//!
//! A torn frame and a damaged last frame look the same: both are cut. No format can tell them apart
//! without a second sync per write.

mod error;
mod pool;
mod reader;
pub mod record;
mod recover;
mod replay;
mod scan;
mod segment;
mod shard;
#[cfg(test)]
mod tests;
mod writer;

use atoll_base::{LogIndex, ShardId, Term};

pub use error::LogError;
pub use reader::LogReaderHandle;
pub use record::{LogAmnesia, LogHardState, LogRecord, StartReason};
pub use recover::{Recovered, RecoveredShard};
pub use shard::ShardLog;
pub use writer::{LogOptions, LogWriter};

/// Records that one lane wants written together.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LogBatch {
    /// The records, in order.
    pub records: Vec<LogRecord>,
}

/// Where an entry was written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Location {
    /// The segment's number.
    pub segment: u64,
    /// The record's offset in it.
    pub offset: u32,
    /// The record's bytes, header included, padding not.
    pub len: u32,
}

/// One entry that became durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrittenEntry {
    /// Its shard.
    pub shard: ShardId,
    /// Its index.
    pub index: LogIndex,
    /// Its term: with the index it tells whether the lane's log still holds this very entry.
    pub term: Term,
    /// Where it stands.
    pub location: Location,
}

/// What a write made durable.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct WrittenAt {
    /// Every entry of the batches, in order.
    pub entries: Vec<WrittenEntry>,
    /// Bytes that went to disk.
    pub bytes: u64,
}
