//! Pages of a range, written and read in one pass.
//!
//! A page holds most of the bytes that an answer may have, in many small messages. Generated code
//! would build a second list of them, and measure each at every level of nesting. These two write
//! and read the same bytes (tests compare them with the generated code).

use std::time::Duration;

use atoll_base::{Failure, LeaseId, Revision};
use atoll_machine::{KeyValue, RangePage};
use bytes::{Bytes, BytesMut};
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint,
    encoded_len_varint, skip_field,
};

use super::malformed;
use super::read::millis;

// Field numbers of `RangeResponse`.
const KVS: u32 = 1;
const NEXT: u32 = 2;
const COUNT: u32 = 3;
const REVISION: u32 = 4;
const STALENESS_MS: u32 = 5;
const UNCOUNTED: u32 = 7;
const NEWEST: u32 = 8;

// Field numbers of `KeyValue`.
const KEY: u32 = 1;
const VALUE: u32 = 2;
const CREATE_REVISION: u32 = 3;
const MOD_REVISION: u32 = 4;
const VERSION: u32 = 5;
const LEASE: u32 = 6;

/// The bytes of a `RangeResponse`.
pub(super) fn encode_page_bytes(page: &RangePage, newest: Revision, staleness: Duration) -> Bytes {
    let pairs: usize = page.kvs.iter().map(|kv| kv.key.len() + kv.value.len() + 48).sum();
    let mut out = BytesMut::with_capacity(pairs + 64);
    for kv in &page.kvs {
        encode_key(KVS, WireType::LengthDelimited, &mut out);
        encode_varint(pair_len(kv) as u64, &mut out);
        put_bytes(KEY, &kv.key, &mut out);
        put_bytes(VALUE, &kv.value, &mut out);
        put_number(CREATE_REVISION, kv.create_revision.0, &mut out);
        put_number(MOD_REVISION, kv.mod_revision.0, &mut out);
        put_number(VERSION, kv.version, &mut out);
        put_number(LEASE, kv.lease.unwrap_or_default().0, &mut out);
    }
    put_optional(NEXT, page.more.as_ref(), &mut out);
    put_number(COUNT, page.count, &mut out);
    put_number(REVISION, page.revision.0, &mut out);
    put_number(STALENESS_MS, millis(staleness), &mut out);
    put_optional(UNCOUNTED, page.uncounted.as_ref(), &mut out);
    put_number(NEWEST, newest.0, &mut out);
    out.freeze()
}

fn pair_len(kv: &KeyValue) -> usize {
    bytes_len(&kv.key)
        + bytes_len(&kv.value)
        + number_len(kv.create_revision.0)
        + number_len(kv.mod_revision.0)
        + number_len(kv.version)
        + number_len(kv.lease.unwrap_or_default().0)
}

/// Bytes of a field with a number below 16; what is empty is left out.
fn bytes_len(bytes: &Bytes) -> usize {
    match bytes.len() {
        0 => 0,
        len => 1 + encoded_len_varint(len as u64) + len,
    }
}

fn number_len(number: u64) -> usize {
    if number == 0 { 0 } else { 1 + encoded_len_varint(number) }
}

fn put_bytes(field: u32, bytes: &Bytes, out: &mut BytesMut) {
    if !bytes.is_empty() {
        put_optional(field, Some(bytes), out);
    }
}

fn put_optional(field: u32, bytes: Option<&Bytes>, out: &mut BytesMut) {
    if let Some(bytes) = bytes {
        encode_key(field, WireType::LengthDelimited, out);
        encode_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

fn put_number(field: u32, number: u64, out: &mut BytesMut) {
    if number != 0 {
        encode_key(field, WireType::Varint, out);
        encode_varint(number, out);
    }
}

/// The page, the newest revision that the replica knew, and the page's staleness. Keys and values
/// share `wire`.
///
/// # Errors
/// [`Code::InvalidArgument`](atoll_base::Code::InvalidArgument) for bytes that are no
/// `RangeResponse`.
pub(super) fn decode_page_bytes(
    mut wire: Bytes,
) -> Result<(RangePage, Revision, Duration), Failure> {
    let mut page = RangePage::default();
    let mut newest = Revision::ZERO;
    let mut staleness = Duration::ZERO;
    while !wire.is_empty() {
        match next_field(&mut wire)? {
            (KVS, Field::Bytes(pair)) => page.kvs.push(decode_pair(pair)?),
            (NEXT, Field::Bytes(key)) => page.more = Some(key),
            (COUNT, Field::Number(count)) => page.count = count,
            (REVISION, Field::Number(revision)) => page.revision = Revision(revision),
            (STALENESS_MS, Field::Number(ms)) => staleness = Duration::from_millis(ms),
            (UNCOUNTED, Field::Bytes(key)) => page.uncounted = Some(key),
            (NEWEST, Field::Number(revision)) => newest = Revision(revision),
            _ => {}
        }
    }
    // A node of an older build says nothing of it; what was read is the best known then.
    let newest = newest.max(page.revision);
    Ok((page, newest, staleness))
}

fn decode_pair(mut wire: Bytes) -> Result<KeyValue, Failure> {
    let mut kv = KeyValue::default();
    while !wire.is_empty() {
        match next_field(&mut wire)? {
            (KEY, Field::Bytes(key)) => kv.key = key,
            (VALUE, Field::Bytes(value)) => kv.value = value,
            (CREATE_REVISION, Field::Number(revision)) => kv.create_revision = Revision(revision),
            (MOD_REVISION, Field::Number(revision)) => kv.mod_revision = Revision(revision),
            (VERSION, Field::Number(version)) => kv.version = version,
            (LEASE, Field::Number(lease)) => kv.lease = (lease != 0).then_some(LeaseId(lease)),
            _ => {}
        }
    }
    Ok(kv)
}

enum Field {
    Number(u64),
    Bytes(Bytes),
    /// Of a type that this message has no field of.
    Other,
}

fn next_field(wire: &mut Bytes) -> Result<(u32, Field), Failure> {
    let broken = |error| malformed(format!("page of a range can't be read: {error}"));
    let (number, kind) = decode_key(wire).map_err(broken)?;
    let field = match kind {
        WireType::Varint => Field::Number(decode_varint(wire).map_err(broken)?),
        WireType::LengthDelimited => {
            let len = decode_varint(wire).map_err(broken)?;
            let left = wire.len();
            let len = usize::try_from(len).ok().filter(|len| *len <= left).ok_or_else(|| {
                malformed(format!(
                    "page of a range can't be read: field {number} has {len} bytes, {left} are left"
                ))
            })?;
            Field::Bytes(wire.split_to(len))
        }
        other => {
            skip_field(other, number, wire, DecodeContext::default()).map_err(broken)?;
            Field::Other
        }
    };
    Ok((number, field))
}

#[cfg(test)]
mod tests {
    use atoll_base::ShardId;
    use atoll_wire::v1 as pb;
    use prost::Message;

    use super::*;
    use crate::call::read::{decode_page, encode_page};

    fn page(seed: u64) -> RangePage {
        let mut rng = atoll_base::Rng::new(seed);
        let bytes = |rng: &mut atoll_base::Rng| {
            let len = *rng.pick(&[0_usize, 1, 7, 127, 128, 300, 20_000]).unwrap();
            Bytes::from(vec![rng.below(256) as u8; len])
        };
        let number = |rng: &mut atoll_base::Rng| *rng.pick(&[0, 1, 127, 128, u64::MAX]).unwrap();
        let kvs = (0..rng.below(5)).map(|_| KeyValue {
            key: bytes(&mut rng),
            value: bytes(&mut rng),
            create_revision: Revision(number(&mut rng)),
            mod_revision: Revision(number(&mut rng)),
            version: number(&mut rng),
            lease: Some(LeaseId(number(&mut rng))).filter(|lease| lease.0 != 0),
        });
        let kvs = kvs.collect();
        RangePage {
            kvs,
            more: rng.chance(1, 2).then(|| bytes(&mut rng)),
            count: number(&mut rng),
            uncounted: rng.chance(1, 2).then(|| bytes(&mut rng)),
            revision: Revision(number(&mut rng)),
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_generated_code() {
        for seed in 0..500 {
            let (page, staleness) = (page(seed), Duration::from_millis(seed % 3));
            let newest = Revision(page.revision.0.saturating_add(seed % 2));
            let mut generated = encode_page(page.clone(), staleness, ShardId(0));
            generated.newest = newest.0;
            let generated = generated.encode_to_vec();
            let ours = encode_page_bytes(&page, newest, staleness);
            assert_eq!(ours[..], generated[..], "seed {seed}");
            let (read, read_newest, read_staleness) = decode_page_bytes(ours.clone()).unwrap();
            assert_eq!((&read, read_newest, read_staleness), (&page, newest, staleness));
            assert_eq!(decode_page(pb::RangeResponse::decode(ours).unwrap()), read);
        }
    }

    #[test]
    fn unknown_fields_are_skipped_and_broken_bytes_refused() {
        let whole = encode_page_bytes(&page(3), Revision(9), Duration::ZERO);
        let mut longer = BytesMut::from(&whole[..]);
        put_number(100, 5, &mut longer);
        longer.extend_from_slice(&[0xbd, 0x06, 1, 2, 3, 4]);
        assert_eq!(decode_page_bytes(longer.freeze()), decode_page_bytes(whole.clone()));
        for len in 0..whole.len().min(400) {
            // Cut anywhere, bytes are a shorter page or refused; nothing panics.
            let _ = decode_page_bytes(whole.slice(..len));
        }
        let refused = decode_page_bytes(Bytes::from_static(&[0x0a, 0x05, 0x00])).unwrap_err();
        assert!(refused.message.contains("field 1 has 5 bytes, 1 are left"), "{refused:?}");
    }
}
