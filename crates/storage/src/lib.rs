//! What a node keeps: the write-ahead log of all its shards and the engine that holds their state.
//!
//! Three seams and what stands on them:
//!
//! - [`disk`]: files as the log needs them. [`RealDisk`] is the machine's; [`MemDisk`] is the
//!   simulator's, which loses, tears and flips what was not synced.
//! - [`log`]: one log for all shards of a node, group commit, one fsync for everything that a turn
//!   of the node wrote. The format is `docs/formats/log.md`.
//! - [`engine`]: ordered bytes with atomic batches and read views. [`FjallEngine`] keeps them on
//!   disk, [`MemEngine`] in memory and forgets what was not persisted.
//!
//! Only the log is fsynced per commit. The engine is persisted in the background, and the log is
//! cut only below what the engine has persisted, so together they lose nothing that was
//! acknowledged.
//!
//! Nothing here knows consensus: the log keeps [`Entry`](atoll_base::Entry) and a
//! [`LogHardState`], and says what of them it could not read.
//!
//! Reading order: `disk`, `log` (essay), `log::record`, `log::writer`, `log::recover`,
//! `log::shard`, then `engine`.

pub mod disk;
pub mod engine;
pub mod log;

pub use disk::{Disk, DiskFile, MemDisk, OpenMode, RealDisk};
pub use engine::{
    Compression, Digest, Direction, Engine, EngineError, EngineOp, FjallEngine, FjallOptions,
    MemEngine, ReadView, Tree, WriteBatch,
};
pub use log::{
    Location, LogAmnesia, LogBatch, LogError, LogHardState, LogOptions, LogReaderHandle, LogRecord,
    LogWriter, Recovered, RecoveredShard, ShardLog, StartReason, WrittenAt, WrittenEntry,
};
