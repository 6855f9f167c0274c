//! A log in memory.

use std::collections::VecDeque;

use atoll_base::{Entry, LogIndex, Term};
use atoll_raft::{LogReader, ReadError};

#[derive(Clone, Default, Debug)]
pub struct MemLog {
    prev: LogIndex,
    prev_term: Term,
    entries: VecDeque<Entry>,
    /// Reads of entries fail.
    pub broken: bool,
}

impl MemLog {
    /// An empty log after `(prev, prev_term)`.
    pub fn after(prev: LogIndex, prev_term: Term) -> Self {
        Self { prev, prev_term, ..Self::default() }
    }

    /// Replaces everything from the first of `entries` on.
    pub fn replace_from(&mut self, entries: &[Entry]) {
        self.make_room(entries);
        self.entries.extend(entries.iter().cloned());
    }

    /// The same, and leaves nothing in `entries` but its memory.
    pub fn take_from(&mut self, entries: &mut Vec<Entry>) {
        self.make_room(entries);
        self.entries.extend(entries.drain(..));
    }

    fn make_room(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.prev && first.index <= self.last_index().next(), "a gap");
        self.entries.truncate((first.index.0 - self.prev.0 - 1) as usize);
    }

    /// Removes everything from `from` on.
    pub fn truncate(&mut self, from: LogIndex) {
        self.entries.truncate((from.0 - self.prev.0 - 1) as usize);
    }

    pub fn compact(&mut self, first: LogIndex) {
        while self.first_index() < first {
            let Some(entry) = self.entries.pop_front() else { return };
            (self.prev, self.prev_term) = (entry.index, entry.term);
        }
    }

    pub fn get(&self, index: LogIndex) -> Option<&Entry> {
        let at = index.0.checked_sub(self.prev.0 + 1)?;
        self.entries.get(at as usize)
    }
}

impl LogReader for MemLog {
    fn first_index(&self) -> LogIndex {
        self.prev.next()
    }

    fn last_index(&self) -> LogIndex {
        self.prev.plus(self.entries.len() as u64)
    }

    fn term(&self, index: LogIndex) -> Result<Term, ReadError> {
        if index == self.prev {
            return Ok(self.prev_term);
        }
        let first = self.first_index();
        self.get(index).map(|e| e.term).ok_or(ReadError::Compacted { wanted: index, first })
    }

    fn entries(
        &self,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
        out: &mut Vec<Entry>,
    ) -> Result<(), ReadError> {
        if self.broken {
            return Err(ReadError::Damaged { index: from, reason: "planted".into() });
        }
        let (mut bytes, mut at) = (0, from);
        while at < to {
            let first = self.first_index();
            let entry = self.get(at).ok_or(ReadError::Compacted { wanted: at, first })?;
            bytes += entry.cost();
            out.push(entry.clone());
            at = at.next();
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(())
    }
}
