//! Keys, ranges and pages.

use std::time::Duration;

use atoll_base::{Failure, LeaseId, Revision, ShardId};
use atoll_coord::Consistency;
use atoll_machine::{KeyEnd, KeyValue, RangePage, RangeQuery};
use atoll_storage::Direction;
use atoll_wire::v1 as pb;
use bytes::Bytes;

use super::malformed;

/// The wire form of a key's version.
#[must_use]
pub fn key_value(kv: KeyValue) -> pb::KeyValue {
    pb::KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        lease: kv.lease.unwrap_or_default().0,
    }
}

pub(super) fn decode_key_value(kv: pb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: Revision(kv.create_revision),
        mod_revision: Revision(kv.mod_revision),
        version: kv.version,
        lease: lease(kv.lease),
    }
}

pub(super) fn lease(id: u64) -> Option<LeaseId> {
    (id != 0).then_some(LeaseId(id))
}

/// Where a range ends, as the wire says it.
#[must_use]
pub fn range_end(start: &Bytes, end: Option<pb::RangeEnd>) -> KeyEnd {
    use pb::range_end::End;
    match end.and_then(|e| e.end) {
        Some(End::Until(key)) => KeyEnd::Until(key),
        Some(End::Prefix(true)) => KeyEnd::of_prefix(start),
        Some(End::Unbounded(true)) => KeyEnd::ToEnd,
        Some(End::Prefix(false) | End::Unbounded(false)) | None => KeyEnd::Single,
    }
}

pub(super) fn encode_end(end: KeyEnd) -> Option<pb::RangeEnd> {
    use pb::range_end::End;
    let end = match end {
        KeyEnd::Single => return None,
        KeyEnd::Until(key) => End::Until(key),
        KeyEnd::ToEnd => End::Unbounded(true),
    };
    Some(pb::RangeEnd { end: Some(end) })
}

pub(super) fn consistency(wire: i32, max_staleness_ms: u64) -> Result<Consistency, Failure> {
    match pb::Consistency::try_from(wire) {
        Ok(pb::Consistency::Linearizable) => Ok(Consistency::Linearizable),
        Ok(pb::Consistency::Stale) => Ok(Consistency::Stale {
            max: (max_staleness_ms != 0).then(|| Duration::from_millis(max_staleness_ms)),
        }),
        Err(_) => Err(malformed(format!(
            "read refused: consistency {wire} is not known, give 0 (linearizable) or 1 (stale)"
        ))),
    }
}

/// The consistency's number and the oldest age accepted, in milliseconds (at least 1, 0 for any).
pub(super) fn encode_consistency(consistency: Consistency) -> (i32, u64) {
    match consistency {
        Consistency::Linearizable => (pb::Consistency::Linearizable as i32, 0),
        Consistency::Stale { max } => {
            (pb::Consistency::Stale as i32, max.map_or(0, |max| millis(max).max(1)))
        }
    }
}

/// Whole milliseconds, rounded up: an age is never understated.
pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

pub(super) fn at_revision(wire: u64) -> Option<Revision> {
    (wire != 0).then_some(Revision(wire))
}

/// What a range request asks for, and how fresh.
///
/// # Errors
/// [`Code::InvalidArgument`](atoll_base::Code::InvalidArgument) for a consistency that is not
/// known.
pub fn decode_range(wire: pb::RangeRequest) -> Result<(RangeQuery, Consistency), Failure> {
    let consistency = consistency(wire.consistency, wire.max_staleness_ms)?;
    let query = RangeQuery {
        end: range_end(&wire.start, wire.end),
        start: wire.start,
        direction: if wire.descending { Direction::Backward } else { Direction::Forward },
        limit: (wire.limit != 0).then_some(wire.limit),
        bytes_max: (wire.max_bytes != 0).then_some(wire.max_bytes),
        at: at_revision(wire.at_revision),
        keys_only: wire.keys_only,
        count_only: wire.count_only,
        count_total: wire.count_total,
    };
    Ok((query, consistency))
}

pub(super) fn encode_range(query: RangeQuery, consistency: Consistency) -> pb::RangeRequest {
    let (consistency, max_staleness_ms) = encode_consistency(consistency);
    pb::RangeRequest {
        keyspace: String::new(),
        start: query.start,
        end: encode_end(query.end),
        descending: query.direction == Direction::Backward,
        limit: query.limit.unwrap_or(0),
        max_bytes: query.bytes_max.unwrap_or(0),
        at_revision: query.at.unwrap_or_default().0,
        consistency,
        max_staleness_ms,
        keys_only: query.keys_only,
        count_only: query.count_only,
        count_total: query.count_total,
    }
}

/// The wire form of a page.
#[must_use]
pub fn encode_page(page: RangePage, staleness: Duration, shard: ShardId) -> pb::RangeResponse {
    pb::RangeResponse {
        kvs: page.kvs.into_iter().map(key_value).collect(),
        next: page.more,
        count: page.count,
        uncounted: page.uncounted,
        revision: page.revision.0,
        staleness_ms: millis(staleness),
        shard: shard.0,
        newest: 0,
    }
}

pub(super) fn decode_page(wire: pb::RangeResponse) -> RangePage {
    RangePage {
        kvs: wire.kvs.into_iter().map(decode_key_value).collect(),
        more: wire.next,
        count: wire.count,
        uncounted: wire.uncounted,
        revision: Revision(wire.revision),
    }
}
