//! The core's view of its log: where it begins and ends, the term of every entry, and the recent
//! entries themselves.
//!
//! Terms are kept as *runs* (first index, term): a log of millions of entries has as many runs as
//! it saw leaders, so every term is known without a read, and finding a conflict is a walk over
//! runs. Recent entries are kept up to a bound of bytes, fewer of those that every follower has;
//! only one that lags behind them makes the core read the owner's log.

use std::collections::VecDeque;

use atoll_base::{Entry, LogIndex, Term};

use crate::reader::{LogReader, ReadError};

/// Of the bytes that may be kept, those of entries that every follower has are one in so many: a
/// follower that is behind for a moment still finds some.
const SETTLED_PART: usize = 4;

/// Where a log begins and ends, its terms, and its recent entries (thesis 3.5); see the module.
#[derive(Debug)]
pub struct LogView {
    /// `runs[0]` is the entry before the first; each run lasts until the next one starts.
    runs: Vec<(LogIndex, Term)>,
    last: LogIndex,
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    tail_bytes_max: usize,
}

impl LogView {
    /// An empty log after the entry `(prev, prev_term)`; keeps entries of up to `tail_bytes_max`
    /// bytes.
    #[must_use]
    pub fn new(prev: LogIndex, prev_term: Term, tail_bytes_max: usize) -> Self {
        let runs = vec![(prev, prev_term)];
        Self { runs, last: prev, tail: VecDeque::new(), tail_bytes: 0, tail_bytes_max }
    }

    /// The first entry kept; one past the last when none is.
    #[must_use]
    pub fn first(&self) -> LogIndex {
        self.runs[0].0.next()
    }

    /// The last entry; the one before the first when none is kept.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        self.last
    }

    /// The last entry's term.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.runs[self.runs.len() - 1].1
    }

    /// The term at `index`, known from the entry before the first on.
    #[must_use]
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        if index > self.last || index < self.runs[0].0 {
            return None;
        }
        Some(self.runs[self.run_of(index)].1)
    }

    /// The last entry at or before `index` whose term is at most `term` (fast back-up, thesis 3.5);
    /// what lies before the view when there is none.
    #[must_use]
    pub fn last_at_most(&self, index: LogIndex, term: Term) -> LogIndex {
        if index < self.runs[0].0 {
            return index;
        }
        let mut at = index.min(self.last);
        for run in (0..=self.run_of(at)).rev() {
            let (start, run_term) = self.runs[run];
            if run_term <= term {
                return at;
            }
            at = start.prev();
        }
        at
    }

    /// The entry before the first and its term, and where every later term starts; ascending.
    pub(crate) fn runs(&self) -> &[(LogIndex, Term)] {
        &self.runs
    }

    /// Appends `entry`.
    ///
    /// # Panics
    /// When it does not follow the last one, or its term is smaller than that one's.
    pub fn push(&mut self, entry: Entry) {
        self.meet(&entry);
        self.tail.push_back(entry);
    }

    /// Appends copies of `entries`, as [`LogView::push`] does.
    ///
    /// # Panics
    /// As [`LogView::push`].
    pub fn extend_from_slice(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.meet(entry);
        }
        self.tail.extend(entries.iter().cloned());
    }

    /// Counts an entry that is about to be appended.
    fn meet(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.last.next(), "an append leaves no gap");
        let last_term = self.last_term();
        assert!(entry.term >= last_term, "entry {} falls to term {}", entry.index, entry.term);
        if entry.term > last_term {
            self.runs.push((entry.index, entry.term));
        }
        self.last = entry.index;
        self.tail_bytes += entry.cost();
    }

    /// Drops the oldest kept entries beyond the bound; what every follower has, up to `settled`,
    /// takes a part of it at most. Only what the owner's log shows may go, so this is for the end
    /// of a step, when the entries of earlier steps and no others are there.
    pub fn trim(&mut self, shown: LogIndex, settled: LogIndex) {
        while let Some(oldest) = self.tail.front() {
            let is_settled = oldest.index <= settled;
            let bound = self.tail_bytes_max / if is_settled { SETTLED_PART } else { 1 };
            if self.tail_bytes <= bound || oldest.index > shown {
                return;
            }
            self.drop_oldest();
        }
    }

    /// Removes everything from `from` on (a conflict, thesis 3.5).
    ///
    /// # Panics
    /// When `from` lies before the first entry.
    pub fn truncate(&mut self, from: LogIndex) {
        assert!(from >= self.first(), "truncation at {from} cuts below {}", self.first());
        while self.tail.back().is_some_and(|e| e.index >= from) {
            let entry = self.tail.pop_back().expect("just seen");
            self.tail_bytes -= entry.cost();
        }
        while self.runs.last().is_some_and(|(start, _)| *start >= from) {
            self.runs.pop();
        }
        self.last = self.last.min(from.prev());
    }

    /// Forgets everything before `first` (thesis 5).
    ///
    /// # Panics
    /// When `first` lies more than one past the last entry.
    pub fn compact(&mut self, first: LogIndex) {
        if first <= self.first() {
            return;
        }
        assert!(first <= self.last.next(), "compaction to {first} passes the end {}", self.last);
        let run = self.run_of(first.prev());
        self.runs.drain(..run);
        self.runs[0].0 = first.prev();
        let gone = self.tail.partition_point(|e| e.index < first);
        self.tail_bytes -= self.tail.drain(..gone).map(|e| e.cost()).sum::<usize>();
    }

    /// Forgets everything: the log is empty after the entry `(index, term)`.
    pub fn reset(&mut self, index: LogIndex, term: Term) {
        self.runs.clear();
        self.runs.push((index, term));
        self.last = index;
        self.tail.clear();
        self.tail_bytes = 0;
    }

    /// Appends entries from `from` on to `out`: as many as stay within `bytes_max` bytes, one at
    /// least.
    /// Reads `reader` only for what is older than the kept tail. Returns what they cost, in bytes.
    ///
    /// # Errors
    /// Those of [`LogReader::entries`].
    pub fn entries(
        &self,
        from: LogIndex,
        bytes_max: usize,
        reader: &dyn LogReader,
        out: &mut Vec<Entry>,
    ) -> Result<usize, ReadError> {
        if from > self.last {
            return Ok(0);
        }
        let tail_first = self.last.0 + 1 - self.tail.len() as u64;
        if from.0 < tail_first {
            let before = out.len();
            reader.entries(from, LogIndex(tail_first), bytes_max, out)?;
            return Ok(out[before..].iter().map(Entry::cost).sum());
        }
        let skip = (from.0 - tail_first) as usize;
        let (mut bytes, mut count) = (0, 0);
        for entry in self.tail.range(skip..) {
            let with = bytes + entry.cost();
            if with > bytes_max && count > 0 {
                break;
            }
            bytes = with;
            count += 1;
        }
        // By slices: an iterator over a ring asks at each entry whether it wraps.
        let (front, back) = self.tail.as_slices();
        let split = front.len();
        out.extend_from_slice(&front[skip.min(split)..(skip + count).min(split)]);
        let end = (skip + count).saturating_sub(split);
        out.extend_from_slice(&back[skip.saturating_sub(split)..end]);
        Ok(bytes)
    }

    /// Bytes kept in memory.
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    fn run_of(&self, index: LogIndex) -> usize {
        self.runs.partition_point(|(start, _)| *start <= index) - 1
    }

    fn drop_oldest(&mut self) {
        if let Some(entry) = self.tail.pop_front() {
            self.tail_bytes -= entry.cost();
        }
    }
}
