//! Holding things: locks, permits of semaphores, the lead of elections, for as long as this client
//! lives and the cluster hears of it.
//!
//! ```text
//!   lock, semaphore, election      what callers see
//!            holding               a claim that was granted: token, standing, release
//!            claim                 a request on its way through the queue
//!            tenure                the client's session at one shard: a lease, shared by claims
//!       heart ── pulse             keeps leases alive; says how much longer they are sure to live
//! ```
//!
//! A claim lives by a **session**, which is a lease. A client has one per shard (and per length),
//! kept alive by one task: the heartbeats of all of its leases of a shard are one call, and those
//! of several shards leave together.
//!
//! # When a holder may still believe
//!
//! The shard's leader counts a lease's time to live from when it heard of it, which is after the
//! heartbeat was sent. So a holder is sure of its lease until *send time of the last acknowledged
//! heartbeat + TTL*, by its own clock; a tenth is taken off for clocks that differ in speed. The
//! clock is monotonic and counts the time that the machine was suspended.
//!
//! ```text
//!   sent      TTL/6      TTL/3                          TTL·9/10   TTL
//!    │ held     ▲ next     │ suspended                     │ lost    │ the shard may expire it
//! ```
//!
//! # Invariants
//! - H1 A holding that was lost never comes back: a later heartbeat that succeeds changes nothing.
//! - H2 [`Standing::Held`] is said only while no other client can hold the same lock, provided that
//!   clocks run at speeds that differ by less than a tenth. What must not rely on that writes under
//!   [`Holding::guard`]: then the store itself refuses those that are late.
//! - H3 A request whose caller gives up leaves the queue, and what it was granted meanwhile is
//!   released.

mod claim;
mod election;
mod heart;
mod holding;
mod lease;
mod lock;
mod pulse;
mod semaphore;
mod tenure;

pub use election::{Candidacy, Election, Leader, Observation};
pub(crate) use heart::Heart;
pub use holding::{Attempt, Holding};
pub use lease::{Lease, Leases};
pub use lock::Lock;
pub use pulse::Standing;
pub use semaphore::Semaphore;
