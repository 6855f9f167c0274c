//! Tables on disk, by fjall: what a flush has made of layers.
//!
//! One fjall keyspace per [`Tree`], made when first flushed. A layer comes in as one sorted run per
//! tree ([`Tables::flush`]), past fjall's journal and memtables: the write-ahead log is journal
//! enough. What makes the runs of several trees one step is the redo file.
//!
//! Each flush is counted, in fjall *and*, once fjall has synced, in a small file beside it; tables
//! that know fewer flushes than that file have lost something.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use atoll_base::KeyspaceId;
use atoll_base::ordkey::successor;
use bytes::Bytes;
use fjall::config::{CompressionPolicy, FilterPolicy};
use fjall::{
    CompressionType, Database, Guard, Keyspace, KeyspaceCreateOptions, PersistMode, Readable,
    Snapshot,
};

use super::layer::{Layer, Run};
use super::persisted::PersistedMark;
use super::redo::{RedoError, RedoFile};
use super::rows::{Moment, Rows};
use super::stretches::{self, Stretches};
use super::table_scan::{Below, TableScan};
use super::{Direction, EngineError, KeyRange, Pair, Scan, Tree, is_empty_range};
use crate::disk::RealDisk;

/// The fjall keyspace that holds the engine's own records.
const OWN_KEYSPACE: &str = "engine";
const PERSISTED_KEY: &[u8] = b"persisted";

/// More changes than one run of the process makes; the library's counter holds 2^63.
const RUN_CHANGES_MAX: u64 = 1 << 32;

/// Runs in a tree's first level from which on a flush waits for compaction.
const RUNS_MAX: usize = 24;
/// How long a flush waits at most, and how often it looks.
const RUNS_WAIT_MAX: Duration = Duration::from_secs(30);
const RUNS_LOOK: Duration = Duration::from_millis(20);

/// How table blocks are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// As they are.
    None,
    /// LZ4 from the third level on, where most of the data lies.
    Lz4,
}

/// Settings of a [`FjallEngine`](super::FjallEngine).
#[derive(Clone, Debug)]
pub struct FjallOptions {
    /// Bytes of what is kept of the tables in memory, for all trees: an eighth for single rows, a
    /// quarter for what scans found, the rest for blocks.
    pub cache_bytes: u64,
    /// Bytes of recent writes in memory before they are flushed; twice that, and what is being
    /// flushed, are held at most.
    pub layer_bytes: u64,
    /// Threads that compact. With more than one the library keeps the first for flushes of its
    /// own, which never come, and that one turns idly while another compacts.
    pub worker_threads: usize,
    /// How new trees store their blocks.
    pub compression: Compression,
}

impl Default for FjallOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            layer_bytes: 32 << 20,
            worker_threads: 1,
            compression: Compression::Lz4,
        }
    }
}

pub(super) type Trees = BTreeMap<Tree, Keyspace>;

/// Flushes that ended, and how far the next one has come: after a full disk it goes on from there.
struct Flushes {
    persisted: PersistedMark,
    /// The next flush has its redo file, whole and durable.
    has_redo: bool,
    /// The trees that have their part of the next flush.
    taken: BTreeSet<Tree>,
}

impl Flushes {
    /// The number of the next flush.
    fn next(&self) -> u64 {
        self.persisted.count() + 1
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.persisted.record(self.next())?;
        self.has_redo = false;
        self.taken.clear();
        Ok(())
    }
}

/// Everything that was flushed.
pub(super) struct Tables {
    db: Database,
    own: Keyspace,
    compression: Compression,
    /// Replaced, never changed, so that a view keeps the trees it began with.
    trees: RwLock<Arc<Trees>>,
    rows: Rows,
    stretches: Arc<Stretches>,
    flushes: Mutex<Flushes>,
    redo: RedoFile,
    /// The library's folder of trees.
    trees_dir: PathBuf,
}

impl Tables {
    /// Opens the tables in `dir` and carries a flush to its end that was under way.
    pub(super) fn open(dir: &Path, options: &FjallOptions) -> Result<Self, EngineError> {
        std::fs::create_dir_all(dir).map_err(|e| failed("open", e))?;
        let persisted = PersistedMark::open(&RealDisk, dir).map_err(|e| failed("open", e))?;
        let (rows_bytes, stretches_bytes) = (options.cache_bytes / 8, options.cache_bytes / 4);
        let db = Database::builder(dir.join("fjall"))
            .cache_size(options.cache_bytes - rows_bytes - stretches_bytes)
            .worker_threads(options.worker_threads.max(1))
            .manual_journal_persist(true)
            .open()
            .map_err(|e| error("open", e))?;
        let mut trees = Trees::new();
        for name in db.list_keyspace_names() {
            if let Some(tree) = tree_named(&name) {
                let handle =
                    open_tree(&db, options.compression, tree).map_err(|e| error("open", e))?;
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
        // The library finds its counter of changes from the trees alone, though drops of trees
        // count in it too and their numbers of trees are used again: a tree made now could look
        // older than the drop of one before it. So each run begins far above all that the one
        // before can have counted, and says so on the disk.
        db.supervisor.seqno.fetch_max(db.seqno() + RUN_CHANGES_MAX);
        own.insert(PERSISTED_KEY, found.to_le_bytes()).map_err(|e| error("open", e))?;
        db.persist(PersistMode::SyncData).map_err(|e| error("open", e))?;
        let tables = Self {
            db,
            own,
            compression: options.compression,
            trees: RwLock::new(Arc::new(trees)),
            rows: Rows::new(rows_bytes),
            stretches: Arc::new(Stretches::new(stretches_bytes)),
            flushes: Mutex::new(Flushes { persisted, has_redo: false, taken: BTreeSet::new() }),
            redo: RedoFile::new(dir),
            trees_dir: dir.join("fjall/keyspaces"),
        };
        tables.finish_flush()?;
        Ok(tables)
    }

    /// Carries out what the redo file says.
    fn finish_flush(&self) -> Result<(), EngineError> {
        let (number, layer) = match self.redo.read() {
            Ok(None) => return Ok(()),
            Ok(Some(found)) => found,
            Err(RedoError::Io(e)) => return Err(io_error("open", e)),
            Err(RedoError::Damaged(reason)) => {
                return Err(EngineError::Damaged { during: "open", reason });
            }
        };
        let mut flushes = self.flushes();
        match number.checked_sub(flushes.persisted.count()) {
            Some(0) => {}
            Some(1) => self.take_in(layer.runs(), &mut flushes)?,
            _ => {
                let count = flushes.persisted.count();
                let reason = format!("redo file of flush {number} stands beside flush {count}");
                return Err(EngineError::Damaged { during: "open", reason });
            }
        }
        self.redo.remove().map_err(|e| io_error("open", e))
    }

    /// Puts a layer into the tables, all or nothing; on return it survives a power loss. After an
    /// error the same layer must come again.
    pub(super) fn flush(&self, layer: &Layer) -> Result<(), EngineError> {
        let mut flushes = self.flushes();
        let runs = layer.runs();
        if !flushes.has_redo {
            self.redo.write(flushes.next(), &runs).map_err(|e| io_error("flush", e))?;
            flushes.has_redo = true;
        }
        self.take_in(runs, &mut flushes)?;
        self.redo.remove().map_err(|e| io_error("flush", e))
    }

    fn take_in(&self, runs: Vec<(Tree, Run)>, flushes: &mut Flushes) -> Result<(), EngineError> {
        // Fails if one of the library's threads met an error: then nothing is begun.
        self.db.persist(PersistMode::Buffer).map_err(|e| error("flush", e))?;
        let wait_until = Instant::now() + RUNS_WAIT_MAX;
        self.stretches.flush_begins();
        for (tree, run) in runs {
            if flushes.taken.contains(&tree) {
                continue;
            }
            self.rows.renew(tree, &run);
            self.stretches.renew(tree, &run);
            let handle = self.tree_for_write(tree)?;
            wait_for_compaction(&handle, wait_until);
            let mut table = handle.start_ingestion().map_err(|e| error("flush", e))?;
            run.into_iter()
                .try_for_each(|(key, value)| match value {
                    Some(value) => table.write(key, value),
                    None => table.write_tombstone(key),
                })
                .and_then(|()| table.finish())
                .map_err(|e| error("flush", e))?;
            flushes.taken.insert(tree);
        }
        self.stretches.flush_ended();
        // Fails if one of fjall's threads met an error.
        let number = flushes.next().to_le_bytes();
        self.own.insert(PERSISTED_KEY, number).map_err(|e| error("flush", e))?;
        self.db.persist(PersistMode::SyncData).map_err(|e| error("flush", e))?;
        flushes.end().map_err(|e| io_error("flush", e))
    }

    fn flushes(&self) -> MutexGuard<'_, Flushes> {
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn trees(&self) -> Arc<Trees> {
        Arc::clone(&self.trees.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The handle of a tree, which is made where it is missing. Making one syncs files; readers
    /// don't wait for it. Trees change only while a flush or a drop is under way, one at a time.
    fn tree_for_write(&self, tree: Tree) -> Result<Keyspace, EngineError> {
        let trees = self.trees();
        if let Some(handle) = trees.get(&tree) {
            return Ok(handle.clone());
        }
        let handle = open_tree(&self.db, self.compression, tree).map_err(|e| error("flush", e))?;
        File::open(&self.trees_dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| io_error("flush", e))?;
        let mut next = Trees::clone(&trees);
        next.insert(tree, handle.clone());
        self.set_trees(next);
        Ok(handle)
    }

    fn set_trees(&self, trees: Trees) {
        let mut current = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, Arc::new(trees));
        drop(current);
        // The last handle of a dropped tree removes its files.
        drop(before);
    }

    /// To be taken before the layers are looked at, for [`Tables::get`].
    pub(super) fn moment(&self) -> Moment {
        self.rows.moment()
    }

    /// The value of `key`, which was in no layer at `moment`. The bytes are its own: a block that
    /// it lay in is not kept.
    pub(super) fn get(
        &self,
        tree: Tree,
        key: &[u8],
        moment: Moment,
    ) -> Result<Option<Bytes>, EngineError> {
        if let Some(row) = self.rows.get(tree, key) {
            return Ok(Some(row));
        }
        let trees = self.trees();
        let Some(handle) = trees.get(&tree) else { return Ok(None) };
        let value = handle.get(key).map_err(|e| error("get", e))?;
        let Some(value) = value else { return Ok(None) };
        let value = Bytes::copy_from_slice(&value);
        self.rows.keep(tree, key, &value, moment);
        Ok(Some(value))
    }

    /// To be taken before the layers are looked at, for [`Tables::view`].
    pub(super) fn view_moment(&self) -> stretches::Moment {
        self.stretches.moment()
    }

    /// A picture of the tables as they are, while `sealed` is to be flushed or is being flushed;
    /// no other layer is sealed meanwhile.
    pub(super) fn view(
        &self,
        moment: stretches::Moment,
        sealed: Option<&Arc<Layer>>,
    ) -> TablesView {
        let (snapshot, trees) = (self.db.snapshot(), self.trees());
        let moment = self.stretches.settle(moment, sealed);
        TablesView { snapshot, trees, stretches: Arc::clone(&self.stretches), moment }
    }

    /// Forgets a keyspace's trees; not while a flush is under way.
    pub(super) fn drop_keyspace(&self, keyspace: KeyspaceId) -> Result<(), EngineError> {
        let mut next = Trees::clone(&self.trees());
        for tree in [Tree::Current(keyspace), Tree::History(keyspace)] {
            if let Some(handle) = next.remove(&tree) {
                self.db.delete_keyspace(handle).map_err(|e| error("drop", e))?;
                self.set_trees(next.clone());
            }
        }
        self.rows.forget(keyspace);
        self.stretches.forget(keyspace);
        Ok(())
    }

    /// Replaces the redo file of a flush that failed, so that it no longer holds what was dropped
    /// since.
    pub(super) fn rewrite_redo(&self, layer: &Layer) -> Result<(), EngineError> {
        let flushes = self.flushes();
        if !self.redo.exists().map_err(|e| io_error("drop", e))? {
            return Ok(());
        }
        self.redo.write(flushes.next(), &layer.runs()).map_err(|e| io_error("drop", e))
    }

    pub(super) fn disk_bytes(&self) -> Result<u64, EngineError> {
        self.db.disk_space().map_err(|e| error("measure", e))
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let kept = self.rows.bytes() + self.stretches.bytes();
        self.db.cache_size() + self.db.write_buffer_size() + kept
    }

    /// Bytes of what scans found.
    #[cfg(test)]
    pub(super) fn stretches_bytes(&self) -> u64 {
        self.stretches.bytes()
    }
}

/// A picture of the tables.
pub(super) struct TablesView {
    snapshot: Snapshot,
    trees: Arc<Trees>,
    stretches: Arc<Stretches>,
    moment: stretches::Moment,
}

impl TablesView {
    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let Some(handle) = self.trees.get(&tree) else { return Ok(None) };
        let value = self.snapshot.get(handle, key).map_err(|e| error("get", e))?;
        Ok(value.map(Bytes::from))
    }

    /// `None` when nothing of the tree was ever flushed.
    pub(super) fn scan<'a>(
        &'a self,
        tree: Tree,
        range: KeyRange<'_>,
        direction: Direction,
    ) -> Option<Scan<'a>> {
        let handle = self.trees.get(&tree)?;
        if is_empty_range(&range) {
            return None;
        }
        let (Tree::Current(keyspace), Direction::Forward) = (tree, direction) else {
            return Some(self.read(handle, range, direction));
        };
        let from = match range.0 {
            Bound::Included(key) => Bytes::copy_from_slice(key),
            Bound::Excluded(key) => successor(key),
            Bound::Unbounded => Bytes::new(),
        };
        let to = match range.1 {
            Bound::Included(key) => Some(successor(key)),
            Bound::Excluded(key) => Some(Bytes::copy_from_slice(key)),
            Bound::Unbounded => None,
        };
        let below = TreeView { tables: self, handle };
        let stretches = (&*self.stretches, &self.moment);
        Some(Box::new(TableScan::new(below, stretches, keyspace, (from, to))))
    }

    /// Reads every pair of every tree from the tables themselves.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        let everything = (Bound::Unbounded, Bound::Unbounded);
        let trees = self.trees.values();
        trees
            .flat_map(|handle| self.read(handle, everything, Direction::Forward))
            .try_for_each(|pair| pair.map(drop))
    }

    fn read<'a>(
        &'a self,
        handle: &'a Keyspace,
        range: KeyRange<'_>,
        direction: Direction,
    ) -> Scan<'a> {
        let range = (range.0.map(<[u8]>::to_vec), range.1.map(<[u8]>::to_vec));
        let found = self.snapshot.range::<Vec<u8>, _>(handle, range);
        match direction {
            Direction::Forward => Box::new(UntilError::new(found.map(pair))),
            Direction::Backward => Box::new(UntilError::new(found.rev().map(pair))),
        }
    }
}

/// One tree of a view.
struct TreeView<'a> {
    tables: &'a TablesView,
    handle: &'a Keyspace,
}

impl<'a> Below<'a> for TreeView<'a> {
    fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Scan<'a> {
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        self.tables.read(self.handle, (Bound::Included(from), to), Direction::Forward)
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
    Ok((key.into(), value.into()))
}

/// Lets compaction catch up where a tree has many runs, for a while.
fn wait_for_compaction(handle: &Keyspace, until: Instant) {
    while handle.l0_table_count() >= RUNS_MAX && Instant::now() < until {
        std::thread::sleep(RUNS_LOOK);
    }
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

fn open_tree(db: &Database, compression: Compression, tree: Tree) -> fjall::Result<Keyspace> {
    db.keyspace(&tree_name(tree), || {
        let compression = match compression {
            Compression::None => CompressionPolicy::disabled(),
            Compression::Lz4 => CompressionPolicy::new([
                CompressionType::None,
                CompressionType::None,
                CompressionType::Lz4,
            ]),
        };
        let options = KeyspaceCreateOptions::default()
            .manual_journal_persist(true)
            .data_block_compression_policy(compression);
        match tree {
            Tree::Current(_) => options,
            // Filters serve lookups of single keys that may not be there, which are rare in these.
            Tree::History(_) | Tree::Meta => options.filter_policy(FilterPolicy::disabled()),
        }
    })
}

/// An error of a file of our own.
fn io_error(during: &'static str, source: std::io::Error) -> EngineError {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            EngineError::DiskFull { during }
        }
        _ => failed(during, source),
    }
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
