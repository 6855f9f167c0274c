//! The queues of the log thread and the upkeep thread.

use atoll_base::{KeyspaceId, LaneId};
use atoll_node::LogWrite;

use super::mailbox::Mailbox;

/// The log thread's queue.
#[derive(Debug)]
pub(crate) struct LogQueue {
    pub(super) mailbox: Mailbox<LogJob>,
}

/// A lane's write.
#[derive(Debug)]
pub(super) struct LogJob {
    pub(super) lane: LaneId,
    pub(super) write: LogWrite,
}

impl LogQueue {
    pub(crate) fn new() -> Self {
        // Lanes bound what they have in flight themselves.
        Self { mailbox: Mailbox::new(usize::MAX) }
    }

    /// Queues a lane's write.
    pub(crate) fn write(&self, lane: LaneId, write: LogWrite) {
        self.mailbox.push(LogJob { lane, write });
    }

    /// Ends the thread after what waits.
    pub(crate) fn close(&self) {
        self.mailbox.close();
    }
}

/// The upkeep thread's queue.
#[derive(Debug)]
pub(crate) struct UpkeepQueue {
    pub(super) mailbox: Mailbox<UpkeepJob>,
}

/// Something to do in the background.
#[derive(Debug)]
pub(super) enum UpkeepJob {
    Persist { lane: LaneId, request: u64 },
    Drop(KeyspaceId),
}

impl UpkeepQueue {
    pub(crate) fn new() -> Self {
        // One request per lane and one drop per keyspace at a time.
        Self { mailbox: Mailbox::new(usize::MAX) }
    }

    /// Answers `Persisted` once everything in the engine survives power loss.
    pub(crate) fn persist(&self, lane: LaneId, request: u64) {
        self.mailbox.push(UpkeepJob::Persist { lane, request });
    }

    /// Deletes a keyspace's data, of which no lane holds a replica.
    pub(crate) fn drop_keyspace(&self, keyspace: KeyspaceId) {
        self.mailbox.push(UpkeepJob::Drop(keyspace));
    }

    /// Ends the thread after what waits.
    pub(crate) fn close(&self) {
        self.mailbox.close();
    }
}
