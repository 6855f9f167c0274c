//! Writes handed over and not known to be durable, and what is durable because of the others.
//!
//! An entry is durable when no outstanding write holds it. That makes the answer independent of
//! which suffixes were overwritten while their writes were under way (trap R6): a completed write
//! says only that it and those before it are over. Every write remembers the smallest index that it
//! or a later one holds, so the durable end is one subtraction.

use std::collections::VecDeque;

use atoll_base::{LogIndex, Term};

/// See the module.
#[derive(Debug)]
pub(crate) struct Writes {
    next_id: u64,
    pending: VecDeque<Pending>,
}

#[derive(Debug)]
struct Pending {
    id: u64,
    /// The log's end after this write; what its completion must name.
    term: Term,
    index: LogIndex,
    /// The first entry that this write or a later one holds; `None` when none holds any.
    floor: Option<LogIndex>,
}

impl Writes {
    pub(crate) fn new() -> Self {
        Self { next_id: 1, pending: VecDeque::new() }
    }

    /// Begins the next write.
    pub(crate) fn open(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.pending.push_back(Pending {
            id,
            term: Term::ZERO,
            index: LogIndex::ZERO,
            floor: None,
        });
        id
    }

    /// The newest write holds entries from `first` on.
    pub(crate) fn hold(&mut self, first: LogIndex) {
        for write in self.pending.iter_mut().rev() {
            if write.floor.is_some_and(|f| f <= first) {
                return;
            }
            write.floor = Some(first);
        }
    }

    /// The newest write leaves the log ending at `(term, index)`.
    pub(crate) fn seal(&mut self, term: Term, index: LogIndex) {
        if let Some(write) = self.pending.back_mut() {
            (write.term, write.index) = (term, index);
        }
    }

    /// Write `id` and those before it are durable. False when this is not about a pending write.
    pub(crate) fn complete(&mut self, id: u64, term: Term, index: LogIndex) -> bool {
        let Some(front) = self.pending.front().map(|w| w.id) else { return false };
        let Some(at) = id.checked_sub(front) else { return false };
        let Some(write) = self.pending.get(at as usize) else { return false };
        if (write.term, write.index) != (term, index) {
            atoll_base::reached!("a write completed for another suffix");
            return false;
        }
        self.pending.drain(..=at as usize);
        true
    }

    /// Forgets all pending writes: a snapshot took the place of what they held.
    pub(crate) fn forget(&mut self) {
        self.pending.clear();
    }

    /// How many are pending.
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The durable end of a log that ends at `last`.
    pub(crate) fn durable(&self, last: LogIndex) -> LogIndex {
        match self.pending.front().and_then(|w| w.floor) {
            Some(floor) => last.min(floor.prev()),
            None => last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overwritten_suffix_is_durable_only_with_its_last_write() {
        let mut w = Writes::new();
        let a = w.open();
        w.hold(LogIndex(5));
        w.seal(Term(2), LogIndex(7));
        let b = w.open();
        w.hold(LogIndex(5));
        w.seal(Term(3), LogIndex(5));
        let c = w.open();
        w.hold(LogIndex(6));
        w.seal(Term(3), LogIndex(7));
        assert_eq!(w.durable(LogIndex(7)), LogIndex(4));
        assert!(w.complete(a, Term(2), LogIndex(7)));
        assert_eq!(w.durable(LogIndex(7)), LogIndex(4), "trap R6");
        assert!(!w.complete(a, Term(2), LogIndex(7)), "told twice");
        assert!(!w.complete(b, Term(2), LogIndex(5)), "another life's write");
        assert!(w.complete(b, Term(3), LogIndex(5)));
        assert_eq!(w.durable(LogIndex(7)), LogIndex(5));
        assert!(w.complete(c, Term(3), LogIndex(7)));
        assert_eq!(w.durable(LogIndex(7)), LogIndex(7));
    }

    #[test]
    fn a_later_smaller_write_holds_the_earlier_ones_back() {
        let mut w = Writes::new();
        w.open();
        w.hold(LogIndex(8));
        w.seal(Term(1), LogIndex(9));
        w.open();
        w.hold(LogIndex(3));
        w.seal(Term(2), LogIndex(3));
        assert_eq!(w.durable(LogIndex(3)), LogIndex(2));
        assert!(w.complete(1, Term(1), LogIndex(9)));
        assert_eq!(w.durable(LogIndex(3)), LogIndex(2));
        assert!(w.complete(2, Term(2), LogIndex(3)));
        assert!(w.is_empty());
    }
}
