//! Leases: names for "as long as somebody keeps saying so".
//!
//! A lease has an id, a time to live and the keys that puts attached to it; when it ends, by order
//! or by silence, its keys go, all in one revision. A *session* is a lease that a client holds for
//! its locks (`lock`).
//!
//! ```text
//!            grant                       silence for a TTL, seen by the leader
//!   nobody ────────> lives ──────────────────────────────────────────────> ended
//!                     │ ^ keep-alive: the leader's clock only                 ^
//!                     └─┴──────────────────── revoke ──────────────────────────┘
//! ```
//!
//! Time is not replicated. The state holds how long a lease lives *after it was last heard of*;
//! when that was only the leader knows, on its monotonic clock. So a keep-alive costs no log entry,
//! and a new leader, which knows nothing, gives every lease its full TTL again. A heartbeat per log
//! entry would make the deadline survive a change of leaders and would cost a write per client and
//! second for ever; what it buys, leases that end a little sooner after a change, nobody asked for.
//!
//! - **E1** A TTL is a lower bound: counted from the last keep-alive that was answered (trap T29).
//! - **E2** An expiry ends a lease only in an entry of the term in which the leader proposed it,
//!   and only the very lease that it saw: an id that was revoked and granted again has another
//!   birth (trap T28).
//! - **E3** Ending a lease deletes its keys in one revision and, in the same step, ends what it
//!   held and waited for (trap T27).
//! - **E4** A key is attached to at most one lease, and only to one that lives. The index of
//!   attached keys says what the records in `Current` say.

mod table;

pub use table::Lease;
pub(crate) use table::{LeaseTable, attached_cost};
