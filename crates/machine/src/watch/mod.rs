//! Watches: every change of a range of keys, in order, each once, from any revision that is kept.
//!
//! Nothing is copied per watcher. Events of apply go once into a ring of recent ones, bounded by
//! bytes; behind the ring lie the change records in the engine, from the compact revision on. What
//! was there before an event has to be copied for the ring, and is only while some watcher wants to
//! know it; who comes later and wants it, too, reads the engine. A watcher is a cursor into that
//! one history:
//!
//! ```text
//!   compact            ring's first        through
//!      |  change records    |    ring         |
//!      v--------------------v-----------------v
//!            ^ behind: reads the engine   ^ near: reads the ring     (none) synced: waits
//! ```
//!
//! A synced watcher costs nothing until an event of its range arrives: [`WatchHub::feed`] finds the
//! watchers of a key by exact key, by prefix, and only for other ranges by looking at each of them,
//! then points their cursors at it and queues them. [`WatchHub::poll`] delivers a bounded batch and
//! queues the watcher again, at the end, if more is left.
//!
//! - **W1** A watcher gets every event of its range and filters from its start on, in order of
//!   revision, and no event twice.
//! - **W2** A revision is delivered whole, except in marked fragments if the watcher asked for
//!   them.
//! - **W3** `through` of a batch covers only what was delivered with it or before (trap T41).
//! - **W4** No event below the start is delivered, also when the start was in the future (trap
//!   T42).
//! - **W5** A watcher that needs what is compacted away is ended, with the revision to start from;
//!   nothing is skipped in silence.
//! - **W6** A slow watcher costs one cursor, whatever it has missed (trap T43).
//!
//! The hub is not replicated state: it may be dropped and made anew at any revision.

mod hub;
mod index;
mod ring;

pub use hub::{
    Poll, PollLimits, WatchBatch, WatchEnd, WatchHub, WatchId, WatchLimits, WatchRequest,
};
pub use index::WatchIndex;
