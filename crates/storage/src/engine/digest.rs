//! Digests of stored pairs, to compare what replicas hold.
//!
//! A digest is made of its pairs' hashes in their order, so that an engine may keep a pair's hash
//! beside it: a digest of the same state, or of one that changed little, then reads no values.

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hash over hashes in their order.
#[derive(Clone, Copy, Debug)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Takes the next hash in.
    pub fn add(&mut self, hash: u64) {
        self.0 = step(self.0, hash);
    }

    /// The hash of all that was added.
    #[must_use]
    pub fn finish(self) -> u64 {
        self.0
    }
}

/// A pair's hash.
#[must_use]
pub(super) fn of_pair(key: &[u8], value: &[u8]) -> u64 {
    mix(mix(Digest::default().0, key), value)
}

fn step(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(MULTIPLIER).rotate_left(29)
}

/// A multiply-and-rotate hash over eight bytes at a time, of long strings four times eight that do
/// not wait for each other; the length closes each string.
fn mix(mut hash: u64, bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    if !blocks.is_empty() {
        let mut lanes = [hash, !hash, hash.rotate_left(17), !hash.rotate_left(43)];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
                *lane = step(*lane, u64::from_le_bytes(*word));
            }
        }
        hash = lanes.into_iter().fold(hash, step);
    }
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        hash = step(hash, u64::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        hash = step(hash, u64::from_le_bytes(word));
    }
    step(hash, bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::mix;

    #[test]
    fn every_byte_and_every_order_of_words_changes_the_hash() {
        let bytes: Vec<u8> = (0..101).collect();
        let whole = mix(7, &bytes);
        assert_ne!(whole, mix(8, &bytes));
        assert_ne!(whole, mix(7, &bytes[..100]));
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 0x80;
            assert_ne!(whole, mix(7, &other), "byte {at}");
            other.clone_from(&bytes);
            other.swap(at, (at + 8) % 101);
            assert_ne!(whole, mix(7, &other), "bytes {at} and {}", (at + 8) % 101);
        }
    }
}
