//! An engine in memory, for the simulator and for tests: it keeps several versions of each key, so
//! that a view costs nothing and a crash can return to any batch since the last persist.
//!
//! Batches are numbered. A version carries its batch's number; a view is a number. A version may go
//! once a newer one is at or below every live view and the persisted number. Same calls, same
//! answers: there is no clock, no thread and no unseeded choice here.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use atoll_base::{KeyspaceId, Rng};
use bytes::Bytes;

use super::{
    Direction, Engine, EngineError, EngineOp, KeyRange, Pair, ReadView, Scan, Tree, WriteBatch,
    as_slice, check_keys, is_empty_range,
};

/// Pairs that a scan takes out under its first lock, and twice as many under each further one:
/// many a scan wants a few pairs only.
const SCAN_CHUNK_MIN: usize = 4;
/// Pairs that a scan takes out under one lock at most.
const SCAN_CHUNK_MAX: usize = 64;

/// The number of a batch, from 1; 0 is before the first.
type BatchNumber = u64;

/// A key's versions, oldest first; `None` is a delete.
type Versions = Vec<(BatchNumber, Option<Bytes>)>;

#[derive(Default)]
struct State {
    trees: BTreeMap<Tree, BTreeMap<Bytes, Versions>>,
    /// The newest batch.
    newest: BatchNumber,
    /// Batches up to here survive a crash.
    persisted: BatchNumber,
    /// Live views by what they see, and how many of each.
    views: BTreeMap<BatchNumber, usize>,
    /// Keys that have versions to drop once the floor moves on, each of them once.
    untidy: Vec<(Tree, Bytes)>,
    /// The floor of the last tidying.
    tidied: BatchNumber,
    /// Refuse writes, as a full disk does.
    is_full: bool,
}

/// Ordered keys in memory. Clones share the data, as a reopened engine on the same disk would.
#[derive(Clone, Default)]
pub struct MemEngine {
    state: Arc<Mutex<State>>,
}

impl MemEngine {
    /// An empty engine.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses power: returns to the persisted batch or, as `rng` decides, to a later one. Views made
    /// before are void: they read what is left.
    pub fn crash(&self, rng: &mut Rng) {
        let mut state = self.lock();
        let kept = rng.range(state.persisted, state.newest + 1);
        state.forget_after(kept);
    }

    /// Loses power and everything that was not persisted.
    pub fn crash_to_persisted(&self) {
        let mut state = self.lock();
        let kept = state.persisted;
        state.forget_after(kept);
    }

    /// The number of the newest batch: what a persist that begins now will surely have.
    #[must_use]
    pub fn newest_batch(&self) -> u64 {
        self.lock().newest
    }

    /// A persist ends that began when `batch` was the newest one: what came later may be lost.
    pub fn persist_to(&self, batch: u64) {
        let mut state = self.lock();
        state.persisted = state.persisted.max(batch.min(state.newest));
        state.tidy();
    }

    /// Makes later writes fail with [`EngineError::DiskFull`].
    pub fn fill_disk(&self) {
        self.lock().is_full = true;
    }

    /// Lets writes succeed again.
    pub fn free_disk(&self) {
        self.lock().is_full = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the engine's lock")
    }
}

impl Engine for MemEngine {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let state = self.lock();
        Ok(state.get(tree, key, state.newest))
    }

    fn view(&self) -> Box<dyn ReadView> {
        let mut state = self.lock();
        let at = state.newest;
        *state.views.entry(at).or_default() += 1;
        drop(state);
        Box::new(MemView { state: Arc::clone(&self.state), at })
    }

    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        check_keys(&batch)?;
        let mut state = self.lock();
        if state.is_full {
            return Err(EngineError::DiskFull { during: "write" });
        }
        state.newest += 1;
        for op in batch.into_ops() {
            state.apply(op);
        }
        state.tidy();
        Ok(())
    }

    fn persist(&self) -> Result<(), EngineError> {
        let mut state = self.lock();
        state.persisted = state.newest;
        state.tidy();
        Ok(())
    }

    fn drop_keyspace(&self, keyspace: KeyspaceId) -> Result<(), EngineError> {
        let mut state = self.lock();
        state.trees.remove(&Tree::Current(keyspace));
        state.trees.remove(&Tree::History(keyspace));
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        Ok(self.memory_bytes())
    }

    fn memory_bytes(&self) -> u64 {
        let state = self.lock();
        let pairs = state.trees.values().flatten();
        pairs
            .map(|(key, versions)| {
                let values = versions.iter().filter_map(|(_, v)| v.as_ref()).map(Bytes::len);
                (key.len() + values.sum::<usize>()) as u64
            })
            .sum()
    }

    fn check(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

impl State {
    fn get(&self, tree: Tree, key: &[u8], at: BatchNumber) -> Option<Bytes> {
        visible(self.trees.get(&tree)?.get(key)?, at).cloned()
    }

    fn apply(&mut self, op: EngineOp) {
        match op {
            EngineOp::Put { tree, key, value } => self.set(tree, key, Some(value)),
            EngineOp::Delete { tree, key } => self.set(tree, key, None),
            EngineOp::DeleteRange { tree, from, to } => {
                let end = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                for (key, _) in self.chunk(
                    tree,
                    (Bound::Included(&from), end),
                    Direction::Forward,
                    self.newest,
                    usize::MAX,
                ) {
                    self.set(tree, key, None);
                }
            }
        }
    }

    fn set(&mut self, tree: Tree, key: Bytes, value: Option<Bytes>) {
        let pairs = self.trees.entry(tree).or_default();
        let mut known = match pairs.entry(key) {
            Entry::Occupied(known) => known,
            Entry::Vacant(new) => {
                if value.is_some() {
                    new.insert(vec![(self.newest, value)]);
                }
                return;
            }
        };
        let versions = known.get_mut();
        let was_tidy = is_tidy(versions);
        match versions.last_mut() {
            Some(last) if last.0 == self.newest => last.1 = value,
            _ => versions.push((self.newest, value)),
        }
        if was_tidy && !is_tidy(versions) {
            self.untidy.push((tree, known.key().clone()));
        }
    }

    /// Drops versions that nobody can see any more.
    fn tidy(&mut self) {
        let oldest_view = self.views.keys().next().copied().unwrap_or(self.newest);
        let floor = oldest_view.min(self.persisted);
        if floor == self.tidied {
            return;
        }
        self.tidied = floor;
        let untidy = std::mem::take(&mut self.untidy);
        for (tree, key) in untidy {
            let Some(pairs) = self.trees.get_mut(&tree) else { continue };
            let Some(versions) = pairs.get_mut(&key) else { continue };
            let first = versions.iter().rposition(|(n, _)| *n <= floor).unwrap_or(0);
            versions.drain(..first);
            if versions.len() == 1 && versions[0].1.is_none() && versions[0].0 <= floor {
                pairs.remove(&key);
            } else if !is_tidy(versions) {
                self.untidy.push((tree, key));
            }
        }
    }

    /// Forgets every batch after `kept`, which becomes the newest and the persisted one.
    fn forget_after(&mut self, kept: BatchNumber) {
        for pairs in self.trees.values_mut() {
            pairs.retain(|_, versions| {
                versions.retain(|(n, _)| *n <= kept);
                versions.drain(..versions.len().saturating_sub(1));
                versions.first().is_some_and(|(_, value)| value.is_some())
            });
        }
        self.newest = kept;
        self.persisted = kept;
        self.untidy.clear();
    }

    fn chunk(
        &self,
        tree: Tree,
        range: KeyRange<'_>,
        direction: Direction,
        at: BatchNumber,
        count_max: usize,
    ) -> Vec<Pair> {
        let Some(pairs) = self.trees.get(&tree) else { return Vec::new() };
        if is_empty_range(&range) {
            return Vec::new();
        }
        let seen = |(key, versions): (&Bytes, &Versions)| {
            visible(versions, at).map(|value| (key.clone(), value.clone()))
        };
        let range = pairs.range::<[u8], _>(range);
        match direction {
            Direction::Forward => range.filter_map(seen).take(count_max).collect(),
            Direction::Backward => range.rev().filter_map(seen).take(count_max).collect(),
        }
    }
}

/// True when a key has one version, and that is a value.
fn is_tidy(versions: &Versions) -> bool {
    matches!(&versions[..], [(_, Some(_))])
}

fn visible(versions: &Versions, at: BatchNumber) -> Option<&Bytes> {
    versions.iter().rev().find(|(n, _)| *n <= at)?.1.as_ref()
}

struct MemView {
    state: Arc<Mutex<State>>,
    at: BatchNumber,
}

impl MemView {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the engine's lock")
    }
}

impl ReadView for MemView {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.lock().get(tree, key, self.at))
    }

    fn scan<'a>(&'a self, tree: Tree, range: KeyRange<'_>, direction: Direction) -> Scan<'a> {
        Box::new(MemScan {
            view: self,
            tree,
            from: range.0.map(Bytes::copy_from_slice),
            to: range.1.map(Bytes::copy_from_slice),
            direction,
            chunk: SCAN_CHUNK_MIN,
            ready: VecDeque::new(),
            is_exhausted: false,
        })
    }

    fn visit(
        &self,
        tree: Tree,
        range: KeyRange<'_>,
        see: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), EngineError> {
        if is_empty_range(&range) {
            return Ok(());
        }
        let state = self.lock();
        let pairs = state.trees.get(&tree).into_iter().flat_map(|t| t.range::<[u8], _>(range));
        for (key, versions) in pairs {
            if let Some(value) = visible(versions, self.at) {
                see(key, value);
            }
        }
        Ok(())
    }
}

impl Drop for MemView {
    fn drop(&mut self) {
        let mut state = self.lock();
        if let Some(count) = state.views.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                state.views.remove(&self.at);
            }
        }
    }
}

/// A scan that holds no lock between two chunks, so that writes may happen meanwhile.
struct MemScan<'a> {
    view: &'a MemView,
    tree: Tree,
    from: Bound<Bytes>,
    to: Bound<Bytes>,
    direction: Direction,
    /// Pairs to take out next.
    chunk: usize,
    ready: VecDeque<Pair>,
    is_exhausted: bool,
}

impl MemScan<'_> {
    fn refill(&mut self) {
        let range = (as_slice(&self.from), as_slice(&self.to));
        let state = self.view.lock();
        let chunk = state.chunk(self.tree, range, self.direction, self.view.at, self.chunk);
        drop(state);
        self.is_exhausted = chunk.len() < self.chunk;
        self.chunk = (self.chunk * 2).min(SCAN_CHUNK_MAX);
        if let Some((last, _)) = chunk.last() {
            match self.direction {
                Direction::Forward => self.from = Bound::Excluded(last.clone()),
                Direction::Backward => self.to = Bound::Excluded(last.clone()),
            }
        }
        self.ready = chunk.into();
    }
}

impl Iterator for MemScan<'_> {
    type Item = Result<Pair, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() && !self.is_exhausted {
            self.refill();
        }
        self.ready.pop_front().map(Ok)
    }
}
