//! The log thread: one write and one fsync for whatever all lanes left meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atoll_base::{Code, Failure, LaneId, NodeId};
use atoll_node::Input;
use atoll_replica::PeerMessage;
use atoll_storage::{LogBatch, LogError, LogRecord, LogWriter, WrittenEntry};

use super::abort::{AbortOnPanic, abort};
use crate::drive::hub::Hub;
use crate::drive::mailbox::Taken;
use crate::drive::metrics::observe;
use crate::drive::pressure::Observer;
use crate::drive::timed_disk::SyncTime;
use crate::drive::work::LogJob;

/// After so long without writes the log does what is better done when nothing waits.
const MAINTAIN_AFTER: Duration = Duration::from_millis(50);

/// How long until a write that found the disk full is tried again.
const FULL_RETRY: Duration = Duration::from_millis(200);

/// Starts the thread that writes until its queue is closed and empty.
pub(crate) fn start(
    writer: LogWriter,
    syncing: SyncTime,
    hub: Arc<Hub>,
) -> std::io::Result<JoinHandle<()>> {
    let name = format!("log-{}", hub.node);
    let thread = LogThread { writer, syncing, hub, is_full: false, wrote: false };
    std::thread::Builder::new().name(name).spawn(move || thread.run())
}

struct LogThread {
    writer: LogWriter,
    syncing: SyncTime,
    hub: Arc<Hub>,
    is_full: bool,
    /// Something was written since the last maintenance.
    wrote: bool,
}

/// Writes that become durable together.
#[derive(Default)]
struct Group {
    lanes: Vec<LaneId>,
    batches: Vec<LogBatch>,
    tickets: Vec<atoll_base::Ticket>,
    after: BTreeMap<NodeId, Vec<PeerMessage>>,
}

impl LogThread {
    fn run(mut self) {
        let _guard = AbortOnPanic("the log thread");
        let hub = self.hub.clone();
        let mut jobs = Vec::new();
        loop {
            let timeout = self.wrote.then_some(MAINTAIN_AFTER);
            match hub.log.mailbox.take(&mut jobs, timeout) {
                Taken::Items(waited) => {
                    observe(&hub.metrics.log_wait, waited);
                    self.commit(&mut jobs);
                }
                Taken::TimedOut | Taken::Nudged => self.maintain(),
                Taken::Closed => return,
            }
        }
    }

    fn commit(&mut self, jobs: &mut Vec<LogJob>) {
        let mut group = Group::default();
        for job in jobs.drain(..) {
            group.lanes.push(job.lane);
            group.tickets.push(job.write.ticket);
            group.batches.push(job.write.batch);
            for (to, mut messages) in job.write.after {
                group.after.entry(to).or_default().append(&mut messages);
            }
        }
        self.hub.look_at_disk();
        let entries = self.write(&group.batches);
        self.hub.metrics.log_group.observe(group.lanes.len() as f64);
        for (to, messages) in std::mem::take(&mut group.after) {
            self.hub.links.send(to, messages);
        }
        self.tell(group, entries);
    }

    /// Writes until it is durable. A full disk is waited for; anything else ends the process, since
    /// nobody knows what the disk holds then.
    fn write(&mut self, batches: &[LogBatch]) -> Vec<WrittenEntry> {
        loop {
            self.syncing.take();
            let began = Instant::now();
            match self.writer.write(batches) {
                Ok(written) => {
                    let metrics = &self.hub.metrics;
                    let (took, syncing) = (began.elapsed(), self.syncing.take());
                    observe(&metrics.log_write, took.saturating_sub(syncing));
                    observe(&metrics.fsync, syncing);
                    metrics.log_bytes.inc_by(written.bytes);
                    metrics.log_segments.set(self.writer.segment_count() as i64);
                    self.wrote = true;
                    self.full(None);
                    return written.entries;
                }
                Err(error @ LogError::DiskFull { .. }) => {
                    self.full(Some(&error));
                    self.hub.look_at_disk();
                    std::thread::sleep(FULL_RETRY);
                }
                Err(error) => abort(&format!(
                    "the log can't be written: {error}; what the disk holds is unknown, so this \
                    node stops; start it again to recover from what was synced"
                )),
            }
        }
    }

    /// Tells lanes, once, that the disk is full or that there is room again.
    fn full(&mut self, error: Option<&LogError>) {
        if self.is_full == error.is_some() {
            return;
        }
        self.is_full = error.is_some();
        if let Some(error) = error {
            tracing::error!(%error, "the disk is full: new data is refused until there is room");
        } else {
            tracing::info!("there is room on the disk again");
        }
        let failure = error.map(|e| Failure::new(Code::DiskFull, e.to_string()));
        self.hub.pressure.set(Observer::Log, failure, &self.hub.lanes);
    }

    /// Gives each write back to its lane, with the places of its own entries.
    fn tell(&self, group: Group, entries: Vec<WrittenEntry>) {
        let mut entries = entries.into_iter();
        for ((lane, ticket), batch) in group.lanes.into_iter().zip(group.tickets).zip(group.batches)
        {
            let count = batch.records.iter().filter(|r| is_entry(r)).count();
            let entries = entries.by_ref().take(count).collect();
            self.hub.lanes.mailbox(lane).push(Input::Written { ticket, entries });
        }
    }

    fn maintain(&mut self) {
        self.wrote = false;
        match self.writer.maintain() {
            Ok(()) => {}
            Err(error @ LogError::DiskFull { .. }) => {
                tracing::warn!(%error, "the log found no room to prepare a segment");
            }
            Err(error) => abort(&format!("the log can't be maintained: {error}")),
        }
    }
}

fn is_entry(record: &LogRecord) -> bool {
    matches!(record, LogRecord::Entry { .. })
}
