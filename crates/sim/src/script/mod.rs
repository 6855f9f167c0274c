//! Named scripts: runs whose shape, faults and changes of members are written down.
//!
//! A seed names a run of the generators of its day; when they change, what it once found is
//! another run. So what a failing seed turned out to be about is kept as a script: it fixes what
//! matters and leaves the rest to seeds, of which it is run with several. It also names the rare
//! branches (`reached!` marks) that its runs must come to, so that a script which no longer does
//! what it was written for fails.
//!
//! ```text
//! # Lines that begin so are comments.
//! set nodes 3
//! set shards 1
//! set duration-ms 5000
//! network calm
//! operator 500ms remove node 3 from shard 1
//! at 1200ms crash node 2 losing stretch for 800ms
//! at 2s on install after 0ms within 3s blackout for 300ms
//! reach a snapshot was installed
//! ```
//!
//! * `set NAME NUMBER`: one of [`SETTINGS`]; `nodes`, `shards` and `duration-ms` must be set.
//! * `network calm`: no loss, no repetition, short delays.
//! * `operator random`: the operator does what the seed says, as in a run without a script.
//! * `operator T CHANGE`: from T on, and after the change before it. A change is `add node N to
//!   shard S [as witness]`, `promote node N in shard S`, `remove node N from shard S`, `prefer node
//!   N in shard S`, or `create` and `drop`, of a keyspace of its own.
//! * `operator late`: it orders nobody away before the end.
//! * `at T [on MOMENT [after T] [within T]] FAULT for T`: a fault and how long it lasts. A moment
//!   is `vote`, `lead`, `announce`, `install`, `change`, `removal` or `boot`.
//! * `reach MARK`: at least one of the runs takes this branch.
//!
//! Faults: `crash WHO [losing bit\|stretch]`, `rot WHO`, `blackout`, `pause WHO`, `isolate WHO`,
//! `mute WHO`, `deafen WHO`, `stall WHO by T`, `slow WHO by T`, `fill WHO`, `fail-sync WHO`,
//! `transfer shard S to node N`, `part N,N`, `storm`. WHO is `node N`, `leader of shard S`, or
//! `actor`: whom the moment was about. Shard 1 is the catalog's.

mod reader;

use std::fmt;
use std::ops::RangeInclusive;

use atoll_base::{NodeId, ShardId, Time};
use atoll_node::{Limits, RaftSettings, Upkeep};
use atoll_raft::Role;

use crate::faults::Planned;
use crate::network::NetworkProfile;
use crate::shape::Shape;

/// What lanes are set to.
type LaneSettings = (RaftSettings, Limits, Upkeep);
/// Sets one number of a run.
type Setter = fn(&mut Shape, &mut LaneSettings, u64);

/// What `set` knows: the name, what it may be, and how it is set.
pub const SETTINGS: &[(&str, RangeInclusive<u64>, Setter)] = &[
    ("nodes", 1..=7, |shape, _, n| shape.nodes = n as usize),
    ("replicas", 1..=7, |shape, _, n| shape.replicas = n as usize),
    ("lanes", 1..=3, |shape, _, n| shape.lanes = n as u16),
    ("shards", 1..=8, |shape, _, n| shape.shards = n as usize),
    ("clients", 0..=8, |shape, _, n| shape.clients = n as u32),
    ("holders", 0..=8, |shape, _, n| shape.holders = n as usize),
    ("think-ms", 1..=1_000, |shape, _, ms| shape.think = millis(ms)),
    ("duration-ms", 100..=60_000, |shape, _, ms| shape.duration = millis(ms)),
    ("persist-ms", 1..=1_000, |shape, _, ms| shape.persist = millis(ms)),
    ("padding-bytes", 0..=3_000, |shape, _, bytes| shape.padding_max = bytes),
    ("election-ms", 50..=2_000, |_, settings, ms| {
        settings.0.election_timeout_min = millis(ms);
        settings.0.heartbeat_interval = millis(ms / 6);
    }),
    ("quiesce", 0..=1, |_, settings, on| settings.0.quiesce = on == 1),
    ("snapshot-chunk-bytes", 100..=1 << 20, |_, settings, bytes| {
        settings.1.snapshot_chunk_bytes = bytes as usize;
    }),
    ("persist-bytes", 1..=1 << 30, |_, settings, bytes| settings.2.persist_bytes = bytes),
    ("persist-interval-ms", 1..=60_000, |_, settings, ms| {
        settings.2.persist_interval = millis(ms);
    }),
    ("log-keep-entries", 0..=1 << 20, |_, settings, n| settings.2.log_keep_entries = n),
];

fn millis(ms: u64) -> std::time::Duration {
    std::time::Duration::from_millis(ms)
}

/// A change of members, or of keyspaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// A node is taken in.
    Add(NodeId, ShardId, Role),
    /// A learner votes.
    Promote(NodeId, ShardId),
    /// A node is let go.
    Remove(NodeId, ShardId),
    /// A node is to lead.
    Prefer(NodeId, ShardId),
    /// A keyspace is made.
    Create,
    /// It is dropped.
    Drop,
}

/// What the operator of a script does.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) enum Operating {
    /// Nothing: there is none.
    #[default]
    Absent,
    /// What its seed says.
    Random,
    /// These, not before their times.
    Listed(Vec<(Time, Change)>),
}

/// A run that is written down.
#[derive(Clone, Default)]
pub struct Script {
    settings: Vec<(&'static str, Setter, u64)>,
    network: Option<NetworkProfile>,
    pub(crate) faults: Vec<Planned>,
    pub(crate) operating: Operating,
    /// The operator orders nobody away before the end.
    pub(crate) is_late: bool,
    /// Branches that the runs of this script must come to.
    pub reach: Vec<String>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} settings, {:?}, {:?}", self.settings.len(), self.faults, self.operating)
    }
}

/// Why a text is no script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScriptError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for ScriptError {}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    ///
    /// The first line that is no statement, or names what a run of this script does not have.
    pub fn read(text: &str) -> Result<Self, ScriptError> {
        reader::read(text)
    }

    /// What a setting is set to, if it is.
    fn setting(&self, name: &str) -> Option<u64> {
        self.settings.iter().rev().find(|(known, ..)| *known == name).map(|(.., value)| *value)
    }

    /// Puts what is written down in the place of what the seed said.
    pub(crate) fn apply(&self, shape: &mut Shape, settings: &mut LaneSettings) {
        for (_, set, value) in &self.settings {
            set(shape, settings, *value);
        }
        shape.spares = shape.spares.min(7 - shape.nodes);
        shape.replicas = shape.replicas.min(shape.nodes);
        shape.network = self.network.unwrap_or(shape.network);
        shape.changes = self.operating != Operating::Absent;
    }
}
