//! How the copies of one shard agree.

pub mod peer;

pub use peer::{ChunkEnd, PeerBody, PeerMessage};
