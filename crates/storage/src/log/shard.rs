//! The lane's side of the log: one shard's entries by index.
//!
//! Every entry has a slot. A slot holds its payload until the entry is on disk *and* memory is
//! wanted back; then it holds only the place. Terms are kept as runs, since they change with
//! leaders only.

use std::collections::VecDeque;

use atoll_base::{Entry, EntryKind, LogIndex, ShardId, Term};
use bytes::Bytes;

use super::error::LogError;
use super::{Location, LogReaderHandle};

/// What a slot costs besides its payload.
const SLOT_BYTES: usize = size_of::<Slot>();

/// Payloads that are read with one call of the disk lie within this many bytes.
const READ_SPAN_BYTES: u32 = 256 << 10;

/// Of the payload bytes that stay in memory, those of applied entries are one in so many.
const SETTLED_PART: usize = 4;

#[derive(Clone, Debug)]
struct Slot {
    kind: EntryKind,
    payload_len: u32,
    payload: Option<Bytes>,
    location: Option<Location>,
}

impl Slot {
    fn cost(&self) -> usize {
        self.payload_len as usize + 32
    }
}

/// The entries `first..=last` of one shard. Single owner.
#[derive(Debug)]
pub struct ShardLog {
    shard: ShardId,
    first: LogIndex,
    prev_term: Term,
    slots: VecDeque<Slot>,
    /// Runs of equal terms: the first index of each, and its term. Empty when there is no entry.
    terms: VecDeque<(LogIndex, Term)>,
    payload_bytes: usize,
    payload_bytes_max: usize,
    /// Every entry below has been evicted.
    resident: LogIndex,
    /// Nobody waits for the entries up to this one.
    settled: LogIndex,
    reader: Option<LogReaderHandle>,
}

impl ShardLog {
    /// An empty log of a new shard. Payloads beyond `payload_bytes_max`, and beyond a part of it
    /// those of applied entries, are dropped from memory once they are on disk, oldest first, and
    /// read back through `reader`; without one they all stay.
    #[must_use]
    pub fn new(shard: ShardId, payload_bytes_max: usize, reader: Option<LogReaderHandle>) -> Self {
        Self {
            shard,
            first: LogIndex(1),
            prev_term: Term::ZERO,
            slots: VecDeque::new(),
            terms: VecDeque::new(),
            payload_bytes: 0,
            payload_bytes_max,
            resident: LogIndex(1),
            settled: LogIndex::ZERO,
            reader,
        }
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The first entry kept; one past the last when there is none.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.first
    }

    /// The last entry; `first_index - 1` when there is none.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.first.0 + self.slots.len() as u64 - 1)
    }

    /// The term of the last entry, or of the one before the first when there is none.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.terms.back().map_or(self.prev_term, |run| run.1)
    }

    /// The term of the entry at `index`; also known for `first_index - 1`.
    #[must_use]
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        if index.next() == self.first {
            return Some(self.prev_term);
        }
        if index < self.first || index > self.last_index() {
            return None;
        }
        let run = self.terms.partition_point(|(first, _)| *first <= index);
        Some(self.terms[run - 1].1)
    }

    /// Adds entries. The first one's index may lie inside the log: what is there and above goes.
    /// The indexes must be consecutive, from `first_index` to one past the last.
    ///
    /// # Panics
    /// When they are not: the owner hands over what its core put out.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(head) = entries.first() else { return };
        assert!(
            head.index >= self.first && head.index <= self.last_index().next(),
            "append to shard {}: entry {} does not follow {}..={}",
            self.shard,
            head.index,
            self.first,
            self.last_index(),
        );
        self.truncate(head.index);
        for entry in entries {
            assert_eq!(entry.index, self.last_index().next(), "entries are consecutive");
            self.push(entry.index, entry.term, Slot::of(entry));
        }
        self.evict();
    }

    /// Notes where an entry was written. Ignored when the entry is not in the log any more or
    /// another term's took its place.
    pub fn located(&mut self, index: LogIndex, term: Term, location: Location) {
        if index < self.first || self.term(index) != Some(term) {
            return;
        }
        if let Some(slot) = self.slot_mut(index) {
            slot.location = Some(location);
        }
        self.evict();
    }

    /// Says that the entries up to `index` were applied: of their payloads fewer stay in memory.
    pub fn settle(&mut self, index: LogIndex) {
        if index > self.settled {
            self.settled = index;
            self.evict();
        }
    }

    /// Appends the entries from `from` up to `to` (exclusive) to `out`, stopping after the first
    /// that brings their cost to `bytes_max`, so that at least one is given. Evicted ones are read
    /// back.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] when `from` is not in the log, [`LogError::Damaged`] and
    /// [`LogError::Io`] as reading does.
    pub fn entries(
        &self,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
        out: &mut Vec<Entry>,
    ) -> Result<(), LogError> {
        if from >= to {
            return Ok(());
        }
        let (first, last) = (self.first, self.last_index());
        if from < first || from > last {
            return Err(LogError::OutOfRange { shard: self.shard, index: from, first, last });
        }
        let to = to.min(last.next());
        let mut run: Vec<Location> = Vec::new();
        let mut run_first = from;
        let mut cost = 0;
        let mut index = from;
        while index < to && (cost < bytes_max || index == from) {
            let slot = &self.slots[(index.0 - first.0) as usize];
            cost += slot.cost();
            if let Some(payload) = &slot.payload {
                self.read_run(run_first, &mut run, out)?;
                let term = self.term(index).expect("index is within the log");
                out.push(Entry { term, index, kind: slot.kind, payload: payload.clone() });
            } else {
                let at = slot.location.expect("only located payloads are evicted");
                if !run.is_empty() && !extends(&run, at) {
                    self.read_run(run_first, &mut run, out)?;
                }
                if run.is_empty() {
                    run_first = index;
                }
                run.push(at);
            }
            index = index.next();
        }
        self.read_run(run_first, &mut run, out)
    }

    /// Forgets the entries below `first_kept` (at most all of them).
    pub fn compact(&mut self, first_kept: LogIndex) {
        let first_kept = first_kept.min(self.last_index().next());
        if first_kept <= self.first {
            return;
        }
        self.prev_term = self.term(first_kept.prev()).expect("the entry before is in the log");
        for slot in self.slots.drain(..(first_kept.0 - self.first.0) as usize) {
            self.payload_bytes -= slot.payload.map_or(0, |p| p.len());
        }
        self.first = first_kept;
        self.resident = self.resident.max(first_kept);
        while self.terms.get(1).is_some_and(|(first, _)| *first <= first_kept) {
            self.terms.pop_front();
        }
        match self.terms.front_mut() {
            Some(run) if !self.slots.is_empty() => run.0 = first_kept,
            _ => self.terms.clear(),
        }
    }

    /// Forgets every entry: a snapshot that ends at `(index, term)` replaced them.
    pub fn reset(&mut self, index: LogIndex, term: Term) {
        self.slots.clear();
        self.terms.clear();
        self.payload_bytes = 0;
        self.first = index.next();
        self.resident = self.first;
        self.prev_term = term;
    }

    /// Bytes of memory that this log holds.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.payload_bytes + self.slots.len() * SLOT_BYTES
    }

    /// Changes how many bytes of payloads stay in memory.
    pub fn limit_payload_bytes(&mut self, payload_bytes_max: usize) {
        self.payload_bytes_max = payload_bytes_max;
        self.evict();
    }

    /// Checks what this log claims of itself; for tests and the simulator.
    ///
    /// # Panics
    /// When something is wrong.
    pub fn validate(&self) {
        let held: usize =
            self.slots.iter().filter_map(|s| s.payload.as_ref()).map(Bytes::len).sum();
        assert_eq!(held, self.payload_bytes, "payload bytes are counted");
        assert_eq!(self.terms.is_empty(), self.slots.is_empty(), "runs cover the entries");
        assert!(
            self.terms.front().is_none_or(|run| run.0 == self.first),
            "runs start at the first"
        );
        let runs = self.terms.iter().zip(self.terms.iter().skip(1));
        for (a, b) in runs {
            assert!(a.0 < b.0 && a.1 != b.1, "runs are in order and maximal: {a:?} {b:?}");
        }
        for (at, slot) in self.slots.iter().enumerate() {
            let index = self.first.plus(at as u64);
            assert!(
                slot.payload.is_some() || slot.location.is_some(),
                "entry {index} is somewhere"
            );
            assert!(slot.payload.is_none() || index >= self.resident, "entry {index} is resident");
        }
    }

    /// Adds an entry that is on disk already; for recovery.
    pub(crate) fn push_located(
        &mut self,
        term: Term,
        kind: EntryKind,
        payload_len: u32,
        location: Location,
    ) {
        let index = self.last_index().next();
        let slot = Slot { kind, payload_len, payload: None, location: Some(location) };
        self.push(index, term, slot);
        self.resident = index.next();
    }

    fn push(&mut self, index: LogIndex, term: Term, slot: Slot) {
        if self.terms.back().is_none_or(|run| run.1 != term) {
            self.terms.push_back((index, term));
        }
        self.payload_bytes += slot.payload.as_ref().map_or(0, Bytes::len);
        self.slots.push_back(slot);
    }

    /// Forgets the entries at `from` and above.
    fn truncate(&mut self, from: LogIndex) {
        for slot in self.slots.drain((from.0 - self.first.0) as usize..) {
            self.payload_bytes -= slot.payload.map_or(0, |p| p.len());
        }
        while self.terms.back().is_some_and(|(first, _)| *first >= from) {
            self.terms.pop_back();
        }
        self.resident = self.resident.min(from);
    }

    /// Drops the oldest payloads that are on disk until the rest is within the limit.
    fn evict(&mut self) {
        if self.reader.is_none() {
            return;
        }
        loop {
            let index = self.resident;
            let part = if index <= self.settled { SETTLED_PART } else { 1 };
            if self.payload_bytes <= self.payload_bytes_max / part {
                return;
            }
            let Some(slot) = self.slot_mut(index) else { return };
            if slot.location.is_none() {
                return;
            }
            let dropped = slot.payload.take().map_or(0, |p| p.len());
            self.payload_bytes -= dropped;
            self.resident = index.next();
        }
    }

    fn slot_mut(&mut self, index: LogIndex) -> Option<&mut Slot> {
        self.slots.get_mut(index.0.checked_sub(self.first.0)? as usize)
    }

    fn read_run(
        &self,
        first: LogIndex,
        run: &mut Vec<Location>,
        out: &mut Vec<Entry>,
    ) -> Result<(), LogError> {
        if let (Some(reader), false) = (&self.reader, run.is_empty()) {
            reader.read_run(self.shard, first, run, out)?;
            run.clear();
        }
        Ok(())
    }
}

impl Slot {
    fn of(entry: &Entry) -> Self {
        let payload_len = entry.payload.len() as u32;
        let payload = Some(entry.payload.clone());
        Self { kind: entry.kind, payload_len, payload, location: None }
    }
}

/// True when one read may cover `run` and `next`.
fn extends(run: &[Location], next: Location) -> bool {
    let (Some(head), Some(tail)) = (run.first(), run.last()) else { return true };
    next.segment == head.segment
        && next.offset >= tail.offset + tail.len
        && next.offset - head.offset <= READ_SPAN_BYTES
        && next.offset - (tail.offset + tail.len) <= READ_SPAN_BYTES / 16
}
