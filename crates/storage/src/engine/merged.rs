//! One scan over layers and tables: of a key that several know, the newest word counts.

use std::cmp::Ordering;

use bytes::Bytes;

use super::layer::{Change, LayerScan};
use super::{Direction, EngineError, Pair, Scan};

/// A source's next change.
struct Source<'a> {
    next: Option<Change>,
    rest: LayerScan<'a>,
}

/// Layers, newest first, over a scan of tables.
pub(super) struct MergedScan<'a> {
    layers: Vec<Source<'a>>,
    tables: Option<Scan<'a>>,
    /// What the tables gave and nobody took yet.
    below: Option<Pair>,
    direction: Direction,
}

impl<'a> MergedScan<'a> {
    pub(super) fn new(
        layers: impl Iterator<Item = LayerScan<'a>>,
        tables: Option<Scan<'a>>,
        direction: Direction,
    ) -> Self {
        let layers = layers.map(|mut rest| Source { next: rest.next(), rest }).collect();
        Self { layers, tables, below: None, direction }
    }

    /// Fills `below` if the tables have more.
    fn look_below(&mut self) -> Result<(), EngineError> {
        if self.below.is_none()
            && let Some(tables) = &mut self.tables
        {
            match tables.next() {
                Some(pair) => self.below = Some(pair?),
                None => self.tables = None,
            }
        }
        Ok(())
    }

    /// The next key in the scan's order, and which layer speaks for it: its place, or none for the
    /// tables.
    fn first(&self) -> Option<(&Bytes, Option<usize>)> {
        let mut first = None;
        for (place, source) in self.layers.iter().enumerate() {
            let Some((key, _)) = &source.next else { continue };
            if first.is_none_or(|(best, _)| self.order(key, best).is_lt()) {
                first = Some((key, Some(place)));
            }
        }
        match &self.below {
            Some((key, _)) if first.is_none_or(|(best, _)| self.order(key, best).is_lt()) => {
                Some((key, None))
            }
            _ => first,
        }
    }

    fn order(&self, a: &Bytes, b: &Bytes) -> Ordering {
        match self.direction {
            Direction::Forward => a.cmp(b),
            Direction::Backward => b.cmp(a),
        }
    }

    /// Takes the word of the layer at `place` on its key, and drops what older sources say of it.
    fn take(&mut self, place: usize) -> Option<Change> {
        let (_, older) = self.layers.split_at_mut(place);
        let (source, older) = older.split_first_mut()?;
        let change = std::mem::replace(&mut source.next, source.rest.next())?;
        for source in older {
            if source.next.as_ref().is_some_and(|(key, _)| *key == change.0) {
                source.next = source.rest.next();
            }
        }
        self.below.take_if(|(key, _)| *key == change.0);
        Some(change)
    }
}

impl Iterator for MergedScan<'_> {
    type Item = Result<Pair, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Err(error) = self.look_below() {
                self.tables = None;
                self.layers.clear();
                return Some(Err(error));
            }
            let (_, place) = self.first()?;
            let Some(place) = place else { return self.below.take().map(Ok) };
            if let (key, Some(value)) = self.take(place)? {
                return Some(Ok((key, value)));
            }
        }
    }
}
