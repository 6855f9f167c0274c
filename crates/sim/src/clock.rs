//! A node's idea of time: its monotonic clock starts anywhere and drifts, its wall clock is wrong
//! and jumps.

use atoll_base::{Rng, Time, Timestamp};

/// The wall clock of a node without skew at the simulation's start.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// One node's clocks as a function of virtual time.
#[derive(Clone, Debug)]
pub struct NodeClock {
    /// Virtual time at which the node booted.
    booted: Time,
    /// What the monotonic clock showed then.
    start: u64,
    /// Parts per million that the node's second is too short (or too long).
    drift_ppm: i64,
    /// What the wall clock is off by.
    wall_offset_ms: i64,
}

impl NodeClock {
    /// Exact clocks.
    #[must_use]
    pub fn exact() -> Self {
        Self { booted: Time::ZERO, start: 0, drift_ppm: 0, wall_offset_ms: 0 }
    }

    /// Clocks with a random start and error: drift up to `drift_ppm_max` each way.
    #[must_use]
    pub fn random(rng: &mut Rng, drift_ppm_max: u64) -> Self {
        let mut signed = |most: u64| rng.below(2 * most + 1) as i64 - most as i64;
        let drift_ppm = signed(drift_ppm_max);
        let wall_offset_ms = signed(60_000);
        Self { booted: Time::ZERO, start: rng.below(1 << 50), drift_ppm, wall_offset_ms }
    }

    /// The monotonic clock starts anew, as after a reboot.
    pub fn reboot(&mut self, now: Time, rng: &mut Rng) {
        self.booted = now;
        self.start = rng.below(1 << 50);
    }

    /// The wall clock is set forward or back.
    pub fn jump(&mut self, by_ms: i64) {
        self.wall_offset_ms += by_ms;
    }

    /// The node's monotonic clock at virtual time `now`.
    #[must_use]
    pub fn monotonic(&self, now: Time) -> Time {
        let passed = now.0.saturating_sub(self.booted.0);
        let rate = (1_000_000 + self.drift_ppm) as u64;
        // Hours fit into 64 bits, which divide much faster than 128.
        let scaled = match passed.checked_mul(rate) {
            Some(product) => product / 1_000_000,
            None => (u128::from(passed) * u128::from(rate) / 1_000_000) as u64,
        };
        Time(self.start + scaled)
    }

    /// The virtual time at which the node's monotonic clock shows at least `local`.
    #[must_use]
    pub fn virtual_time(&self, local: Time) -> Time {
        if local == Time::MAX {
            return Time::MAX;
        }
        let passed = local.0.saturating_sub(self.start);
        let rate = (1_000_000 + self.drift_ppm) as u64;
        let passed = match passed.checked_mul(1_000_000) {
            Some(product) => product.div_ceil(rate),
            None => (u128::from(passed) * 1_000_000).div_ceil(u128::from(rate)) as u64,
        };
        Time(self.booted.0.saturating_add(passed))
    }

    /// The node's wall clock at virtual time `now`.
    #[must_use]
    pub fn wall(&self, now: Time) -> Timestamp {
        let ms = EPOCH_MS + self.wall_offset_ms + (now.0 / 1_000_000) as i64;
        Timestamp(ms.max(0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_time_is_the_first_at_which_the_local_clock_shows_it() {
        let mut rng = Rng::new(3);
        for _ in 0..1_000 {
            let mut clock = NodeClock::random(&mut rng, 20_000);
            clock.reboot(Time(rng.below(1 << 40)), &mut rng);
            let local = Time(clock.start + rng.below(1 << 40));
            let at = clock.virtual_time(local);
            assert!(clock.monotonic(at) >= local);
            assert!(at == clock.booted || clock.monotonic(Time(at.0 - 1)) < local);
        }
    }

    #[test]
    fn wall_clocks_jump_and_monotonic_clocks_do_not() {
        let mut clock = NodeClock::exact();
        let before = (clock.monotonic(Time(5)), clock.wall(Time(5)));
        clock.jump(-3_600_000);
        assert_eq!(clock.monotonic(Time(5)), before.0);
        assert_eq!(clock.wall(Time(5)).0, before.1.0 - 3_600_000);
    }
}
