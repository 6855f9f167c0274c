//! The engine seam: ordered byte keys in a few trees, atomic batches, read views.
//!
//! A node has one engine for all its shards. What belongs to users lies in two trees per keyspace,
//! keyed so that a split of a shard moves nothing; what belongs to a shard itself (applied index,
//! sessions, leases) lies in the one [`Tree::Meta`], keyed by shard.
//!
//! Durability is not the engine's business but the log's: [`Engine::write`] syncs nothing, and
//! after a crash any *prefix* of the batches since the last [`Engine::persist`] may be there.
//!
//! - E1 A batch is atomic across trees: a view or a restart sees all of it or nothing.
//! - E2 Batches survive a crash as a prefix: never a later one without an earlier one.
//! - E3 What was written before a `persist` that returned survives a power loss.
//! - E4 A view never changes; a dropped keyspace may vanish from it.
//! - E5 Bytes that fail their checksum are an error, never a missing key.

mod arena;
pub mod batch;
mod digest;
pub mod fjall;
mod flush;
mod layer;
pub mod mem;
mod merged;
mod persisted;
mod redo;
mod row_blocks;
mod rows;
mod sorted;
mod stretches;
mod table_scan;
mod tables;
#[cfg(test)]
mod tests;

use std::ops::Bound;

use atoll_base::KeyspaceId;
use bytes::Bytes;

pub use self::fjall::FjallEngine;
pub use batch::{EngineOp, WriteBatch};
pub use digest::Digest;
pub use mem::MemEngine;
pub use tables::{Compression, FjallOptions};

/// The longest key.
pub const KEY_BYTES_MAX: usize = 65_535;

/// One ordered set of keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tree {
    /// Records of shards, keyed by `(shard, ...)`.
    Meta,
    /// The newest version of each key of a keyspace.
    Current(KeyspaceId),
    /// Older versions of a keyspace's keys.
    History(KeyspaceId),
}

/// Which way a scan goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Largest key first.
    Backward,
}

/// A range of keys, as a scan takes it.
pub type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// A key with its value.
pub type Pair = (Bytes, Bytes);

/// What a scan gives, one pair after the other; after an error it ends.
pub type Scan<'a> = Box<dyn Iterator<Item = Result<Pair, EngineError>> + 'a>;

/// Why the engine could not do something.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Stored bytes fail their checks. What the engine holds can't be trusted: quarantine and
    /// rebuild from peers.
    #[error("engine {during} failed: stored data is damaged: {reason}")]
    Damaged {
        /// What was being done.
        during: &'static str,
        /// What the engine said.
        reason: String,
    },
    /// No space is left. The batch did not happen; whoever can't do without it opens the engine
    /// again once there is room, and a restart decides what was kept.
    #[error("engine {during} failed: disk is full")]
    DiskFull {
        /// What was being done.
        during: &'static str,
    },
    /// A key that no engine takes; nothing was changed.
    #[error("engine write refused: a key has {bytes} bytes, 1 to {KEY_BYTES_MAX} are allowed")]
    BadKey {
        /// The key's length.
        bytes: usize,
    },
    /// An earlier write or sync failed; only a reopen tells what survived.
    #[error("engine {during} refused: an earlier write or sync failed")]
    Poisoned {
        /// What was being done.
        during: &'static str,
    },
    /// The operating system or the library failed in another way.
    #[error("engine {during} failed: {source}")]
    Failed {
        /// What was being done.
        during: &'static str,
        /// What was reported.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A consistent picture of all trees at one moment. Cheap to make; holds old versions alive, so
/// drop it soon.
pub trait ReadView: Send {
    /// The value of `key`, if it is there.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] when stored bytes fail their checks, else [`EngineError::Failed`].
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The pairs of `range` in order. An empty or inverted range gives nothing.
    ///
    /// The items fail as [`ReadView::get`] does.
    fn scan<'a>(&'a self, tree: Tree, range: KeyRange<'_>, direction: Direction) -> Scan<'a>;

    /// A hash over the pairs of `range`, which is the same wherever they are the same. Reads all of
    /// them, or what is kept of them since the last time.
    ///
    /// # Errors
    /// As [`ReadView::get`].
    fn digest(&self, tree: Tree, range: KeyRange<'_>) -> Result<u64, EngineError> {
        let mut digest = Digest::default();
        for pair in self.scan(tree, range, Direction::Forward) {
            let (key, value) = pair?;
            digest.add(digest::of_pair(&key, &value));
        }
        Ok(digest.finish())
    }
}

/// Ordered keys with atomic batches. Shared by all lanes of a node; every method may be called from
/// any thread.
pub trait Engine: Send + Sync {
    /// The newest value of `key`, if it is there. Two calls may see different batches; take a view
    /// where that matters.
    ///
    /// # Errors
    /// As [`ReadView::get`].
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Says which keys are looked up next. Changes nothing, and may do nothing: keys that are
    /// looked up one by one, with work between them, wait for memory one by one.
    fn prefetch(&self, tree: Tree, keys: &[&[u8]]) {
        let _ = (tree, keys);
    }

    /// A picture of everything written so far.
    fn view(&self) -> Box<dyn ReadView>;

    /// Carries `batch` out, atomically across trees and in order: a later operation on a key wins.
    /// Trees come into being when first written. No fsync.
    ///
    /// # Errors
    /// [`EngineError::BadKey`] before anything was done; [`EngineError::DiskFull`],
    /// [`EngineError::Poisoned`] or [`EngineError::Failed`]: the batch then counts as not done, and
    /// a restart decides.
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError>;

    /// Returns when every earlier write survives a power loss.
    ///
    /// # Errors
    /// As [`Engine::write`].
    fn persist(&self) -> Result<(), EngineError>;

    /// Forgets both trees of `keyspace` at once, however large they are. Survives a restart.
    ///
    /// # Errors
    /// As [`Engine::write`].
    fn drop_keyspace(&self, keyspace: KeyspaceId) -> Result<(), EngineError>;

    /// Bytes on disk (in memory for an engine without one).
    ///
    /// # Errors
    /// [`EngineError::Failed`] when files can't be listed.
    fn disk_bytes(&self) -> Result<u64, EngineError>;

    /// Bytes of memory held by caches and write buffers.
    fn memory_bytes(&self) -> u64;

    /// Reads every pair of every tree, and with it every checksum. As long as the data is large.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] at the first bytes that fail their checks.
    fn check(&self) -> Result<(), EngineError>;
}

/// Refuses a batch with a key that is empty or too long.
pub(crate) fn check_keys(batch: &WriteBatch) -> Result<(), EngineError> {
    for op in batch.ops() {
        if let EngineOp::Put { key, .. } | EngineOp::Delete { key, .. } = op
            && !(1..=KEY_BYTES_MAX).contains(&key.len())
        {
            return Err(EngineError::BadKey { bytes: key.len() });
        }
    }
    Ok(())
}

/// True when `range` holds no key at all, whatever is stored.
#[must_use]
pub(crate) fn is_empty_range(range: &KeyRange<'_>) -> bool {
    match *range {
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a), Bound::Excluded(b)) | (Bound::Excluded(a), Bound::Included(b)) => {
            a >= b
        }
        (Bound::Excluded(a), Bound::Excluded(b)) => a >= b,
        (Bound::Unbounded, Bound::Excluded(b)) => b.is_empty(),
        _ => false,
    }
}

/// An owned end of a range, as scans take it.
pub(crate) fn as_slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(b) => Bound::Included(b),
        Bound::Excluded(b) => Bound::Excluded(b),
        Bound::Unbounded => Bound::Unbounded,
    }
}
