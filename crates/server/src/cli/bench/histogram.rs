//! Counts of times in buckets whose width is a fixed share of their value: 64 buckets per doubling,
//! so that a percentile is right to 1.6 %.

use std::time::Duration;

const SUB_BITS: u32 = 6;
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) << SUB_BITS;

/// A histogram of times in nanoseconds.
#[derive(Clone)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }

    pub(super) fn add(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The time that `per_mille` of a thousand are at or below.
    pub(super) fn quantile(&self, per_mille: u64) -> Duration {
        let rank = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper(bucket).min(self.max));
            }
        }
        self.max()
    }
}

fn bucket(nanos: u64) -> usize {
    let magnitude = (64 - nanos.leading_zeros()).saturating_sub(SUB_BITS + 1);
    ((u64::from(magnitude) << SUB_BITS) + (nanos >> magnitude)) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let (bucket, sub) = (bucket as u64, 1 << SUB_BITS);
    if bucket < 2 * sub {
        return bucket;
    }
    let magnitude = bucket / sub - 1;
    let lead = bucket - magnitude * sub;
    (lead << magnitude) + ((1 << magnitude) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_values_and_ascend() {
        let values = (0..1000).chain((10..63).flat_map(|s| [(1 << s) - 1, 1 << s, (1 << s) + 1]));
        for value in values {
            let b = bucket(value);
            assert!(b < BUCKETS && upper(b) >= value, "{value}");
            assert!(upper(b) - value <= value / 64, "{value}: {}", upper(b));
            assert!(b == 0 || upper(b - 1) < value, "{value}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_are_near_the_truth() {
        let mut h = Histogram::new();
        for i in 1..=10_000_u64 {
            h.add(Duration::from_micros(i));
        }
        for (per_mille, truth) in [(500, 5000.0), (990, 9900.0), (999, 9990.0), (1000, 10_000.0)] {
            let got = h.quantile(per_mille).as_secs_f64() * 1e6;
            assert!((got / truth - 1.0).abs() < 0.02, "{per_mille}: {got} for {truth}");
        }
    }
}
