//! What a batch has written and the engine has not seen yet, laid over the engine.

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Peekable;
use std::ops::Bound;

use atoll_storage::engine::Scan;
use atoll_storage::{Direction, Engine, EngineError, ReadView, Tree, WriteBatch};
use bytes::{Bytes, BytesMut};

type Bounds<'k> = (Bound<&'k [u8]>, Bound<&'k [u8]>);
type Change = (Bytes, Option<Bytes>);

/// What was written to one tree. As long as nobody reads it, it stays in the order of writing: of
/// what most commands write nearly all is for later.
#[derive(Default)]
struct Changes {
    unread: Vec<Change>,
    /// All of it, once it was read.
    sorted: OnceCell<BTreeMap<Bytes, Option<Bytes>>>,
}

impl Changes {
    fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        match self.sorted.get_mut() {
            Some(sorted) => drop(sorted.insert(key, value)),
            None => self.unread.push((key, value)),
        }
    }

    fn sorted(&self) -> &BTreeMap<Bytes, Option<Bytes>> {
        // Of several changes of a key the last one counts.
        self.sorted.get_or_init(|| self.unread.iter().cloned().collect())
    }

    fn is_empty(&self) -> bool {
        self.unread.is_empty() && self.sorted.get().is_none_or(BTreeMap::is_empty)
    }

    /// At most this many.
    fn len(&self) -> usize {
        self.sorted.get().map_or(self.unread.len(), BTreeMap::len)
    }

    /// In an order in which the last change of a key comes after those before it.
    fn into_changes(self) -> impl Iterator<Item = Change> {
        let (sorted, unread) = match self.sorted.into_inner() {
            Some(sorted) => (sorted, Vec::new()),
            None => (BTreeMap::new(), self.unread),
        };
        unread.into_iter().chain(sorted)
    }
}

/// The first block of a batch's own bytes, each twice as large as the one before, up to the last.
const BLOCK_BYTES_MIN: usize = 1 << 10;
const BLOCK_BYTES_MAX: usize = 32 << 10;
/// What is larger has memory of its own.
const SHARED_BYTES_MAX: usize = 4 << 10;

/// Memory for keys and values that a batch makes: they are needed together, and not for long.
#[derive(Default)]
struct Blocks {
    free: BytesMut,
    next_bytes: usize,
}

impl Blocks {
    fn keep(&mut self, bytes: &[u8]) -> Bytes {
        if self.free.capacity() < bytes.len() {
            let size = self.next_bytes.max(BLOCK_BYTES_MIN).max(bytes.len());
            self.free = BytesMut::with_capacity(size);
            self.next_bytes = (2 * size).min(BLOCK_BYTES_MAX);
        }
        self.free.extend_from_slice(bytes);
        self.free.split().freeze()
    }
}

/// What reads go to: an engine's view, or a view with a batch's own writes over it.
pub(crate) trait Reads {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError>;
    fn scan<'a>(&'a self, tree: Tree, range: Bounds<'_>, direction: Direction) -> Scan<'a>;
}

impl Reads for &dyn ReadView {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        (**self).get(tree, key)
    }

    fn scan<'a>(&'a self, tree: Tree, range: Bounds<'_>, direction: Direction) -> Scan<'a> {
        (**self).scan(tree, range, direction)
    }
}

/// A batch's writes over an engine.
pub(crate) struct Overlay<'e> {
    engine: &'e dyn Engine,
    /// Taken at the first scan: many batches scan nothing.
    view: OnceCell<Box<dyn ReadView>>,
    meta: Changes,
    current: Changes,
    history: Changes,
    blocks: Blocks,
    /// Where keys and values are put together.
    buffer: Vec<u8>,
}

impl<'e> Overlay<'e> {
    pub(crate) fn new(engine: &'e dyn Engine) -> Self {
        Self {
            engine,
            view: OnceCell::new(),
            meta: Changes::default(),
            current: Changes::default(),
            history: Changes::default(),
            blocks: Blocks::default(),
            buffer: Vec::new(),
        }
    }

    /// Says which keys are looked up next.
    pub(crate) fn prefetch(&self, tree: Tree, keys: &[&[u8]]) {
        self.engine.prefetch(tree, keys);
    }

    /// A key or a value for [`Overlay::put`] of at most about so many bytes, in memory that it
    /// shares with others of the batch, unless it is large.
    pub(crate) fn made(&mut self, about: usize, make: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Bytes {
        if about > SHARED_BYTES_MAX {
            return Bytes::from(make(Vec::with_capacity(about)));
        }
        self.buffer.clear();
        self.buffer = make(std::mem::take(&mut self.buffer));
        self.blocks.keep(&self.buffer)
    }

    fn changes(&self, tree: Tree) -> &Changes {
        match tree {
            Tree::Meta => &self.meta,
            Tree::Current(_) => &self.current,
            Tree::History(_) => &self.history,
        }
    }

    fn changes_mut(&mut self, tree: Tree) -> &mut Changes {
        match tree {
            Tree::Meta => &mut self.meta,
            Tree::Current(_) => &mut self.current,
            Tree::History(_) => &mut self.history,
        }
    }

    pub(crate) fn put(&mut self, tree: Tree, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes_mut(tree).set(key.into(), Some(value.into()));
    }

    pub(crate) fn delete(&mut self, tree: Tree, key: impl Into<Bytes>) {
        self.changes_mut(tree).set(key.into(), None);
    }

    /// The writes as one engine batch.
    pub(crate) fn into_batch(self, current: Tree, history: Tree) -> WriteBatch {
        let changes = self.current.len() + self.history.len() + self.meta.len();
        let mut batch = WriteBatch::with_capacity(changes);
        let trees = [(current, self.current), (history, self.history), (Tree::Meta, self.meta)];
        for (tree, changes) in trees {
            for (key, value) in changes.into_changes() {
                match value {
                    Some(value) => batch.put(tree, key, value),
                    None => batch.delete(tree, key),
                };
            }
        }
        batch
    }
}

impl Reads for Overlay<'_> {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let changes = self.changes(tree);
        let change = if changes.is_empty() { None } else { changes.sorted().get(key) };
        match change {
            Some(value) => Ok(value.clone()),
            None => self.engine.get(tree, key),
        }
    }

    fn scan<'a>(&'a self, tree: Tree, range: Bounds<'_>, direction: Direction) -> Scan<'a> {
        let view = self.view.get_or_init(|| self.engine.view());
        let below = view.scan(tree, range, direction);
        let changes = self.changes(tree);
        if changes.is_empty() || is_empty(&range) {
            return below;
        }
        let over = changes.sorted().range::<[u8], _>(range);
        Box::new(MergedScan { below: below.peekable(), over, waiting: None, direction })
    }
}

/// `BTreeMap::range` panics on these.
fn is_empty(range: &Bounds<'_>) -> bool {
    match (range.0, range.1) {
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => {
            a >= b
        }
    }
}

struct MergedScan<'a> {
    below: Peekable<Scan<'a>>,
    over: btree_map::Range<'a, Bytes, Option<Bytes>>,
    /// The next change, taken from `over` but not given out yet.
    waiting: Option<(&'a Bytes, &'a Option<Bytes>)>,
    direction: Direction,
}

impl Iterator for MergedScan<'_> {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.waiting.is_none() {
                self.waiting = match self.direction {
                    Direction::Forward => self.over.next(),
                    Direction::Backward => self.over.next_back(),
                };
            }
            let Some((key, value)) = self.waiting else { return self.below.next() };
            let order = match self.below.peek() {
                None => Ordering::Greater,
                Some(Err(_)) => return self.below.next(),
                Some(Ok((below, _))) => match self.direction {
                    Direction::Forward => below.cmp(key),
                    Direction::Backward => key.cmp(below),
                },
            };
            match order {
                Ordering::Less => return self.below.next(),
                Ordering::Equal => drop(self.below.next()),
                Ordering::Greater => {}
            }
            self.waiting = None;
            if let Some(value) = value {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}
