//! Keys, ranges and single operations, between etcd's wire and the machine.

use atoll_base::{LeaseId, Revision};
use atoll_machine::{DeleteOp, KeyEnd, KeyValue, PutOp};
use atoll_wire::etcd::{etcdserverpb as pb, mvccpb};
use bytes::Bytes;

/// Where a range ends: nothing is a single key, one zero byte is no end.
pub(super) fn range_end(start: &Bytes, end: Bytes) -> KeyEnd {
    match &end[..] {
        [] => KeyEnd::Single,
        [0] => KeyEnd::ToEnd,
        // A range that ends before it begins is empty.
        _ => KeyEnd::Until(end.max(start.clone())),
    }
}

pub(super) fn lease(id: i64) -> Option<LeaseId> {
    (id != 0).then_some(LeaseId(id as u64))
}

/// A revision to read at; zero and less stand for now.
pub(super) fn revision(wire: i64) -> Option<Revision> {
    u64::try_from(wire).ok().filter(|r| *r != 0).map(Revision)
}

pub(super) fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision.0 as i64,
        mod_revision: kv.mod_revision.0 as i64,
        version: kv.version as i64,
        value: kv.value,
        lease: kv.lease.map_or(0, |lease| lease.0 as i64),
    }
}

pub(super) fn put(wire: pb::PutRequest) -> PutOp {
    PutOp {
        key: wire.key,
        value: wire.value,
        lease: lease(wire.lease),
        prev_kv: wire.prev_kv,
        ignore_value: wire.ignore_value,
        ignore_lease: wire.ignore_lease,
    }
}

pub(super) fn delete(wire: pb::DeleteRangeRequest) -> DeleteOp {
    let end = range_end(&wire.key, wire.range_end);
    DeleteOp { key: wire.key, end, prev_kv: wire.prev_kv }
}
