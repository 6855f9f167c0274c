//! What a lane is told once.

use std::time::Duration;

use atoll_base::{LaneId, NodeId};
use atoll_machine::MachineLimits;

/// Settings of one lane.
#[derive(Clone, Debug)]
pub struct LaneConfig {
    /// The node.
    pub node: NodeId,
    /// This lane.
    pub lane: LaneId,
    /// How many lanes the node has; a shard belongs to lane `shard % lanes`.
    pub lanes: u16,
    /// Seed of everything random in the lane.
    pub seed: u64,
    /// How its groups agree.
    pub raft: RaftSettings,
    /// What one request may be.
    pub limits: Limits,
    /// When logs are cut and the engine is persisted.
    pub upkeep: Upkeep,
}

/// Timing and windows of Raft groups; see `atoll_raft::Config`.
#[derive(Clone, Debug)]
pub struct RaftSettings {
    /// Shortest election timeout.
    pub election_timeout_min: Duration,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// Bytes of entries in one append.
    pub append_bytes_max: usize,
    /// Appends in flight to one follower.
    pub inflight_messages_max: usize,
    /// Bytes in flight to one follower.
    pub inflight_bytes_max: usize,
    /// Bytes proposed and not yet committed, per shard.
    pub uncommitted_bytes_max: usize,
    /// Bytes of recent entries kept in memory per shard; a quarter of it, of those that are applied
    /// and that every follower has.
    pub tail_bytes_max: usize,
    /// Groups without traffic rest. Whoever sets it gives [`Input::PeerLiveness`] for every peer,
    /// also for one that was gone for a moment.
    ///
    /// [`Input::PeerLiveness`]: crate::Input::PeerLiveness
    pub quiesce: bool,
}

/// Sizes and counts that requests are held to.
#[derive(Clone, Debug)]
pub struct Limits {
    /// What the state machine accepts, on every node alike: beyond it nothing is ever stored.
    pub machine: MachineLimits,
    /// Bytes of a key that this node lets clients write; at most the machine's.
    pub key_bytes_max: u64,
    /// Bytes of a value, likewise.
    pub value_bytes_max: u64,
    /// Compares and steps of a transaction, nested ones included, likewise.
    pub txn_parts_max: u64,
    /// Bytes of commands in one log entry, about.
    pub entry_bytes_max: usize,
    /// Calls waiting in one shard, reads and writes each.
    pub requests_per_shard_max: usize,
    /// Bytes of entries applied to one shard in one turn, about.
    pub apply_bytes_per_turn: usize,
    /// Bytes in one snapshot chunk, about.
    pub snapshot_chunk_bytes: usize,
    /// Watches on one shard.
    pub watches_per_shard_max: usize,
}

/// When the lane cuts logs and asks for the engine to be persisted.
#[derive(Clone, Debug)]
pub struct Upkeep {
    /// Persist after this many bytes of applied commands.
    pub persist_bytes: u64,
    /// Persist after this long, if anything was applied.
    pub persist_interval: Duration,
    /// Entries kept in a shard's log behind what is persisted, for followers that lag a little.
    pub log_keep_entries: u64,
    /// Revisions of history kept per shard where its keyspace does not say.
    pub history_revisions: u64,
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            election_timeout_min: Duration::from_millis(200),
            heartbeat_interval: Duration::from_millis(40),
            append_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            inflight_bytes_max: 16 << 20,
            uncommitted_bytes_max: 64 << 20,
            tail_bytes_max: 4 << 20,
            quiesce: false,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let machine = MachineLimits::default();
        Self {
            key_bytes_max: 4 << 10,
            value_bytes_max: machine.value_bytes_max,
            txn_parts_max: machine.txn_parts_max,
            machine,
            entry_bytes_max: 512 << 10,
            requests_per_shard_max: 16_384,
            apply_bytes_per_turn: 4 << 20,
            snapshot_chunk_bytes: 256 << 10,
            watches_per_shard_max: 10_000,
        }
    }
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            persist_bytes: 64 << 20,
            persist_interval: Duration::from_secs(10),
            log_keep_entries: 10_000,
            history_revisions: 100_000,
        }
    }
}
