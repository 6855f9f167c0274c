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

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use atoll_base::KeyspaceId;
use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use super::Tree;
use super::layer::Run;

/// What a row costs beside its bytes: its place in the map and two allocations.
const ROW_OVERHEAD_BYTES: usize = 128;
/// Larger rows are not kept: what a lookup costs does not matter beside their size.
const ROW_BYTES_MAX: usize = 16 << 10;

/// Rows of the trees of current versions, up to a number of bytes.
pub(super) struct Rows {
    cache: Cache<RowKey, Bytes, RowWeight>,
    flushes: AtomicU64,
}

/// When a reader looked at the layers.
#[derive(Clone, Copy)]
pub(super) struct Moment(u64);

#[derive(PartialEq, Eq)]
struct RowKey {
    keyspace: KeyspaceId,
    key: Bytes,
}

/// A key as it is asked for.
struct Asked<'a> {
    keyspace: KeyspaceId,
    key: &'a [u8],
}

impl Hash for RowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Asked { keyspace: self.keyspace, key: &self.key }.hash(state);
    }
}

impl Hash for Asked<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.keyspace.0);
        state.write(self.key);
    }
}

impl Equivalent<RowKey> for Asked<'_> {
    fn equivalent(&self, row: &RowKey) -> bool {
        self.keyspace == row.keyspace && self.key == row.key
    }
}

#[derive(Clone)]
struct RowWeight;

impl Weighter<RowKey, Bytes> for RowWeight {
    fn weight(&self, key: &RowKey, value: &Bytes) -> u64 {
        (key.key.len() + value.len() + ROW_OVERHEAD_BYTES) as u64
    }
}

impl Rows {
    /// Room for `bytes`; 0 keeps nothing.
    pub(super) fn new(bytes: u64) -> Self {
        let rows = usize::try_from(bytes).unwrap_or(usize::MAX) / (4 * ROW_OVERHEAD_BYTES);
        Self { cache: Cache::with_weighter(rows, bytes, RowWeight), flushes: AtomicU64::new(0) }
    }

    /// To be taken before the layers are looked at.
    pub(super) fn moment(&self) -> Moment {
        Moment(self.flushes.load(SeqCst))
    }

    /// The row, if it is here; tables have the same then.
    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Option<Bytes> {
        let Tree::Current(keyspace) = tree else { return None };
        self.cache.get(&Asked { keyspace, key })
    }

    /// Keeps what tables had for a reader whose key was in no layer at `moment`.
    pub(super) fn keep(&self, tree: Tree, key: &[u8], value: &Bytes, moment: Moment) {
        let Tree::Current(keyspace) = tree else { return };
        if key.len() + value.len() > ROW_BYTES_MAX {
            return;
        }
        let row = RowKey { keyspace, key: Bytes::copy_from_slice(key) };
        self.cache.insert(row, value.clone());
        if self.flushes.load(SeqCst) != moment.0 {
            self.cache.remove(&Asked { keyspace, key });
        }
    }

    /// Renews the rows of a run on its way into tables; what is not here does not come here.
    pub(super) fn renew(&self, tree: Tree, run: &Run) {
        let Tree::Current(keyspace) = tree else { return };
        self.flushes.fetch_add(1, SeqCst);
        for (key, value) in run {
            let asked = Asked { keyspace, key };
            if !self.cache.contains_key(&asked) {
                continue;
            }
            match value {
                Some(value) if key.len() + value.len() <= ROW_BYTES_MAX => {
                    let row = RowKey { keyspace, key: Bytes::copy_from_slice(key) };
                    // Evicted meanwhile, it stays away. The bytes are the row's own: those of a
                    // layer lie in the log entry that they came with.
                    let _ = self.cache.replace(row, Bytes::copy_from_slice(value), true);
                }
                _ => {
                    self.cache.remove(&asked);
                }
            }
        }
    }

    /// Forgets a keyspace's rows.
    pub(super) fn forget(&self, keyspace: KeyspaceId) {
        self.flushes.fetch_add(1, SeqCst);
        self.cache.retain(|row, _| row.keyspace != keyspace);
    }

    /// Bytes of the rows.
    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }
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
