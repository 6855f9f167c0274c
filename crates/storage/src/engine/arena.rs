//! Memory for the keys and values of a layer: blocks that are filled one after the other and let go
//! together, when the layer is.
//!
//! A layer takes in hundreds of thousands of small pairs on one thread and lets them go on another.
//! As allocations of their own they took half as much memory again and stayed with the allocator,
//! in pages of the first thread that something else had a place in, too.

use bytes::{Bytes, BytesMut};

/// The first block; each is twice as large as the one before,
const BLOCK_BYTES_MIN: usize = 16 << 10;
/// up to this.
const BLOCK_BYTES_MAX: usize = 256 << 10;
/// Larger ones stay in memory of their own, as they come.
const COPIED_BYTES_MAX: usize = 8 << 10;

/// The blocks of one layer.
#[derive(Default)]
pub(super) struct Arena {
    /// What is free of the last block.
    free: BytesMut,
    /// What was left of the blocks before; it keeps them.
    full: Vec<BytesMut>,
    /// Where blocks begin and end in memory, in order.
    spans: Vec<(usize, usize)>,
}

impl Arena {
    /// The same bytes, kept here, and how many more are kept now: none where they lie here already.
    pub(super) fn keep(&mut self, bytes: &Bytes) -> (Bytes, u64) {
        let grown = bytes.len() as u64;
        if bytes.len() > COPIED_BYTES_MAX {
            return (bytes.clone(), grown);
        }
        match self.has(bytes) {
            true => (bytes.clone(), 0),
            false => (self.copy(bytes), grown),
        }
    }

    /// As [`Arena::keep`], where it is known that they don't lie here.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > COPIED_BYTES_MAX {
            return Bytes::copy_from_slice(bytes);
        }
        if self.free.capacity() < bytes.len() {
            self.begin_block();
        }
        self.free.extend_from_slice(bytes);
        self.free.split().freeze()
    }

    /// How many bytes are free when these, which were kept, are needed no more.
    pub(super) fn freed(bytes: &Bytes) -> u64 {
        if bytes.len() > COPIED_BYTES_MAX { bytes.len() as u64 } else { 0 }
    }

    fn begin_block(&mut self) {
        let size = (BLOCK_BYTES_MIN << self.full.len().min(8)).min(BLOCK_BYTES_MAX);
        let block = BytesMut::with_capacity(size);
        let begin = block.as_ptr() as usize;
        let place = self.spans.partition_point(|(other, _)| *other < begin);
        self.spans.insert(place, (begin, begin + block.capacity()));
        self.full.push(std::mem::replace(&mut self.free, block));
    }

    fn has(&self, bytes: &[u8]) -> bool {
        let begin = bytes.as_ptr() as usize;
        let after = self.spans.partition_point(|(other, _)| *other <= begin);
        after.checked_sub(1).is_some_and(|at| begin + bytes.len() <= self.spans[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_copied_once_and_large_ones_never() {
        let mut arena = Arena::default();
        let mut kept = Vec::new();
        for n in 0..5_000_usize {
            let bytes = Bytes::from(vec![n as u8; n % 700]);
            let (copy, grown) = arena.keep(&bytes);
            assert_eq!((&copy, grown), (&bytes, n as u64 % 700));
            assert!(copy.is_empty() || copy.as_ptr() != bytes.as_ptr());
            let (again, grown) = arena.keep(&copy);
            assert_eq!((again.as_ptr(), &again, grown), (copy.as_ptr(), &bytes, 0));
            kept.push((copy, bytes));
        }
        assert!(kept.iter().all(|(copy, bytes)| copy == bytes));
        let large = Bytes::from(vec![1; COPIED_BYTES_MAX + 1]);
        let (same, grown) = arena.keep(&large);
        assert_eq!((same.as_ptr(), grown), (large.as_ptr(), large.len() as u64));
        // A part of what lies here lies here.
        let part = kept[4_999].0.slice(3..9);
        assert_eq!(arena.keep(&part).1, 0);
    }

    #[test]
    fn a_block_stays_for_who_holds_a_part_of_it() {
        let mut arena = Arena::default();
        let held = arena.copy(b"held");
        drop(arena);
        assert_eq!(&held[..], b"held");
    }
}
