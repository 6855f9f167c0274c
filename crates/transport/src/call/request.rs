//! Calls.

use std::time::Duration;

use atoll_base::{Code, Epoch, Failure, LogIndex, NodeId, ShardId, Time};
use atoll_coord::{Origin, Request, RequestBody};
use atoll_machine::{Command, CommandId, GuardedOp, LockOp, Op};
use atoll_raft::{Member, Role};
use atoll_wire::v1 as pb;

use super::id::{command_id, encode_id};
use super::lease::{
    decode_keep_alive, decode_lease_grant, decode_lease_revoke, decode_list, decode_show,
    encode_keep_alive, encode_lease_op, encode_list, encode_show,
};
use super::lock::{
    decode_acquire, decode_cancel, decode_lock, decode_observe, decode_proclaim, decode_release,
    decode_set_semaphore, encode_guards, encode_lock, encode_lock_op, encode_observe, guarded,
};
use super::malformed;
use super::op::{decode_delete, decode_put, decode_txn, encode_delete, encode_put, encode_txn};
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
        Body::Put(mut put) => {
            let (id, guards) = (put.id.take(), std::mem::take(&mut put.guards));
            command(id, guarded(guards, Op::Put(decode_put(put)))?)
        }
        Body::Delete(mut delete) => {
            let (id, guards) = (delete.id.take(), std::mem::take(&mut delete.guards));
            command(id, guarded(guards, Op::Delete(decode_delete(delete)))?)
        }
        Body::Txn(mut txn) => {
            let (id, guards) = (txn.id.take(), std::mem::take(&mut txn.guards));
            command(id, guarded(guards, Op::Txn(decode_txn(txn)?))?)
        }
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
        Body::LeaseGrant(grant) => command(grant.id, Op::Lease(decode_lease_grant(&grant))),
        Body::LeaseRevoke(revoke) => command(revoke.id, Op::Lease(decode_lease_revoke(&revoke)?)),
        Body::KeepAlive(alive) => RequestBody::KeepAlive { leases: decode_keep_alive(alive)? },
        Body::LeaseShow(show) => decode_show(&show)?,
        Body::LeaseList(list) => decode_list(&list),
        Body::Acquire(mut acquire) => {
            command(acquire.id.take(), Op::Lock(LockOp::Acquire(decode_acquire(acquire)?)))
        }
        Body::Release(mut release) => {
            command(release.id.take(), Op::Lock(decode_release(release)?))
        }
        Body::CancelAcquire(mut cancel) => {
            command(cancel.id.take(), Op::Lock(decode_cancel(cancel)?))
        }
        Body::SetSemaphore(mut set) => command(set.id.take(), Op::Lock(decode_set_semaphore(set))),
        Body::Proclaim(mut proclaim) => {
            command(proclaim.id.take(), Op::Lock(decode_proclaim(proclaim)?))
        }
        Body::Lock(lock) => decode_lock(lock),
        Body::Observe(observe) => decode_observe(observe),
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
        RequestBody::KeepAlive { leases } => encode_keep_alive(leases),
        RequestBody::Lease { id, keys } => encode_show(id, keys),
        RequestBody::Leases { after, limit } => encode_list(after, limit),
        RequestBody::Lock { lock } => encode_lock(lock),
        RequestBody::Observe { lock } => encode_observe(lock),
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
    let (guards, op) = match op {
        Op::Guarded(GuardedOp { guards, op }) => (guards, *op),
        op => (Vec::new(), op),
    };
    let writes = matches!(op, Op::Put(_) | Op::Delete(_) | Op::Txn(_));
    if !guards.is_empty() && !writes {
        let text = "guards are for puts, deletes and transactions";
        return Err(Failure::new(Code::Unsupported, text));
    }
    let (name, guards) = (id.map(encode_id), encode_guards(guards));
    Ok(match op {
        Op::Put(put) => Body::Put(pb::PutRequest { id: name, guards, ..encode_put(put) }),
        Op::Delete(delete) => {
            Body::Delete(pb::DeleteRequest { id: name, guards, ..encode_delete(delete) })
        }
        Op::Txn(txn) => Body::Txn(pb::TxnRequest { id: name, guards, ..encode_txn(txn) }),
        Op::Compact { revision } => {
            Body::Compact(pb::CompactRequest { revision: revision.0, id: name })
        }
        Op::Lease(op) => encode_lease_op(id, &op).ok_or_else(leaders_own)?,
        Op::Lock(op) => encode_lock_op(id, op).ok_or_else(leaders_own)?,
        Op::ExpireSessions { .. } | Op::Guarded(_) => return Err(leaders_own()),
    })
}

fn leaders_own() -> Failure {
    let text = "what runs out, and from where tokens grow, is said by a shard's leader alone";
    Failure::new(Code::Unsupported, text)
}
