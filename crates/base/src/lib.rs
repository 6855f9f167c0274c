//! The ground floor: words that every other crate speaks.
//!
//! Nothing here decides anything. [`id`] names things, [`time`] measures them, [`rng`] rolls seeded
//! dice, [`codec`] and [`ordkey`] turn values into bytes (the second one keeps their order),
//! [`checksum`] guards bytes, [`entry`] is the unit of every replicated log, and [`failure`] is the
//! one shape in which every refusal leaves the system. [`mark`] lets simulations see rare branches.
//!
//! Reading order: `id`, `entry`, `failure`, then the rest when needed.

pub mod checksum;
pub mod codec;
pub mod entry;
pub mod failure;
pub mod id;
pub mod mark;
pub mod ordkey;
pub mod planted;
pub mod rng;
pub mod time;

pub use entry::{Entry, EntryKind};
pub use failure::{Code, Failure, Happened, Retry};
pub use id::{
    ClientId, Epoch, Incarnation, KeyspaceId, LaneId, LeaseId, LogIndex, NodeId, Revision,
    Sequence, ShardId, Term, Ticket,
};
pub use rng::Rng;
pub use time::{Time, Timestamp};
