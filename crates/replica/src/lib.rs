//! How the copies of one shard agree.
//!
//! A *replica* is one copy; the replicas of a shard form a *group*. Today there is one protocol,
//! [`raft_group`]; primary-backup and leaderless groups will stand beside it. This crate joins what
//! the protocol decides with the shard's log and leaves, per step, what must be sent and written in
//! a [`Sink`] that a lane shares among all its replicas, so that a turn costs one log write and one
//! message batch per peer, however many shards it touched.
//!
//! What is agreed on is opaque here: `atoll-machine` gives it meaning.

pub mod peer;
pub mod raft_group;
pub mod sink;

pub use peer::{ChunkEnd, PeerBody, PeerMessage};
pub use raft_group::RaftGroup;
pub use sink::{CoreWrite, Sink};
