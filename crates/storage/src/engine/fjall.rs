//! The engine on disk: recent writes in memory over the tables of fjall, a log-structured merge
//! tree in Rust.
//!
//! Writes go to a layer in memory, in order, and cost what a map costs; what a crash takes of it,
//! the write-ahead log replays. In the background a full layer becomes tables, in one step
//! (`engine::flush`, `engine::tables`, `engine::redo`). So a key that is written often reaches
//! the disk once per layer, fjall's own journal and memtables stay empty, and a crash leaves the
//! state of some flush: a prefix of the batches (E2).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use atoll_base::KeyspaceId;
use bytes::Bytes;

use super::flush::{Held, LayeredTables, yield_to_lanes};
use super::layer::LayerScan;
use super::merged::MergedScan;
use super::tables::{FjallOptions, Tables, TablesView};
use super::{
    Direction, Engine, EngineError, EngineOp, KeyRange, ReadView, Scan, Tree, WriteBatch,
    check_keys,
};

/// Ordered keys on disk.
pub struct FjallEngine {
    layered: LayeredTables,
}

impl FjallEngine {
    /// Opens the engine in `dir`, making it where there is none.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] when what is there can't be trusted, else [`EngineError::Failed`].
    pub fn open(dir: &Path, options: FjallOptions) -> Result<Self, EngineError> {
        // The library's threads take their priority from the one that starts them. And some kinds
        // of damage make it panic.
        let opened = std::thread::scope(|scope| {
            let open = || {
                yield_to_lanes();
                Tables::open(dir, &options)
            };
            scope.spawn(open).join()
        });
        let tables = opened.unwrap_or_else(|_| {
            let reason = "the library panicked while opening".to_owned();
            Err(EngineError::Damaged { during: "open", reason })
        })?;
        let layered = LayeredTables::start(tables, options.layer_bytes.max(1))
            .map_err(|e| EngineError::Failed { during: "open", source: e.into() })?;
        Ok(Self { layered })
    }

    /// Bytes of what scans found and the engine keeps.
    #[cfg(test)]
    pub(super) fn stretches_bytes(&self) -> u64 {
        self.layered.tables().stretches_bytes()
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
        self.layered.get(tree, key)
    }

    fn prefetch(&self, tree: Tree, keys: &[&[u8]]) {
        self.layered.prefetch(tree, keys);
    }

    fn view(&self) -> Box<dyn ReadView> {
        let (layers, tables) = self.layered.view();
        Box::new(FjallView { layers, tables })
    }

    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        check_keys(&batch)?;
        let batch = if batch.has_ranges() { self.without_ranges(batch)? } else { batch };
        self.layered.write(batch)
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.layered.persist()
    }

    fn drop_keyspace(&self, keyspace: KeyspaceId) -> Result<(), EngineError> {
        self.layered.drop_keyspace(keyspace)
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        self.layered.tables().disk_bytes()
    }

    fn memory_bytes(&self) -> u64 {
        self.layered.layer_bytes() + self.layered.tables().memory_bytes()
    }

    fn check(&self) -> Result<(), EngineError> {
        self.layered.view().1.check()
    }
}

/// A moment of the layers and of the tables.
struct FjallView {
    /// Newest first.
    layers: Vec<Held>,
    tables: TablesView,
}

impl ReadView for FjallView {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let above = self.layers.iter().find_map(|held| held.layer.get(tree, key, held.number));
        match above {
            Some(value) => Ok(value),
            None => self.tables.get(tree, key),
        }
    }

    fn scan<'a>(&'a self, tree: Tree, range: KeyRange<'_>, direction: Direction) -> Scan<'a> {
        let layers = self
            .layers
            .iter()
            .filter_map(|held| LayerScan::new(&held.layer, held.number, tree, range, direction));
        let layers: Vec<_> = layers.collect();
        let tables = self.tables.scan(tree, range, direction);
        match tables {
            Some(tables) if layers.is_empty() => tables,
            tables => Box::new(MergedScan::new(layers.into_iter(), tables, direction)),
        }
    }
}
