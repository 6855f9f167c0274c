//! What clients saw, within the time that counts.

use std::time::{Duration, Instant};

use crate::histogram::Histogram;

/// What the clients saw.
pub(crate) struct Seen {
    /// Latencies of what succeeded within the measured time.
    pub(crate) latencies: Histogram,
    /// What failed in the measured time.
    pub(crate) errors: u64,
    /// The first failure's text.
    pub(crate) first_error: Option<String>,
}

impl Seen {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { latencies: Histogram::new(), errors: 0, first_error: None }
    }

    /// Adds what another client saw.
    pub(crate) fn add(&mut self, other: Self) {
        self.latencies.add(&other.latencies);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    /// Counts one operation, if it ended within the window.
    pub(crate) fn record(&mut self, begin: Instant, end: Instant, window: Window) {
        if end >= window.from && end < window.to {
            self.latencies.record(end - begin);
        }
    }

    /// Counts a failure; what follows is a pause, not to spin on a server that refuses at once.
    pub(crate) async fn fail(&mut self, error: anyhow::Error, window: Window) {
        let now = Instant::now();
        self.errors += u64::from(now >= window.from && now < window.to);
        self.first_error.get_or_insert_with(|| format!("{error:#}"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// When the load begins to count and when it ends, and how much of it there is.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    /// From here on operations are counted.
    pub(crate) from: Instant,
    /// No operation begins after this, and none that ends after it is counted.
    pub(crate) to: Instant,
    /// Operations per second of all clients together; without it each is a closed loop.
    pub(crate) rate: Option<f64>,
}

/// The times at which one client begins its operations, whatever became of the ones before: who is
/// late because it waited for an answer counts that as latency (no coordinated omission).
pub(crate) struct Pace {
    next: Option<Instant>,
    every: Duration,
}

impl Pace {
    /// The pace of client `number` of `clients`, which take turns.
    pub(crate) fn new(window: Window, number: usize, clients: usize) -> Self {
        let turn = |n: usize| {
            window.rate.map_or(Duration::ZERO, |r| Duration::from_secs_f64(n as f64 / r))
        };
        Self { next: window.rate.map(|_| Instant::now() + turn(number)), every: turn(clients) }
    }

    /// Waits for the next operation's time; returns when that was.
    pub(crate) async fn begin(&mut self) -> Instant {
        let Some(due) = self.next else { return Instant::now() };
        self.next = Some(due + self.every);
        if due <= Instant::now() {
            return due;
        }
        // A timer that is late is no fault of a server's.
        tokio::time::sleep_until(due.into()).await;
        Instant::now()
    }
}
