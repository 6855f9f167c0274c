//! What etcd refuses without looking at its store, in the order in which it looks.

use prost::Message;
use tonic::Status;

use super::refusal;
use atoll_wire::etcd::etcdserverpb as pb;
use pb::request_op::Request;

/// Bounds of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Compares, or operations of one side, of a transaction and those inside it.
    pub(super) txn_ops_max: usize,
    /// Bytes of a request that changes something.
    pub(super) request_bytes_max: usize,
}

impl Limits {
    /// Refuses a change that is too large for the log.
    pub(super) fn size(&self, request: &impl Message) -> Result<(), Status> {
        match request.encoded_len() > self.request_bytes_max {
            true => Err(refusal::request_too_large()),
            false => Ok(()),
        }
    }
}

fn key(key: &[u8]) -> Result<(), Status> {
    if key.is_empty() { Err(refusal::empty_key()) } else { Ok(()) }
}

pub(super) fn range(request: &pb::RangeRequest) -> Result<(), Status> {
    key(&request.key)?;
    let is_known = pb::range_request::SortOrder::try_from(request.sort_order).is_ok()
        && pb::range_request::SortTarget::try_from(request.sort_target).is_ok();
    if is_known { Ok(()) } else { Err(refusal::invalid_sort_option()) }
}

pub(super) fn put(request: &pb::PutRequest) -> Result<(), Status> {
    key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(refusal::value_provided());
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(refusal::lease_provided());
    }
    Ok(())
}

pub(super) fn delete(request: &pb::DeleteRangeRequest) -> Result<(), Status> {
    key(&request.key)
}

/// A transaction takes its longest list from what those inside may have.
pub(super) fn txn(request: &pb::TxnRequest, ops_max: usize) -> Result<(), Status> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = ops_max.checked_sub(longest) else { return Err(refusal::too_many_ops()) };
    request.compare.iter().try_for_each(|compare| key(&compare.key))?;
    request.success.iter().chain(&request.failure).try_for_each(|op| step(op, left))
}

fn step(op: &pb::RequestOp, ops_max: usize) -> Result<(), Status> {
    match &op.request {
        Some(Request::RequestRange(request)) => range(request),
        Some(Request::RequestPut(request)) => put(request),
        Some(Request::RequestDeleteRange(request)) => delete(request),
        Some(Request::RequestTxn(request)) => txn(request, ops_max),
        None => Err(refusal::key_not_found()),
    }
}
