//! Why the log could not do something.

use std::io;
use std::path::{Path, PathBuf};

use atoll_base::{LogIndex, ShardId};

use super::Location;

/// An error of the log. Only [`LogError::DiskFull`] and [`LogError::RecordTooLarge`] leave a writer
/// usable; after any other error of a write the process must stop.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No room for the write. Nothing of it counts; later writes succeed once there is room.
    #[error("log write failed: disk is full, {needed} bytes needed for {path}")]
    DiskFull {
        /// The file that could not grow or be made.
        path: PathBuf,
        /// Bytes that were wanted.
        needed: u64,
    },
    /// A sync failed. What the disk holds is unknown and another sync would not tell (the system
    /// may have dropped the bytes): abort the process, restart, recover.
    #[error("log sync of {path} failed: {source}")]
    SyncFailed {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier write failed in a way that leaves the disk's state unknown.
    #[error("log write refused: an earlier write or sync failed")]
    Poisoned,
    /// A record larger than the limit; nothing was written.
    #[error("log write refused: record of shard {shard} takes {bytes} bytes, the limit is {limit}")]
    RecordTooLarge {
        /// The record's shard.
        shard: ShardId,
        /// What it would take in a segment.
        bytes: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// The system failed in another way.
    #[error("log {during} of {path} failed: {source}")]
    Io {
        /// What was being done.
        during: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What stands where an entry should be is not that entry.
    #[error(
        "log read failed: entry {index} of shard {shard} is damaged in segment {} at offset {}",
        .at.segment, .at.offset
    )]
    Damaged {
        /// The entry's shard.
        shard: ShardId,
        /// The entry's index.
        index: LogIndex,
        /// Where it should be.
        at: Location,
    },
    /// A segment of a format that this build doesn't know.
    #[error("log open failed: segment {segment} has format version {version}, this build knows 1")]
    UnknownVersion {
        /// The segment's number.
        segment: u64,
        /// Its version.
        version: u32,
    },
    /// Entries that were cut away or are not there yet.
    #[error("log read failed: entry {index} of shard {shard} is not within {first}..={last}")]
    OutOfRange {
        /// The shard.
        shard: ShardId,
        /// The entry asked for.
        index: LogIndex,
        /// The first one kept.
        first: LogIndex,
        /// The last one.
        last: LogIndex,
    },
    /// Options that contradict each other.
    #[error("log open failed: {reason}")]
    BadOptions {
        /// Which, and the limit.
        reason: String,
    },
}

pub(crate) fn io_error<'a>(
    during: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> LogError + 'a {
    move |source| LogError::Io { during, path: path.to_path_buf(), source }
}

pub(crate) fn sync_error(path: &Path) -> impl FnOnce(io::Error) -> LogError + '_ {
    move |source| LogError::SyncFailed { path: path.to_path_buf(), source }
}
