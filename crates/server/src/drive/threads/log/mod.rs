//! The log: one write and one fsync for whatever all lanes left meanwhile, by a thread of its own,
//! or by the thread of the connections as long as the disk is fast.
//!
//! # Problem
//!
//! On a machine with two or three processors a small write to a fast disk takes less than what it
//! takes to wake the log thread for it and to be woken by it: several threads of several programs
//! want the same processors. But a thread that waits for a slow disk serves nobody meanwhile, and
//! its peers take a node for dead that says nothing for long.
//!
//! # Idea
//!
//! With the setting `one_thread` the log is written by a task on the connections' thread, while
//! the disk keeps its [`pace`]:
//!
//! ```text
//!             small, plain write            a write stalled, or they are slow on average
//!        +----+                    +---+   ------------------------------->   +-----------+
//!        |    v                    |   |                                      | log for a |
//!        |   task: has the log ----+   |   <-------------------------------   |   pause   |
//!        |    |        ^               |   fast again, and the pause is over  +-----------+
//!        |    |        +- done --------+
//!        +----+  large write, new segment, full disk, maintenance: once by a thread
//! ```
//!
//! There is one [`Worker`], and it moves: who has it takes from the queue, nobody else does. So
//! writes keep their order in every way, and what a write obliges to (messages after it, `Written`
//! after those) is the same code. The task lets the connections that lanes woke run first: what
//! promises nothing unwritten is on its way to the peers before the disk is waited for (DESIGN 4,
//! obligation a; Raft thesis 10.2.1).
//!
//! # Invariants
//!
//! * **W1** Nothing is written while an earlier write of the node is not durable.
//! * **W2** The connections' thread waits for the disk for one write at most that takes longer than
//!   [`pace::STALL`]; then the disk has to prove itself to a thread before it is waited for again.
//! * **W3** A write that could take longer than the disk takes for its bytes is a thread's.

mod pace;
mod task;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;

use atoll_storage::LogWriter;

use super::running::{Place, Running};
use crate::drive::hub::Hub;
use crate::drive::timed_disk::SyncTime;
use worker::Worker;

/// Starts to write until the queue is closed and empty.
pub(crate) fn start(
    writer: LogWriter,
    syncing: SyncTime,
    hub: Arc<Hub>,
    place: Place,
) -> std::io::Result<Running> {
    let name = format!("log-{}", hub.node);
    let mut worker = Box::new(Worker::new(writer, syncing, hub));
    match place {
        Place::Task => Ok(Running::Task(tokio::spawn(task::run(worker)))),
        Place::Thread => Running::thread(name, move || worker.work(None)),
    }
}
