//! Waiting for conditions, with a deadline each.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `probe` gives something; panics with what it said last when `deadline` has passed.
pub(crate) async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + deadline;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let why = match probe().await {
            Ok(found) => return found,
            Err(why) => why,
        };
        assert!(Instant::now() < end, "{what}: not within {deadline:?}; at the end: {why}");
    }
}

/// The result of `work`; panics when it takes longer.
pub(crate) async fn within<T>(what: &str, deadline: Duration, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(deadline, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {deadline:?}"),
    }
}
