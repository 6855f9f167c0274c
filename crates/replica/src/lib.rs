//! How the copies of one shard agree.

pub mod peer;
pub mod sink;

pub use peer::{ChunkEnd, PeerBody, PeerMessage};
pub use sink::{CoreWrite, Sink};
