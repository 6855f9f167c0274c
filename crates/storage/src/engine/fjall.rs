//! The engine on disk: fjall, a log-structured merge tree in Rust.
//!
//! One fjall keyspace per [`Tree`], made when first written, so a node has tens of them. Writes go
//! to fjall's journal without a flush: what a crash takes, the write-ahead log replays. fjall syncs
//! its journal before it flushes a tree to a table, and only that makes a batch atomic across trees
//! (E1): a table never holds what the journal has lost.
//!
//! fjall takes a journal that breaks off for one that was torn, and opens with what precedes. So
//! each [`Engine::persist`] counts, in the engine *and*, once the engine has synced, in a small
//! file beside it; an engine that knows less than the file is damaged. A break within what was
//! written after the last persist is harmless.
//!
//! fjall would ask its workers to flush with a message per write over the limit, into a bounded
//! queue into which the workers themselves write: under load all of them can wait for each other,
//! and nothing is flushed ever after (fjall pull request 323). So trees are made without a limit of
//! their own, and this engine counts what it writes and seals a memtable itself, once.
//!
//! A write may wait: fjall sleeps while a tree has four memtables to flush or thirty runs in its
//! first level.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use atoll_base::KeyspaceId;
use bytes::Bytes;
use fjall::config::CompressionPolicy;
use fjall::{
    CompressionType, Database, Guard, Keyspace, KeyspaceCreateOptions, PersistMode, Readable,
    Snapshot, UserKey, UserValue,
};

use super::persisted::PersistedMark;
use super::{
    Direction, Engine, EngineError, EngineOp, KeyRange, Pair, ReadView, Scan, Tree, WriteBatch,
    check_keys, is_empty_range,
};
use crate::disk::RealDisk;

/// The fjall keyspace that holds the engine's own records.
const OWN_KEYSPACE: &str = "engine";
const PERSISTED_KEY: &[u8] = b"persisted";

/// How table blocks are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// As they are.
    None,
    /// LZ4 from the third level on, where most of the data lies.
    Lz4,
}

/// Settings of a [`FjallEngine`].
#[derive(Clone, Debug)]
pub struct FjallOptions {
    /// Bytes of the block cache, shared by all trees.
    pub cache_bytes: u64,
    /// Bytes of each tree's memtable before it is flushed.
    pub memtable_bytes: u64,
    /// Bytes of journals before the trees that hold them up are flushed; at least 64 MiB.
    pub journal_bytes_max: u64,
    /// Threads that flush and compact.
    pub worker_threads: usize,
    /// How new trees store their blocks.
    pub compression: Compression,
}

impl Default for FjallOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            memtable_bytes: 32 << 20,
            journal_bytes_max: 256 << 20,
            worker_threads: 2,
            compression: Compression::Lz4,
        }
    }
}

/// What a pair costs in a memtable besides its bytes.
const PAIR_OVERHEAD_BYTES: u64 = 64;

/// One tree of fjall's.
#[derive(Clone)]
struct TreeHandle {
    keyspace: Keyspace,
    /// Bytes written since the memtable was last sealed.
    unsealed_bytes: Arc<AtomicU64>,
}

type Trees = BTreeMap<Tree, TreeHandle>;

/// Ordered keys on disk.
pub struct FjallEngine {
    db: Database,
    own: Keyspace,
    options: FjallOptions,
    /// Replaced, never changed, so that a view keeps the trees it began with.
    trees: RwLock<Arc<Trees>>,
    persisted: Mutex<PersistedMark>,
}

impl FjallEngine {
    /// Opens the engine in `dir`, making it where there is none.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] when what is there can't be trusted, else [`EngineError::Failed`].
    pub fn open(dir: &Path, options: FjallOptions) -> Result<Self, EngineError> {
        // Some kinds of damage make the library panic.
        catch_unwind(AssertUnwindSafe(|| Self::open_or_panic(dir, options))).unwrap_or_else(|_| {
            let reason = "the library panicked while opening".to_owned();
            Err(EngineError::Damaged { during: "open", reason })
        })
    }

    fn open_or_panic(dir: &Path, options: FjallOptions) -> Result<Self, EngineError> {
        std::fs::create_dir_all(dir).map_err(|e| failed("open", e))?;
        let persisted = PersistedMark::open(&RealDisk, dir).map_err(|e| failed("open", e))?;
        let db = Database::builder(dir.join("fjall"))
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.journal_bytes_max.max(64 << 20))
            .worker_threads(options.worker_threads.max(1))
            .manual_journal_persist(true)
            .open()
            .map_err(|e| error("open", e))?;
        let mut trees = Trees::new();
        for name in db.list_keyspace_names() {
            if let Some(tree) = tree_named(&name) {
                let handle = open_tree(&db, &options, tree).map_err(|e| error("open", e))?;
                trees.insert(tree, handle);
            }
        }
        let own = db
            .keyspace(OWN_KEYSPACE, KeyspaceCreateOptions::default)
            .map_err(|e| error("open", e))?;
        let found = own.get(PERSISTED_KEY).map_err(|e| error("open", e))?;
        let found = found.and_then(|v| v.first_chunk().copied()).map_or(0, u64::from_le_bytes);
        if found < persisted.count() {
            let count = persisted.count();
            let reason = format!("it knows persist {found}, but persist {count} was acknowledged");
            return Err(EngineError::Damaged { during: "open", reason });
        }
        let (trees, persisted) = (RwLock::new(Arc::new(trees)), Mutex::new(persisted));
        Ok(Self { db, own, options, trees, persisted })
    }

    fn trees(&self) -> Arc<Trees> {
        Arc::clone(&self.trees.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The handle of a tree, which is made where it is missing. Making one syncs files.
    fn tree_for_write(&self, tree: Tree) -> Result<TreeHandle, EngineError> {
        if let Some(handle) = self.trees().get(&tree) {
            return Ok(handle.clone());
        }
        let mut trees = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        let handle = open_tree(&self.db, &self.options, tree).map_err(|e| error("write", e))?;
        let mut next = Trees::clone(&trees);
        next.insert(tree, handle.clone());
        *trees = Arc::new(next);
        Ok(handle)
    }

    /// Hands a memtable to the flushing threads once it is large enough. Of several writers that
    /// see it full, one does so.
    fn seal_if_full(&self, handle: &TreeHandle, written: u64) -> Result<(), EngineError> {
        let limit = self.options.memtable_bytes;
        let before = handle.unsealed_bytes.fetch_add(written, Ordering::Relaxed);
        if before + written < limit || handle.unsealed_bytes.swap(0, Ordering::Relaxed) < limit {
            return Ok(());
        }
        handle.keyspace.rotate_memtable().map_err(|e| error("seal", e))?;
        Ok(())
    }

    /// Replaces range deletes by deletes of the keys that are there, the batch's own included.
    fn without_ranges(&self, batch: WriteBatch) -> Result<WriteBatch, EngineError> {
        let view = self.view();
        let mut last: BTreeMap<(Tree, Bytes), Option<Bytes>> = BTreeMap::new();
        for op in batch.into_ops() {
            match op {
                EngineOp::Put { tree, key, value } => {
                    last.insert((tree, key), Some(value));
                }
                EngineOp::Delete { tree, key } => {
                    last.insert((tree, key), None);
                }
                EngineOp::DeleteRange { tree, from, to } => {
                    let end = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                    for ((t, key), value) in last.range_mut((tree, from.clone())..) {
                        if *t != tree || to.as_ref().is_some_and(|to| key >= to) {
                            break;
                        }
                        *value = None;
                    }
                    for pair in view.scan(tree, (Bound::Included(&from), end), Direction::Forward) {
                        last.insert((tree, pair?.0), None);
                    }
                }
            }
        }
        let mut plain = WriteBatch::new();
        for ((tree, key), value) in last {
            match value {
                Some(value) => plain.put(tree, key, value),
                None => plain.delete(tree, key),
            };
        }
        Ok(plain)
    }
}

impl Engine for FjallEngine {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let trees = self.trees();
        let Some(handle) = trees.get(&tree) else { return Ok(None) };
        let value = handle.keyspace.get(key).map_err(|e| error("get", e))?;
        Ok(value.map(value_bytes))
    }

    fn view(&self) -> Box<dyn ReadView> {
        let trees = self.trees();
        Box::new(FjallView { snapshot: self.db.snapshot(), trees })
    }

    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        check_keys(&batch)?;
        let batch = if batch.has_ranges() { self.without_ranges(batch)? } else { batch };
        let mut out = self.db.batch();
        let mut touched: BTreeMap<Tree, (TreeHandle, u64)> = BTreeMap::new();
        for op in batch.ops() {
            let (EngineOp::Put { tree, key, .. } | EngineOp::Delete { tree, key }) = op else {
                continue;
            };
            let (handle, bytes) = match touched.entry(*tree) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert((self.tree_for_write(*tree)?, 0)),
            };
            *bytes += key.len() as u64 + PAIR_OVERHEAD_BYTES;
            // The bytes are copied: a key may be a slice of a message many times its size.
            match op {
                EngineOp::Put { value, .. } => {
                    *bytes += value.len() as u64;
                    out.insert(&handle.keyspace, &key[..], &value[..]);
                }
                _ => out.remove(&handle.keyspace, &key[..]),
            }
        }
        out.commit().map_err(|e| error("write", e))?;
        touched.into_values().try_for_each(|(handle, bytes)| self.seal_if_full(&handle, bytes))
    }

    fn persist(&self) -> Result<(), EngineError> {
        let mut persisted = self.persisted.lock().unwrap_or_else(PoisonError::into_inner);
        let count = persisted.count() + 1;
        self.own.insert(PERSISTED_KEY, count.to_le_bytes()).map_err(|e| error("persist", e))?;
        self.db.persist(PersistMode::SyncData).map_err(|e| error("persist", e))?;
        persisted.record(count).map_err(|e| failed("persist", e))
    }

    fn drop_keyspace(&self, keyspace: KeyspaceId) -> Result<(), EngineError> {
        let mut trees = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Trees::clone(&trees);
        for tree in [Tree::Current(keyspace), Tree::History(keyspace)] {
            if let Some(handle) = next.remove(&tree) {
                self.db.delete_keyspace(handle.keyspace).map_err(|e| error("drop", e))?;
            }
        }
        *trees = Arc::new(next);
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        self.db.disk_space().map_err(|e| error("measure", e))
    }

    fn memory_bytes(&self) -> u64 {
        self.db.cache_size() + self.db.write_buffer_size()
    }

    fn check(&self) -> Result<(), EngineError> {
        let view = self.view();
        for tree in self.trees().keys() {
            for pair in view.scan(*tree, (Bound::Unbounded, Bound::Unbounded), Direction::Forward) {
                pair?;
            }
        }
        Ok(())
    }
}

struct FjallView {
    snapshot: Snapshot,
    trees: Arc<Trees>,
}

impl ReadView for FjallView {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let Some(handle) = self.trees.get(&tree) else { return Ok(None) };
        let value = self.snapshot.get(&handle.keyspace, key).map_err(|e| error("get", e))?;
        Ok(value.map(value_bytes))
    }

    fn scan<'a>(&'a self, tree: Tree, range: KeyRange<'_>, direction: Direction) -> Scan<'a> {
        let Some(handle) = self.trees.get(&tree) else { return Box::new(std::iter::empty()) };
        if is_empty_range(&range) {
            return Box::new(std::iter::empty());
        }
        let range = (range.0.map(<[u8]>::to_vec), range.1.map(<[u8]>::to_vec));
        let found = self.snapshot.range::<Vec<u8>, _>(&handle.keyspace, range);
        match direction {
            Direction::Forward => Box::new(UntilError::new(found.map(pair))),
            Direction::Backward => Box::new(UntilError::new(found.rev().map(pair))),
        }
    }
}

/// Ends a scan after its first error.
struct UntilError<I> {
    rest: Option<I>,
}

impl<I> UntilError<I> {
    fn new(inner: I) -> Self {
        Self { rest: Some(inner) }
    }
}

impl<I: Iterator<Item = Result<Pair, EngineError>>> Iterator for UntilError<I> {
    type Item = Result<Pair, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.rest.as_mut()?.next();
        if matches!(next, None | Some(Err(_))) {
            self.rest = None;
        }
        next
    }
}

fn pair(guard: Guard) -> Result<Pair, EngineError> {
    let (key, value) = guard.into_inner().map_err(|e| error("scan", e))?;
    Ok((key_bytes(key), value_bytes(value)))
}

fn key_bytes(key: UserKey) -> Bytes {
    Bytes::copy_from_slice(&key)
}

fn value_bytes(value: UserValue) -> Bytes {
    Bytes::copy_from_slice(&value)
}

fn tree_name(tree: Tree) -> String {
    match tree {
        Tree::Meta => "meta".to_owned(),
        Tree::Current(keyspace) => format!("current-{keyspace}"),
        Tree::History(keyspace) => format!("history-{keyspace}"),
    }
}

fn tree_named(name: &str) -> Option<Tree> {
    let keyspace = |number: &str| number.parse().ok().map(KeyspaceId);
    match name.split_once('-') {
        None if name == "meta" => Some(Tree::Meta),
        Some(("current", number)) => keyspace(number).map(Tree::Current),
        Some(("history", number)) => keyspace(number).map(Tree::History),
        _ => None,
    }
}

fn open_tree(db: &Database, options: &FjallOptions, tree: Tree) -> fjall::Result<TreeHandle> {
    let keyspace = db.keyspace(&tree_name(tree), || {
        let compression = match options.compression {
            Compression::None => CompressionPolicy::disabled(),
            Compression::Lz4 => CompressionPolicy::new([
                CompressionType::None,
                CompressionType::None,
                CompressionType::Lz4,
            ]),
        };
        KeyspaceCreateOptions::default()
            .max_memtable_size(u64::MAX)
            .manual_journal_persist(true)
            .data_block_compression_policy(compression)
    })?;
    Ok(TreeHandle { keyspace, unsealed_bytes: Arc::default() })
}

fn failed(
    during: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> EngineError {
    EngineError::Failed { during, source: source.into() }
}

/// Sorts the library's errors into damage, full disks and the rest.
fn error(during: &'static str, source: fjall::Error) -> EngineError {
    use fjall::{Error, LsmError};
    match &source {
        Error::Io(io) | Error::Storage(LsmError::Io(io)) => match io.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                EngineError::DiskFull { during }
            }
            // Tables and journals have known lengths: one that ends early was cut.
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData => {
                EngineError::Damaged { during, reason: source.to_string() }
            }
            _ => failed(during, source),
        },
        Error::Poisoned => EngineError::Poisoned { during },
        Error::KeyspaceDeleted | Error::Locked => failed(during, source),
        _ => EngineError::Damaged { during, reason: source.to_string() },
    }
}
