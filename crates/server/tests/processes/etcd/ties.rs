//! Ties of a sort. Atoll gives pairs with equal sort values in the order of their keys; etcd in one
//! that depends on the sorting of the Go that it was built with, so that 3.5.1 and 3.4.23 differ.
//! This takes out of an answer what no two of them need agree on.

use atoll_wire::etcd::etcdserverpb::request_op::Request;
use atoll_wire::etcd::etcdserverpb::response_op::Response;
use atoll_wire::etcd::etcdserverpb::{
    RangeRequest, RangeResponse, TxnRequest, TxnResponse, range_request::SortTarget,
};
use atoll_wire::etcd::mvccpb::KeyValue;
use bytes::Bytes;

/// Pairs with equal sort values are put in the order of their keys. Of those at which a limit cut
/// the answer off, only the sort value and the number stay.
pub(super) fn untie(request: &RangeRequest, answer: &mut RangeResponse) {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    let value_of = |kv: &KeyValue| match target {
        // Keys have no ties; without the values there is no telling which pairs had one.
        SortTarget::Key => (0, kv.key.clone()),
        SortTarget::Value => (0, kv.value.clone()),
        SortTarget::Version => (kv.version, Bytes::new()),
        SortTarget::Create => (kv.create_revision, Bytes::new()),
        SortTarget::Mod => (kv.mod_revision, Bytes::new()),
    };
    let ties = answer.kvs.chunk_by_mut(|a, b| value_of(a) == value_of(b));
    let mut ties: Vec<&mut [KeyValue]> = ties.collect();
    for tie in &mut ties {
        tie.sort_by(|a, b| a.key.cmp(&b.key));
    }
    let Some(last) = ties.pop().filter(|_| answer.more && target != SortTarget::Key) else {
        return;
    };
    for pair in last {
        let value = value_of(pair);
        *pair = KeyValue { version: value.0, value: value.1, ..KeyValue::default() };
    }
}

/// The same in all ranges of a transaction, at any depth.
pub(super) fn untie_all(request: &TxnRequest, answer: &mut TxnResponse) {
    let done = if answer.succeeded { &request.success } else { &request.failure };
    for (asked, told) in done.iter().zip(&mut answer.responses) {
        match (&asked.request, &mut told.response) {
            (Some(Request::RequestRange(asked)), Some(Response::ResponseRange(told))) => {
                untie(asked, told);
            }
            (Some(Request::RequestTxn(asked)), Some(Response::ResponseTxn(told))) => {
                untie_all(asked, told);
            }
            _ => {}
        }
    }
}
