//! What a core is told once, when it is made.

use std::time::Duration;

use atoll_base::NodeId;

/// Settings of one core.
#[derive(Clone, Debug)]
pub struct Config {
    /// This replica's node.
    pub id: NodeId,
    /// Shortest election timeout; the real one is drawn from `min..2 * min`.
    pub election_timeout_min: Duration,
    /// Time between heartbeats of a leader; well below `election_timeout_min`.
    pub heartbeat_interval: Duration,
    /// Entries' bytes in one append message, at most (one entry may exceed it alone).
    pub append_bytes_max: usize,
    /// Append messages in flight to one follower.
    pub inflight_messages_max: usize,
    /// Bytes of appends in flight to one follower.
    pub inflight_bytes_max: usize,
    /// Bytes proposed and not committed; proposals beyond are refused.
    pub uncommitted_bytes_max: usize,
    /// Bytes of recent entries that the core keeps in memory for appends.
    pub tail_bytes_max: usize,
    /// Serve reads under a leader lease instead of a heartbeat round (thesis 6.4.1).
    pub lease_reads: bool,
    /// Seed of the election jitter.
    pub seed: u64,
}
