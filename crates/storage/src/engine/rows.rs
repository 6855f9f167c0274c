//! Rows that point reads took out of tables, kept as they are.
//!
//! A put looks up the version that it replaces, and in tables that lookup costs more than the put
//! itself: a filter, an index and a search through a block, for each run of the tree. A hit here is
//! one lookup in a hash map.
//!
//! Rows change when a flush changes tables, and what is being flushed is read from its layer until
//! the flush has ended. So a flush renews the rows that are here ([`Rows::renew`]) at any time
//! before its end. What a reader saw before that, and would keep after it, is told by a count of
//! flushes: [`Rows::keep`] takes a row back if a flush began since the reader looked at the layers.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use atoll_base::KeyspaceId;
use bytes::Bytes;
use foldhash::fast::RandomState;

use super::Tree;
use super::layer::Run;
use super::row_blocks::{RowBlocks, RowKey};

/// Larger rows are not kept: what a lookup costs does not matter beside their size.
const ROW_BYTES_MAX: usize = 16 << 10;
/// Parts with a lock of their own, at most, and what each has room for at least.
const PARTS_MAX: u64 = 16;
const PART_BYTES_MIN: u64 = 512 << 10;

/// Rows of the trees of current versions, up to a number of bytes.
pub(super) struct Rows {
    /// Each row is in the part that its hash tells; their number is a power of two.
    parts: Box<[Mutex<RowBlocks>]>,
    hasher: RandomState,
    flushes: AtomicU64,
}

/// When a reader looked at the layers.
#[derive(Clone, Copy)]
pub(super) struct Moment(u64);

impl Rows {
    /// Room for `bytes`; 0 keeps nothing.
    pub(super) fn new(bytes: u64) -> Self {
        let count = 1 << (bytes / PART_BYTES_MIN).clamp(1, PARTS_MAX).ilog2();
        let part_bytes = usize::try_from(bytes / count).unwrap_or(usize::MAX);
        let parts = (0..count).map(|_| Mutex::new(RowBlocks::new(part_bytes)));
        Self { parts: parts.collect(), hasher: RandomState::default(), flushes: AtomicU64::new(0) }
    }

    /// To be taken before the layers are looked at.
    pub(super) fn moment(&self) -> Moment {
        Moment(self.flushes.load(SeqCst))
    }

    /// The row, if it is here; tables have the same then. The bytes are the reader's own.
    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Option<Bytes> {
        let Tree::Current(keyspace) = tree else { return None };
        let row = self.row(keyspace, key);
        self.part(row).get(row)
    }

    /// Keeps what tables had for a reader whose key was in no layer at `moment`.
    pub(super) fn keep(&self, tree: Tree, key: &[u8], value: &[u8], moment: Moment) {
        let Tree::Current(keyspace) = tree else { return };
        if key.len() + value.len() > ROW_BYTES_MAX {
            return;
        }
        let row = self.row(keyspace, key);
        let mut part = self.part(row);
        // A flush that is counted after this finds the row when it comes to this part.
        if self.flushes.load(SeqCst) == moment.0 {
            part.put(row, value);
        }
    }

    /// Renews the rows of a run on its way into tables; what is not here does not come here.
    pub(super) fn renew(&self, tree: Tree, run: &Run) {
        let Tree::Current(keyspace) = tree else { return };
        self.flushes.fetch_add(1, SeqCst);
        for (key, value) in run {
            let row = self.row(keyspace, key);
            let mut part = self.part(row);
            match value {
                Some(value) if key.len() + value.len() <= ROW_BYTES_MAX => {
                    part.replace(row, value);
                }
                _ => part.remove(row),
            }
        }
    }

    /// Forgets a keyspace's rows.
    pub(super) fn forget(&self, keyspace: KeyspaceId) {
        self.flushes.fetch_add(1, SeqCst);
        self.parts.iter().for_each(|part| locked(part).forget(keyspace));
    }

    /// Bytes of the rows.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| locked(part).bytes() as u64).sum()
    }

    fn row<'a>(&self, keyspace: KeyspaceId, key: &'a [u8]) -> RowKey<'a> {
        RowKey { hash: self.hasher.hash_one((keyspace.0, key)), keyspace, key }
    }

    fn part(&self, row: RowKey<'_>) -> MutexGuard<'_, RowBlocks> {
        locked(&self.parts[row.hash as usize & (self.parts.len() - 1)])
    }
}

fn locked(part: &Mutex<RowBlocks>) -> MutexGuard<'_, RowBlocks> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: Tree = Tree::Current(KeyspaceId(1));

    fn b(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_flush_renews_what_is_here_and_brings_nothing() {
        let rows = Rows::new(1 << 20);
        for key in ["a", "b"] {
            rows.keep(TREE, key.as_bytes(), &b("1"), rows.moment());
        }
        let run: Run = vec![(b("a"), Some(b("2"))), (b("b"), None), (b("c"), Some(b("2")))];
        rows.renew(TREE, &run);
        let got = ["a", "b", "c"].map(|key| rows.get(TREE, key.as_bytes()));
        assert_eq!(got, [Some(b("2")), None, None]);
        rows.renew(TREE, &vec![(b("a"), Some(Bytes::from(vec![0; ROW_BYTES_MAX])))]);
        assert_eq!(rows.get(TREE, b"a"), None, "too large to be kept");
        rows.keep(TREE, b"a", &b("1"), rows.moment());
        assert_eq!(rows.get(Tree::History(KeyspaceId(1)), b"a"), None);
        assert_eq!(rows.get(Tree::Current(KeyspaceId(2)), b"a"), None);
        rows.forget(KeyspaceId(2));
        assert_eq!(rows.get(TREE, b"a"), Some(b("1")));
        rows.forget(KeyspaceId(1));
        assert_eq!((rows.get(TREE, b"a"), rows.bytes()), (None, 0));
    }

    #[test]
    fn what_a_reader_saw_before_a_flush_is_not_kept_after_it() {
        let rows = Rows::new(1 << 20);
        let before = rows.moment();
        rows.renew(TREE, &vec![(b("a"), Some(b("new")))]);
        rows.keep(TREE, b"a", &b("old"), before);
        assert_eq!(rows.get(TREE, b"a"), None);
    }

    #[test]
    fn rows_stay_within_their_bytes() {
        let rows = Rows::new(100_000);
        for n in 0..10_000_u32 {
            let value = Bytes::from(vec![0; 100 + n as usize % 300]);
            rows.keep(TREE, &n.to_be_bytes(), &value, rows.moment());
            assert!(rows.bytes() <= 100_000, "{} bytes", rows.bytes());
        }
        assert!(rows.bytes() > 50_000, "{} bytes", rows.bytes());
        let none = Rows::new(0);
        none.keep(TREE, b"a", &b("1"), none.moment());
        assert_eq!(none.get(TREE, b"a"), None);
    }
}
