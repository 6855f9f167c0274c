//! One watch on one connection: what has arrived and was not yet taken, within a limit of bytes.
//!
//! The connection is shared, so a slow consumer must not stop it. A watch that holds more than its
//! limit ends instead with [`WatchItem::Lagging`]; its consumer then takes what is there and starts
//! again behind it. Nothing is lost, and the memory stays bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_base::{Code, Failure, Revision};
use atoll_coord::{AnswerBody, WatchEvents};
use atoll_machine::Leadership;
use tokio::sync::Notify;

use super::WatchHandle;

/// What a batch costs besides its events, so that marks of progress are bounded too.
const BATCH_COST: u64 = 64;

/// One thing that happened on a watch.
#[derive(Debug)]
pub(crate) enum WatchItem {
    /// It stands and delivers from this revision on.
    Started(Revision),
    /// Events.
    Batch(WatchEvents),
    /// Who leads the election that is observed.
    Observed(Option<Leadership>),
    /// The consumer was too slow: start again behind what was delivered.
    Lagging,
    /// It wanted what is no longer kept; this is the oldest revision that is.
    Compacted(Revision),
    /// It ended.
    Ended(Failure),
}

/// Whether a feed takes more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fill {
    Open,
    Full,
}

impl Fill {
    pub(super) fn is_full(self) -> bool {
        self == Self::Full
    }
}

#[derive(Debug)]
struct Shared {
    buffer: Mutex<Buffer>,
    arrived: Notify,
    bytes_max: u64,
}

#[derive(Debug, Default)]
struct Buffer {
    items: VecDeque<(WatchItem, u64)>,
    bytes: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection's end.
#[derive(Debug)]
pub(super) struct WatchFeed {
    shared: Arc<Shared>,
}

/// The consumer's end. Dropping it ends the watch at the node.
pub(crate) struct WatchStream {
    shared: Arc<Shared>,
    _handle: WatchHandle,
}

/// Both ends of a buffer of at most `bytes_max` bytes of events.
pub(super) fn pair(bytes_max: usize) -> (WatchFeed, WatchBuffer) {
    let bytes_max = bytes_max as u64;
    let shared = Arc::new(Shared { buffer: Mutex::default(), arrived: Notify::new(), bytes_max });
    (WatchFeed { shared: Arc::clone(&shared) }, WatchBuffer { shared })
}

/// The consumer's end before the watch has a number.
pub(super) struct WatchBuffer {
    shared: Arc<Shared>,
}

impl WatchFeed {
    /// Adds what an answer says. After `Full` nothing more may follow.
    pub(super) fn push(&self, answer: Result<AnswerBody, Failure>) -> Fill {
        let mut buffer = self.shared.lock();
        let (item, cost) = match answer {
            Ok(AnswerBody::WatchStarted { from }) => (WatchItem::Started(from), 0),
            Ok(AnswerBody::Watch(batch)) => {
                let events: u64 = batch.events.iter().map(atoll_machine::Event::cost).sum();
                let cost = events + BATCH_COST;
                (WatchItem::Batch(batch), cost)
            }
            Ok(AnswerBody::Observed(leadership)) => {
                let value = leadership.as_ref().map_or(0, |leadership| leadership.value.len());
                (WatchItem::Observed(leadership), value as u64 + BATCH_COST)
            }
            Ok(AnswerBody::WatchCompacted { compacted }) => (WatchItem::Compacted(compacted), 0),
            Ok(other) => {
                let text = format!("a watch was answered with {other:?}");
                (WatchItem::Ended(Failure::new(Code::Internal, text)), 0)
            }
            Err(failure) => (WatchItem::Ended(failure), 0),
        };
        // A batch that is larger than the limit by itself is taken when it is the only one.
        let full = buffer.bytes > 0 && buffer.bytes + cost > self.shared.bytes_max;
        let (item, cost) = if full { (WatchItem::Lagging, 0) } else { (item, cost) };
        buffer.bytes += cost;
        buffer.items.push_back((item, cost));
        drop(buffer);
        self.shared.arrived.notify_one();
        if full { Fill::Full } else { Fill::Open }
    }
}

impl WatchStream {
    pub(super) fn new(buffer: WatchBuffer, handle: WatchHandle) -> Self {
        Self { shared: buffer.shared, _handle: handle }
    }

    /// The next thing that happened. Nothing follows [`WatchItem::Lagging`] and
    /// [`WatchItem::Ended`].
    ///
    /// Cancel safe: yes.
    pub(crate) async fn next(&mut self) -> WatchItem {
        loop {
            if let Some(item) = self.take() {
                return item;
            }
            self.shared.arrived.notified().await;
        }
    }

    fn take(&self) -> Option<WatchItem> {
        let mut buffer = self.shared.lock();
        let (item, cost) = buffer.items.pop_front()?;
        buffer.bytes -= cost;
        Some(item)
    }
}
