//! Whether the disk is fast enough to be waited for by the thread that serves connections.
//!
//! Two things speak against it: one write that took very long, since the next one may, too, and
//! many that take longer than waking a thread does. Either gives the log to a thread for a pause;
//! pauses double while they follow each other closely.

use std::time::{Duration, Instant};

/// One write that takes so long is reason enough.
pub(super) const STALL: Duration = Duration::from_millis(10);

/// With writes that take longer on average the connections' thread is better used otherwise.
const SLOW: Duration = Duration::from_micros(500);

/// A write counts for so much in the average at most: one alone does not make a disk slow.
const COUNTED_MAX: Duration = Duration::from_millis(4);

/// The shortest pause.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(64);

/// Who went without a pause for so many times the last one begins with a short one again.
const CALM: u32 = 8;

/// What a disk's writes took lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Of about the last sixteen writes.
    average: Duration,
    /// The last pause and its end.
    paused: Option<(Duration, Instant)>,
}

impl Pace {
    /// A write took so long, whoever waited for it.
    pub(super) fn note(&mut self, took: Duration) {
        self.average = (self.average * 15 + took.min(COUNTED_MAX)) / 16;
    }

    /// Whether writes are fast on average.
    pub(super) fn is_fast(&self) -> bool {
        self.average <= SLOW
    }

    /// For how long a thread is to have the log now that the connections' thread waited so long
    /// for a write; `None`: it may wait for the next one.
    pub(super) fn pause_after(&mut self, took: Duration, now: Instant) -> Option<Duration> {
        if took < STALL && self.is_fast() {
            return None;
        }
        let pause = match self.paused {
            Some((last, end)) if now < end + last * CALM => (last * 2).min(PAUSE_MAX),
            _ => PAUSE_MIN,
        };
        self.paused = Some((pause, now + pause));
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_micros(80);

    #[test]
    fn a_stall_is_followed_by_pauses_that_double_until_it_is_calm() {
        let (mut pace, began) = (Pace::default(), Instant::now());
        let mut now = began;
        assert_eq!(pace.pause_after(FAST, now), None);
        for seconds in [1, 2, 4, 8, 16, 32, 64, 64] {
            pace.note(STALL);
            assert!(pace.is_fast(), "one write alone does not make a disk slow");
            let pause = pace.pause_after(STALL, now).unwrap();
            assert_eq!(pause, Duration::from_secs(seconds));
            now += pause + Duration::from_secs(1);
            (0..32).for_each(|_| pace.note(FAST));
            assert_eq!(pace.pause_after(FAST, now), None);
        }
        now += PAUSE_MAX * CALM;
        assert_eq!(pace.pause_after(STALL, now), Some(PAUSE_MIN));
    }

    #[test]
    fn a_disk_that_is_slow_on_average_gives_the_log_away_until_it_is_fast() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let slow = SLOW * 2;
        let writes = (1..=100).find(|_| {
            pace.note(slow);
            pace.pause_after(slow, now).is_some()
        });
        assert!(matches!(writes, Some(5..=30)), "{writes:?}");
        assert!(!pace.is_fast());
        (0..32).for_each(|_| pace.note(FAST));
        assert!(pace.is_fast());
    }
}
