//! A layer: recent batches in memory, over what lies in tables.
//!
//! Batches are numbered within their layer. Each key has its newest value and, only where a live
//! view still looks at them, older ones; a view is a number. Nothing here is durable: the
//! write-ahead log has what a crash takes.
//!
//! History and records of changes are written with every change and seldom read. What is written to
//! their trees waits in a tail, in the order of writing, until somebody reads the tree or it is
//! flushed; then it is sorted in.
//!
//! Keys and values lie in the layer's own blocks ([`Arena`]), so that what is counted is what there
//! is. A version that moves to history in the layer that it was written to is not copied again.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::arena::Arena;
pub(super) use super::sorted::BatchNumber;
use super::sorted::{KEY_OVERHEAD_BYTES, Sorted, Versions};
use super::{Direction, EngineOp, KeyRange, Tree, WriteBatch, as_slice, is_empty_range};

/// Sees every batch, whatever comes.
pub(super) const NEWEST: BatchNumber = BatchNumber::MAX;

/// What a layer knows of a key: its value, or that it was deleted.
pub(super) type Change = (Bytes, Option<Bytes>);

/// What a change costs beside its bytes as long as it waits.
const WAITING_OVERHEAD_BYTES: u64 = size_of::<Waiting>() as u64;

/// A change that is not sorted in yet.
struct Waiting {
    key: Bytes,
    number: BatchNumber,
    value: Option<Bytes>,
}

/// The changes of one tree.
#[derive(Default)]
struct Changes {
    sorted: Sorted,
    /// Later than what is sorted, in the order of writing.
    tail: Tail,
}

/// Changes in the order of writing, in pieces that stay where they are as it grows.
#[derive(Default)]
struct Tail {
    pieces: Vec<Vec<Waiting>>,
}

/// Changes in one piece of a tail.
const PIECE_LEN: usize = 256;

impl Tail {
    fn push(&mut self, waiting: Waiting) {
        match self.pieces.last_mut() {
            Some(last) if last.len() < PIECE_LEN => last.push(waiting),
            // The first grows with what is in it: most trees are small.
            None => self.pieces.push(vec![waiting]),
            Some(_) => {
                let mut piece = Vec::with_capacity(PIECE_LEN);
                piece.push(waiting);
                self.pieces.push(piece);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn len(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }

    fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.pieces.iter().flatten()
    }

    /// All of it in one piece.
    fn take(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.pieces).into_iter().flatten().collect()
    }
}

#[derive(Default)]
struct State {
    trees: BTreeMap<Tree, Changes>,
    newest: BatchNumber,
    arena: Arena,
}

/// Live views by what they see, and how many of each.
type Views = BTreeMap<BatchNumber, usize>;

/// All changes of one tree, each key once, in order.
pub(super) type Run = Vec<Change>;

/// Recent batches.
///
/// No lock is held for long: lanes read a layer while it is flushed.
#[derive(Default)]
pub(super) struct Layer {
    state: RwLock<State>,
    /// Taken after `state` where both are.
    views: Mutex<Views>,
    bytes: AtomicU64,
}

impl Layer {
    /// Bytes of memory, roughly.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes a batch without range deletes.
    pub(super) fn write(&self, batch: WriteBatch) {
        let mut state = self.write_state();
        let views = self.views();
        state.newest += 1;
        let mut added = 0;
        for op in batch.into_ops() {
            match op {
                EngineOp::Put { tree, key, value } => {
                    added += state.set(tree, key, Some(value), &views);
                }
                EngineOp::Delete { tree, key } => added += state.set(tree, key, None, &views),
                EngineOp::DeleteRange { .. } => unreachable!("range deletes were replaced"),
            }
        }
        self.bytes.fetch_add(added, Ordering::Relaxed);
    }

    /// What is known of `key` at `number`; `None` when nothing is.
    pub(super) fn get(&self, tree: Tree, key: &[u8], number: BatchNumber) -> Option<Option<Bytes>> {
        let state = self.sorted(tree);
        state.trees.get(&tree)?.sorted.get(key)?.at(number).cloned()
    }

    /// Brings what is known of these keys near.
    pub(super) fn prefetch(&self, tree: Tree, keys: &[&[u8]]) {
        if let Some(changes) = self.read_state().trees.get(&tree) {
            changes.sorted.prefetch(keys);
        }
    }

    /// Keeps what there is now alive until [`Layer::release`].
    pub(super) fn hold(&self) -> BatchNumber {
        let state = self.read_state();
        let number = state.newest;
        *self.views().entry(number).or_default() += 1;
        number
    }

    /// Ends a [`Layer::hold`].
    pub(super) fn release(&self, number: BatchNumber) {
        let mut views = self.views();
        if let Some(count) = views.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                views.remove(&number);
            }
        }
    }

    /// Up to `count_max` changes of `range` as seen at `number`, in order.
    pub(super) fn chunk(
        &self,
        tree: Tree,
        range: KeyRange<'_>,
        direction: Direction,
        number: BatchNumber,
        count_max: usize,
    ) -> Vec<Change> {
        let state = self.sorted(tree);
        let Some(changes) = state.trees.get(&tree) else { return Vec::new() };
        if is_empty_range(&range) {
            return Vec::new();
        }
        let seen = |(key, versions): (&Bytes, &Versions)| {
            versions.at(number).map(|value| (key.clone(), value.clone()))
        };
        let found = changes.sorted.range(range);
        match direction {
            Direction::Forward => found.filter_map(seen).take(count_max).collect(),
            Direction::Backward => found.rev().filter_map(seen).take(count_max).collect(),
        }
    }

    /// The newest changes of every tree that has any.
    pub(super) fn runs(&self) -> Vec<(Tree, Run)> {
        let trees: Vec<Tree> = self.read_state().trees.keys().copied().collect();
        let runs = trees.into_iter().map(|tree| (tree, self.run(tree)));
        runs.filter(|(_, run)| !run.is_empty()).collect()
    }

    fn run(&self, tree: Tree) -> Run {
        let state = self.read_state();
        let Some(changes) = state.trees.get(&tree) else { return Run::new() };
        let sorted = changes.sorted.iter().map(|(key, versions)| (key, &versions.value));
        let tail = changes.tail.iter().map(|waiting| (&waiting.key, &waiting.value));
        let mut run = Run::with_capacity(changes.sorted.len() + changes.tail.len());
        run.extend(sorted.chain(tail).map(|(key, value)| (key.clone(), value.clone())));
        let has_tail = !changes.tail.is_empty();
        drop(state);
        if has_tail {
            sort(&mut run);
            // Of several changes of a key the last one counts.
            run.dedup_by(|later, kept| {
                let is_same = later.0 == kept.0;
                if is_same {
                    std::mem::swap(later, kept);
                }
                is_same
            });
        }
        run
    }

    /// Forgets a tree's changes, for views too.
    pub(super) fn forget(&self, tree: Tree) {
        self.write_state().trees.remove(&tree);
    }

    /// The state with all changes of `tree` sorted in.
    fn sorted(&self, tree: Tree) -> RwLockReadGuard<'_, State> {
        loop {
            let state = self.read_state();
            if state.trees.get(&tree).is_none_or(|changes| changes.tail.is_empty()) {
                return state;
            }
            drop(state);
            let mut state = self.write_state();
            let grown = state.sort_in(tree, &self.views());
            self.bytes.fetch_add(grown, Ordering::Relaxed);
        }
    }

    fn views(&self) -> MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sorts by key; changes of one key stay in their order. Keys lie all over the memory, so what
/// nearly always tells two of them apart is looked up once for each: the bytes after those that all
/// keys share.
fn sort(run: &mut Run) {
    let Some((first, _)) = run.first() else { return };
    let same = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let shared = run.iter().fold(first.len(), |shared, (key, _)| same(&first[..shared], key));
    let head = |key: &Bytes| {
        let mut head = [0; 16];
        let rest = &key[shared..key.len().min(shared + head.len())];
        head[..rest.len()].copy_from_slice(rest);
        u128::from_be_bytes(head)
    };
    let mut order: Vec<(u128, usize)> =
        run.iter().enumerate().map(|(place, (key, _))| (head(key), place)).collect();
    order.sort_unstable_by(|a, b| {
        a.0.cmp(&b.0).then_with(|| (&run[a.1].0, a.1).cmp(&(&run[b.1].0, b.1)))
    });
    // In place, cycle by cycle: a layer's memory is not free yet when it is sorted.
    for begin in 0..order.len() {
        let mut to = begin;
        loop {
            let from = std::mem::replace(&mut order[to].1, to);
            if from == begin || from == to {
                break;
            }
            run.swap(to, from);
            to = from;
        }
    }
}

impl State {
    /// Returns by how many bytes the layer grew.
    fn set(&mut self, tree: Tree, key: Bytes, value: Option<Bytes>, views: &Views) -> u64 {
        let Self { trees, newest: number, arena } = self;
        let changes = trees.entry(tree).or_default();
        let kept = value.map(|value| arena.keep(&value));
        let (value, grown) = kept.map_or((None, 0), |(value, grown)| (Some(value), grown));
        let Tree::Current(_) = tree else {
            changes.tail.push(Waiting { key: arena.copy(&key), number: *number, value });
            return grown + key.len() as u64 + WAITING_OVERHEAD_BYTES;
        };
        let mut added = 0;
        let freed = changes.set(&key, *number, value, views, || {
            added = key.len() as u64 + KEY_OVERHEAD_BYTES;
            arena.copy(&key)
        });
        (grown + added).saturating_sub(freed)
    }

    /// Returns by how many bytes the layer grew.
    fn sort_in(&mut self, tree: Tree, views: &Views) -> u64 {
        let Some(changes) = self.trees.get_mut(&tree) else { return 0 };
        let mut tail = changes.tail.take();
        let grown = tail.len() as u64 * (KEY_OVERHEAD_BYTES - WAITING_OVERHEAD_BYTES);
        // Stable: changes of one key stay in order.
        tail.sort_by(|a, b| a.key.cmp(&b.key));
        for Waiting { key, number, value } in tail {
            changes.set(&key, number, value, views, || key.clone());
        }
        grown
    }
}

impl Changes {
    /// Returns how many bytes are free now that a version is gone. A key that is new here comes
    /// from `own_key`: the one that was given may be a slice of a message many times its size.
    fn set(
        &mut self,
        key: &[u8],
        number: BatchNumber,
        value: Option<Bytes>,
        views: &Views,
        own_key: impl FnOnce() -> Bytes,
    ) -> u64 {
        let Some(versions) = self.sorted.get_mut(key) else {
            self.sorted.insert(own_key(), Versions { number, value, older: Vec::new() });
            return 0;
        };
        let before = (versions.number, std::mem::replace(&mut versions.value, value));
        versions.number = number;
        if views.is_empty() || views.range(before.0..number).next().is_none() {
            return before.1.map_or(0, |value| Arena::freed(&value));
        }
        versions.older.push(before);
        0
    }
}

/// Goes through a range of a layer, a chunk at a time, so that writes may happen meanwhile.
pub(super) struct LayerScan<'a> {
    layer: &'a Layer,
    number: BatchNumber,
    tree: Tree,
    from: Bound<Bytes>,
    to: Bound<Bytes>,
    direction: Direction,
    chunk: std::vec::IntoIter<Change>,
    chunk_max: usize,
    is_exhausted: bool,
}

/// Changes of a scan's first chunk; later ones are larger.
const CHUNK_MIN: usize = 32;
const CHUNK_MAX: usize = 256;

impl<'a> LayerScan<'a> {
    /// `None` when the layer has nothing in `range`.
    pub(super) fn new(
        layer: &'a Layer,
        number: BatchNumber,
        tree: Tree,
        range: KeyRange<'_>,
        direction: Direction,
    ) -> Option<Self> {
        let mut scan = Self {
            layer,
            number,
            tree,
            from: range.0.map(Bytes::copy_from_slice),
            to: range.1.map(Bytes::copy_from_slice),
            direction,
            chunk: Vec::new().into_iter(),
            chunk_max: CHUNK_MIN,
            is_exhausted: false,
        };
        scan.refill();
        (scan.chunk.len() > 0).then_some(scan)
    }

    fn refill(&mut self) {
        let range = (as_slice(&self.from), as_slice(&self.to));
        let (number, count) = (self.number, self.chunk_max);
        let chunk = self.layer.chunk(self.tree, range, self.direction, number, count);
        self.is_exhausted = chunk.len() < self.chunk_max;
        self.chunk_max = (self.chunk_max * 2).min(CHUNK_MAX);
        if let Some((last, _)) = chunk.last() {
            match self.direction {
                Direction::Forward => self.from = Bound::Excluded(last.clone()),
                Direction::Backward => self.to = Bound::Excluded(last.clone()),
            }
        }
        self.chunk = chunk.into_iter();
    }
}

impl Iterator for LayerScan<'_> {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        if let Some(change) = self.chunk.next() {
            return Some(change);
        }
        if self.is_exhausted {
            return None;
        }
        self.refill();
        self.chunk.next()
    }
}

#[cfg(test)]
mod tests {
    use atoll_base::Rng;

    use super::*;

    #[test]
    fn changes_are_sorted_by_key_and_those_of_one_key_stay_in_order() {
        let mut rng = Rng::new(3);
        for round in 0..300 {
            let shared = vec![b'k'; rng.below(20) as usize];
            let letters = 1 + rng.below(3);
            let mut run: Run = (0..rng.below(200))
                .map(|n| {
                    let rest = (0..rng.below(20)).map(|_| rng.below(letters) as u8);
                    let key = shared.iter().copied().chain(rest).collect::<Vec<u8>>();
                    (Bytes::from(key), Some(Bytes::copy_from_slice(&n.to_be_bytes())))
                })
                .collect();
            let mut sorted = run.clone();
            sort(&mut sorted);
            run.sort_by(|a, b| a.0.cmp(&b.0));
            assert_eq!(sorted, run, "round {round}");
        }
    }

    #[test]
    fn what_waits_is_told_once_for_each_key_and_as_it_was_written_last() {
        let (mut rng, layer, tree) = (Rng::new(5), Layer::default(), Tree::Meta);
        let mut model = BTreeMap::new();
        // More than two pieces of a tail.
        for n in 0..700_u64 {
            let key = Bytes::copy_from_slice(&rng.below(300).to_be_bytes());
            let value = Some(Bytes::copy_from_slice(&n.to_be_bytes())).filter(|_| n % 7 != 0);
            let mut batch = WriteBatch::new();
            match &value {
                Some(value) => batch.put(tree, key.clone(), value.clone()),
                None => batch.delete(tree, key.clone()),
            };
            layer.write(batch);
            model.insert(key, value);
        }
        let all: Run = model.into_iter().collect();
        assert_eq!(layer.runs(), [(tree, all.clone())]);
        let keys: Vec<&[u8]> = all.iter().map(|(key, _)| &key[..]).chain([&b"none"[..]]).collect();
        layer.prefetch(tree, &keys);
        assert!(
            all.iter().all(|(key, value)| layer.get(tree, key, NEWEST).as_ref() == Some(value))
        );
        // Now it is sorted in.
        layer.prefetch(tree, &keys);
        assert_eq!(layer.runs(), [(tree, all)]);
    }
}
