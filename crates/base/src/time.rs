//! Time as cores see it: a number that the shell or the simulator hands in.

use std::fmt;
use std::time::Duration;

/// A point on a node's monotonic clock, in nanoseconds since an arbitrary start. Comparable within
/// one run of one node only; never persisted, never sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// The clock's start.
    pub const ZERO: Self = Self(0);
    /// Later than every time that is reached.
    pub const MAX: Self = Self(u64::MAX);

    /// From whole milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    /// This time plus `d`, at most [`Time::MAX`].
    #[must_use]
    pub fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The first of those deadlines that are set.
    #[must_use]
    pub fn earliest<const N: usize>(deadlines: [Option<Self>; N]) -> Option<Self> {
        let mut first = None;
        for deadline in deadlines {
            first = match (first, deadline) {
                (Some(a), Some(b)) => Some(Self::min(a, b)),
                (a, b) => a.or(b),
            };
        }
        first
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}ms", self.0 / 1_000_000, self.0 / 1_000 % 1_000)
    }
}

/// Wall-clock milliseconds since the Unix epoch, stamped by a leader into a log entry. Monotonic
/// within a shard; for people and retention, never for correctness.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Timestamp(pub u64);

#[cfg(test)]
mod tests {
    use super::Time;

    #[test]
    fn the_earliest_deadline_is_the_first_of_those_that_are_set() {
        assert_eq!(Time::earliest([None, None]), None);
        assert_eq!(Time::earliest([None, Some(Time(7)), Some(Time(3)), None]), Some(Time(3)));
        assert_eq!(Time::earliest([Some(Time(3)), Some(Time(7))]), Some(Time(3)));
    }
}
