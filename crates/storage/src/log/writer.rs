//! The log thread's side of the log: turns batches into frames and frames into durable bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use atoll_base::{LogIndex, ShardId, Term};

use super::error::{LogError, io_error, sync_error};
use super::pool::SegmentPool;
use super::record::{self, LogAmnesia, LogHardState, LogRecord, Place, StartReason};
use super::recover::{self, Opened, Recovered, RecoveredShard};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentFiles, SegmentHeader, segment_path};
use super::{Location, LogBatch, LogReaderHandle, WrittenAt, WrittenEntry};
use crate::disk::{Disk, DiskFile, OpenMode};

/// Settings of a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Bytes of a new segment, a multiple of 8. Segments of another size are used up as they are.
    pub segment_bytes: u32,
    /// Prepared segments to keep ready.
    pub spare_segments: usize,
    /// The most that one record may take in a segment, header included.
    pub record_bytes_max: usize,
    /// Payloads that a recovered [`ShardLog`](super::ShardLog) keeps in memory.
    pub shard_payload_bytes_max: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            spare_segments: 1,
            record_bytes_max: 16 << 20,
            shard_payload_bytes_max: 1 << 20,
        }
    }
}

impl LogOptions {
    fn check(&self) -> Result<(), LogError> {
        let room = (self.segment_bytes as usize).saturating_sub(SEGMENT_HEADER_BYTES as usize);
        let reason = if !self.segment_bytes.is_multiple_of(8) || self.segment_bytes > 1 << 30 {
            format!("segment_bytes {} is not a multiple of 8 up to 2^30", self.segment_bytes)
        } else if self.record_bytes_max > room || self.record_bytes_max < 256 {
            format!("record_bytes_max {} is not within 256..={room}", self.record_bytes_max)
        } else {
            return Ok(());
        };
        Err(LogError::BadOptions { reason })
    }
}

/// What the writer must know of a shard to number its records and to let segments go.
#[derive(Default)]
struct ShardState {
    /// The number of its last record.
    sequence: u32,
    /// Its newest hard state and the segment that holds it.
    hard_state: Option<(LogHardState, u64)>,
    /// Its first index, the term before, and the segment that says so.
    start: Option<(LogIndex, Term, u64)>,
    /// The segment that says that it is damaged.
    marked: Option<u64>,
}

impl ShardState {
    fn first_kept(&self) -> LogIndex {
        self.start.map_or(LogIndex(1), |(first, ..)| first)
    }
}

struct Segment {
    number: u64,
    /// Where the next frame goes; 0 before the header is written.
    end: u32,
    capacity: u32,
    /// The highest index that each shard has in it.
    highest: BTreeMap<ShardId, LogIndex>,
}

impl Segment {
    fn next_frame(&self) -> u32 {
        self.end.max(SEGMENT_HEADER_BYTES)
    }

    fn room(&self) -> usize {
        (self.capacity - self.next_frame()) as usize
    }
}

/// Writes the log of a node. One owner, no thread of its own; each write returns when it is
/// durable.
pub struct LogWriter {
    disk: Arc<dyn Disk>,
    dir: Arc<Path>,
    record_bytes_max: usize,
    pool: SegmentPool,
    files: Arc<SegmentFiles>,
    /// Oldest first; the last one is the tail.
    segments: VecDeque<Segment>,
    tail: Option<Arc<dyn DiskFile>>,
    shards: BTreeMap<ShardId, ShardState>,
    /// Shards that were found damaged and that no record calls so. A damaged replica writes on
    /// (terms that it hears of), and that would hide the gap: the next record says it (L7).
    unmarked: BTreeSet<ShardId>,
    /// Shards with entries in the oldest segment that they still need.
    pins: BTreeSet<ShardId>,
    /// Cuts that go with the next write.
    cuts: BTreeMap<ShardId, (LogIndex, Term)>,
    /// One past what a failed write may have left behind the tail's end.
    remnants_end: Option<u32>,
    is_poisoned: bool,
    buffer: Vec<u8>,
}

impl LogWriter {
    /// Opens the log in `dir`, making the folder where needed, and says what it holds. Bytes of a
    /// torn write behind the end are scrubbed.
    ///
    /// # Errors
    /// [`LogError::BadOptions`]; [`LogError::UnknownVersion`] for a newer build's log;
    /// [`LogError::Io`] and [`LogError::SyncFailed`] from the disk. Damaged content is not an
    /// error: it is reported per shard.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
    ) -> Result<(Self, Recovered), LogError> {
        options.check()?;
        disk.create_dir_all(dir).map_err(io_error("create", dir))?;
        let opened = recover::recover(&disk, dir)?;
        let (bytes, spares) = (options.segment_bytes, options.spare_segments);
        let mut pool = SegmentPool::open(Arc::clone(&disk), dir, bytes, spares)?;
        if opened.segments.is_empty() {
            pool.discard()?;
        }
        let mut writer = Self {
            files: Arc::new(SegmentFiles::new(Arc::clone(&disk), dir.to_path_buf())),
            disk,
            dir: dir.into(),
            record_bytes_max: options.record_bytes_max,
            pool,
            segments: VecDeque::new(),
            tail: None,
            shards: BTreeMap::new(),
            unmarked: BTreeSet::new(),
            pins: BTreeSet::new(),
            cuts: BTreeMap::new(),
            remnants_end: None,
            is_poisoned: false,
            buffer: Vec::new(),
        };
        let recovered = writer.take_over(opened, options.shard_payload_bytes_max)?;
        Ok((writer, recovered))
    }

    /// Makes all records of `batches` durable, in order: one write and one sync, two where a
    /// segment ends between them. Also writes down what [`LogWriter::release`] was told.
    ///
    /// # Errors
    /// [`LogError::RecordTooLarge`] and [`LogError::DiskFull`] leave the log as it was (L6).
    /// After [`LogError::SyncFailed`] or any other error what the disk holds is unknown: the
    /// process must abort; every later write is refused with [`LogError::Poisoned`].
    pub fn write(&mut self, batches: &[LogBatch]) -> Result<WrittenAt, LogError> {
        if self.is_poisoned {
            return Err(LogError::Poisoned);
        }
        let result = self.write_frames(batches);
        self.is_poisoned = !matches!(
            result,
            Ok(_) | Err(LogError::DiskFull { .. } | LogError::RecordTooLarge { .. })
        );
        result
    }

    /// Says that `shard` needs no entry below `first_kept`, before which the term is `prev_term`.
    /// Takes effect with the next write, as a [`LogRecord::LogStart`] in a batch does.
    pub fn release(&mut self, shard: ShardId, first_kept: LogIndex, prev_term: Term) {
        let Some(state) = self.shards.get(&shard) else { return };
        if first_kept > state.first_kept() {
            self.cuts.insert(shard, (first_kept, prev_term));
        }
    }

    /// Does what is better done when nothing waits: writes cuts down, lets the oldest segment go if
    /// only hard states keep it, prepares spares.
    ///
    /// # Errors
    /// As [`LogWriter::write`].
    pub fn maintain(&mut self) -> Result<(), LogError> {
        self.write(&[])?;
        self.pool.refill()
    }

    /// Whether [`LogWriter::write`] of these batches is one write and one sync of a file that is
    /// open, and nothing else: no segment begins or goes, no name changes, nothing is mended. So
    /// it takes as long as the disk takes for so many bytes.
    #[must_use]
    pub fn is_plain(&self, batches: &[LogBatch]) -> bool {
        let records = || batches.iter().flat_map(|batch| &batch.records);
        let bytes: usize = records().map(LogRecord::stored_bytes).sum();
        let pins_on =
            |r: &LogRecord| matches!(r, LogRecord::Entry { .. } | LogRecord::HardState { .. });
        let lets_nothing_go =
            self.segments.len() < 2 || !self.pins.is_empty() && records().all(pins_on);
        !self.is_poisoned
            && self.remnants_end.is_none()
            && self.cuts.is_empty()
            && self.unmarked.is_empty()
            && lets_nothing_go
            && self.segments.back().is_some_and(|tail| bytes <= tail.room())
    }

    /// A reader of what this writer wrote and will write.
    #[must_use]
    pub fn reader(&self) -> LogReaderHandle {
        LogReaderHandle::new(Arc::clone(&self.files), Arc::clone(&self.dir))
    }

    /// How many segments hold records. They can only go from the oldest on.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// The shards whose entries keep the oldest segment from being recycled: cut their logs first.
    pub fn pinned_by(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.pins.iter().copied()
    }

    fn take_over(
        &mut self,
        opened: Opened,
        shard_payload_bytes_max: usize,
    ) -> Result<Recovered, LogError> {
        let mut highest = opened.replay.highest;
        for state in opened.segments {
            let path = segment_path(&self.dir, state.number);
            let file = self.disk.open(&path, OpenMode::Append).map_err(io_error("open", &path))?;
            let len = file.len().map_err(io_error("measure", &path))?;
            self.segments.push_back(Segment {
                number: state.number,
                end: state.end,
                // Nothing goes into a file that is not what it was.
                capacity: if state.is_cut { state.end } else { len as u32 }
                    .max(SEGMENT_HEADER_BYTES),
                highest: highest.remove(&state.number).unwrap_or_default(),
            });
            self.tail = Some(file.into());
        }
        let mut recovered = Recovered {
            warnings: opened.warnings,
            damaged_stretches: opened.damaged_stretches,
            unexplained: opened.replay.unexplained,
            ..Recovered::default()
        };
        for (shard, replayed) in opened.replay.shards {
            if replayed.is_removed {
                continue;
            }
            let (sequence, start) = (replayed.sequence, replayed.start);
            let (hard_state_at, marked) = (replayed.hard_state, replayed.marked);
            let hard_state = hard_state_at.map(|(state, _)| state);
            let (log, lost) = replayed.finish(shard, shard_payload_bytes_max, self.reader());
            let (forgot, damaged) = lost.map_or((LogAmnesia::None, None), |(f, d)| (f, Some(d)));
            if damaged.is_some() && marked.is_none() {
                self.unmarked.insert(shard);
            }
            let kept = ShardState { sequence, hard_state: hard_state_at, start, marked };
            self.shards.insert(shard, kept);
            recovered.shards.insert(shard, RecoveredShard { hard_state, log, damaged, forgot });
        }
        self.find_pins();
        Ok(recovered)
    }

    fn write_frames(&mut self, batches: &[LogBatch]) -> Result<WrittenAt, LogError> {
        let own = self.own_records();
        let mut records: Vec<&LogRecord> = own.iter().collect();
        records.extend(batches.iter().flat_map(|batch| &batch.records));
        self.check_sizes(&records)?;
        let frames = self.plan(&records);
        let new_segments = frames.iter().filter(|frame| frame.in_new_segment).count();
        self.pool.ensure(new_segments)?;
        self.scrub_failed_write()?;
        let mut written = WrittenAt::default();
        let mut rest = &records[..];
        for frame in frames {
            let (now, later) = rest.split_at(frame.count);
            if frame.in_new_segment {
                self.start_segment()?;
            }
            self.write_frame(now, &mut written)?;
            rest = later;
        }
        self.cuts.clear();
        self.reclaim()?;
        Ok(written)
    }

    /// The records that the log itself has to say: cuts, and what would else go with the oldest
    /// segment (L5).
    fn own_records(&self) -> Vec<LogRecord> {
        let mut own = Vec::new();
        for (&shard, &(first, prev_term)) in &self.cuts {
            // A snapshot may have overtaken the cut.
            if self.shards.get(&shard).is_some_and(|state| first > state.first_kept()) {
                let reason = StartReason::Cut;
                own.push(LogRecord::LogStart { shard, first, prev_term, reason });
            }
        }
        own.extend(self.unmarked.iter().filter_map(|shard| self.damage_record(*shard)));
        if self.segments.len() < 2 || !self.pins.is_empty() {
            return own;
        }
        let oldest = self.segments[0].number;
        let marked = self.shards.iter().filter(|(_, state)| state.marked == Some(oldest));
        own.extend(marked.filter_map(|(shard, _)| self.damage_record(*shard)));
        for (&shard, state) in &self.shards {
            if let Some((first, prev_term, segment)) = state.start
                && segment == oldest
                && !self.cuts.contains_key(&shard)
            {
                let reason = StartReason::Cut;
                own.push(LogRecord::LogStart { shard, first, prev_term, reason });
            }
            if let Some((state, segment)) = state.hard_state
                && segment == oldest
            {
                atoll_base::reached!("a hard state was written again to let a segment go");
                own.push(LogRecord::HardState { shard, state });
            }
        }
        own
    }

    /// Says that a shard is damaged.
    fn damage_record(&self, shard: ShardId) -> Option<LogRecord> {
        let start = self.shards.get(&shard)?.start;
        let (first, prev_term) =
            start.map_or((LogIndex(1), Term::ZERO), |(first, term, _)| (first, term));
        Some(LogRecord::LogStart { shard, first, prev_term, reason: StartReason::Damaged })
    }

    fn check_sizes(&self, records: &[&LogRecord]) -> Result<(), LogError> {
        let limit = self.record_bytes_max;
        match records.iter().find(|record| record.stored_bytes() > limit) {
            None => Ok(()),
            Some(record) => {
                let (shard, bytes) = (record.shard(), record.stored_bytes());
                Err(LogError::RecordTooLarge { shard, bytes, limit })
            }
        }
    }

    /// Which records go together into which segment.
    fn plan(&self, records: &[&LogRecord]) -> Vec<Frame> {
        let mut room = self.segments.back().map_or(0, Segment::room);
        let mut frames = vec![Frame { count: 0, in_new_segment: false }];
        for record in records {
            let bytes = record.stored_bytes();
            if bytes > room {
                frames.push(Frame { count: 0, in_new_segment: true });
                room = (self.pool.segment_bytes() - SEGMENT_HEADER_BYTES) as usize;
            }
            room -= bytes;
            if let Some(frame) = frames.last_mut() {
                frame.count += 1;
            }
        }
        frames.retain(|frame| frame.count > 0);
        frames
    }

    /// Overwrites what a failed write left, so that nothing of it can follow a later frame (L2).
    fn scrub_failed_write(&mut self) -> Result<(), LogError> {
        let (Some(to), Some(file)) = (self.remnants_end, &self.tail) else { return Ok(()) };
        let tail = self.segments.back().expect("an open tail is among the segments");
        let path = segment_path(&self.dir, tail.number);
        atoll_base::reached!("what a failed write left was scrubbed");
        let zeros = vec![0; (to - tail.end) as usize];
        file.write_at(u64::from(tail.end), &zeros).map_err(full_or_io(&path, zeros.len()))?;
        file.sync().map_err(sync_error(&path))?;
        self.remnants_end = None;
        Ok(())
    }

    fn start_segment(&mut self) -> Result<(), LogError> {
        let number = self.segments.back().map_or(1, |tail| tail.number + 1);
        self.tail = Some(self.pool.activate(number)?);
        self.segments.push_back(Segment {
            number,
            end: 0,
            capacity: self.pool.segment_bytes(),
            highest: BTreeMap::new(),
        });
        if self.segments.len() == 2 {
            // Only now is the oldest segment complete.
            self.find_pins();
        }
        Ok(())
    }

    fn write_frame(
        &mut self,
        records: &[&LogRecord],
        written: &mut WrittenAt,
    ) -> Result<(), LogError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let tail = self.segments.back().expect("a frame goes into a segment");
        let (number, start, frame) = (tail.number, tail.end, tail.next_frame());
        if start == 0 {
            self.header_of_tail().encode(&mut buffer);
        }
        let places = self.encode(records, number, start, frame, &mut buffer);
        let result = self.put(start, &buffer);
        let len = buffer.len() as u32;
        self.buffer = buffer;
        if let Err(error) = result {
            self.remnants_end = self.remnants_end.max(Some(start + len));
            return Err(error);
        }
        written.bytes += u64::from(len);
        let tail = self.segments.back_mut().expect("a frame goes into a segment");
        tail.end = start + len;
        for (record, location) in records.iter().zip(places) {
            self.commit(record, location, written);
        }
        Ok(())
    }

    fn header_of_tail(&self) -> SegmentHeader {
        let tail = self.segments.back().expect("the header is the tail's");
        let before = self.segments.iter().rev().nth(1);
        SegmentHeader {
            number: tail.number,
            prev_number: before.map_or(0, |segment| segment.number),
            prev_end: before.map_or(0, Segment::next_frame),
            capacity: tail.capacity,
        }
    }

    fn encode(
        &self,
        records: &[&LogRecord],
        segment: u64,
        start: u32,
        frame: u32,
        buffer: &mut Vec<u8>,
    ) -> Vec<Location> {
        let mut sequences: BTreeMap<ShardId, u32> = BTreeMap::new();
        let mut places = Vec::with_capacity(records.len());
        for record in records {
            let shard = record.shard();
            let known = || self.shards.get(&shard).map_or(0, |state| state.sequence);
            let sequence = sequences.entry(shard).or_insert_with(known);
            *sequence = sequence.wrapping_add(1);
            let offset = start + buffer.len() as u32;
            let len = record::encode(record, Place { segment, offset }, frame, *sequence, buffer);
            places.push(Location { segment, offset, len });
            if matches!(record, LogRecord::ShardRemoved { .. }) {
                *sequence = 0;
            }
        }
        places
    }

    /// The one write and the one sync of a frame.
    fn put(&self, start: u32, bytes: &[u8]) -> Result<(), LogError> {
        let file = self.tail.as_ref().expect("a frame goes into an open segment");
        let tail = self.segments.back().expect("an open tail is among the segments");
        // Made for errors only: this is done for every write.
        let path = || segment_path(&self.dir, tail.number);
        file.write_at(u64::from(start), bytes)
            .map_err(|error| full_or_io(&path(), bytes.len())(error))?;
        file.sync().map_err(|error| sync_error(&path())(error))
    }

    /// Takes note of a record that is durable now.
    fn commit(&mut self, record: &LogRecord, location: Location, written: &mut WrittenAt) {
        let shard = record.shard();
        let segment = location.segment;
        let state = self.shards.entry(shard).or_default();
        state.sequence = state.sequence.wrapping_add(1);
        match record {
            LogRecord::Entry { entry, .. } => {
                let (index, term) = (entry.index, entry.term);
                written.entries.push(WrittenEntry { shard, index, term, location });
                if let Some(tail) = self.segments.back_mut() {
                    let highest = tail.highest.entry(shard).or_default();
                    *highest = (*highest).max(index);
                }
            }
            LogRecord::HardState { state: hard_state, .. } => {
                state.hard_state = Some((*hard_state, segment));
            }
            LogRecord::LogStart { first, prev_term, reason, .. } => {
                state.start = Some((*first, *prev_term, segment));
                match reason {
                    StartReason::Snapshot => {
                        state.marked = None;
                        self.unmarked.remove(&shard);
                        self.forget_entries(shard);
                    }
                    StartReason::Cut => self.unpin(shard, *first),
                    StartReason::Damaged => {
                        state.marked = Some(segment);
                        self.unmarked.remove(&shard);
                        self.unpin(shard, *first);
                    }
                }
            }
            LogRecord::ShardRemoved { .. } => {
                self.shards.remove(&shard);
                self.unmarked.remove(&shard);
                self.forget_entries(shard);
            }
        }
    }

    fn forget_entries(&mut self, shard: ShardId) {
        for segment in &mut self.segments {
            segment.highest.remove(&shard);
        }
        self.pins.remove(&shard);
    }

    fn unpin(&mut self, shard: ShardId, first: LogIndex) {
        let highest = self.segments.front().and_then(|oldest| oldest.highest.get(&shard));
        if highest.is_none_or(|highest| *highest < first) {
            self.pins.remove(&shard);
        }
    }

    /// Lets go of the oldest segments while nothing in them is needed (L5).
    fn reclaim(&mut self) -> Result<(), LogError> {
        while self.segments.len() > 1 {
            if !self.pins.is_empty() {
                return Ok(());
            }
            let oldest = self.segments[0].number;
            let is_needed = self.shards.values().any(|state| {
                state.hard_state.is_some_and(|(_, segment)| segment == oldest)
                    || state.start.is_some_and(|(.., segment)| segment == oldest)
                    || state.marked == Some(oldest)
            });
            if is_needed {
                return Ok(());
            }
            self.files.close(oldest);
            self.pool.recycle(oldest)?;
            self.segments.pop_front();
            self.find_pins();
        }
        Ok(())
    }

    fn find_pins(&mut self) {
        let Some(oldest) = self.segments.front() else { return };
        let needs = |(shard, highest): &(&ShardId, &LogIndex)| {
            self.shards.get(shard).is_some_and(|state| **highest >= state.first_kept())
        };
        self.pins = oldest.highest.iter().filter(needs).map(|(shard, _)| *shard).collect();
    }
}

/// Some records that go into one segment with one write.
struct Frame {
    count: usize,
    in_new_segment: bool,
}

fn full_or_io(path: &Path, needed: usize) -> impl FnOnce(std::io::Error) -> LogError + '_ {
    move |source| match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            LogError::DiskFull { path: path.to_path_buf(), needed: needed as u64 }
        }
        _ => LogError::Io { during: "write", path: path.to_path_buf(), source },
    }
}
