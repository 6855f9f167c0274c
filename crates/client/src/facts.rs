//! What a node says of itself.

use std::time::Duration;

/// What only a node knows of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeFacts {
    /// Its build.
    pub version: String,
    /// Since it was started.
    pub uptime: Duration,
    /// Bytes of its engine and log on disk.
    pub disk_used_bytes: u64,
    /// Bytes that its disk has left.
    pub disk_free_bytes: u64,
    /// Its resident memory.
    pub memory_bytes: u64,
}
