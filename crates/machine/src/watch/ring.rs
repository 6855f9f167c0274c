//! The recent events of a shard, shared by all its watchers.

use std::collections::VecDeque;

use atoll_base::Revision;
use bytes::Bytes;

use crate::event::Event;

/// Whether a watcher asked for what was there before an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Previous {
    Wanted,
    Unwanted,
}

/// Whole revisions, oldest first.
#[derive(Debug)]
pub(super) struct EventRing {
    events: VecDeque<Event>,
    bytes: u64,
    /// Every event from this revision on is here.
    first: Revision,
    /// From this revision on with what was there before, as far as events are here.
    previous_from: Revision,
}

impl EventRing {
    pub(super) fn new(first: Revision) -> Self {
        Self { events: VecDeque::new(), bytes: 0, first, previous_from: first }
    }

    /// Every event from this revision on is here.
    pub(super) fn first(&self) -> Revision {
        self.first
    }

    /// Every event from this revision on is here, and what was there before it.
    pub(super) fn first_with_previous(&self) -> Revision {
        self.first.max(self.previous_from)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds an event; its revision is not below those before it. Keeps what was there before only
    /// if somebody wants to know: it has to be copied.
    pub(super) fn push(&mut self, mut event: Event, previous: Previous) {
        match (&mut event.previous, previous) {
            (None, _) => {}
            // As the engine gave it, it keeps all that lies beside it there.
            (Some(record), Previous::Wanted) => {
                record.value = Bytes::copy_from_slice(&record.value);
            }
            (before, Previous::Unwanted) => {
                *before = None;
                self.previous_from = event.revision.next();
            }
        }
        self.bytes += event.cost();
        self.events.push_back(event);
    }

    /// Drops the oldest revisions until at most `bytes_max` are left, the newest revision included
    /// if it must be.
    pub(super) fn shrink(&mut self, bytes_max: u64) {
        while self.bytes > bytes_max {
            let Some(oldest) = self.events.front() else { break };
            let revision = oldest.revision;
            while let Some(event) = self.events.front().filter(|e| e.revision == revision) {
                self.bytes -= event.cost();
                self.events.pop_front();
            }
            self.first = revision.next();
        }
    }

    /// The events from `revision` on.
    pub(super) fn from(&self, revision: Revision) -> impl Iterator<Item = &Event> {
        let at = self.events.partition_point(|event| event.revision < revision);
        self.events.range(at..)
    }
}
