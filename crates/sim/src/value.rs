//! The workload's keys and values: a value names the write that left it, and proves that it is
//! whole.
//!
//! A value is `{write u64, amount u64, padding, crc32c u32}`; the padding's length and bytes follow
//! from the write's number, so that logs and snapshots hold values of all sizes and a reader
//! notices every changed bit.

use atoll_base::checksum::crc32c;
use atoll_base::{Rng, ShardId};
use bytes::Bytes;

use crate::history::{KeyNumber, Value};

/// Registers have the numbers below this one.
pub const COUNTERS_FROM: u32 = 1_000;
/// Counters have the numbers from `COUNTERS_FROM` to below this one; then come accounts.
pub const ACCOUNTS_FROM: u32 = 2_000;
/// Accounts have the numbers below this one; then come keys that are written under locks.
pub const GUARDED_FROM: u32 = 3_000;
/// One past the last key whose history is judged.
pub const KEYS_END: u32 = 4_000;
/// Keys of records that are imported begin here.
pub const IMPORTED_FROM: u32 = KEYS_END;
/// The key that holds a list.
pub const LISTED: u32 = 4_900;
/// Keys from here on belong to leases and go with them.
pub const LEASED_FROM: u32 = 5_000;

const FIXED_BYTES: usize = 20;

/// The value left by write `number`, with up to `padding_max` more bytes.
#[must_use]
pub fn encode_value(number: Value, amount: u64, padding_max: u64) -> Bytes {
    let padding = Rng::new(number).below(padding_max + 1) as usize;
    let mut bytes = Vec::with_capacity(FIXED_BYTES + padding);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&amount.to_be_bytes());
    bytes.resize(16 + padding, number as u8);
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    Bytes::from(bytes)
}

/// A list: a value whose padding is its elements, left by the write that appended the last one.
#[must_use]
pub fn encode_list(list: &[Value]) -> Bytes {
    let mut bytes = Vec::with_capacity(FIXED_BYTES + 8 * list.len());
    bytes.extend_from_slice(&list.last().copied().unwrap_or_default().to_be_bytes());
    bytes.extend_from_slice(&(list.len() as u64).to_be_bytes());
    for element in list {
        bytes.extend_from_slice(&element.to_be_bytes());
    }
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    Bytes::from(bytes)
}

/// The elements of a list, or `None` when a bit of it is wrong.
#[must_use]
pub fn decode_list(value: &[u8]) -> Option<Vec<Value>> {
    let (_, len) = decode_value(value)?;
    let (elements, rest) = value.get(16..value.len() - 4)?.as_chunks::<8>();
    let is_whole = rest.is_empty() && elements.len() as u64 == len;
    is_whole.then(|| elements.iter().map(|element| u64::from_be_bytes(*element)).collect())
}

/// The write and the amount in `value`, or `None` when a bit of it is wrong.
#[must_use]
pub fn decode_value(value: &[u8]) -> Option<(Value, u64)> {
    let (content, crc) = value.split_last_chunk::<4>()?;
    if crc32c(content) != u32::from_be_bytes(*crc) {
        return None;
    }
    let (number, rest) = content.split_first_chunk::<8>()?;
    let (amount, _) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), u64::from_be_bytes(*amount)))
}

/// The first key of a shard.
#[must_use]
pub fn shard_start(shard: ShardId) -> Bytes {
    Bytes::from(format!("{:04}/", shard.0))
}

/// A key of a shard.
#[must_use]
pub fn encode_key(shard: ShardId, key: KeyNumber) -> Bytes {
    Bytes::from(format!("{:04}/{:05}", shard.0, key.0))
}

/// The number of a key, or `None` when it is not one of the workload's.
#[must_use]
pub fn decode_key(shard: ShardId, key: &[u8]) -> Option<KeyNumber> {
    let text = std::str::from_utf8(key).ok()?;
    let (front, number) = text.split_once('/')?;
    if front.parse() != Ok(shard.0) {
        return None;
    }
    number.parse().ok().map(KeyNumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_keys_survive_a_round_trip_and_damage_shows() {
        for number in 1..50 {
            let value = encode_value(number, number * 3, 100);
            assert_eq!(decode_value(&value), Some((number, number * 3)));
            let mut damaged = value.to_vec();
            damaged[number as usize % value.len()] ^= 4;
            assert_eq!(decode_value(&damaged), None);
        }
        for list in [&[][..], &[7], &[7, 9, 1]] {
            let value = encode_list(list);
            assert_eq!(decode_list(&value).as_deref(), Some(list));
            assert_eq!(decode_list(&value[1..]), None);
        }
        let key = encode_key(ShardId(7), KeyNumber(42));
        assert_eq!(decode_key(ShardId(7), &key), Some(KeyNumber(42)));
        assert_eq!(decode_key(ShardId(8), &key), None);
        assert!(key > shard_start(ShardId(7)) && key < shard_start(ShardId(8)));
    }
}
