//! Locks, counting semaphores and elections: who may, one after the other, in the order in which
//! they asked.
//!
//! A lock is a queue with a head that may act. Every request to have it is a *claim* of a session
//! (a lease that a client holds for its locks): it waits, then it holds, with a fencing token.
//!
//! ```text
//!   claims of lock "a", in their order of places      exclusive | shared | permits
//!
//!     place   3          7          8         9
//!           shared     shared   exclusive   shared
//!           token 41   token 44   waits      waits: fair, it does not pass the one before it
//! ```
//!
//! An exclusive lock with a value is an election: who holds it leads, and its value says where. A
//! semaphore is a lock with a limit, set by an entry, whose claims take permits.
//!
//! - **F1** Tokens only grow: each is one above the largest that the shard ever gave, for any lock.
//!   So they grow per lock through its deletion, restarts, snapshots and new leaders; a floor can
//!   be raised for what comes from elsewhere (restore, merge).
//! - **F2** An exclusive claim holds alone; shared ones hold together; permits held never grow
//!   above the limit.
//! - **F3** Nobody passes the head of the queue; after every command the head of each queue is one
//!   that can't be granted. So whatever releases a lock grants it in the same apply step.
//! - **F4** Every claim belongs to a session that lives: ending a session takes out all its claims
//!   before anything is granted (trap T27).
//! - **F5** Only its session with its token releases a claim (trap T30).
//! - **F6** A claim is known by session and request: asking again neither takes a second one nor
//!   loses the place of the first.
//! - **F7** In a lock's own shard a guard holds exactly while its token does. Elsewhere a key that
//!   was written under a token of a lock refuses every smaller token of that lock (trap T26).
//!
//! No clock is read here. Waits and delays are durations in the state; the leader counts them, on
//! its own clock from the start after a change of leaders, and ends them by entries that carry the
//! term in which it proposed them, as expiries of leases do (E2).

mod guard;
mod queue;
mod table;

pub(crate) use guard::{Marks, Touched, stale};
pub(crate) use table::{LockTable, Step};
