//! The upkeep thread: makes the engine durable when lanes ask, and looks at the disk's free space.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_node::Input;
use atoll_storage::EngineError;

use super::abort::{AbortOnPanic, abort};
use super::running::Running;
use crate::drive::hub::Hub;
use crate::drive::mailbox::Taken;
use crate::drive::metrics::observe;
use crate::drive::work::UpkeepJob;

/// How often the free space is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Starts the thread; it persists a last time when its queue is closed.
pub(crate) fn start(hub: Arc<Hub>) -> std::io::Result<Running> {
    let name = format!("upkeep-{}", hub.node);
    let thread = Upkeep { hub };
    Running::thread(name, move || thread.run())
}

struct Upkeep {
    hub: Arc<Hub>,
}

impl Upkeep {
    fn run(self) {
        let _guard = AbortOnPanic("the upkeep thread");
        let hub = self.hub.clone();
        let mut jobs = Vec::new();
        let mut looked: Option<Instant> = None;
        loop {
            if looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                looked = Some(Instant::now());
                hub.look_at_disk();
            }
            match hub.upkeep.mailbox.take(&mut jobs, Some(LOOK_EVERY)) {
                Taken::Items(_) => self.work(&mut jobs),
                Taken::TimedOut | Taken::Nudged => {}
                Taken::Closed => break,
            }
        }
        self.persist();
    }

    fn work(&self, jobs: &mut Vec<UpkeepJob>) {
        let mut waiting = Vec::new();
        for job in jobs.drain(..) {
            match job {
                UpkeepJob::Persist { lane, request } => waiting.push((lane, request)),
                UpkeepJob::Drop(keyspace) => match self.hub.engine.drop_keyspace(keyspace) {
                    Ok(()) => {
                        tracing::info!(keyspace = keyspace.0, "a dropped keyspace was deleted")
                    }
                    Err(error) => {
                        tracing::error!(keyspace = keyspace.0, %error,
                            "a dropped keyspace could not be deleted, its space stays in use");
                    }
                },
            }
        }
        if !waiting.is_empty() && self.persist() {
            for (lane, request) in waiting {
                self.hub.lanes.mailbox(lane).push(Input::Persisted { request });
            }
        }
    }

    /// True once it is done; false when this process is about to stop without it.
    fn persist(&self) -> bool {
        let mut told = false;
        loop {
            let began = Instant::now();
            match self.hub.engine.persist() {
                Ok(()) => {
                    observe(&self.hub.metrics.engine_persist, began.elapsed());
                    return true;
                }
                Err(error @ EngineError::DiskFull { .. }) => {
                    if !told {
                        tracing::error!(%error, "the engine can't be persisted, the log stays \
                        uncut");
                    }
                    told = true;
                    if self.hub.is_stopping() {
                        return false;
                    }
                    std::thread::sleep(LOOK_EVERY);
                }
                Err(error) => abort(&format!(
                    "the engine can't be persisted: {error}; start the node again, the log has \
                    what the engine lacks"
                )),
            }
        }
    }
}
