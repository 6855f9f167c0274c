//! Writes what lanes left, and tells whom it concerns when it is durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_base::{Code, Failure, LaneId, NodeId, Ticket};
use atoll_node::Input;
use atoll_replica::PeerMessage;
use atoll_storage::{LogBatch, LogError, LogRecord, LogWriter, WrittenAt, WrittenEntry};

use super::pace::Pace;
use crate::drive::hub::Hub;
use crate::drive::mailbox::Taken;
use crate::drive::metrics::observe;
use crate::drive::pressure::Observer;
use crate::drive::threads::abort::{AbortOnPanic, abort};
use crate::drive::timed_disk::SyncTime;
use crate::drive::work::LogJob;

/// After so long without writes the log does what is better done when nothing waits.
pub(super) const MAINTAIN_AFTER: Duration = Duration::from_millis(50);

/// How long until a write that found the disk full is tried again.
const FULL_RETRY: Duration = Duration::from_millis(200);

/// Has the log. Whoever has it is the one that takes from the log's queue, so that writes keep
/// their order wherever they are done.
pub(super) struct Worker {
    pub(super) hub: Arc<Hub>,
    pub(super) pace: Pace,
    writer: LogWriter,
    syncing: SyncTime,
    is_full: bool,
    /// Something was written since the last maintenance.
    wrote: bool,
}

/// Writes that become durable together.
#[derive(Default)]
pub(super) struct Group {
    lanes: Vec<LaneId>,
    batches: Vec<LogBatch>,
    tickets: Vec<Ticket>,
    after: BTreeMap<NodeId, Vec<PeerMessage>>,
}

impl Group {
    /// All that was taken.
    pub(super) fn of(jobs: &mut Vec<LogJob>) -> Self {
        let mut group = Self::default();
        for job in jobs.drain(..) {
            group.lanes.push(job.lane);
            group.tickets.push(job.write.ticket);
            group.batches.push(job.write.batch);
            for (to, mut messages) in job.write.after {
                group.after.entry(to).or_default().append(&mut messages);
            }
        }
        group
    }

    /// What it comes to on the disk.
    pub(super) fn bytes(&self) -> usize {
        let records = self.batches.iter().flat_map(|batch| &batch.records);
        records.map(LogRecord::stored_bytes).sum()
    }
}

/// A write that found the disk full; nothing of it happened.
pub(super) struct Full(pub(super) Group);

impl Worker {
    pub(super) fn new(writer: LogWriter, syncing: SyncTime, hub: Arc<Hub>) -> Self {
        Self { hub, pace: Pace::default(), writer, syncing, is_full: false, wrote: false }
    }

    /// Works until the queue is closed and empty, or until the disk has kept its pace for long
    /// enough to leave; `None`: however it does.
    pub(super) fn work(&mut self, until: Option<Instant>) {
        let _guard = AbortOnPanic("the log thread");
        let hub = self.hub.clone();
        let mut jobs = Vec::new();
        loop {
            let now = Instant::now();
            let left = match until {
                Some(until) if self.pace.is_fast() && until <= now => return,
                Some(until) if self.pace.is_fast() => Some(until - now),
                _ => None,
            };
            let idle = self.wrote.then_some(MAINTAIN_AFTER);
            match hub.log.mailbox.take(&mut jobs, idle.into_iter().chain(left).min()) {
                Taken::Items(waited) => {
                    observe(&hub.metrics.log_wait, waited);
                    self.commit(Group::of(&mut jobs));
                }
                Taken::TimedOut | Taken::Nudged if self.wrote => self.maintain(),
                Taken::TimedOut | Taken::Nudged => {}
                Taken::Closed => return,
            }
        }
    }

    /// When the log wants to be maintained, if nothing is written before.
    pub(super) fn next_maintenance(&self) -> Option<Instant> {
        self.wrote.then(|| Instant::now() + MAINTAIN_AFTER)
    }

    /// Whether writing this takes as long as the disk takes for it, and no longer.
    pub(super) fn is_plain(&self, group: &Group) -> bool {
        !self.is_full && self.writer.is_plain(&group.batches)
    }

    /// Writes until it is durable, and tells. A full disk is waited for.
    pub(super) fn commit(&mut self, mut group: Group) {
        while let Err(Full(unwritten)) = self.try_commit(group) {
            group = unwritten;
            self.hub.look_at_disk();
            std::thread::sleep(FULL_RETRY);
        }
    }

    /// Writes until it is durable, tells, and says how long the write took. Errors but a full disk
    /// end the process, since nobody knows what the disk holds then.
    pub(super) fn try_commit(&mut self, group: Group) -> Result<Duration, Full> {
        self.hub.look_at_disk();
        self.syncing.take();
        let began = Instant::now();
        match self.writer.write(&group.batches) {
            Ok(written) => {
                let took = began.elapsed();
                self.pace.note(took);
                self.done(group, written, took);
                Ok(took)
            }
            Err(error @ LogError::DiskFull { .. }) => {
                self.full(Some(&error));
                Err(Full(group))
            }
            Err(error) => abort(&format!(
                "the log can't be written: {error}; what the disk holds is unknown, so this \
                node stops; start it again to recover from what was synced"
            )),
        }
    }

    fn done(&mut self, mut group: Group, written: WrittenAt, took: Duration) {
        let metrics = &self.hub.metrics;
        let syncing = self.syncing.take();
        observe(&metrics.log_write, took.saturating_sub(syncing));
        observe(&metrics.fsync, syncing);
        metrics.log_bytes.inc_by(written.bytes);
        metrics.log_segments.set(self.writer.segment_count() as i64);
        metrics.log_group.observe(group.lanes.len() as f64);
        self.wrote = true;
        self.full(None);
        for (to, messages) in std::mem::take(&mut group.after) {
            self.hub.links.send(to, messages);
        }
        self.tell(group, written.entries);
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

    /// Does what is better done when nothing waits.
    pub(super) fn maintain(&mut self) {
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
