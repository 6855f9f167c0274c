//! Latencies in buckets: exact below 64 us, then 32 buckets for each doubling, so that a quantile
//! is at most 1/32 too high, and recording is a few instructions and no allocation.

use std::time::Duration;

/// Buckets per doubling.
const STEPS: u64 = 32;
/// Buckets in all: enough for more than an hour.
const BUCKETS: usize = 1024;

/// Counted latencies, in microseconds.
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// Nothing counted yet.
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }

    /// Counts one latency.
    pub(crate) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(micros)] += 1;
        self.total += 1;
    }

    /// Counts what another histogram has counted.
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// How many were counted.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The latency in microseconds that `permille` of a thousand do not exceed; 0 when empty.
    pub(crate) fn quantile(&self, permille: u64) -> u64 {
        let wanted = (self.total * permille).div_ceil(1000);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return highest_in(at);
            }
        }
        0
    }
}

fn bucket(micros: u64) -> usize {
    // Above the exact part, the five bits after the highest one choose within its doubling.
    let shift = micros.checked_ilog2().map_or(0, |high| u64::from(high).saturating_sub(5));
    let at = shift * STEPS + (micros >> shift);
    usize::try_from(at).map_or(BUCKETS - 1, |at| at.min(BUCKETS - 1))
}

fn highest_in(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((bucket - shift * STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_dense_and_hold_what_they_say() {
        let mut last = 0;
        for micros in 0..1_000_000 {
            let at = bucket(micros);
            assert!(at == last || at == last + 1, "{micros} is in {at} after {last}");
            assert!(highest_in(at) >= micros, "{micros} is over its bucket {at}");
            assert!(highest_in(at) - micros <= micros / STEPS, "{micros} is far below {at}");
            last = at;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_counts() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(500), 0);
        for micros in 1..=50 {
            histogram.record(Duration::from_micros(micros));
        }
        assert_eq!((histogram.quantile(500), histogram.quantile(990)), (25, 50));
        assert_eq!(histogram.total(), 50);
    }
}
