//! The recent events of a shard, shared by all its watchers.

use std::collections::VecDeque;

use atoll_base::Revision;
use bytes::Bytes;

use crate::event::Event;

/// Whole revisions, oldest first.
#[derive(Debug)]
pub(super) struct EventRing {
    events: VecDeque<Event>,
    bytes: u64,
    /// Every event from this revision on is here.
    first: Revision,
}

impl EventRing {
    pub(super) fn new(first: Revision) -> Self {
        Self { events: VecDeque::new(), bytes: 0, first }
    }

    /// Every event from this revision on is here.
    pub(super) fn first(&self) -> Revision {
        self.first
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds an event; its revision is not below those before it.
    pub(super) fn push(&mut self, mut event: Event) {
        if let Some(previous) = &mut event.previous {
            // As the engine gave it, it keeps all that lies beside it there.
            previous.value = Bytes::copy_from_slice(&previous.value);
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
