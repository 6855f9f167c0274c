//! Keys and values: 16-byte keys in numeric order, values that do not compress.

use std::ops::Range;

use atoll_base::Rng;
use bytes::Bytes;

/// Keys that a range read asks for.
pub(crate) const RANGE_KEYS: u64 = 100;
/// The generator whose bytes values are cut from has this many.
const POOL_BYTES: usize = 1 << 16;

/// What is written and read.
#[derive(Clone)]
pub(crate) struct Workload {
    keys: u64,
    value_bytes: usize,
    pool: Bytes,
}

impl Workload {
    /// A workload over so many keys.
    pub(crate) fn new(keys: u64, value_bytes: usize) -> Self {
        let mut rng = Rng::new(1);
        let words = (POOL_BYTES + value_bytes) / 8 + 1;
        let pool: Vec<u8> = (0..words).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        Self { keys, value_bytes, pool: pool.into() }
    }

    /// The key with this number.
    pub(crate) fn key(number: u64) -> Bytes {
        format!("k{number:015}").into()
    }

    /// One of the keys.
    pub(crate) fn any_key(&self, rng: &mut Rng) -> Bytes {
        Self::key(rng.below(self.keys))
    }

    /// A range of [`RANGE_KEYS`] of the keys, or of all when there are fewer.
    pub(crate) fn any_range(&self, rng: &mut Rng) -> Range<Bytes> {
        let count = RANGE_KEYS.min(self.keys);
        let first = rng.below(self.keys - count + 1);
        Self::key(first)..Self::key(first + count)
    }

    /// A value, shared with all others that overlap it.
    pub(crate) fn any_value(&self, rng: &mut Rng) -> Bytes {
        let from = usize::try_from(rng.below(POOL_BYTES as u64)).expect("below 64 Ki");
        self.pool.slice(from..from + self.value_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_have_their_sizes_and_order() {
        let workload = Workload::new(1000, 256);
        let mut rng = Rng::new(7);
        assert_eq!(workload.any_key(&mut rng).len(), 16);
        assert_eq!(workload.any_value(&mut rng).len(), 256);
        assert!(Workload::key(99) < Workload::key(100));
        let range = workload.any_range(&mut rng);
        assert!(range.start < range.end);
    }
}
