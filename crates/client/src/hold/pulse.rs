//! How long one lease is sure to live.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_base::{LeaseId, ShardId};
use tokio::sync::watch;
use tokio::time::Instant;

/// Whether what is held is still held.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Standing {
    /// It is.
    Held,
    /// It is, but nothing was heard of the cluster for a third of the time to live: whoever can
    /// stop here and wait should.
    Suspended,
    /// It must be taken for somebody else's. Final.
    Lost,
}

/// A point in time that knows how long the machine was suspended before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    at: Instant,
    suspended: Duration,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), suspended: suspended() }
    }

    /// How long ago it was, suspension included.
    pub(crate) fn elapsed(&self) -> Duration {
        self.at.elapsed() + suspended().saturating_sub(self.suspended)
    }
}

/// How long this machine was suspended since it started.
#[cfg(target_os = "linux")]
fn suspended() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let read = |id| {
        let time = clock_gettime(id);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    // Read one after the other, the two differ by a little more than the suspension; rounded down,
    // so that a running machine shows none.
    let gap = read(ClockId::Boottime).saturating_sub(read(ClockId::Monotonic));
    Duration::from_millis(u64::try_from(gap.as_millis()).unwrap_or(u64::MAX))
}

/// How long this machine was suspended since it started: its monotonic clock counts that itself.
#[cfg(not(target_os = "linux"))]
fn suspended() -> Duration {
    Duration::ZERO
}

/// One lease that is kept alive.
#[derive(Debug)]
pub(crate) struct Pulse {
    pub(crate) shard: ShardId,
    pub(crate) lease: LeaseId,
    pub(crate) ttl: Duration,
    state: Mutex<State>,
    /// Rises when something may have changed; what, is computed when it is asked for.
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    /// When the last heartbeat that was acknowledged was sent.
    sure: Moment,
    lost: bool,
}

impl Pulse {
    /// A lease that was asked for at `sent` and granted.
    pub(crate) fn new(shard: ShardId, lease: LeaseId, ttl: Duration, sent: Moment) -> Self {
        let state = Mutex::new(State { sure: sent, lost: false });
        Self { shard, lease, ttl, state, news: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often it beats.
    pub(crate) fn interval(&self) -> Duration {
        self.ttl / 6
    }

    /// How it stands at this moment (H1).
    pub(crate) fn standing(&self) -> Standing {
        let mut state = self.lock();
        let silent = state.sure.elapsed();
        state.lost |= silent >= self.ttl / 10 * 9;
        match state.lost {
            true => Standing::Lost,
            false if silent >= self.ttl / 3 => Standing::Suspended,
            false => Standing::Held,
        }
    }

    /// How long it is sure to be held from now; zero when it is lost.
    pub(crate) fn left(&self) -> Duration {
        let state = self.lock();
        match state.lost {
            true => Duration::ZERO,
            false => (self.ttl / 10 * 9).saturating_sub(state.sure.elapsed()),
        }
    }

    /// A heartbeat sent at `sent` was acknowledged.
    pub(crate) fn acknowledged(&self, sent: Moment) {
        if self.standing() == Standing::Lost {
            return;
        }
        let mut state = self.lock();
        if sent.at > state.sure.at {
            state.sure = sent;
        }
        drop(state);
        self.news.send_modify(|n| *n += 1);
    }

    /// The shard said that the lease is gone, or its owner gave it up.
    pub(crate) fn lose(&self) {
        self.lock().lost = true;
        self.news.send_modify(|n| *n += 1);
    }

    /// Waits until it stands otherwise than `from`. Cancel safe: yes.
    pub(crate) async fn changed(&self, from: Standing) -> Standing {
        let mut news = self.news.subscribe();
        loop {
            let now = self.standing();
            if now != from {
                return now;
            }
            // Short steps, for a clock that stood still while the machine slept.
            let step = (self.ttl / 12).min(self.left().max(Duration::from_millis(1)));
            tokio::select! {
                () = tokio::time::sleep(step) => {}
                changed = news.changed() => {
                    // The sender lives in `self`.
                    debug_assert!(changed.is_ok(), "a pulse outlives those who feel it");
                }
            }
        }
    }

    /// Waits until it is lost. Cancel safe: yes.
    pub(crate) async fn lost(&self) {
        let mut standing = self.standing();
        while standing != Standing::Lost {
            standing = self.changed(standing).await;
        }
    }
}
