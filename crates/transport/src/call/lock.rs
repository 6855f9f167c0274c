//! Locks, semaphores, elections, and guards.

use atoll_base::{Code, Failure, Happened, KeyspaceId};
use atoll_coord::{AnswerBody, RequestBody};
use atoll_machine::{
    AcquireOp, Busy, Claim, CommandId, Guard, GuardedOp, Leadership, LockHolder, LockInfo, LockOp,
    LockReply, Mode, Op, Reply, Token, Wait,
};
use atoll_wire::v1 as pb;
use pb::answer::Body as Answered;
use pb::call::Body as Asked;
use pb::lock_mode::Kind;

use super::id::encode_id;
use super::lease::named;
use super::malformed;

fn decode_mode(wire: Option<pb::LockMode>) -> Result<Mode, Failure> {
    let Some(wire) = wire else { return Ok(Mode::Exclusive) };
    Ok(match Kind::try_from(wire.kind) {
        Ok(Kind::Exclusive) => Mode::Exclusive,
        Ok(Kind::Shared) => Mode::Shared,
        Ok(Kind::Permits) => Mode::Permits(wire.permits),
        Err(_) => return Err(malformed(format!("lock mode {} is not known", wire.kind))),
    })
}

fn encode_mode(mode: Mode) -> pb::LockMode {
    let (kind, permits) = match mode {
        Mode::Exclusive => (Kind::Exclusive, 0),
        Mode::Shared => (Kind::Shared, 0),
        Mode::Permits(permits) => (Kind::Permits, permits),
    };
    pb::LockMode { kind: kind as i32, permits }
}

/// What a request for a lock asks for.
///
/// # Errors
/// `InvalidArgument` when it names no session, or a mode that is not known.
pub fn decode_acquire(wire: pb::AcquireRequest) -> Result<AcquireOp, Failure> {
    let session = named(wire.session, "acquire refused: session")?;
    let wait = match (wire.wait_forever, wire.wait_ms) {
        (true, _) => Wait::Forever,
        (false, 0) => Wait::No,
        (false, ms) => Wait::For(ms),
    };
    let claim = Claim { lock: wire.lock, session, request: wire.request };
    Ok(AcquireOp { claim, mode: decode_mode(wire.mode)?, wait, value: wire.value })
}

/// What a release asks for.
///
/// # Errors
/// `InvalidArgument` when it names no session.
pub fn decode_release(wire: pb::ReleaseRequest) -> Result<LockOp, Failure> {
    let session = named(wire.session, "release refused: session")?;
    Ok(LockOp::Release { lock: wire.lock, session, token: Token(wire.token) })
}

/// What a request to call an acquire back asks for.
///
/// # Errors
/// `InvalidArgument` when it names no session.
pub fn decode_cancel(wire: pb::CancelAcquireRequest) -> Result<LockOp, Failure> {
    let session = named(wire.session, "cancellation refused: session")?;
    Ok(LockOp::Cancel(Claim { lock: wire.lock, session, request: wire.request }))
}

/// What a proclamation asks for.
///
/// # Errors
/// `InvalidArgument` when it names no session.
pub fn decode_proclaim(wire: pb::ProclaimRequest) -> Result<LockOp, Failure> {
    let session = named(wire.session, "proclamation refused: session")?;
    let token = Token(wire.token);
    Ok(LockOp::Proclaim { lock: wire.lock, session, token, value: wire.value })
}

/// What a request for permits of a semaphore asks for.
#[must_use]
pub fn decode_set_semaphore(wire: pb::SetSemaphoreRequest) -> LockOp {
    LockOp::SetSemaphore { lock: wire.lock, limit: wire.limit }
}

/// The operation under its guards, if it has any. Their keyspaces are named by number.
///
/// # Errors
/// `InvalidArgument` for a guard without a keyspace.
pub fn guarded(guards: Vec<pb::Guard>, op: Op) -> Result<Op, Failure> {
    if guards.is_empty() {
        return Ok(op);
    }
    let guard = |wire: pb::Guard| match wire.keyspace_id {
        0 => {
            let lock = wire.lock.escape_ascii();
            Err(malformed(format!("guard refused: the keyspace of lock {lock} is not given")))
        }
        id => Ok(Guard { keyspace: KeyspaceId(id), lock: wire.lock, token: Token(wire.token) }),
    };
    let guards = guards.into_iter().map(guard).collect::<Result<_, _>>()?;
    Ok(Op::Guarded(GuardedOp { guards, op: Box::new(op) }))
}

pub(super) fn encode_guards(guards: Vec<Guard>) -> Vec<pb::Guard> {
    let guard = |guard: Guard| pb::Guard {
        keyspace: String::new(),
        lock: guard.lock,
        token: guard.token.0,
        keyspace_id: guard.keyspace.0,
    };
    guards.into_iter().map(guard).collect()
}

/// `None` for what clients cannot ask for.
pub(super) fn encode_lock_op(id: Option<CommandId>, op: LockOp) -> Option<Asked> {
    let id = id.map(encode_id);
    let keyspace = String::new();
    Some(match op {
        LockOp::Acquire(AcquireOp { claim, mode, wait, value }) => {
            let (wait_ms, wait_forever) = match wait {
                Wait::No => (0, false),
                // Nothing is shorter on the wire, except not to wait.
                Wait::For(ms) => (ms.max(1), false),
                Wait::Forever => (0, true),
            };
            Asked::Acquire(pb::AcquireRequest {
                keyspace,
                lock: claim.lock,
                session: claim.session.0,
                request: claim.request,
                mode: Some(encode_mode(mode)),
                wait_ms,
                wait_forever,
                value,
                id,
            })
        }
        LockOp::Release { lock, session, token } => Asked::Release(pb::ReleaseRequest {
            keyspace,
            lock,
            session: session.0,
            token: token.0,
            id,
        }),
        LockOp::Cancel(claim) => Asked::CancelAcquire(pb::CancelAcquireRequest {
            keyspace,
            lock: claim.lock,
            session: claim.session.0,
            request: claim.request,
            id,
        }),
        LockOp::SetSemaphore { lock, limit } => {
            Asked::SetSemaphore(pb::SetSemaphoreRequest { keyspace, lock, limit, id })
        }
        LockOp::Proclaim { lock, session, token, value } => Asked::Proclaim(pb::ProclaimRequest {
            keyspace,
            lock,
            session: session.0,
            token: token.0,
            value,
            id,
        }),
        LockOp::ExpireWait { .. } | LockOp::EndDelay { .. } | LockOp::RaiseFence { .. } => {
            return None;
        }
    })
}

pub(super) fn encode_lock(lock: bytes::Bytes) -> Asked {
    Asked::Lock(pb::LockRequest { keyspace: String::new(), lock })
}

pub(super) fn encode_observe(lock: bytes::Bytes) -> Asked {
    Asked::Observe(pb::ObserveRequest { keyspace: String::new(), lock })
}

pub(super) fn decode_lock(wire: pb::LockRequest) -> RequestBody {
    RequestBody::Lock { lock: wire.lock }
}

pub(super) fn decode_observe(wire: pb::ObserveRequest) -> RequestBody {
    RequestBody::Observe { lock: wire.lock }
}

fn encode_busy(busy: Busy) -> pb::LockBusy {
    let holder = |holder: LockHolder| pb::LockHolder {
        session: holder.session.0,
        token: holder.token.0,
        mode: Some(encode_mode(holder.mode)),
    };
    pb::LockBusy {
        holders: busy.holders.into_iter().map(holder).collect(),
        held: busy.held,
        waiting: busy.waiting,
    }
}

fn decode_busy(wire: pb::LockBusy) -> Result<Busy, Failure> {
    let holder = |wire: pb::LockHolder| {
        let session = named(wire.session, "a lock's holder of session")?;
        Ok(LockHolder { session, token: Token(wire.token), mode: decode_mode(wire.mode)? })
    };
    let holders = wire.holders.into_iter().map(holder).collect::<Result<_, Failure>>()?;
    Ok(Busy { holders, held: wire.held, waiting: wire.waiting })
}

/// The wire form of what a command about locks answers.
///
/// # Errors
/// `Internal` for a reply that is none: that a request waits is not told, its grant is.
pub(super) fn encode_lock_reply(reply: LockReply) -> Result<Answered, Failure> {
    Ok(match reply {
        LockReply::Acquired { token } => {
            Answered::Acquire(pb::AcquireResponse { token: token.0, busy: None })
        }
        LockReply::Busy(busy) => {
            Answered::Acquire(pb::AcquireResponse { token: 0, busy: Some(encode_busy(busy)) })
        }
        LockReply::Done => Answered::LockDone(pb::LockDone {}),
        LockReply::Queued { claim } => {
            let (request, lock) = (claim.request, claim.lock.escape_ascii());
            let text = format!("request {request} for lock {lock} was answered while it waits");
            return Err(Failure::new(Code::Internal, text).with_happened(Happened::Yes));
        }
    })
}

pub(super) fn decode_acquired(wire: pb::AcquireResponse) -> Result<Reply, Failure> {
    Ok(Reply::Lock(match (wire.token, wire.busy) {
        (0, Some(busy)) => LockReply::Busy(decode_busy(busy)?),
        (0, None) => {
            let text = "a request for a lock was answered without a token or a reason";
            return Err(Failure::new(Code::Internal, text));
        }
        (token, _) => LockReply::Acquired { token: Token(token) },
    }))
}

fn encode_leadership(leadership: Leadership) -> pb::Leadership {
    pb::Leadership {
        session: leadership.session.0,
        token: leadership.token.0,
        value: leadership.value,
    }
}

fn decode_leadership(wire: pb::Leadership) -> Result<Leadership, Failure> {
    let session = named(wire.session, "a leader of session")?;
    Ok(Leadership { session, token: Token(wire.token), value: wire.value })
}

/// The wire form of a lock's state.
#[must_use]
pub fn encode_lock_info(info: Option<LockInfo>) -> pb::LockResponse {
    let state = |info: LockInfo| pb::LockState {
        busy: Some(encode_busy(info.busy)),
        leadership: info.leadership.map(encode_leadership),
        limit: info.limit,
        delay_ms: info.delay_ms,
    };
    pb::LockResponse { state: info.map(state) }
}

pub(super) fn decode_lock_info(wire: pb::LockResponse) -> Result<AnswerBody, Failure> {
    let state = |wire: pb::LockState| {
        Ok::<_, Failure>(LockInfo {
            busy: decode_busy(wire.busy.unwrap_or_default())?,
            leadership: wire.leadership.map(decode_leadership).transpose()?,
            limit: wire.limit,
            delay_ms: wire.delay_ms,
        })
    };
    Ok(AnswerBody::Lock(wire.state.map(state).transpose()?))
}

/// The wire form of a piece of news about an election.
#[must_use]
pub fn encode_observed(leadership: Option<Leadership>) -> pb::ObserveResponse {
    pb::ObserveResponse { leadership: leadership.map(encode_leadership) }
}

pub(super) fn decode_observed(wire: pb::ObserveResponse) -> Result<AnswerBody, Failure> {
    Ok(AnswerBody::Observed(wire.leadership.map(decode_leadership).transpose()?))
}
