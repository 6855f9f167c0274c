//! An engine in memory, for the simulator and for tests: it keeps several versions of each key, so
//! that a view costs nothing and a crash can return to any batch since the last persist.
//!
//! Batches are numbered. A version carries its batch's number; a view is a number. A version may go
//! once a newer one is at or below every live view and the persisted number. Same calls, same
//! answers: there is no clock, no thread and no unseeded choice here.
//!
//! Trees lead to places in one list of what is kept of keys, so that who comes back to a key need
//! not look for it, and what a digest made of a pair is kept with it.

use std::cmp::Ordering;
use std::collections::btree_map::{BTreeMap, Entry};
use std::num::NonZeroU64;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use atoll_base::{KeyspaceId, Rng};
use bytes::Bytes;

use super::digest::{self, Digest};
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

/// A key as trees compare it: by its first bytes as numbers, which tells most keys apart without
/// looking anywhere else.
#[derive(PartialEq, Eq)]
struct SortKey {
    /// The first bytes, filled up with zeros.
    head: [u64; HEAD_WORDS],
    len: usize,
    /// The bytes that do not fit into the head.
    tail: Bytes,
}

const HEAD_WORDS: usize = 3;
const HEAD_BYTES: usize = HEAD_WORDS * 8;

impl SortKey {
    fn new(key: &[u8], tail: impl FnOnce() -> Bytes) -> Self {
        let mut head = [0; HEAD_WORDS];
        for (word, bytes) in head.iter_mut().zip(key.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_be_bytes(padded);
        }
        let tail = if key.len() > HEAD_BYTES { tail() } else { Bytes::new() };
        Self { head, len: key.len(), tail }
    }

    /// Of a key that is kept.
    fn of(key: &Bytes) -> Self {
        Self::new(key, || key.slice(HEAD_BYTES..))
    }

    /// Of a key that is looked up.
    fn find(key: &[u8]) -> Self {
        Self::new(key, || Bytes::copy_from_slice(&key[HEAD_BYTES..]))
    }
}

impl Ord for SortKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let ([a, b, c], [x, y, z]) = (self.head, other.head);
        // Where the heads are the same and one key ends within, it begins the other.
        (a.cmp(&x)).then(b.cmp(&y)).then(c.cmp(&z)).then_with(|| {
            match self.len > HEAD_BYTES && other.len > HEAD_BYTES {
                true => self.tail.cmp(&other.tail),
                false => self.len.cmp(&other.len),
            }
        })
    }
}

impl PartialOrd for SortKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a batch made of a key.
struct Version {
    batch: BatchNumber,
    /// `None` is a delete.
    value: Option<Bytes>,
    /// The pair's part in a digest, once one was asked for.
    hash: Option<NonZeroU64>,
}

/// What is kept of a key.
struct Slot {
    newest: Version,
    /// The versions before, oldest first.
    older: Vec<Version>,
    tree: Tree,
    key: Bytes,
    is_listed: bool,
}

impl Slot {
    /// True when a key has one version, and that is a value.
    fn is_tidy(&self) -> bool {
        self.older.is_empty() && self.newest.value.is_some()
    }

    /// What a view of `at` sees.
    fn at(&self, at: BatchNumber) -> Option<&Version> {
        if self.newest.batch <= at {
            return Some(&self.newest);
        }
        self.older.iter().rev().find(|version| version.batch <= at)
    }

    fn value_at(&self, at: BatchNumber) -> Option<&Bytes> {
        self.at(at)?.value.as_ref()
    }

    /// The part of what a view of `at` sees in a digest.
    fn hash_at(&mut self, at: BatchNumber) -> Option<u64> {
        let version = match self.newest.batch <= at {
            true => &mut self.newest,
            false => self.older.iter_mut().rev().find(|version| version.batch <= at)?,
        };
        let value = version.value.as_ref()?;
        if let Some(hash) = version.hash {
            return Some(hash.get());
        }
        let hash = digest::of_pair(&self.key, value);
        version.hash = NonZeroU64::new(hash);
        Some(hash)
    }
}

/// The place of a slot.
type Place = u32;

#[derive(Default)]
struct State {
    trees: BTreeMap<Tree, BTreeMap<SortKey, Place>>,
    slots: Vec<Option<Slot>>,
    /// Places without a slot.
    free: Vec<Place>,
    /// The newest batch.
    newest: BatchNumber,
    /// Batches up to here survive a crash.
    persisted: BatchNumber,
    /// Live views by what they see, and how many of each.
    views: BTreeMap<BatchNumber, usize>,
    /// The slots that have versions to drop once the floor moves on, each of them once; the others
    /// of these places are gone, or not listed.
    untidy: Vec<Place>,
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
        let state = &mut *self.lock();
        for tree in [Tree::Current(keyspace), Tree::History(keyspace)] {
            for place in state.trees.remove(&tree).into_iter().flat_map(BTreeMap::into_values) {
                state.slots[place as usize] = None;
                state.free.push(place);
            }
        }
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        Ok(self.memory_bytes())
    }

    fn memory_bytes(&self) -> u64 {
        let state = self.lock();
        let bytes = |slot: &Slot| {
            let versions = slot.older.iter().chain([&slot.newest]);
            let values = versions.filter_map(|version| version.value.as_ref()).map(Bytes::len);
            (slot.key.len() + values.sum::<usize>()) as u64
        };
        state.slots.iter().flatten().map(bytes).sum()
    }

    fn check(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

impl State {
    fn slot(&self, place: Place) -> &Slot {
        self.slots[place as usize].as_ref().expect("trees lead to slots")
    }

    fn get(&self, tree: Tree, key: &[u8], at: BatchNumber) -> Option<Bytes> {
        self.slot(*self.trees.get(&tree)?.get(&SortKey::find(key))?).value_at(at).cloned()
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
        let newest = Version { batch: self.newest, value, hash: None };
        let pairs = self.trees.entry(tree).or_default();
        let place = match pairs.entry(SortKey::of(&key)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                if newest.value.is_some() {
                    let slot = Slot { newest, older: Vec::new(), tree, key, is_listed: false };
                    new.insert(keep(&mut self.slots, &mut self.free, slot));
                }
                return;
            }
        };
        let slot = self.slots[place as usize].as_mut().expect("trees lead to slots");
        let before = std::mem::replace(&mut slot.newest, newest);
        if before.batch != self.newest {
            slot.older.push(before);
        }
        if !slot.is_listed && !slot.is_tidy() {
            slot.is_listed = true;
            self.untidy.push(place);
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
        let mut untidy = std::mem::take(&mut self.untidy);
        untidy.retain(|place| self.tidy_slot(*place, floor));
        self.untidy = untidy;
    }

    /// True when the slot has more to drop later.
    fn tidy_slot(&mut self, place: Place, floor: BatchNumber) -> bool {
        let Some(slot) = self.slots[place as usize].as_mut() else { return false };
        let is_settled = slot.newest.batch <= floor;
        if is_settled {
            slot.older.clear();
        } else if let Some(first) = slot.older.iter().rposition(|v| v.batch <= floor) {
            slot.older.drain(..first);
        }
        if is_settled && slot.newest.value.is_none() {
            let gone = self.slots[place as usize].take().expect("it was just looked at");
            self.free.push(place);
            if let Some(pairs) = self.trees.get_mut(&gone.tree) {
                pairs.remove(&SortKey::of(&gone.key));
            }
            return false;
        }
        slot.is_listed = !slot.is_tidy();
        slot.is_listed
    }

    /// Forgets every batch after `kept`, which becomes the newest and the persisted one.
    fn forget_after(&mut self, kept: BatchNumber) {
        let Self { trees, slots, free, .. } = self;
        for pairs in trees.values_mut() {
            pairs.retain(|_, place| {
                let slot = slots[*place as usize].as_mut().expect("trees lead to slots");
                slot.is_listed = false;
                while slot.newest.batch > kept {
                    match slot.older.pop() {
                        Some(before) => slot.newest = before,
                        None => slot.newest = Version { batch: kept, value: None, hash: None },
                    }
                }
                slot.older.clear();
                let stays = slot.newest.value.is_some();
                if !stays {
                    slots[*place as usize] = None;
                    free.push(*place);
                }
                stays
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
        let seen = |(_, place): (&SortKey, &Place)| {
            let slot = self.slot(*place);
            let value = slot.value_at(at)?;
            Some((slot.key.clone(), value.clone()))
        };
        let range = pairs.range(sort_range(range));
        match direction {
            Direction::Forward => range.filter_map(seen).take(count_max).collect(),
            Direction::Backward => range.rev().filter_map(seen).take(count_max).collect(),
        }
    }
}

fn sort_range((from, to): KeyRange<'_>) -> (Bound<SortKey>, Bound<SortKey>) {
    (from.map(SortKey::find), to.map(SortKey::find))
}

/// Puts a slot where there is room.
fn keep(slots: &mut Vec<Option<Slot>>, free: &mut Vec<Place>, slot: Slot) -> Place {
    if let Some(place) = free.pop() {
        slots[place as usize] = Some(slot);
        return place;
    }
    slots.push(Some(slot));
    (slots.len() - 1) as Place
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
        let first = self.lock().chunk(tree, range, direction, self.at, SCAN_CHUNK_MIN);
        // Many a scan ends with its first pairs, and needs its bounds no more.
        let rest = (first.len() == SCAN_CHUNK_MIN).then(|| Rest {
            from: range.0.map(Bytes::copy_from_slice),
            to: range.1.map(Bytes::copy_from_slice),
            chunk: SCAN_CHUNK_MIN,
        });
        let mut scan = MemScan { view: self, tree, direction, ready: Vec::new().into_iter(), rest };
        scan.hold(first);
        Box::new(scan)
    }

    fn digest(&self, tree: Tree, range: KeyRange<'_>) -> Result<u64, EngineError> {
        let mut digest = Digest::default();
        if is_empty_range(&range) {
            return Ok(digest.finish());
        }
        let State { trees, slots, .. } = &mut *self.lock();
        let pairs = trees.get(&tree).into_iter().flat_map(|t| t.range(sort_range(range)));
        for (_, place) in pairs {
            let slot = slots[*place as usize].as_mut().expect("trees lead to slots");
            if let Some(hash) = slot.hash_at(self.at) {
                digest.add(hash);
            }
        }
        Ok(digest.finish())
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
    direction: Direction,
    ready: std::vec::IntoIter<Pair>,
    /// What is not yet taken out.
    rest: Option<Rest>,
}

/// What a scan has still to take out.
struct Rest {
    from: Bound<Bytes>,
    to: Bound<Bytes>,
    /// Pairs that were taken out last.
    chunk: usize,
}

impl MemScan<'_> {
    /// Takes pairs that were taken out, and goes on behind them.
    fn hold(&mut self, chunk: Vec<Pair>) {
        if let (Some(rest), Some((last, _))) = (&mut self.rest, chunk.last()) {
            match self.direction {
                Direction::Forward => rest.from = Bound::Excluded(last.clone()),
                Direction::Backward => rest.to = Bound::Excluded(last.clone()),
            }
        }
        self.ready = chunk.into_iter();
    }

    fn refill(&mut self) {
        let Some(rest) = &mut self.rest else { return };
        rest.chunk = (rest.chunk * 2).min(SCAN_CHUNK_MAX);
        let count = rest.chunk;
        let range = (as_slice(&rest.from), as_slice(&rest.to));
        let chunk = self.view.lock().chunk(self.tree, range, self.direction, self.view.at, count);
        if chunk.len() < count {
            self.rest = None;
        }
        self.hold(chunk);
    }
}

impl Iterator for MemScan<'_> {
    type Item = Result<Pair, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.len() == 0 {
            self.refill();
        }
        self.ready.next().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_bytes_do() {
        let mut rng = Rng::new(3);
        let mut random = || {
            let mut key = vec![7; rng.below(28) as usize];
            key.extend((0..rng.below(4)).map(|_| rng.below(2) as u8));
            key
        };
        for _ in 0..50_000 {
            let (a, b) = (random(), random());
            let (kept, found) = (SortKey::of(&Bytes::from(a.clone())), SortKey::find(&b));
            assert_eq!(kept.cmp(&found), a.cmp(&b), "{a:?} {b:?}");
            assert_eq!(kept == found, a == b, "{a:?} {b:?}");
        }
    }
}
