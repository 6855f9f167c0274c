//! A task's timer.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// Wakes a task at a time that is usually put off before it comes: the runtime's timer is set anew
/// only when it has come, or is to come earlier.
pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    at: Option<Instant>,
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(Duration::ZERO)), at: None }
    }

    /// Ready once `until` has come; never without it.
    pub(super) fn poll(&mut self, until: Option<Instant>, context: &mut Context<'_>) -> Poll<()> {
        let Some(until) = until else { return Poll::Pending };
        // The runtime's timers are coarse: what is due now is not given to them.
        if until <= Instant::now() {
            return Poll::Ready(());
        }
        loop {
            if self.at.is_none_or(|at| at > until) {
                self.at = Some(until);
                self.sleep.as_mut().reset(until.into());
            }
            if self.sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if self.at.take().is_some_and(|at| at >= until) {
                return Poll::Ready(());
            }
        }
    }
}
