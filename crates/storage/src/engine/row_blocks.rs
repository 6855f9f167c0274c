//! Rows in blocks of memory, found by hash.
//!
//! A row in allocations of its own has three: the key, the value, and the count of those who hold
//! the value. They take half as much memory again as the row, nobody can tell how much, and a
//! lookup waits for each. So rows lie one behind the other in blocks, a map of hashes tells where,
//! and a reader gets a copy.
//!
//! ```text
//!   oldest block                                          newest block
//!   [head key value|head key value|...]  [...]  [...]  [head key value|  free ]
//! ```
//!
//! A row that gets another value of about the same length has it in its place; else it goes behind
//! the newest, and its old place is dead. Blocks are recycled in their order, the oldest first:
//!
//! - when an eighth is dead: what lives goes behind the newest;
//! - when all is larger than it may be: what was read since it was put there goes behind the newest
//!   once more, the rest goes for good.
//!
//! Two keys with the same hash are not both kept: the later one takes the earlier one's place.

use std::collections::{HashMap, VecDeque};

use atoll_base::KeyspaceId;
use bytes::Bytes;
use foldhash::fast::RandomState;

/// The largest block, and the first of all; each is twice as large as the one before.
const BLOCK_BYTES_MAX: usize = 64 << 10;
const BLOCK_BYTES_MIN: usize = 2 << 10;
/// Blocks in what is full, at least.
const BLOCKS_MIN: usize = 16;
/// Places of rows are multiples of this, so that a value may grow a little where it is.
const SLOT_STEP: usize = 8;
/// Of the bytes in blocks at most one in so many is dead. Each byte that dies then costs copies of
/// as many less one that live.
const DEAD_PART_MAX: usize = 8;
/// Blocks whose rows stay if they were read, each time that something has to go; rows of further
/// ones go all, so that nobody waits for a walk through everything.
const SPARING_MAX: usize = 16;

/// A key as it is asked for.
#[derive(Clone, Copy)]
pub(super) struct RowKey<'a> {
    /// Of the keyspace and the key.
    pub(super) hash: u64,
    pub(super) keyspace: KeyspaceId,
    pub(super) key: &'a [u8],
}

/// Rows, up to a number of bytes.
pub(super) struct RowBlocks {
    bytes_max: usize,
    places: HashMap<u64, Place, RandomState>,
    /// Oldest first; rows are added to the last one.
    blocks: VecDeque<Vec<u8>>,
    /// The number of the oldest block.
    first: u32,
    /// Bytes of the blocks, bytes in them, and of those the bytes of rows that live.
    capacity: usize,
    used: usize,
    live: usize,
}

/// Where a row is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Blocks are numbered as they come.
    block: u32,
    at: u32,
}

/// What stands before each row.
#[derive(Clone, Copy)]
struct Head {
    hash: u64,
    keyspace: KeyspaceId,
    key_len: u16,
    value_len: u16,
    /// Room for the value.
    room: u16,
    /// Read since it was put here.
    is_wanted: bool,
}

const HEAD_BYTES: usize = 19;
/// Where the last field is.
const WANTED_AT: usize = HEAD_BYTES - 1;

/// Which rows of a block stay.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stay {
    All,
    Wanted,
    None,
}

impl Head {
    fn new(row: RowKey<'_>, value: &[u8]) -> Self {
        let short = |len: usize| u16::try_from(len).expect("rows are shorter than 64 KiB");
        let (key_len, value_len) = (short(row.key.len()), short(value.len()));
        let slot = (HEAD_BYTES + row.key.len() + value.len()).next_multiple_of(SLOT_STEP);
        let room = short(slot - HEAD_BYTES - row.key.len());
        let (hash, keyspace) = (row.hash, row.keyspace);
        Self { hash, keyspace, key_len, value_len, room, is_wanted: false }
    }

    fn read(block: &[u8], at: usize) -> Self {
        let (hash, rest) = split::<8>(&block[at..]);
        let (keyspace, rest) = split::<4>(rest);
        let (key_len, rest) = split::<2>(rest);
        let (value_len, rest) = split::<2>(rest);
        let (room, rest) = split::<2>(rest);
        Self {
            hash: u64::from_le_bytes(hash),
            keyspace: KeyspaceId(u32::from_le_bytes(keyspace)),
            key_len: u16::from_le_bytes(key_len),
            value_len: u16::from_le_bytes(value_len),
            room: u16::from_le_bytes(room),
            is_wanted: rest[0] != 0,
        }
    }

    fn bytes(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&self.hash.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.keyspace.0.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.key_len.to_le_bytes());
        bytes[14..16].copy_from_slice(&self.value_len.to_le_bytes());
        bytes[16..18].copy_from_slice(&self.room.to_le_bytes());
        bytes[WANTED_AT] = u8::from(self.is_wanted);
        bytes
    }

    /// Bytes of the row's place.
    fn slot(&self) -> usize {
        HEAD_BYTES + usize::from(self.key_len) + usize::from(self.room)
    }

    /// Bytes that the row would take were it written now.
    fn cost(&self) -> usize {
        let row = HEAD_BYTES + usize::from(self.key_len) + usize::from(self.value_len);
        row.next_multiple_of(SLOT_STEP)
    }

    fn key<'a>(&self, block: &'a [u8], at: usize) -> &'a [u8] {
        let begin = at + HEAD_BYTES;
        &block[begin..begin + usize::from(self.key_len)]
    }

    fn value_at(&self, at: usize) -> usize {
        at + HEAD_BYTES + usize::from(self.key_len)
    }

    fn value<'a>(&self, block: &'a [u8], at: usize) -> &'a [u8] {
        let begin = self.value_at(at);
        &block[begin..begin + usize::from(self.value_len)]
    }
}

fn split<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    let (head, rest) = bytes.split_first_chunk().expect("a row's head is whole");
    (*head, rest)
}

impl RowBlocks {
    /// Room for `bytes_max`; 0 keeps nothing.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            places: HashMap::default(),
            blocks: VecDeque::new(),
            first: 0,
            capacity: 0,
            used: 0,
            live: 0,
        }
    }

    /// A copy of the row's value, if it is here.
    pub(super) fn get(&mut self, row: RowKey<'_>) -> Option<Bytes> {
        let (place, head) = self.find(row)?;
        let (block, at) = self.at(place);
        if !head.is_wanted {
            block[at + WANTED_AT] = 1;
        }
        Some(Bytes::copy_from_slice(head.value(block, at)))
    }

    /// Takes a row in, or its new value, unless it is too large for all that may be here.
    pub(super) fn put(&mut self, row: RowKey<'_>, value: &[u8]) {
        if self.replace(row, value) {
            return;
        }
        // Another key's row, if there is one.
        self.remove_hash(row.hash);
        self.add(Head::new(row, value), row.key, value);
        self.tidy();
    }

    /// Gives a row that is here another value; false when it is not here.
    pub(super) fn replace(&mut self, row: RowKey<'_>, value: &[u8]) -> bool {
        let Some((place, mut head)) = self.find(row) else { return false };
        self.live -= head.cost();
        if value.len() <= usize::from(head.room) {
            head.value_len = value.len() as u16;
            let (block, at) = self.at(place);
            block[at..at + HEAD_BYTES].copy_from_slice(&head.bytes());
            let value_at = head.value_at(at);
            block[value_at..value_at + value.len()].copy_from_slice(value);
            self.live += head.cost();
        } else {
            self.places.remove(&row.hash);
            self.add(Head { is_wanted: head.is_wanted, ..Head::new(row, value) }, row.key, value);
        }
        self.tidy();
        true
    }

    /// Lets a row go, if it is here.
    pub(super) fn remove(&mut self, row: RowKey<'_>) {
        if self.find(row).is_some() {
            self.remove_hash(row.hash);
            self.tidy();
        }
    }

    /// Lets go all rows of a keyspace.
    pub(super) fn forget(&mut self, keyspace: KeyspaceId) {
        let (blocks, first) = (&self.blocks, self.first);
        let live = &mut self.live;
        self.places.retain(|_, place| {
            let block = &blocks[place.block.wrapping_sub(first) as usize];
            let head = Head::read(block, place.at as usize);
            let stays = head.keyspace != keyspace;
            *live -= if stays { 0 } else { head.cost() };
            stays
        });
        if self.live < self.used {
            (0..self.blocks.len()).for_each(|_| self.recycle(Stay::All));
        }
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        let buckets = match self.places.capacity() {
            0 => 0,
            places => (places * 8 / 7).next_power_of_two(),
        };
        let lists = self.blocks.capacity() * size_of::<Vec<u8>>();
        self.capacity + lists + buckets * (size_of::<(u64, Place)>() + 1)
    }

    fn find(&self, row: RowKey<'_>) -> Option<(Place, Head)> {
        let place = *self.places.get(&row.hash)?;
        let block = &self.blocks[place.block.wrapping_sub(self.first) as usize];
        let head = Head::read(block, place.at as usize);
        let is_same =
            head.keyspace == row.keyspace && head.key(block, place.at as usize) == row.key;
        is_same.then_some((place, head))
    }

    fn at(&mut self, place: Place) -> (&mut Vec<u8>, usize) {
        (&mut self.blocks[place.block.wrapping_sub(self.first) as usize], place.at as usize)
    }

    fn remove_hash(&mut self, hash: u64) {
        if let Some(place) = self.places.remove(&hash) {
            let (block, at) = self.at(place);
            self.live -= Head::read(block, at).cost();
        }
    }

    /// Puts a row behind the newest, unless it is too large for all that may be here.
    fn add(&mut self, head: Head, key: &[u8], value: &[u8]) {
        if head.slot() <= self.bytes_max / BLOCKS_MIN {
            self.append(head, key, value);
        }
    }

    /// Puts a row behind the newest.
    fn append(&mut self, head: Head, key: &[u8], value: &[u8]) {
        let slot = head.slot();
        if self.blocks.back().is_none_or(|last| last.capacity() - last.len() < slot) {
            let size = self.capacity.clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
            let block = Vec::with_capacity(size.min(self.bytes_max / BLOCKS_MIN).max(slot));
            self.capacity += block.capacity();
            self.blocks.push_back(block);
        }
        let number = self.first.wrapping_add(self.blocks.len() as u32 - 1);
        let block = self.blocks.back_mut().expect("one was added where there was none");
        let at = block.len();
        block.extend_from_slice(&head.bytes());
        block.extend_from_slice(key);
        block.extend_from_slice(value);
        block.resize(at + slot, 0);
        self.used += slot;
        self.live += head.cost();
        self.places.insert(head.hash, Place { block: number, at: at as u32 });
    }

    /// Takes back what is dead, a block at a time, and makes room.
    fn tidy(&mut self) {
        if self.used - self.live > self.used / DEAD_PART_MAX {
            self.recycle(Stay::All);
        }
        let mut spared = 0;
        while self.bytes() > self.bytes_max && !self.blocks.is_empty() {
            self.recycle(if spared < SPARING_MAX { Stay::Wanted } else { Stay::None });
            spared += 1;
        }
    }

    /// Lets the oldest block go. The rows that stay go behind the newest, as not read yet where
    /// only those stay that were.
    fn recycle(&mut self, stay: Stay) {
        let Some(block) = self.blocks.pop_front() else { return };
        let number = self.first;
        self.first = self.first.wrapping_add(1);
        self.capacity -= block.capacity();
        self.used -= block.len();
        let mut at = 0;
        while at < block.len() {
            let head = Head::read(&block, at);
            let place = Place { block: number, at: at as u32 };
            if self.places.get(&head.hash) == Some(&place) {
                self.live -= head.cost();
                if stay == Stay::All || (stay == Stay::Wanted && head.is_wanted) {
                    let row = RowKey {
                        hash: head.hash,
                        keyspace: head.keyspace,
                        key: head.key(&block, at),
                    };
                    let value = head.value(&block, at);
                    let is_wanted = stay == Stay::All && head.is_wanted;
                    self.append(Head { is_wanted, ..Head::new(row, value) }, row.key, value);
                } else {
                    self.places.remove(&head.hash);
                }
            }
            at += head.slot();
        }
        if self.places.len() <= self.places.capacity() / 4 {
            self.places.shrink_to(2 * self.places.len());
        }
        if self.blocks.is_empty() {
            self.blocks = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::hash::BuildHasher;

    use atoll_base::Rng;

    use super::*;

    fn row(keyspace: u32, key: &[u8]) -> RowKey<'_> {
        let hash = foldhash::fast::FixedState::with_seed(u64::from(keyspace)).hash_one(key);
        RowKey { hash, keyspace: KeyspaceId(keyspace), key }
    }

    /// Goes through all blocks and compares what is counted with what is there.
    fn check(rows: &RowBlocks) {
        let (mut live, mut living) = (0, 0);
        for (index, block) in rows.blocks.iter().enumerate() {
            let number = rows.first.wrapping_add(index as u32);
            let mut at = 0;
            while at < block.len() {
                let head = Head::read(block, at);
                if rows.places.get(&head.hash) == Some(&Place { block: number, at: at as u32 }) {
                    live += head.cost();
                    living += 1;
                }
                at += head.slot();
            }
            assert_eq!(at, block.len(), "places fill block {number}");
        }
        let used: usize = rows.blocks.iter().map(Vec::len).sum();
        let capacity: usize = rows.blocks.iter().map(Vec::capacity).sum();
        assert_eq!((rows.live, living), (live, rows.places.len()));
        assert_eq!((rows.used, rows.capacity), (used, capacity));
        assert!(rows.bytes() <= rows.bytes_max, "{} of {}", rows.bytes(), rows.bytes_max);
    }

    #[test]
    fn what_is_here_is_what_was_put_last() {
        let mut rng = Rng::new(11);
        for round in 0..60 {
            let mut rows = RowBlocks::new(4_000 << rng.below(8));
            // So that blocks are numbered beyond the largest number.
            rows.first = u32::MAX - 3;
            let mut model = BTreeMap::new();
            let (keys, value_max) = (1 + rng.below(400), 1 + rng.below(1_500));
            let (mut hits, mut gets) = (0, 0);
            for step in 0..4_000 {
                let (keyspace, n) = (rng.below(2) as u32, rng.below(keys));
                let key = n.to_be_bytes().repeat(1 + n as usize % 3);
                let row = row(keyspace, &key);
                let value = vec![rng.below(256) as u8; rng.below(value_max) as usize];
                match rng.below(16) {
                    0 => {
                        rows.remove(row);
                        model.remove(&(keyspace, key));
                    }
                    1..5 => {
                        let was_here = rows.find(row).is_some();
                        assert_eq!(rows.replace(row, &value), was_here);
                        model.insert((keyspace, key), value);
                    }
                    5..8 => {
                        rows.put(row, &value);
                        model.insert((keyspace, key), value);
                    }
                    _ => {
                        gets += 1;
                        if let Some(found) = rows.get(row) {
                            hits += 1;
                            assert_eq!(
                                Some(&found[..]),
                                model.get(&(keyspace, key)).map(|v| &v[..])
                            );
                        }
                    }
                }
                if step % 64 == 0 || step % 1_000 < 5 {
                    check(&rows);
                }
            }
            assert!(hits > 0, "round {round}: {hits} of {gets}");
            rows.forget(KeyspaceId(0));
            check(&rows);
            for ((keyspace, key), value) in &model {
                let found = rows.get(row(*keyspace, key));
                assert!(found.is_none_or(|found| *keyspace == 1 && found == value));
            }
            rows.forget(KeyspaceId(1));
            assert_eq!((rows.places.len(), rows.capacity), (0, 0));
        }
    }

    #[test]
    fn keys_with_one_hash_displace_each_other() {
        let mut rows = RowBlocks::new(1 << 20);
        let row = |key| RowKey { hash: 7, keyspace: KeyspaceId(1), key };
        rows.put(row(b"a"), b"1");
        assert!(!rows.replace(row(b"b"), b"2"));
        rows.remove(row(b"b"));
        assert_eq!((rows.get(row(b"a")).as_deref(), rows.get(row(b"b"))), (Some(&b"1"[..]), None));
        rows.put(row(b"b"), b"2");
        assert_eq!((rows.get(row(b"a")), rows.get(row(b"b")).as_deref()), (None, Some(&b"2"[..])));
        check(&rows);
    }

    /// Bytes held for these rows of 300 bytes.
    fn filled(rows: &mut RowBlocks, count: u64) -> usize {
        for n in 0..count {
            rows.put(row(1, &n.to_be_bytes()), &[7; 300]);
            check_bytes(rows);
        }
        rows.bytes()
    }

    fn check_bytes(rows: &RowBlocks) {
        assert!(rows.bytes() <= rows.bytes_max, "{} of {}", rows.bytes(), rows.bytes_max);
    }

    #[test]
    fn memory_is_taken_as_rows_come_and_given_back_as_they_go() {
        let mut rows = RowBlocks::new(16 << 20);
        assert_eq!(rows.bytes(), 0);
        assert!(filled(&mut rows, 1) < 3_000);
        let full = filled(&mut rows, 10_000);
        assert!(full < 10_000 * 380, "{full} bytes for {} live", rows.live);
        // Values of the same length, or a little longer, take nothing more.
        for value in [&[8; 300][..], &[9; 301]] {
            for n in 0..10_000_u64 {
                assert!(rows.replace(row(1, &n.to_be_bytes()), value));
            }
        }
        assert_eq!(rows.bytes(), full);
        // Others take the place of what they replace, with an eighth for what is dead.
        for len in [500, 90, 700, 10, 300] {
            for n in 0..10_000_u64 {
                assert!(rows.replace(row(1, &n.to_be_bytes()), &vec![1; len]));
            }
            check(&rows);
            let enough = (10_000 * (len + 60)) * 8 / 7 + 2 * BLOCK_BYTES_MAX;
            assert!(rows.bytes() < enough, "{} bytes for {}", rows.bytes(), rows.live);
        }
        for n in 0..10_000_u64 {
            rows.remove(row(1, &n.to_be_bytes()));
        }
        check(&rows);
        assert!(rows.bytes() < 10_000, "{} bytes", rows.bytes());
    }

    #[test]
    fn large_rows_stay_within_the_bytes_too() {
        let mut rows = RowBlocks::new(1 << 20);
        for n in 0..2_000_u64 {
            let key = (n % 90).to_be_bytes();
            rows.put(row(1, &key), &vec![n as u8; 16_000 - n as usize % 5_000]);
            check_bytes(&rows);
            assert_eq!(rows.get(row(1, &key)).map(|v| v[0]), Some(n as u8));
        }
        check(&rows);
        assert!(rows.live > 700_000, "{} bytes", rows.live);
        let mut small = RowBlocks::new(160_000);
        for (len, is_kept) in [(9_000, true), (12_000, false), (8_000, true)] {
            small.put(row(1, b"key"), &vec![1; len]);
            assert_eq!(small.get(row(1, b"key")).is_some(), is_kept, "{len} bytes");
        }
        check(&small);
    }

    #[test]
    fn rows_that_are_read_outlive_others() {
        let mut rows = RowBlocks::new(1 << 20);
        filled(&mut rows, 1_000);
        for n in 1_000..20_000_u64 {
            rows.put(row(1, &n.to_be_bytes()), &[7; 300]);
            rows.get(row(1, &(n % 1_000).to_be_bytes()));
        }
        let stayed = |rows: &mut RowBlocks, of: std::ops::Range<u64>| {
            of.filter(|n| rows.get(row(1, &n.to_be_bytes())).is_some()).count()
        };
        assert_eq!(stayed(&mut rows, 0..1_000), 1_000);
        assert_eq!(stayed(&mut rows, 1_000..15_000), 0);
        // When all were read, there is room for others still.
        filled(&mut rows, 20_000);
        check(&rows);
        assert_eq!(stayed(&mut rows, 19_900..20_000), 100);
    }
}
