//! A healed cluster serves again within a bound of virtual time.
//!
//! Source: DESIGN "safety phase, then faults stop"; trap R7 (pre-vote and check-quorum left a group
//! without a leader for good). After every fault is mended, each shard must answer a write and
//! then a linearizable read of it.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_base::{ShardId, Time};

use super::Violation;

/// What each shard has shown since the cluster was healed.
#[derive(Clone, Debug)]
pub struct Liveness {
    healed: Time,
    bound: Duration,
    served: BTreeMap<ShardId, Option<Time>>,
}

impl Liveness {
    /// The cluster was healed at `healed`; every shard has `bound` to serve.
    #[must_use]
    pub fn new(healed: Time, bound: Duration, shards: impl IntoIterator<Item = ShardId>) -> Self {
        Self { healed, bound, served: shards.into_iter().map(|shard| (shard, None)).collect() }
    }

    /// `shard` answered a write and a read called after the healing.
    pub fn served(&mut self, shard: ShardId, at: Time) {
        if let Some(served) = self.served.get_mut(&shard) {
            served.get_or_insert(at);
        }
    }

    /// True when every shard has served.
    #[must_use]
    pub fn is_satisfied(&self) -> bool {
        self.served.values().all(Option::is_some)
    }

    /// When the bound ends.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.healed.after(self.bound)
    }

    /// How long the slowest shard took, if all have served.
    #[must_use]
    pub fn slowest(&self) -> Option<Duration> {
        let latest = self.served.values().copied().collect::<Option<Vec<Time>>>()?;
        latest.into_iter().max().map(|at| at.since(self.healed))
    }

    /// Judges at `now`.
    ///
    /// # Errors
    /// When the bound is over and some shard has not served.
    pub fn check(&self, now: Time) -> Result<(), Violation> {
        if now < self.deadline() || self.is_satisfied() {
            return Ok(());
        }
        let silent: Vec<ShardId> =
            self.served.iter().filter(|(_, at)| at.is_none()).map(|(shard, _)| *shard).collect();
        let what = format!("{silent:?} served nothing within {:?} after healing", self.bound);
        Err(Violation::new("liveness", what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_have_until_the_bound() {
        let bound = Duration::from_secs(1);
        let mut live = Liveness::new(Time::from_millis(100), bound, [ShardId(1), ShardId(2)]);
        live.served(ShardId(1), Time::from_millis(300));
        assert!(live.check(Time::from_millis(1_099)).is_ok());
        assert!(live.check(Time::from_millis(1_100)).is_err());
        live.served(ShardId(2), Time::from_millis(600));
        assert!(live.check(Time::from_millis(1_100)).is_ok());
        assert_eq!(live.slowest(), Some(Duration::from_millis(500)));
    }
}
