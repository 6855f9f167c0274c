//! Counters of one node's links.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts what links do; shared by all links of a node. Reading is cheap and not exact.
#[derive(Default, Debug)]
pub struct LinkStats {
    pub(crate) frames_sent: AtomicU64,
    pub(crate) messages_sent: AtomicU64,
    pub(crate) frames_received: AtomicU64,
    pub(crate) messages_received: AtomicU64,
    pub(crate) dropped_full: AtomicU64,
    pub(crate) dropped_down: AtomicU64,
    pub(crate) dropped_too_large: AtomicU64,
    pub(crate) unreadable: AtomicU64,
    pub(crate) connects: AtomicU64,
}

/// What was counted up to now.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LinkTotals {
    /// Frames handed to the network.
    pub frames_sent: u64,
    /// Messages in them.
    pub messages_sent: u64,
    /// Frames heard.
    pub frames_received: u64,
    /// Messages in them.
    pub messages_received: u64,
    /// Messages dropped because a queue was full.
    pub dropped_full: u64,
    /// Messages dropped because there was no connection.
    pub dropped_down: u64,
    /// Messages dropped because no frame may hold them.
    pub dropped_too_large: u64,
    /// Messages heard that this build can't read.
    pub unreadable: u64,
    /// Connections opened.
    pub connects: u64,
}

impl LinkStats {
    /// The counts up to now.
    #[must_use]
    pub fn totals(&self) -> LinkTotals {
        LinkTotals {
            frames_sent: self.frames_sent.load(Relaxed),
            messages_sent: self.messages_sent.load(Relaxed),
            frames_received: self.frames_received.load(Relaxed),
            messages_received: self.messages_received.load(Relaxed),
            dropped_full: self.dropped_full.load(Relaxed),
            dropped_down: self.dropped_down.load(Relaxed),
            dropped_too_large: self.dropped_too_large.load(Relaxed),
            unreadable: self.unreadable.load(Relaxed),
            connects: self.connects.load(Relaxed),
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, n: usize) {
    if n > 0 {
        counter.fetch_add(n as u64, Relaxed);
    }
}
