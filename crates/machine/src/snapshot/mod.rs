//! Snapshots: one shard's whole state, in chunks, for a replica that the log can't bring up.
//!
//! A reader walks a view that was true at one applied index. Each chunk is bounded, numbered and
//! checksummed; the last one carries totals, so that a snapshot is taken whole or not at all.
//! Format: `docs/formats/commands.md`.
//!
//! ```text
//!   begin     marker written: the replica has no state that may be served
//!   clear     the old data goes, a bounded number of keys a step
//!   install   chunk 0 (head), 1, 2, ... n (end), each one engine batch
//!   finish    counters written and marker removed, in one engine batch
//! ```
//!
//! - **N1** From the marker to `finish` the machine does not open
//!   ([`MachineError::SnapshotUnfinished`](crate::MachineError::SnapshotUnfinished)). Engine
//!   batches survive a crash as a prefix, so the marker is there whenever anything was cleared.
//! - **N2** An installed machine is equal, byte for byte, to the one that was read, limits,
//!   sessions and change records included.
//! - **N3** A chunk can't write outside the shard.

mod chunk;
mod reader;
mod writer;

pub use chunk::{Chunk, SnapshotHead};
pub use reader::SnapshotReader;
pub use writer::SnapshotWriter;
