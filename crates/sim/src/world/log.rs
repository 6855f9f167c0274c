//! The simulated log thread of a node: one write and one sync at a time for all lanes, on the real
//! log writer over the simulated disk.
//!
//! A write takes virtual time and reaches the disk when it ends. A node that loses power in the
//! middle of one leaves an unsynced write behind, for the disk to tear.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atoll_base::{LaneId, Rng};
use atoll_node::LogWrite;
use atoll_storage::{
    Disk, Location, LogBatch, LogError, LogOptions, LogReaderHandle, LogRecord, LogWriter, MemDisk,
    Recovered, WrittenEntry,
};

/// Where a node keeps its log.
pub(crate) fn log_dir() -> PathBuf {
    Path::new("/node/log").to_path_buf()
}

/// What became of a write.
pub(crate) enum WriteEnd {
    /// Durable: each lane's write with its entries' places.
    Done(Vec<(LaneId, LogWrite, Vec<WrittenEntry>)>),
    /// No room: it is tried again.
    Full,
    /// The disk failed: the process must abort.
    Failed(String),
}

/// The log thread's state.
pub(crate) struct SimLog {
    writer: LogWriter,
    queued: VecDeque<(LaneId, LogWrite)>,
    writing: Vec<(LaneId, LogWrite)>,
    /// Empty between writes.
    batches: Vec<LogBatch>,
    /// Places of entries made durable by the write before the last one: older than any tail.
    older: Option<Location>,
    newest: Option<Location>,
}

impl SimLog {
    pub(crate) fn open(
        disk: &MemDisk,
        options: &LogOptions,
    ) -> Result<(Self, Recovered, LogReaderHandle), LogError> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let (writer, recovered) = LogWriter::open(disk, &log_dir(), options.clone())?;
        let reader = writer.reader();
        let this = Self {
            writer,
            queued: VecDeque::new(),
            writing: Vec::new(),
            batches: Vec::new(),
            older: None,
            newest: None,
        };
        Ok((this, recovered, reader))
    }

    /// The place of an entry that is older than any tail.
    pub(crate) fn older(&self) -> Option<Location> {
        self.older
    }

    /// A lane hands over a write.
    pub(crate) fn push(&mut self, lane: LaneId, write: LogWrite) {
        self.queued.push_back((lane, write));
    }

    /// Writes not yet durable.
    pub(crate) fn backlog(&self) -> usize {
        self.queued.len() + self.writing.len()
    }

    /// Starts the next write if none is under way; true when it did.
    pub(crate) fn start(&mut self) -> bool {
        if !self.writing.is_empty() || self.queued.is_empty() {
            return false;
        }
        self.writing.extend(self.queued.drain(..));
        true
    }

    /// The write's time is over: does it.
    pub(crate) fn finish(&mut self) -> WriteEnd {
        let mut batches = std::mem::take(&mut self.batches);
        batches.extend(self.writing.iter_mut().map(|(_, write)| std::mem::take(&mut write.batch)));
        match self.writer.write(&batches) {
            Ok(written) => {
                if written.bytes > 0 {
                    self.older = self.newest;
                }
                self.newest = written.entries.last().map(|e| e.location).or(self.newest);
                let mut entries = written.entries.into_iter();
                let mut done = Vec::with_capacity(self.writing.len());
                for ((lane, mut write), batch) in self.writing.drain(..).zip(batches.drain(..)) {
                    let count = batch
                        .records
                        .iter()
                        .filter(|r| matches!(r, LogRecord::Entry { .. }))
                        .count();
                    write.batch = batch;
                    done.push((lane, write, entries.by_ref().take(count).collect()));
                }
                self.batches = batches;
                WriteEnd::Done(done)
            }
            Err(error) => {
                for ((_, write), batch) in self.writing.iter_mut().zip(batches) {
                    write.batch = batch;
                }
                match error {
                    LogError::DiskFull { .. } => WriteEnd::Full,
                    other => WriteEnd::Failed(other.to_string()),
                }
            }
        }
    }

    /// Does the log's housekeeping, when nothing waits.
    pub(crate) fn maintain(&mut self) -> WriteEnd {
        if self.backlog() > 0 {
            return WriteEnd::Done(Vec::new());
        }
        match self.writer.maintain() {
            Ok(()) => WriteEnd::Done(Vec::new()),
            Err(LogError::DiskFull { .. }) => WriteEnd::Full,
            Err(other) => WriteEnd::Failed(other.to_string()),
        }
    }

    /// Power is lost. The write under way, if any, may have reached the disk without its sync.
    pub(crate) fn lose_power(mut self, disk: &MemDisk, rng: &mut Rng) -> Option<Location> {
        if !self.writing.is_empty() && rng.chance(2, 3) {
            disk.fail_syncs(u64::MAX);
            let _ = self.finish();
            disk.fail_syncs(0);
        }
        self.older
    }
}

/// How long the next write takes.
pub(crate) fn write_time(
    rng: &mut Rng,
    least: Duration,
    spread: Duration,
    stall: Duration,
) -> Duration {
    let spread = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX);
    least + Duration::from_nanos(rng.below(spread)) + stall
}
