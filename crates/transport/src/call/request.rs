//! Calls.

use std::time::Duration;

use atoll_base::{Code, Epoch, Failure, LogIndex, NodeId, ShardId, Time};
use atoll_coord::{Origin, Request, RequestBody};
use atoll_machine::{Command, CommandId, Op};
use atoll_raft::{Member, Role};
use atoll_wire::v1 as pb;

use super::malformed;
use super::op::{
    command_id, decode_delete, decode_put, decode_txn, encode_delete, encode_id, encode_put,
    encode_txn,
};
use super::read::{
    at_revision, consistency, decode_range, encode_consistency, encode_range, millis,
};
use super::watch::{decode_watch, encode_watch};

/// The longest that a call may wait; also what one that gives no timeout gets.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The request in a call that arrived at `now`.
///
/// # Errors
/// [`Code::InvalidArgument`] when the call has no body that this build knows, or a malformed one.
pub fn decode_call(call: pb::Call, origin: Origin, now: Time) -> Result<Request, Failure> {
    let timeout = match call.timeout_ms {
        0 => TIMEOUT_MAX,
        ms => Duration::from_millis(u64::from(ms)).min(TIMEOUT_MAX),
    };
    let body = call.body.ok_or_else(|| {
        malformed(format!("call {} has nothing in it that this node knows", call.id))
    })?;
    Ok(Request {
        origin,
        id: call.id,
        shard: ShardId(call.shard),
        epoch: Epoch(call.epoch),
        deadline: now.after(timeout),
        body: decode_body(body)?,
    })
}

fn decode_body(body: pb::call::Body) -> Result<RequestBody, Failure> {
    use pb::call::Body;
    let command = |id: Option<pb::CommandId>, op| {
        RequestBody::Command(Command { id: id.map(command_id), op })
    };
    Ok(match body {
        Body::Put(mut put) => command(put.id.take(), Op::Put(decode_put(put))),
        Body::Delete(mut delete) => command(delete.id.take(), Op::Delete(decode_delete(delete))),
        Body::Txn(mut txn) => command(txn.id.take(), Op::Txn(decode_txn(txn)?)),
        Body::Compact(compact) => {
            command(compact.id, Op::Compact { revision: atoll_base::Revision(compact.revision) })
        }
        Body::Get(get) => RequestBody::Get {
            consistency: consistency(get.consistency, get.max_staleness_ms)?,
            at: at_revision(get.at_revision),
            key: get.key,
        },
        Body::Range(range) => {
            let (query, consistency) = decode_range(range)?;
            RequestBody::Range { query, consistency }
        }
        Body::Watch(watch) => RequestBody::Watch(decode_watch(watch)),
        Body::Cancel(cancel) => RequestBody::CancelWatch { watch: cancel.watch },
        Body::Transfer(transfer) => RequestBody::Transfer(NodeId(transfer.to)),
        Body::Members(members) => RequestBody::Members(
            members.members.into_iter().map(decode_member).collect::<Result<_, _>>()?,
        ),
        Body::Retire(retire) => {
            RequestBody::Retire { epoch: Epoch(retire.epoch), index: LogIndex(retire.index) }
        }
        Body::Status(pb::StatusRequest {}) => RequestBody::Status,
    })
}

pub(super) fn decode_member(wire: pb::Member) -> Result<Member, Failure> {
    let role = match pb::member::Role::try_from(wire.role) {
        Ok(pb::member::Role::Voter) => Role::Voter,
        Ok(pb::member::Role::Learner) => Role::Learner,
        Ok(pb::member::Role::Witness) => Role::Witness,
        Err(_) => {
            return Err(malformed(format!(
                "member refused: role {} of node {} is not known",
                wire.role, wire.node
            )));
        }
    };
    Ok(Member { node: NodeId(wire.node), role })
}

/// The wire form of a member.
#[must_use]
pub fn encode_member(member: Member) -> pb::Member {
    let role = match member.role {
        Role::Voter => pb::member::Role::Voter,
        Role::Learner => pb::member::Role::Learner,
        Role::Witness => pb::member::Role::Witness,
    };
    pb::Member { node: member.node.0, role: role as i32 }
}

/// The call that asks for the request, sent at `now`.
///
/// # Errors
/// [`Code::DeadlineExceeded`] (did not happen) when the deadline has passed, and
/// [`Code::Unsupported`] for a command that clients can't give.
pub fn encode_call(request: Request, now: Time) -> Result<pb::Call, Failure> {
    let left = request.deadline.since(now);
    if left.is_zero() {
        return Err(Failure::new(
            Code::DeadlineExceeded,
            format!("call {} was not sent: its deadline has passed", request.id),
        )
        .with_happened(atoll_base::Happened::No));
    }
    Ok(pb::Call {
        id: request.id,
        shard: request.shard.0,
        epoch: request.epoch.0,
        timeout_ms: u32::try_from(millis(left.min(TIMEOUT_MAX))).unwrap_or(u32::MAX),
        body: Some(encode_body(request.body)?),
    })
}

fn encode_body(body: RequestBody) -> Result<pb::call::Body, Failure> {
    use pb::call::Body;
    Ok(match body {
        RequestBody::Command(Command { id, op }) => encode_op(id, op)?,
        RequestBody::Get { key, at, consistency } => {
            let (consistency, max_staleness_ms) = encode_consistency(consistency);
            Body::Get(pb::GetRequest {
                keyspace: String::new(),
                key,
                consistency,
                max_staleness_ms,
                at_revision: at.unwrap_or_default().0,
            })
        }
        RequestBody::Range { query, consistency } => Body::Range(encode_range(query, consistency)),
        RequestBody::Watch(spec) => Body::Watch(encode_watch(spec)),
        RequestBody::CancelWatch { watch } => Body::Cancel(pb::CancelRequest { watch }),
        RequestBody::WatchCredit { watch } => {
            return Err(Failure::new(
                Code::Unsupported,
                format!("credit for watch {watch} is given by the node that sends its events"),
            ));
        }
        RequestBody::KeepAlive { .. }
        | RequestBody::Lease { .. }
        | RequestBody::Leases { .. }
        | RequestBody::Lock { .. }
        | RequestBody::Observe { .. } => {
            let text = "leases and locks have no form on this surface yet";
            return Err(Failure::new(Code::Unsupported, text));
        }
        RequestBody::Transfer(to) => Body::Transfer(pb::TransferRequest { to: to.0 }),
        RequestBody::Members(members) => Body::Members(pb::MembersRequest {
            members: members.into_iter().map(encode_member).collect(),
        }),
        RequestBody::Retire { epoch, index } => {
            Body::Retire(pb::RetireRequest { epoch: epoch.0, index: index.0 })
        }
        RequestBody::Status => Body::Status(pb::StatusRequest {}),
    })
}

fn encode_op(id: Option<CommandId>, op: Op) -> Result<pb::call::Body, Failure> {
    use pb::call::Body;
    let id = id.map(encode_id);
    Ok(match op {
        Op::Put(put) => Body::Put(pb::PutRequest { id, ..encode_put(put) }),
        Op::Delete(delete) => Body::Delete(pb::DeleteRequest { id, ..encode_delete(delete) }),
        Op::Txn(txn) => Body::Txn(pb::TxnRequest { id, ..encode_txn(txn) }),
        Op::Compact { revision } => Body::Compact(pb::CompactRequest { revision: revision.0, id }),
        Op::ExpireSessions { .. } => {
            return Err(Failure::new(
                Code::Unsupported,
                "sessions are expired by a shard's leader, not by clients",
            ));
        }
        Op::Lease(_) | Op::Lock(_) | Op::Guarded(_) => {
            let text = "leases, locks and guards have no form on this surface yet";
            return Err(Failure::new(Code::Unsupported, text));
        }
    })
}
