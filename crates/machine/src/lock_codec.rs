//! The bytes of lock commands, guards and replies: see `docs/formats/commands.md`.

use atoll_base::codec::{DecodeError, Reader, Writer};
use atoll_base::{KeyspaceId, LeaseId, Term};

use crate::lock_op::{
    AcquireOp, Busy, Claim, Guard, LockHolder, LockOp, LockReply, Mode, Token, Wait,
};

const ACQUIRE: u8 = 10;
const RELEASE: u8 = 11;
const CANCEL: u8 = 12;
const EXPIRE_WAIT: u8 = 13;
const END_DELAY: u8 = 14;
const SET_SEMAPHORE: u8 = 15;
const PROCLAIM: u8 = 16;
const RAISE_FENCE: u8 = 17;

const REPLY_ACQUIRED: u8 = 18;
const REPLY_QUEUED: u8 = 19;
const REPLY_BUSY: u8 = 20;
const REPLY_DONE: u8 = 21;

fn unknown(what: &'static str, value: impl Into<u64>) -> DecodeError {
    DecodeError::Unknown { what, offset: 0, value: value.into() }
}

fn session(r: &mut Reader) -> Result<LeaseId, DecodeError> {
    match r.varint("session")? {
        0 => Err(unknown("session", 0_u8)),
        id => Ok(LeaseId(id)),
    }
}

fn token(r: &mut Reader) -> Result<Token, DecodeError> {
    Ok(Token(r.varint("token")?))
}

impl Claim {
    fn encode(&self, w: &mut Writer) {
        w.bytes(&self.lock).varint(self.session.0).varint(self.request);
    }

    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            lock: r.bytes("lock name")?,
            session: session(r)?,
            request: r.varint("lock request")?,
        })
    }
}

impl Mode {
    pub(crate) fn encode(self, w: &mut Writer) {
        match self {
            Self::Exclusive => w.u8(0),
            Self::Shared => w.u8(1),
            Self::Permits(permits) => w.u8(2).varint(permits),
        };
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match r.u8("lock mode")? {
            0 => Self::Exclusive,
            1 => Self::Shared,
            2 => Self::Permits(r.varint("permits")?),
            other => return Err(unknown("lock mode", other)),
        })
    }
}

impl Wait {
    pub(crate) fn encode(self, w: &mut Writer) {
        match self {
            Self::No => w.u8(0),
            Self::For(ms) => w.u8(1).varint(ms),
            Self::Forever => w.u8(2),
        };
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match r.u8("lock wait")? {
            0 => Self::No,
            1 => Self::For(r.varint("lock wait")?),
            2 => Self::Forever,
            other => return Err(unknown("lock wait", other)),
        })
    }
}

impl LockOp {
    pub(crate) fn number(&self) -> u8 {
        match self {
            Self::Acquire(_) => ACQUIRE,
            Self::Release { .. } => RELEASE,
            Self::Cancel(_) => CANCEL,
            Self::ExpireWait { .. } => EXPIRE_WAIT,
            Self::EndDelay { .. } => END_DELAY,
            Self::SetSemaphore { .. } => SET_SEMAPHORE,
            Self::Proclaim { .. } => PROCLAIM,
            Self::RaiseFence { .. } => RAISE_FENCE,
        }
    }

    /// Appends what stands behind the number.
    pub(crate) fn encode(&self, w: &mut Writer) {
        match self {
            Self::Acquire(AcquireOp { claim, mode, wait, value }) => {
                claim.encode(w);
                mode.encode(w);
                wait.encode(w);
                w.bytes(value);
            }
            Self::Release { lock, session, token } => {
                w.bytes(lock).varint(session.0).varint(token.0);
            }
            Self::Cancel(claim) => claim.encode(w),
            Self::ExpireWait { lock, place: number, term }
            | Self::EndDelay { lock, number, term } => {
                w.bytes(lock).varint(*number).varint(term.0);
            }
            Self::SetSemaphore { lock, limit } => drop(w.bytes(lock).varint(*limit)),
            Self::Proclaim { lock, session, token, value } => {
                w.bytes(lock).varint(session.0).varint(token.0).bytes(value);
            }
            Self::RaiseFence { floor } => drop(w.varint(floor.0)),
        }
    }

    /// `None` for a number that is not a lock's.
    pub(crate) fn decode(number: u8, r: &mut Reader) -> Option<Result<Self, DecodeError>> {
        (ACQUIRE..=RAISE_FENCE).contains(&number).then(|| Self::decode_body(number, r))
    }

    fn decode_body(number: u8, r: &mut Reader) -> Result<Self, DecodeError> {
        if number == RAISE_FENCE {
            return Ok(Self::RaiseFence { floor: token(r)? });
        }
        if number == ACQUIRE {
            return Ok(Self::Acquire(AcquireOp {
                claim: Claim::decode(r)?,
                mode: Mode::decode(r)?,
                wait: Wait::decode(r)?,
                value: r.bytes("lock value")?,
            }));
        }
        if number == CANCEL {
            return Ok(Self::Cancel(Claim::decode(r)?));
        }
        let lock = r.bytes("lock name")?;
        Ok(match number {
            RELEASE => Self::Release { lock, session: session(r)?, token: token(r)? },
            EXPIRE_WAIT => {
                let (place, term) = (r.varint("lock place")?, Term(r.varint("lock term")?));
                Self::ExpireWait { lock, place, term }
            }
            END_DELAY => {
                let (number, term) = (r.varint("lock delay")?, Term(r.varint("lock term")?));
                Self::EndDelay { lock, number, term }
            }
            SET_SEMAPHORE => Self::SetSemaphore { lock, limit: r.varint("semaphore limit")? },
            _ => Self::Proclaim {
                lock,
                session: session(r)?,
                token: token(r)?,
                value: r.bytes("lock value")?,
            },
        })
    }
}

impl Guard {
    pub(crate) fn encode(&self, w: &mut Writer) {
        w.varint(u64::from(self.keyspace.0)).bytes(&self.lock).varint(self.token.0);
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let keyspace = r.varint("guard keyspace")?;
        let keyspace = u32::try_from(keyspace).map_err(|_| unknown("guard keyspace", keyspace))?;
        let lock = r.bytes("guard lock")?;
        Ok(Self { keyspace: KeyspaceId(keyspace), lock, token: token(r)? })
    }
}

impl LockReply {
    pub(crate) fn encode(&self, w: &mut Writer) {
        match self {
            Self::Acquired { token } => drop(w.u8(REPLY_ACQUIRED).varint(token.0)),
            Self::Queued { claim } => claim.encode(w.u8(REPLY_QUEUED)),
            Self::Busy(busy) => {
                w.u8(REPLY_BUSY).varint(busy.held).varint(busy.waiting);
                w.varint(busy.holders.len() as u64);
                for holder in &busy.holders {
                    w.varint(holder.session.0).varint(holder.token.0);
                    holder.mode.encode(w);
                }
            }
            Self::Done => drop(w.u8(REPLY_DONE)),
        }
    }

    /// `None` for a tag that is not of a lock's reply.
    pub(crate) fn decode(tag: u8, r: &mut Reader) -> Option<Result<Self, DecodeError>> {
        (REPLY_ACQUIRED..=REPLY_DONE).contains(&tag).then(|| Self::decode_body(tag, r))
    }

    fn decode_body(tag: u8, r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match tag {
            REPLY_ACQUIRED => Self::Acquired { token: token(r)? },
            REPLY_QUEUED => Self::Queued { claim: Claim::decode(r)? },
            REPLY_BUSY => {
                let (held, waiting) = (r.varint("lock holders")?, r.varint("lock waiters")?);
                let count = r.varint("lock holders")?;
                if count > r.remaining() as u64 {
                    return Err(unknown("lock holders", count));
                }
                let holder = |r: &mut Reader| {
                    let (session, token) = (session(r)?, token(r)?);
                    Ok(LockHolder { session, token, mode: Mode::decode(r)? })
                };
                let holders = (0..count).map(|_| holder(r)).collect::<Result<_, DecodeError>>()?;
                Self::Busy(Busy { holders, held, waiting })
            }
            _ => Self::Done,
        })
    }
}
