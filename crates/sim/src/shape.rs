//! What the seed decides of a run besides its faults: sizes, speeds and settings.

use std::time::Duration;

use atoll_base::Rng;
use atoll_machine::MachineLimits;
use atoll_node::{LaneConfig, Limits, RaftSettings, Upkeep};
use atoll_storage::LogOptions;

use crate::network::NetworkProfile;

/// Sizes and speeds of one run, drawn from its seed.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Number of nodes that the cluster is founded with.
    pub nodes: usize,
    /// Nodes that join it later.
    pub spares: usize,
    /// Whether replicas move, keyspaces come and go, and nodes join.
    pub changes: bool,
    /// Logs are damaged in this run: nobody is made a witness, since what a damaged copy and a
    /// witness hold together nobody else may have.
    pub spoils: bool,
    /// Records that are imported.
    pub imported: u32,
    /// Whether clients append to a list.
    pub has_list: bool,
    /// Holders of leases and locks.
    pub holders: usize,
    /// Lanes of every node.
    pub lanes: u16,
    /// Number of user shards.
    pub shards: usize,
    /// Number of clients that read and write.
    pub clients: u32,
    /// Calls that a client has under way.
    pub slots: u32,
    /// Registers per shard: few make conflicts.
    pub registers: u32,
    /// Accounts per shard.
    pub accounts: u32,
    /// Watchers of parts, besides those that watch everything.
    pub watchers: u32,
    /// Longest padding of a value.
    pub padding_max: u64,
    /// Longest pause of a client between calls.
    pub think: Duration,
    /// How long faults may strike.
    pub duration: Duration,
    /// The network.
    pub network: NetworkProfile,
    /// Time that a lane's turn takes, at most.
    pub turn: Duration,
    /// Time that a log write takes: from, and so much more at most.
    pub sync: (Duration, Duration),
    /// Time that persisting an engine takes, at most.
    pub persist: Duration,
    /// Largest clock drift.
    pub drift_ppm: u64,
    /// Replicas per shard: all nodes, or three of them.
    pub replicas: usize,
    /// The log.
    pub log: LogOptions,
}

impl Shape {
    /// All nodes, those that join later too.
    #[must_use]
    pub fn all_nodes(&self) -> usize {
        self.nodes + self.spares
    }

    /// Draws a shape; of what the caller does not fix.
    #[must_use]
    pub fn random(rng: &mut Rng, nodes: Option<usize>, duration: Option<Duration>) -> Self {
        let nodes = nodes.unwrap_or_else(|| {
            *rng.pick(&[1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7]).expect("not empty")
        });
        let ms = |rng: &mut Rng, low, high| Duration::from_millis(rng.range(low, high));
        let micros = |rng: &mut Rng, low, high| Duration::from_micros(rng.range(low, high));
        let duration = duration.unwrap_or_else(|| ms(rng, 3_000, 15_000));
        let all = rng.chance(2, 3);
        let changes = rng.chance(1, 2);
        let spares = if changes { rng.below(3) as usize } else { 0 };
        let think = match rng.below(3) {
            0 => ms(rng, 60, 400),
            _ => ms(rng, 2, 80),
        };
        let padding_max = *rng.pick(&[0, 50, 400, 3_000]).expect("not empty");
        // Segments that a run fills many times, where its records are small enough for them.
        let segment_kib = match padding_max <= 400 && rng.chance(1, 3) {
            true => 32,
            false => *rng.pick(&[256, 512]).expect("not empty"),
        };
        Self {
            nodes,
            spares: spares.min(7 - nodes),
            changes,
            spoils: false,
            imported: 0,
            has_list: false,
            holders: *rng.pick(&[0, 0, 2, 3, 4]).expect("not empty"),
            lanes: rng.range(1, 4) as u16,
            shards: rng.range(1, 5) as usize,
            clients: rng.range(2, 6) as u32,
            slots: rng.range(1, 5) as u32,
            registers: rng.range(1, 8) as u32,
            accounts: rng.range(2, 8) as u32,
            watchers: rng.range(0, 4) as u32,
            padding_max,
            think,
            duration,
            network: NetworkProfile::random(rng),
            turn: micros(rng, 5, 200),
            sync: (micros(rng, 30, 2_000), micros(rng, 50, 10_000)),
            persist: ms(rng, 1, 200),
            drift_ppm: rng.below(5_000),
            replicas: if all { nodes } else { nodes.min(3) },
            log: LogOptions {
                segment_bytes: segment_kib << 10,
                spare_segments: rng.below(2) as usize,
                record_bytes_max: (segment_kib as usize).min(256) * 768,
                shard_payload_bytes_max: *rng.pick(&[0, 4 << 10, 1 << 20]).expect("not empty"),
            },
        }
    }
}

/// Makes the choice of resting groups another draw than all others.
const QUIET_SEED: u64 = 0x51ee_b11f_0000_0001;

/// Makes the choice of usual timeouts another draw than all others.
const USUAL_SEED: u64 = 0x51ee_b11f_0000_0002;

/// Makes the choice of an import another draw than all others.
const IMPORT_SEED: u64 = 0x51ee_b11f_0000_0003;

/// How many records are imported in the run of `seed`: none in half of the runs.
#[must_use]
pub fn imported(seed: u64) -> u32 {
    let mut rng = Rng::new(seed ^ IMPORT_SEED);
    if rng.chance(1, 2) { rng.range(20, 120) as u32 } else { 0 }
}

/// Makes the choice of a list another draw than all others.
const LIST_SEED: u64 = 0x51ee_b11f_0000_0004;

/// Whether clients append to a list in the run of `seed`: in half of the runs.
#[must_use]
pub fn has_list(seed: u64) -> bool {
    Rng::new(seed ^ LIST_SEED).chance(1, 2)
}

/// The server's election timeout and heartbeat interval where nobody sets others.
const USUAL_TIMES_MS: (u64, u64) = (500, 100);

/// Election timeout and heartbeat interval: in half of the runs those that most clusters run with,
/// otherwise any that a server accepts, so that elections race with all else and heartbeats come
/// as seldom as they may, or far more often than usual.
fn election_times(rng: &mut Rng, seed: u64) -> (Duration, Duration) {
    let election = if rng.chance(1, 2) { rng.range(100, 400) } else { rng.range(400, 1_000) };
    let any = (election, rng.range(election / 12, election / 3 + 1));
    // Drawn apart, so that whoever sets these times changes nothing else of a run.
    let is_usual = Rng::new(seed ^ USUAL_SEED).chance(1, 2);
    let (election, heartbeat) = if is_usual { USUAL_TIMES_MS } else { any };
    (Duration::from_millis(election), Duration::from_millis(heartbeat))
}

/// A lane's settings: small limits, so that every limit is met within seconds. In half of the runs
/// groups without traffic rest.
#[must_use]
pub fn lane_settings(rng: &mut Rng, seed: u64) -> (RaftSettings, Limits, Upkeep) {
    let (election_timeout_min, heartbeat_interval) = election_times(rng, seed);
    let raft = RaftSettings {
        election_timeout_min,
        heartbeat_interval,
        append_bytes_max: *rng.pick(&[200, 4 << 10, 1 << 20]).expect("not empty"),
        inflight_messages_max: *rng.pick(&[1, 4, 256]).expect("not empty"),
        inflight_bytes_max: *rng.pick(&[4 << 10, 64 << 10, 16 << 20]).expect("not empty"),
        uncommitted_bytes_max: *rng.pick(&[32 << 10, 1 << 20, 64 << 20]).expect("not empty"),
        tail_bytes_max: *rng.pick(&[0, 4 << 10, 8 << 20]).expect("not empty"),
        // Drawn apart, so that runs whose groups never rest are what they were without this.
        quiesce: Rng::new(seed ^ QUIET_SEED).chance(1, 2),
    };
    let machine = MachineLimits {
        lease_ttl_min_ms: 100,
        clients_max: *rng.pick(&[8, 100_000, 100_000]).expect("not empty"),
        ..MachineLimits::default()
    };
    let limits = Limits {
        machine,
        entry_bytes_max: *rng.pick(&[100, 8 << 10, 512 << 10]).expect("not empty"),
        requests_per_shard_max: *rng.pick(&[8, 64, 16_384]).expect("not empty"),
        apply_bytes_per_turn: *rng.pick(&[500, 64 << 10, 4 << 20]).expect("not empty"),
        snapshot_chunk_bytes: *rng.pick(&[300, 4 << 10, 256 << 10]).expect("not empty"),
        ..Limits::default()
    };
    let upkeep = Upkeep {
        persist_bytes: *rng.pick(&[2 << 10, 32 << 10, 1 << 20]).expect("not empty"),
        persist_interval: Duration::from_millis(rng.range(100, 5_000)),
        log_keep_entries: *rng.pick(&[0, 5, 50, 1_000]).expect("not empty"),
        history_revisions: *rng.pick(&[50, 500, 100_000]).expect("not empty"),
    };
    (raft, limits, upkeep)
}

/// A lane's whole configuration.
#[must_use]
pub fn lane_config(
    base: &(RaftSettings, Limits, Upkeep),
    node: atoll_base::NodeId,
    lane: u16,
    lanes: u16,
    seed: u64,
) -> LaneConfig {
    let mut raft = base.0.clone();
    // Now and then a lane is set otherwise than its peers, and refuses to rest.
    raft.quiesce &= !seed.is_multiple_of(8);
    LaneConfig {
        node,
        lane: atoll_base::LaneId(lane),
        lanes,
        seed,
        raft,
        limits: base.1.clone(),
        upkeep: base.2.clone(),
    }
}
