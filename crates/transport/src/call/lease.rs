//! Leases.

use std::time::Duration;

use atoll_base::{Failure, LeaseId, Revision};
use atoll_coord::{AnswerBody, KeptAlive, LeaseStatus, RequestBody, Told};
use atoll_machine::{CommandId, LeaseOp, LeaseReply, Reply};
use atoll_wire::v1 as pb;
use pb::answer::Body as Answered;
use pb::call::Body as Asked;

use super::id::encode_id;
use super::malformed;
use super::read::{lease, millis};

/// A lease that must be named: 0 stands for none, and would not be readable in the log.
pub(super) fn named(id: u64, what: &str) -> Result<LeaseId, Failure> {
    lease(id).ok_or_else(|| malformed(format!("{what} 0 names no lease")))
}

/// What a request for a lease asks for.
#[must_use]
pub fn decode_lease_grant(wire: &pb::LeaseGrantRequest) -> LeaseOp {
    LeaseOp::Grant { id: lease(wire.lease), ttl_ms: wire.ttl_ms, lock_delay_ms: wire.lock_delay_ms }
}

/// What a revocation asks for.
///
/// # Errors
/// `InvalidArgument` when it names no lease.
pub fn decode_lease_revoke(wire: &pb::LeaseRevokeRequest) -> Result<LeaseOp, Failure> {
    Ok(LeaseOp::Revoke { id: named(wire.lease, "revocation refused: lease")? })
}

/// The leases that a keep-alive names.
///
/// # Errors
/// `InvalidArgument` when one of them is none.
pub fn decode_keep_alive(wire: pb::KeepAliveRequest) -> Result<Vec<LeaseId>, Failure> {
    wire.leases.into_iter().map(|id| named(id, "keep-alive refused: lease")).collect()
}

pub(super) fn decode_show(wire: &pb::LeaseShowRequest) -> Result<RequestBody, Failure> {
    let keys = if wire.keys { Told::Yes } else { Told::No };
    Ok(RequestBody::Lease { id: named(wire.lease, "lease")?, keys })
}

pub(super) fn decode_list(wire: &pb::LeaseListRequest) -> RequestBody {
    let limit = match wire.limit {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    RequestBody::Leases { after: lease(wire.after), limit }
}

/// `None` for what clients cannot ask for.
pub(super) fn encode_lease_op(id: Option<CommandId>, op: &LeaseOp) -> Option<Asked> {
    let command = id.map(encode_id);
    match *op {
        LeaseOp::Grant { id, ttl_ms, lock_delay_ms } => {
            Some(Asked::LeaseGrant(pb::LeaseGrantRequest {
                lease: id.unwrap_or_default().0,
                ttl_ms,
                lock_delay_ms,
                id: command,
                ..Default::default()
            }))
        }
        LeaseOp::Revoke { id } => Some(Asked::LeaseRevoke(pb::LeaseRevokeRequest {
            lease: id.0,
            id: command,
            ..Default::default()
        })),
        LeaseOp::Expire { .. } => None,
    }
}

pub(super) fn encode_keep_alive(leases: Vec<LeaseId>) -> Asked {
    let leases = leases.into_iter().map(|id| id.0).collect();
    Asked::KeepAlive(pb::KeepAliveRequest { leases, ..Default::default() })
}

pub(super) fn encode_show(id: LeaseId, keys: Told) -> Asked {
    let keys = keys == Told::Yes;
    Asked::LeaseShow(pb::LeaseShowRequest { lease: id.0, keys, ..Default::default() })
}

pub(super) fn encode_list(after: Option<LeaseId>, limit: usize) -> Asked {
    let limit = if limit == usize::MAX { 0 } else { limit as u64 };
    let after = after.unwrap_or_default().0;
    Asked::LeaseList(pb::LeaseListRequest { after, limit, ..Default::default() })
}

pub(super) fn encode_lease_reply(reply: LeaseReply) -> Answered {
    match reply {
        LeaseReply::Granted { id, ttl_ms } => {
            Answered::LeaseGrant(pb::LeaseGrantResponse { lease: id.0, ttl_ms })
        }
        LeaseReply::Ended { revision, deleted } => {
            Answered::LeaseRevoke(pb::LeaseRevokeResponse { revision: revision.0, deleted })
        }
    }
}

pub(super) fn decode_granted(wire: &pb::LeaseGrantResponse) -> Reply {
    Reply::Lease(LeaseReply::Granted { id: LeaseId(wire.lease), ttl_ms: wire.ttl_ms })
}

pub(super) fn decode_ended(wire: &pb::LeaseRevokeResponse) -> Reply {
    let revision = Revision(wire.revision);
    Reply::Lease(LeaseReply::Ended { revision, deleted: wire.deleted })
}

/// The wire form of what came of a keep-alive.
#[must_use]
pub fn encode_kept_alive(kept: Vec<KeptAlive>) -> pb::KeepAliveResponse {
    let one = |kept: KeptAlive| pb::keep_alive_response::Kept {
        lease: kept.id.0,
        ttl_ms: kept.ttl.map_or(0, millis),
    };
    pb::KeepAliveResponse { leases: kept.into_iter().map(one).collect() }
}

pub(super) fn decode_kept_alive(wire: pb::KeepAliveResponse) -> AnswerBody {
    let one = |kept: pb::keep_alive_response::Kept| KeptAlive {
        id: LeaseId(kept.lease),
        ttl: (kept.ttl_ms != 0).then(|| Duration::from_millis(kept.ttl_ms)),
    };
    AnswerBody::KeptAlive(wire.leases.into_iter().map(one).collect())
}

/// The wire form of a lease's state.
#[must_use]
pub fn encode_lease_status(status: LeaseStatus) -> pb::LeaseShowResponse {
    pb::LeaseShowResponse {
        lease: status.id.0,
        ttl_ms: millis(status.ttl),
        left_ms: millis(status.left),
        attached: status.attached,
        keys: status.keys,
    }
}

pub(super) fn decode_lease_status(wire: pb::LeaseShowResponse) -> AnswerBody {
    AnswerBody::Lease(LeaseStatus {
        id: LeaseId(wire.lease),
        ttl: Duration::from_millis(wire.ttl_ms),
        left: Duration::from_millis(wire.left_ms),
        attached: wire.attached,
        keys: wire.keys,
    })
}
