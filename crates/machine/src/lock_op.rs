//! What may be asked of locks, and the answers.

use std::fmt;

use atoll_base::{KeyspaceId, LeaseId, Term};
use bytes::Bytes;

/// A fencing token: every grant has one, larger than all before it in its shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Names a request to have a lock.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Claim {
    /// The lock.
    pub lock: Bytes,
    /// Whose it is.
    pub session: LeaseId,
    /// The session's number for it; a new one for every new request.
    pub request: u64,
}

/// How a lock is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Alone.
    Exclusive,
    /// Together with others that want it so.
    Shared,
    /// So many permits of a semaphore.
    Permits(u64),
}

/// What to do when a lock can't be had at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Say who has it.
    No,
    /// Queue for so many milliseconds.
    For(u64),
    /// Queue for as long as the session lives.
    Forever,
}

/// Asks for a lock, for permits, or for leadership.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcquireOp {
    /// Which request this is.
    pub claim: Claim,
    /// How it is wanted.
    pub mode: Mode,
    /// What to do when it can't be had at once.
    pub wait: Wait,
    /// What a leader proclaims of itself; empty for plain locks.
    pub value: Bytes,
}

/// A command about locks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LockOp {
    /// Grants a lock or queues for it.
    Acquire(AcquireOp),
    /// Lets go of what is held.
    Release {
        /// The lock.
        lock: Bytes,
        /// Whose claim.
        session: LeaseId,
        /// Its token.
        token: Token,
    },
    /// Leaves the queue.
    Cancel(Claim),
    /// Takes a request that waited long enough out of the queue. Proposed by the leader alone.
    ExpireWait {
        /// The lock.
        lock: Bytes,
        /// The request's place.
        place: u64,
        /// The term of the leader that counted.
        term: Term,
    },
    /// Opens a lock that was closed after its holder expired. Proposed by the leader alone.
    EndDelay {
        /// The lock.
        lock: Bytes,
        /// The delay's number.
        number: u64,
        /// The term of the leader that counted.
        term: Term,
    },
    /// Makes a semaphore or changes its limit; 0 closes it, and it is gone once nobody holds it.
    SetSemaphore {
        /// The semaphore.
        lock: Bytes,
        /// Its permits.
        limit: u64,
    },
    /// Changes the value of a lock that is held exclusively.
    Proclaim {
        /// The lock.
        lock: Bytes,
        /// Who holds it.
        session: LeaseId,
        /// Its token.
        token: Token,
        /// The new value.
        value: Bytes,
    },
    /// Every later token is larger than this one.
    RaiseFence {
        /// The floor.
        floor: Token,
    },
}

impl LockOp {
    /// The lock that it is about, if it is about one.
    #[must_use]
    pub fn lock(&self) -> Option<&Bytes> {
        match self {
            Self::Acquire(AcquireOp { claim, .. }) | Self::Cancel(claim) => Some(&claim.lock),
            Self::Release { lock, .. }
            | Self::ExpireWait { lock, .. }
            | Self::EndDelay { lock, .. }
            | Self::SetSemaphore { lock, .. }
            | Self::Proclaim { lock, .. } => Some(lock),
            Self::RaiseFence { .. } => None,
        }
    }
}

/// Makes a write conditional on a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    /// The keyspace that the lock belongs to.
    pub keyspace: KeyspaceId,
    /// The lock.
    pub lock: Bytes,
    /// The token that its holder was given.
    pub token: Token,
}

/// One that holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockHolder {
    /// Its session.
    pub session: LeaseId,
    /// Its token.
    pub token: Token,
    /// How it holds the lock.
    pub mode: Mode,
}

/// Why a lock was not had at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Busy {
    /// Some of those who hold it, those with the smallest tokens.
    pub holders: Vec<LockHolder>,
    /// How many hold it.
    pub held: u64,
    /// How many wait for it.
    pub waiting: u64,
}

/// The answer to a command about locks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LockReply {
    /// The lock is held.
    Acquired {
        /// The claim's fencing token.
        token: Token,
    },
    /// The request waits; its grant is told as an effect.
    Queued {
        /// Which request.
        claim: Claim,
    },
    /// The lock is taken, and the request did not want to wait.
    Busy(Busy),
    /// It is done.
    Done,
}

/// Who leads, where a lock is an election.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leadership {
    /// Its session.
    pub session: LeaseId,
    /// Its token; a later leader's is larger.
    pub token: Token,
    /// What it proclaims.
    pub value: Bytes,
}

/// A lock as readers see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockInfo {
    /// Who holds it, who waits.
    pub busy: Busy,
    /// Who leads, if it is held exclusively.
    pub leadership: Option<Leadership>,
    /// The permits, if it is a semaphore.
    pub limit: Option<u64>,
    /// It is closed for so many milliseconds after a holder expired.
    pub delay_ms: Option<u64>,
}

/// Where a request stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// It holds the lock.
    Holds(Token),
    /// It waits.
    Waits,
    /// Neither: it was never made, or has ended.
    Nowhere,
}
