//! What the leader must hear of when a command was applied: timers to set and callers to answer.
//! Effects change nothing in the state; a replica that does not lead drops them.

use atoll_base::LeaseId;
use bytes::Bytes;

use crate::lock_op::{Claim, Leadership, Token};

/// One thing that came of a command beside its reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A lease lives: its deadline is a TTL from now.
    LeaseGranted {
        /// Its id.
        id: LeaseId,
        /// Its birth.
        birth: u64,
        /// Its time to live, milliseconds.
        ttl_ms: u64,
    },
    /// A lease ended.
    LeaseEnded {
        /// Its id.
        id: LeaseId,
    },
    /// A request has joined a lock's queue.
    Waits {
        /// Which request.
        claim: Claim,
        /// Its place, for [`LockOp::ExpireWait`](crate::LockOp::ExpireWait).
        place: u64,
        /// How long it will wait, milliseconds; `None` for as long as its session lives.
        wait_ms: Option<u64>,
    },
    /// A request that waited holds the lock now.
    Granted {
        /// Which request.
        claim: Claim,
        /// Its place in the queue, which it left.
        place: u64,
        /// Its fencing token.
        token: Token,
    },
    /// A request left the queue without the lock.
    LeftQueue {
        /// Which request.
        claim: Claim,
        /// The place that it had.
        place: u64,
        /// Why.
        why: Left,
    },
    /// A lock whose holder expired stays closed for a while.
    Delayed {
        /// The lock.
        lock: Bytes,
        /// The delay's number, for [`LockOp::EndDelay`](crate::LockOp::EndDelay).
        number: u64,
        /// How long, milliseconds.
        delay_ms: u64,
    },
    /// The delay is over.
    DelayEnded {
        /// The lock.
        lock: Bytes,
        /// The delay's number.
        number: u64,
    },
    /// Who holds a lock alone has changed, or what it proclaims: the news of an election.
    Leads {
        /// The lock.
        lock: Bytes,
        /// The one who holds it.
        leadership: Option<Leadership>,
    },
}

/// Why a request left a lock's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// It waited as long as it wanted to.
    WaitOver,
    /// Its client called it back.
    Cancelled,
    /// Its session ended.
    SessionEnded,
    /// It asks for more permits than the semaphore has now.
    LimitShrunk,
}
