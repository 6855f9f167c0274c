//! The node's clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atoll_base::{Time, Timestamp};

/// A monotonic clock that starts with the node, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// Nanoseconds since the node began.
    pub(crate) fn now(&self) -> Time {
        Time::ZERO.after(self.start.elapsed())
    }

    /// How long from now until `at`; zero when it has passed.
    pub(crate) fn until(&self, at: Time) -> Duration {
        at.since(self.now())
    }

    /// Wall-clock time for people; zero if the clock stands before 1970.
    pub(crate) fn wall() -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
