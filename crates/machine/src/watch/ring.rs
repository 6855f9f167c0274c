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

/// Places that are kept however few are taken.
const ROOM_MIN: usize = 64;

/// What an event takes here: its place, and the bytes that it leads to.
fn cost(event: &Event) -> u64 {
    size_of::<Event>() as u64 + event.cost()
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
        self.bytes += cost(&event);
        self.events.push_back(event);
    }

    /// Drops the oldest revisions until at most `bytes_max` are left, the newest revision included
    /// if it must be.
    pub(super) fn shrink(&mut self, bytes_max: u64) {
        while self.bytes > bytes_max {
            let Some(oldest) = self.events.front() else { break };
            let revision = oldest.revision;
            while let Some(event) = self.events.front().filter(|e| e.revision == revision) {
                self.bytes -= cost(event);
                self.events.pop_front();
            }
            self.first = revision.next();
        }
        let needed = 2 * self.events.len().max(ROOM_MIN);
        if self.events.capacity() > 2 * needed {
            self.events.shrink_to(needed);
        }
    }

    /// The events from `revision` on.
    pub(super) fn from(&self, revision: Revision) -> impl Iterator<Item = &Event> {
        let at = self.events.partition_point(|event| event.revision < revision);
        self.events.range(at..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;

    #[test]
    fn room_that_many_events_took_is_given_back_when_few_are_left() {
        let mut ring = EventRing::new(Revision(1));
        for n in 1..=10_000 {
            let key = Bytes::from_static(b"key");
            let event =
                Event { revision: Revision(n), key, kind: EventKind::Delete, previous: None };
            ring.push(event, Previous::Unwanted);
            ring.shrink(1 << 20);
        }
        let (bytes, room) = (ring.bytes(), ring.events.capacity() * size_of::<Event>());
        assert!((1 << 19..=1 << 20).contains(&bytes), "{bytes} bytes");
        assert!(room <= 2 << 20, "{room} bytes of room");
        ring.shrink(0);
        assert_eq!((ring.bytes(), ring.first()), (0, Revision(10_001)));
        assert!(ring.events.capacity() <= 4 * ROOM_MIN, "{} places", ring.events.capacity());
    }
}
