//! What a batch has written and the engine has not seen yet, laid over the engine.

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Peekable;
use std::ops::Bound;

use atoll_storage::engine::Scan;
use atoll_storage::{Direction, Engine, EngineError, ReadView, Tree, WriteBatch};
use bytes::Bytes;

type Bounds<'k> = (Bound<&'k [u8]>, Bound<&'k [u8]>);
type Changes = BTreeMap<Bytes, Option<Bytes>>;

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
}

impl<'e> Overlay<'e> {
    pub(crate) fn new(engine: &'e dyn Engine) -> Self {
        Self {
            engine,
            view: OnceCell::new(),
            meta: Changes::new(),
            current: Changes::new(),
            history: Changes::new(),
        }
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
        self.changes_mut(tree).insert(key.into(), Some(value.into()));
    }

    pub(crate) fn delete(&mut self, tree: Tree, key: impl Into<Bytes>) {
        self.changes_mut(tree).insert(key.into(), None);
    }

    /// The writes as one engine batch, each key once.
    pub(crate) fn into_batch(self, current: Tree, history: Tree) -> WriteBatch {
        let changes = self.current.len() + self.history.len() + self.meta.len();
        let mut batch = WriteBatch::with_capacity(changes);
        let trees = [(current, self.current), (history, self.history), (Tree::Meta, self.meta)];
        for (tree, changes) in trees {
            for (key, value) in changes {
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
        match self.changes(tree).get(key) {
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
        let over = changes.range::<[u8], _>(range);
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
