//! Stretches of the trees of current versions, as scans took them out of tables.
//!
//! A scan of tables merges the runs of a tree, block by block, and costs several times what its
//! rows do. What it found is kept here in order: a stretch has every row of its span of keys, so a
//! later scan walks it and opens no table.
//!
//! Flushes change tables, and a view must not see what was flushed after it was made. So flushes
//! are counted, and each puts its changes into the stretches that have room for them
//! ([`Stretches::renew`], at any time before the end of the flush). Then, at one count:
//!
//! - Stretches are kept only by views that were made at this count, as the last flush left the
//!   tables or will leave them: while a layer is being flushed, its changes are put into what was
//!   found ([`Moment`]). No view of this count sees less of that layer than all.
//! - Stretches are read only by views of this count. Such a view either was made after that flush,
//!   and its tables are the same; or it holds the layer that was being flushed, and that layer
//!   speaks for every row in which the tables, or a stretch that is not renewed yet, may differ.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use atoll_base::KeyspaceId;
use bytes::Bytes;

use super::layer::{Change, Layer, NEWEST, Run};
use super::{Direction, Tree};

/// What a stretch costs beside its bytes and rows.
const STRETCH_OVERHEAD_BYTES: usize = 256;
/// What a row costs beside its bytes.
const ROW_OVERHEAD_BYTES: usize = 8;
/// A stretch that would grow beyond this is let go when it is renewed.
const RENEWED_BYTES_MAX: usize = 64 << 10;

/// The rows of a span of keys, in order, in one piece.
#[derive(Default)]
pub(super) struct Stretch {
    bytes: Vec<u8>,
    /// Where each row's value begins and where it ends; its key begins where the row before ended.
    rows: Vec<(u32, u32)>,
}

/// Stretches that do not overlap, up to a number of bytes.
pub(super) struct Stretches {
    places: RwLock<Places>,
    /// Changed under the lock of `places`; here for who only wants to know it.
    flushes: AtomicU64,
    bytes_max: u64,
}

#[derive(Default)]
struct Places {
    /// A flush changes the tables, and was counted.
    is_flushing: bool,
    trees: BTreeMap<KeyspaceId, BTreeMap<Bytes, Place>>,
    /// Whose turn it is to go, unless it was read since it was last asked.
    queue: VecDeque<(KeyspaceId, Bytes)>,
    bytes: u64,
}

struct Place {
    /// Exclusive; `None` is the end of the tree.
    to: Option<Bytes>,
    stretch: Arc<Stretch>,
    is_wanted: AtomicBool,
}

/// When a view was made, and what it may keep.
#[derive(Clone)]
pub(super) struct Moment {
    flushes: u64,
    found: Found,
}

/// What a view's tables are.
#[derive(Clone)]
enum Found {
    /// Nobody knows: they changed meanwhile.
    Something,
    /// As the last flush left them.
    Settled,
    /// Somewhere on the way to what they will be once this layer is in them.
    Flushing(Arc<Layer>),
}

/// What is known of the keys from some place on.
pub(super) enum Next {
    /// This stretch has them, up to its end: exclusive, `None` is the end of the tree.
    Kept(Arc<Stretch>, Option<Bytes>),
    /// Nothing up to this key, where a stretch begins; `None`: nothing at all.
    Unknown(Option<Bytes>),
}

impl Stretch {
    /// Adds a row behind the others; false when the stretch can't hold it.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> bool {
        let value_at = self.bytes.len() + key.len();
        let (Ok(value_at), Ok(end)) =
            (u32::try_from(value_at), u32::try_from(value_at + value.len()))
        else {
            return false;
        };
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.rows.push((value_at, end));
        true
    }

    /// Rows in it.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of its rows.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn begin(&self, row: usize) -> usize {
        row.checked_sub(1).map_or(0, |before| self.rows[before].1 as usize)
    }

    pub(super) fn key(&self, row: usize) -> &[u8] {
        &self.bytes[self.begin(row)..self.rows[row].0 as usize]
    }

    /// The first row whose key is `key` or follows it.
    pub(super) fn first_from(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.rows.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// A copy of some rows, for one reader: the pairs share its bytes, and nobody else's.
    pub(super) fn copy(
        &self,
        rows: std::ops::Range<usize>,
    ) -> impl Iterator<Item = (Bytes, Bytes)> + use<> {
        let base = self.begin(rows.start);
        let bytes = Bytes::copy_from_slice(&self.bytes[base..self.begin(rows.end)]);
        let ends: Vec<_> = self.rows[rows].to_vec();
        let mut begin = 0;
        ends.into_iter().map(move |(value_at, end)| {
            let (value_at, end) = (value_at as usize - base, end as usize - base);
            let pair = (bytes.slice(begin..value_at), bytes.slice(value_at..end));
            begin = end;
            pair
        })
    }

    /// The stretch with these changes of its span, in order of their keys; `None` when it gets too
    /// large.
    fn renewed(&self, changes: &[Change]) -> Option<Self> {
        let mut renewed = Self::default();
        let mut row = 0;
        for (key, value) in changes {
            let until = self.first_from(key);
            renewed.push_rows(self, row..until)?;
            row = until + usize::from(until < self.len() && self.key(until) == key);
            if let Some(value) = value {
                renewed.push(key, value).then_some(())?;
            }
        }
        renewed.push_rows(self, row..self.len())?;
        (renewed.bytes.len() <= RENEWED_BYTES_MAX).then_some(renewed)
    }

    fn push_rows(&mut self, of: &Self, rows: std::ops::Range<usize>) -> Option<()> {
        for row in rows {
            let (value_at, end) = of.rows[row];
            self.push(of.key(row), &of.bytes[value_at as usize..end as usize]).then_some(())?;
        }
        Some(())
    }

    fn trim(&mut self) {
        self.bytes.shrink_to_fit();
        self.rows.shrink_to_fit();
    }

    fn cost(&self) -> u64 {
        let rows = self.rows.capacity() * ROW_OVERHEAD_BYTES;
        (self.bytes.capacity() + rows + STRETCH_OVERHEAD_BYTES) as u64
    }
}

impl Stretches {
    /// Room for `bytes_max`; 0 keeps nothing.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { places: RwLock::default(), flushes: AtomicU64::new(0), bytes_max }
    }

    /// To be taken before the layers are looked at.
    pub(super) fn moment(&self) -> Moment {
        Moment { flushes: self.flushes.load(Ordering::SeqCst), found: Found::Something }
    }

    /// To be taken after the tables were looked at, while `sealed` was being flushed, or about to.
    pub(super) fn settle(&self, moment: Moment, sealed: Option<&Arc<Layer>>) -> Moment {
        let places = self.read();
        let found = match sealed {
            _ if self.flushes.load(Ordering::SeqCst) != moment.flushes => Found::Something,
            _ if !places.is_flushing => Found::Settled,
            Some(layer) => Found::Flushing(Arc::clone(layer)),
            None => Found::Something,
        };
        Moment { found, ..moment }
    }

    /// What is known from `key` on for a view of that moment.
    pub(super) fn next(&self, keyspace: KeyspaceId, key: &[u8], moment: &Moment) -> Next {
        let places = self.read();
        let Some(tree) = places.trees.get(&keyspace) else { return Next::Unknown(None) };
        if self.flushes.load(Ordering::SeqCst) != moment.flushes {
            return Next::Unknown(None);
        }
        let before = tree.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        if let Some((_, place)) = before
            && place.to.as_ref().is_none_or(|to| key < to)
        {
            place.is_wanted.store(true, Ordering::Relaxed);
            return Next::Kept(Arc::clone(&place.stretch), place.to.clone());
        }
        let after = tree.range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded)).next();
        Next::Unknown(after.map(|(from, _)| from.clone()))
    }

    /// Keeps what the tables have between `from` and `to` (exclusive; `None` is the end of the
    /// tree), if that is still so and overlaps nothing.
    pub(super) fn keep(
        &self,
        keyspace: KeyspaceId,
        (from, to): (Bytes, Option<Bytes>),
        mut stretch: Stretch,
        moment: &Moment,
    ) {
        match &moment.found {
            Found::Something => return,
            Found::Settled => {}
            Found::Flushing(layer) => {
                let end = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                let span = (Bound::Included(&from[..]), end);
                let tree = Tree::Current(keyspace);
                let changes = layer.chunk(tree, span, Direction::Forward, NEWEST, usize::MAX);
                if !changes.is_empty() {
                    let Some(renewed) = stretch.renewed(&changes) else { return };
                    stretch = renewed;
                }
            }
        }
        stretch.trim();
        let cost = stretch.cost() + from.len() as u64;
        if cost > self.bytes_max {
            return;
        }
        let mut places = self.write();
        if self.flushes.load(Ordering::SeqCst) != moment.flushes {
            return;
        }
        let tree = places.trees.entry(keyspace).or_default();
        let end = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let before = tree.range::<[u8], _>((Bound::Unbounded, end)).next_back();
        if before.is_some_and(|(_, place)| place.to.as_ref().is_none_or(|to| *to > from)) {
            return;
        }
        let stretch = Arc::new(stretch);
        tree.insert(from.clone(), Place { to, stretch, is_wanted: AtomicBool::new(false) });
        places.queue.push_back((keyspace, from));
        places.bytes += cost;
        places.evict(self.bytes_max);
    }

    /// To be told before a flush changes any table.
    pub(super) fn flush_begins(&self) {
        let mut places = self.write();
        places.is_flushing = true;
        self.flushes.fetch_add(1, Ordering::SeqCst);
    }

    /// To be told when all tables are as a flush leaves them.
    pub(super) fn flush_ended(&self) {
        self.write().is_flushing = false;
    }

    /// Puts a run on its way into tables into the stretches that are here; what is not here does
    /// not come here.
    pub(super) fn renew(&self, tree: Tree, run: &Run) {
        let Tree::Current(keyspace) = tree else { return };
        let mut places = self.write();
        self.flushes.fetch_add(1, Ordering::SeqCst);
        let tree = places.trees.entry(keyspace).or_default();
        let changed = tree.iter().filter_map(|(from, place)| {
            let begin = run.partition_point(|(key, _)| key < from);
            let in_span = |(key, _): &Change| place.to.as_ref().is_none_or(|to| key < to);
            let end = begin + run[begin..].partition_point(in_span);
            (begin < end).then(|| (from.clone(), Arc::clone(&place.stretch), begin..end))
        });
        let changed: Vec<_> = changed.collect();
        drop(places);
        // Readers go on meanwhile, and nothing is kept until the flush has ended.
        for (from, stretch, changes) in changed {
            let renewed = stretch.renewed(&run[changes]);
            let mut places = self.write();
            places.replace(keyspace, &from, &stretch, renewed);
            places.evict(self.bytes_max);
        }
    }

    /// Forgets a keyspace's stretches.
    pub(super) fn forget(&self, keyspace: KeyspaceId) {
        let mut places = self.write();
        self.flushes.fetch_add(1, Ordering::SeqCst);
        places.forget(keyspace);
    }

    /// Bytes of the stretches.
    pub(super) fn bytes(&self) -> u64 {
        self.read().bytes
    }

    fn read(&self) -> RwLockReadGuard<'_, Places> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Places> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Lets go what was not read for longest, roughly, until the rest fits.
    fn evict(&mut self, bytes_max: u64) {
        while self.bytes > bytes_max {
            let Some((keyspace, from)) = self.queue.pop_front() else { return };
            let Some(tree) = self.trees.get_mut(&keyspace) else { continue };
            let Some(place) = tree.get(&from) else { continue };
            if place.is_wanted.swap(false, Ordering::Relaxed) {
                self.queue.push_back((keyspace, from));
                continue;
            }
            self.bytes -= place.stretch.cost() + from.len() as u64;
            tree.remove(&from);
        }
    }

    /// Puts `renewed` in the place of `stretch`, if that still is there.
    fn replace(
        &mut self,
        keyspace: KeyspaceId,
        from: &Bytes,
        stretch: &Arc<Stretch>,
        renewed: Option<Stretch>,
    ) {
        let Some(tree) = self.trees.get_mut(&keyspace) else { return };
        let Some(place) = tree.get_mut(from) else { return };
        if !Arc::ptr_eq(&place.stretch, stretch) {
            return;
        }
        self.bytes -= stretch.cost();
        if let Some(mut renewed) = renewed {
            renewed.trim();
            self.bytes += renewed.cost();
            place.stretch = Arc::new(renewed);
            return;
        }
        self.bytes -= from.len() as u64;
        tree.remove(from);
        self.queue.retain(|(of, place)| *of != keyspace || place != from);
    }

    fn forget(&mut self, keyspace: KeyspaceId) {
        let Some(tree) = self.trees.remove(&keyspace) else { return };
        let costs = tree.iter().map(|(from, place)| place.stretch.cost() + from.len() as u64);
        self.bytes -= costs.sum::<u64>();
        self.queue.retain(|(of, _)| *of != keyspace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::WriteBatch;

    const KEYSPACE: KeyspaceId = KeyspaceId(1);
    const TREE: Tree = Tree::Current(KEYSPACE);

    fn b(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn stretch(keys: &[&str]) -> Stretch {
        let mut stretch = Stretch::default();
        keys.iter().for_each(|key| assert!(stretch.push(key.as_bytes(), b"value")));
        stretch
    }

    fn keep(stretches: &Stretches, span: (&'static str, &'static str), moment: &Moment) {
        let (from, to) = (b(span.0), Some(b(span.1)));
        stretches.keep(KEYSPACE, (from, to), stretch(&[span.0]), moment);
    }

    /// A view of now, beside no flush.
    fn settled(stretches: &Stretches) -> Moment {
        stretches.settle(stretches.moment(), None)
    }

    /// Whether `key` is in a stretch for a view that is made now.
    fn knows(stretches: &Stretches, key: &str) -> bool {
        let moment = stretches.moment();
        matches!(stretches.next(KEYSPACE, key.as_bytes(), &moment), Next::Kept(..))
    }

    #[test]
    fn rows_are_found_by_key_and_copied() {
        let stretch = stretch(&["b", "d", "dd"]);
        assert_eq!(
            ["a", "b", "c", "dc", "e"].map(|k| stretch.first_from(k.as_bytes())),
            [0, 0, 1, 2, 3]
        );
        let copy: Vec<_> = stretch.copy(1..3).collect();
        assert_eq!(copy, [(b("d"), b("value")), (b("dd"), b("value"))]);
        assert_eq!(stretch.copy(3..3).count(), 0);
    }

    #[test]
    fn stretches_tell_their_ends_and_the_gaps_between_them() {
        let stretches = Stretches::new(1 << 20);
        let now = settled(&stretches);
        keep(&stretches, ("c", "e"), &now);
        keep(&stretches, ("g", "i"), &now);
        let end = |key: &str| match stretches.next(KEYSPACE, key.as_bytes(), &now) {
            Next::Kept(_, end) => ("kept", end),
            Next::Unknown(end) => ("unknown", end),
        };
        assert_eq!(
            ["a", "c", "dz"].map(end),
            [("unknown", Some(b("c"))), ("kept", Some(b("e"))), ("kept", Some(b("e"))),]
        );
        assert_eq!([end("e"), end("i")], [("unknown", Some(b("g"))), ("unknown", None)]);
        let bytes = stretches.bytes();
        for overlap in [("a", "d"), ("d", "f"), ("d", "dd"), ("a", "z")] {
            keep(&stretches, overlap, &now);
        }
        stretches.keep(KEYSPACE, (b("h"), None), stretch(&["h"]), &now);
        assert_eq!(stretches.bytes(), bytes, "nothing is kept twice");
        keep(&stretches, ("e", "g"), &now);
        assert!(stretches.bytes() > bytes && knows(&stretches, "f"));
    }

    /// The rows from `key` on to the end of its stretch; `None` where there is none.
    fn rows(stretches: &Stretches, key: &str) -> Option<String> {
        let now = stretches.moment();
        let Next::Kept(stretch, _) = stretches.next(KEYSPACE, key.as_bytes(), &now) else {
            return None;
        };
        let pairs = stretch.copy(stretch.first_from(key.as_bytes())..stretch.len());
        let text = |b: &Bytes| String::from_utf8_lossy(b).into_owned();
        Some(pairs.map(|(k, v)| text(&k) + "=" + &text(&v)).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_flush_renews_what_is_here_and_brings_nothing() {
        let stretches = Stretches::new(1 << 20);
        let now = settled(&stretches);
        let span = (b("b"), Some(b("m")));
        stretches.keep(KEYSPACE, span, stretch(&["b", "c", "e", "g"]), &now);
        keep(&stretches, ("m", "n"), &now);
        stretches.renew(Tree::History(KEYSPACE), &vec![(b("b"), None)]);
        stretches.renew(Tree::Current(KeyspaceId(2)), &vec![(b("b"), None)]);
        let change = |key, value: &'static str| (b(key), (!value.is_empty()).then(|| b(value)));
        let run =
            [("a", "0"), ("c", "1"), ("d", "2"), ("e", ""), ("f", ""), ("h", "3"), ("x", "4")];
        stretches.renew(TREE, &run.map(|(key, value)| change(key, value)).to_vec());
        assert_eq!(rows(&stretches, "b").unwrap(), "b=value c=1 d=2 g=value h=3");
        assert_eq!(rows(&stretches, "m").unwrap(), "m=value");
        assert_eq!((rows(&stretches, "a"), rows(&stretches, "x")), (None, None));
        stretches.renew(TREE, &vec![(b("m"), None)]);
        assert_eq!(rows(&stretches, "m").unwrap(), "", "known to be empty");
        stretches.forget(KeyspaceId(2));
        assert!(knows(&stretches, "b"));
        stretches.renew(TREE, &vec![(b("b"), Some(Bytes::from(vec![0; RENEWED_BYTES_MAX])))]);
        assert_eq!((knows(&stretches, "b"), knows(&stretches, "m")), (false, true), "too large");
        stretches.forget(KEYSPACE);
        assert_eq!((knows(&stretches, "m"), stretches.bytes()), (false, 0));
    }

    #[test]
    fn stretches_that_grow_in_flushes_stay_within_their_bytes() {
        let stretches = Stretches::new(20_000);
        let key = |n: u32| Bytes::copy_from_slice(&n.to_be_bytes());
        for n in 0..10 {
            let now = settled(&stretches);
            let span = (key(100 * n), Some(key(100 * n + 100)));
            stretches.keep(KEYSPACE, span, Stretch::default(), &now);
        }
        for n in 0..1_000 {
            stretches.renew(TREE, &vec![(key(n), Some(Bytes::from_static(&[7; 100])))]);
            assert!(stretches.bytes() <= 20_000, "{} bytes", stretches.bytes());
        }
        assert!(stretches.bytes() > 5_000);
        stretches.forget(KEYSPACE);
        assert_eq!(stretches.bytes(), 0);
    }

    #[test]
    fn views_of_before_a_flush_neither_keep_nor_read() {
        let stretches = Stretches::new(1 << 20);
        let before = settled(&stretches);
        keep(&stretches, ("a", "c"), &before);
        stretches.renew(TREE, &vec![(b("x"), None)]);
        assert!(knows(&stretches, "a"));
        assert!(matches!(stretches.next(KEYSPACE, b"a", &before), Next::Unknown(None)));
        keep(&stretches, ("m", "n"), &before);
        keep(&stretches, ("p", "q"), &stretches.moment());
        let changed_meanwhile = stretches.settle(before, None);
        keep(&stretches, ("r", "s"), &changed_meanwhile);
        assert_eq!(["m", "p", "r"].map(|key| knows(&stretches, key)), [false; 3]);
    }

    #[test]
    fn what_is_found_beside_a_flush_is_kept_as_it_will_be() {
        let stretches = Stretches::new(1 << 20);
        let layer = Arc::new(Layer::default());
        let mut batch = WriteBatch::new();
        batch.put(TREE, b("a"), b("new")).delete(TREE, b("c")).put(TREE, b("d"), b("of another"));
        layer.write(batch);
        // It waits to be flushed: the tables have nothing of it.
        let waiting = stretches.settle(stretches.moment(), Some(&layer));
        let found = || stretch(&["a", "b", "c"]);
        stretches.keep(KEYSPACE, (b("a"), Some(b("d"))), found(), &waiting);
        assert_eq!(rows(&stretches, "a").unwrap(), "a=value b=value c=value");
        stretches.forget(KEYSPACE);
        stretches.flush_begins();
        assert!(!knows(&stretches, "a"));
        let beside = stretches.settle(stretches.moment(), Some(&layer));
        stretches.keep(KEYSPACE, (b("a"), Some(b("d"))), found(), &waiting);
        assert_eq!(rows(&stretches, "a"), None, "its tables may have been any");
        stretches.keep(KEYSPACE, (b("a"), Some(b("d"))), found(), &beside);
        assert_eq!(rows(&stretches, "a").unwrap(), "a=new b=value");
        stretches.flush_ended();
        keep(&stretches, ("m", "n"), &stretches.settle(stretches.moment(), Some(&layer)));
        assert_eq!(rows(&stretches, "m").unwrap(), "m=value", "all of it is in the tables");
    }

    #[test]
    fn stretches_stay_within_their_bytes_and_those_that_are_read_stay() {
        let stretches = Stretches::new(20_000);
        let now = settled(&stretches);
        let span = |n: u32| {
            let key = |n: u32| Bytes::copy_from_slice(&n.to_be_bytes());
            (key(n), Some(key(n + 1)))
        };
        let is_kept =
            |n: u32| matches!(stretches.next(KEYSPACE, &n.to_be_bytes(), &now), Next::Kept(..));
        for n in 0..1_000 {
            stretches.keep(KEYSPACE, span(n), stretch(&["key"]), &now);
            assert!(stretches.bytes() <= 20_000, "{} bytes", stretches.bytes());
            assert!(is_kept(0), "read often, gone after {n}");
        }
        assert!(!is_kept(500) && is_kept(999) && stretches.bytes() > 10_000);
        let none = Stretches::new(0);
        keep(&none, ("a", "b"), &settled(&none));
        assert_eq!(none.bytes(), 0);
    }
}
