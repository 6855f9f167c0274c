//! The pure server: lanes that own replicas and turn inputs into outputs.
//!
//! # One turn
//!
//! ```text
//!   peers ─┐                                ┌─> messages that may leave at once
//! clients ─┤   ┌──────────────────────┐     ├─> one log write + messages that wait for it
//! log done ┼──>│ turn(now, inputs)    │─────┼─> answers (their effects are durable and applied)
//! catalog ─┤   │ step, propose, apply,│     ├─> catalog events, leader hints
//!  timers ─┘   │ serve, keep house    │     └─> persist / release requests
//!              └──────────────────────┘
//! ```
//!
//! A [`Lane`] is owned by one thread and shares nothing. It drains a batch of inputs, steps the
//! replicas that they touch, and leaves *one* log write, *one* message batch per peer and *one*
//! engine batch, however many shards and requests there were: cost is per batch (DESIGN 4).
//!
//! # Order of obligations
//!
//! * **N1** A leader's appends may leave before its own log write; votes, terms and
//!   acknowledgements are
//!   in [`LogWrite::after`] and leave only when that write is durable.
//! * **N2** Commands are applied only when committed and durable here. Answers to writes are
//!   released
//!   after the engine took the turn's batch.
//! * **N3** A linearizable read is served after its read index is confirmed and applied.
//! * **N4** The log is cut only below what the engine has persisted.
//! * **N5** A call that was taken in is answered exactly once; a refused call had no effect.
//! * **N6** Data is deleted only by a descriptor that says `dropped`, or by an order to retire from
//!   a
//!   group that has agreed to go on without this node.
//! * **N7** A failed assertion quarantines one replica; the others of the lane go on.
//!
//! # Map
//!
//! `lane` runs the turn; `replica` is one shard's copy; `requests` admits calls; `writes`, `reads`,
//! `watches` follow them to their answers; `leases` counts what runs out while it leads, `claims`
//! knows who waits for locks; `outgoing` and `incoming` move snapshots; `catalog` makes
//! and deletes replicas, `founders` begins those of new groups, `drops` ends those of dropped
//! keyspaces; `members` lets a group follow its description, `retire` removes what a group left
//! behind; `witness` is a replica without data; `quiet` keeps groups
//! that rest from sleeping for ever; `upkeep` persists, cuts and forgets; `records` is
//! what a lane itself keeps.

mod ask;
pub mod catalog;
mod claims;
pub mod config;
mod drops;
mod founders;
mod incoming;
pub mod input;
mod inspect;
pub mod lane;
mod leases;
mod members;
mod outgoing;
pub mod output;
mod quiet;
mod reads;
pub mod records;
mod replica;
mod requests;
mod retire;
mod spool;
mod turn;
mod upkeep;
mod watches;
mod witness;
mod writes;

pub use catalog::{LaneStart, OpenError};
pub use config::{LaneConfig, Limits, RaftSettings, Upkeep};
pub use input::Input;
pub use lane::Lane;
pub use output::{LogWrite, Output};
