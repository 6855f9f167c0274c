//! What goes wrong in a run, and when: a schedule made from the seed.
//!
//! Each run draws a random subset of the kinds and its own intensities (swarm testing, Groce et al.
//! 2012): a run with every fault at once explores less than many runs with a few each. Faults name
//! their victims by role where that matters ("the leader of shard 3"), resolved when they strike.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_base::{Rng, Time};

use crate::moment::Cue;

/// A kind of fault, for choosing and counting.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FaultKind {
    /// Two sides that can't talk.
    Partition,
    /// One node alone.
    Isolate,
    /// A link or a node's whole traffic that works one way only (trap R7).
    OneWay,
    /// Every node talks to its neighbours only, or all meet in one node.
    Shape,
    /// A link that takes long.
    SlowLink,
    /// Loss, duplication and reordering beyond the run's own.
    Storm,
    /// Power loss and restart of one node.
    Crash,
    /// Power loss of all nodes at once.
    Blackout,
    /// A node that does nothing for a while and goes on as if nothing had been.
    Pause,
    /// Wall clocks that jump.
    WallJump,
    /// A disk that takes long.
    DiskStall,
    /// A disk without room.
    DiskFull,
    /// An fsync that fails: the process aborts and restarts.
    SyncFails,
    /// A bit of the log that turns over, while the node is down or under its eyes.
    BitFlip,
    /// A stretch of the log that comes back as garbage (trap T14).
    LostStretch,
    /// Leadership handed over by an operator.
    Transfer,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::Partition,
        Self::Isolate,
        Self::OneWay,
        Self::Shape,
        Self::SlowLink,
        Self::Storm,
        Self::Crash,
        Self::Blackout,
        Self::Pause,
        Self::WallJump,
        Self::DiskStall,
        Self::DiskFull,
        Self::SyncFails,
        Self::BitFlip,
        Self::LostStretch,
        Self::Transfer,
    ];

    /// The kind's name on the command line and in summaries.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::Isolate => "isolate",
            Self::OneWay => "one-way",
            Self::Shape => "shape",
            Self::SlowLink => "slow-link",
            Self::Storm => "storm",
            Self::Crash => "crash",
            Self::Blackout => "blackout",
            Self::Pause => "pause",
            Self::WallJump => "wall-jump",
            Self::DiskStall => "disk-stall",
            Self::DiskFull => "disk-full",
            Self::SyncFails => "sync-fails",
            Self::BitFlip => "bit-flip",
            Self::LostStretch => "lost-stretch",
            Self::Transfer => "transfer",
        }
    }

    /// The kind with this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Which node a fault strikes, resolved when it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// The node with this place in the list of nodes.
    Node(usize),
    /// Who leads the shard with this place in the list of shards, else any node.
    LeaderOf(usize),
    /// Whom the moment that the fault waited for was about, else any node.
    Actor,
}

/// One fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nodes whose bit is set can't talk to the others; clients reach both sides.
    Partition {
        /// One bit per node.
        side: u64,
    },
    /// The node can't talk to other nodes; `clients` says whether clients still reach it.
    Isolate {
        /// Whom.
        target: Target,
        /// Whether clients reach it.
        clients: Reach,
    },
    /// The node's messages to other nodes vanish, or theirs to it.
    OneWay {
        /// Whose.
        target: Target,
        /// Which.
        direction: Direction,
    },
    /// Every node talks only to its neighbours in the list.
    Ring,
    /// All traffic between the two halves passes only by what this node itself hears and says.
    Bridge {
        /// The node that both halves hear.
        middle: usize,
    },
    /// All traffic of the node takes this much longer.
    SlowLink {
        /// Whose.
        target: Target,
        /// By how much.
        extra: Duration,
    },
    /// The whole network loses, repeats and reorders.
    Storm,
    /// The node loses power; it comes back when the fault ends.
    Crash {
        /// Which.
        target: Target,
        /// What is done to its log while it is down.
        damage: Damage,
    },
    /// A bit of the node's log turns over while it runs.
    Rot {
        /// Whose.
        target: Target,
    },
    /// All nodes lose power.
    Blackout,
    /// The node stands still.
    Pause {
        /// Which.
        target: Target,
    },
    /// The node's wall clock jumps.
    WallJump {
        /// Whose.
        target: Target,
        /// By how much.
        by_ms: i64,
    },
    /// The node's disk takes this much longer.
    DiskStall {
        /// Whose.
        target: Target,
        /// By how much per sync.
        extra: Duration,
    },
    /// The node's disk has no room.
    DiskFull {
        /// Whose.
        target: Target,
        /// So many writes find some room, and then none.
        short_writes: u64,
    },
    /// The node's next fsync fails.
    SyncFails {
        /// Whose.
        target: Target,
    },
    /// Leadership of a shard is handed to a node.
    Transfer {
        /// The shard's place in the list.
        shard: usize,
        /// The node's place in the list.
        to: usize,
    },
}

/// What else happens to a node that lost power.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// Nothing.
    None,
    /// One bit of its log turns over.
    BitFlip,
    /// A stretch of its log is garbage.
    LostStretch,
}

/// Whether clients reach an isolated node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// They do.
    Open,
    /// They do not.
    Closed,
}

/// Which direction of traffic vanishes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// What the node sends.
    Outgoing,
    /// What is sent to it.
    Incoming,
}

/// A fault with its time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// When it strikes.
    pub from: Time,
    /// When it is mended.
    pub until: Time,
    /// For choosing and counting.
    pub kind: FaultKind,
    /// What it is.
    pub fault: Fault,
    /// The moment that it waits for from then on, if it does. It lasts as long as it would have.
    pub cue: Option<Cue>,
}

/// How large a run is, for the schedule.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Number of nodes.
    pub nodes: usize,
    /// Number of shards.
    pub shards: usize,
    /// How long faults may strike.
    pub duration: Duration,
}

/// All faults of a run, by time.
#[derive(Clone, Default, Debug)]
pub struct Schedule {
    /// Ordered by `from`.
    pub faults: Vec<Planned>,
}

impl Schedule {
    /// Faults of `kinds`, each for a random part of the run. An intensity is drawn too: some runs
    /// are calm, some never come to rest.
    #[must_use]
    pub fn random(rng: &mut Rng, scale: Scale, kinds: &[FaultKind]) -> Self {
        let chosen: Vec<FaultKind> = kinds.iter().copied().filter(|_| rng.chance(2, 5)).collect();
        let gap = u64::try_from(scale.duration.as_nanos()).unwrap_or(u64::MAX) / rng.range(3, 25);
        let end = Time::ZERO.after(scale.duration);
        let mut faults = Vec::new();
        let mut at = Time(rng.below(gap));
        while at < end {
            let Some(kind) = rng.pick(&chosen).copied() else { break };
            let cue = rng.chance(waiting_percent(kind), 100).then(|| Cue::random(rng));
            let target = match cue {
                Some(_) if rng.chance(1, 2) => Target::Actor,
                _ => random_target(rng, scale),
            };
            let fault = random_fault(rng, kind, target, scale);
            let until = at.after(length(rng, kind)).min(end);
            faults.push(Planned { from: at, until, kind, fault, cue });
            at.0 += 1 + rng.below(2 * gap);
        }
        Self { faults }
    }

    /// How many faults there are of each kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<FaultKind, u64> {
        let mut counts = BTreeMap::new();
        for planned in &self.faults {
            *counts.entry(planned.kind).or_default() += 1;
        }
        counts
    }
}

fn length(rng: &mut Rng, kind: FaultKind) -> Duration {
    let ms = match kind {
        FaultKind::Pause => rng.range(1, 1_500),
        FaultKind::Crash | FaultKind::BitFlip | FaultKind::LostStretch | FaultKind::SyncFails => {
            rng.range(1, 2_000)
        }
        FaultKind::Blackout => rng.range(1, 500),
        // Longer than anybody waits.
        FaultKind::Isolate | FaultKind::OneWay if rng.chance(1, 10) => rng.range(5_000, 14_000),
        _ => rng.range(20, 3_000),
    };
    Duration::from_millis(ms)
}

/// How many in a hundred faults of a kind wait for a moment.
fn waiting_percent(kind: FaultKind) -> u64 {
    match kind {
        FaultKind::Blackout => 60,
        FaultKind::Crash | FaultKind::BitFlip | FaultKind::LostStretch => 40,
        FaultKind::Isolate | FaultKind::OneWay | FaultKind::Pause | FaultKind::DiskStall => 25,
        _ => 0,
    }
}

fn random_fault(rng: &mut Rng, kind: FaultKind, target: Target, scale: Scale) -> Fault {
    match kind {
        FaultKind::Partition => Fault::Partition { side: rng.range(1, 1 << scale.nodes) },
        FaultKind::Isolate => {
            let clients = if rng.chance(1, 2) { Reach::Open } else { Reach::Closed };
            Fault::Isolate { target, clients }
        }
        FaultKind::OneWay => {
            let outgoing = rng.chance(1, 2);
            let direction = if outgoing { Direction::Outgoing } else { Direction::Incoming };
            Fault::OneWay { target, direction }
        }
        FaultKind::Shape if rng.chance(1, 2) => Fault::Ring,
        FaultKind::Shape => Fault::Bridge { middle: rng.below(scale.nodes as u64) as usize },
        FaultKind::SlowLink => {
            Fault::SlowLink { target, extra: Duration::from_millis(rng.range(1, 400)) }
        }
        FaultKind::Storm => Fault::Storm,
        FaultKind::Crash => Fault::Crash { target, damage: Damage::None },
        FaultKind::BitFlip if rng.chance(1, 2) => Fault::Rot { target },
        FaultKind::BitFlip => Fault::Crash { target, damage: Damage::BitFlip },
        FaultKind::LostStretch => Fault::Crash { target, damage: Damage::LostStretch },
        FaultKind::Blackout => Fault::Blackout,
        FaultKind::Pause => Fault::Pause { target },
        FaultKind::WallJump => {
            Fault::WallJump { target, by_ms: rng.below(7_200_000) as i64 - 3_600_000 }
        }
        FaultKind::DiskStall => {
            Fault::DiskStall { target, extra: Duration::from_millis(rng.range(1, 500)) }
        }
        FaultKind::DiskFull => Fault::DiskFull { target, short_writes: rng.below(3) },
        FaultKind::SyncFails => Fault::SyncFails { target },
        FaultKind::Transfer => Fault::Transfer {
            shard: rng.below(scale.shards as u64) as usize,
            to: rng.below(scale.nodes as u64) as usize,
        },
    }
}

fn random_target(rng: &mut Rng, scale: Scale) -> Target {
    if rng.chance(1, 2) {
        Target::LeaderOf(rng.below(scale.shards as u64) as usize)
    } else {
        Target::Node(rng.below(scale.nodes as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: Scale = Scale { nodes: 5, shards: 3, duration: Duration::from_secs(20) };

    #[test]
    fn a_seed_has_one_schedule_and_seeds_differ() {
        let make = |seed| Schedule::random(&mut Rng::new(seed), SCALE, &FaultKind::ALL).faults;
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }

    #[test]
    fn many_seeds_have_every_kind_in_order_and_in_time() {
        let mut seen: BTreeMap<FaultKind, u64> = BTreeMap::new();
        let (mut calm, mut waiting) = (0, 0);
        for seed in 0..300 {
            let schedule = Schedule::random(&mut Rng::new(seed), SCALE, &FaultKind::ALL);
            assert!(schedule.faults.is_sorted_by_key(|f| f.from));
            let end = Time::ZERO.after(SCALE.duration);
            assert!(schedule.faults.iter().all(|f| f.from < end && f.until <= end));
            calm += u64::from(schedule.faults.len() < 5);
            waiting += schedule.faults.iter().filter(|f| f.cue.is_some()).count();
            for (kind, n) in schedule.counts() {
                *seen.entry(kind).or_default() += n;
            }
        }
        assert_eq!(seen.len(), FaultKind::ALL.len(), "{seen:?}");
        assert!(calm > 0 && waiting > 0, "{calm} are calm, {waiting} faults wait");
    }

    #[test]
    fn names_are_unique_and_read_back() {
        for kind in FaultKind::ALL {
            assert_eq!(FaultKind::from_name(kind.name()), Some(kind));
        }
    }
}
