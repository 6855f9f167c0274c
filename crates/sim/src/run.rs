//! One run: from a seed to an outcome.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use atoll_base::Time;

use crate::check::Violation;
use crate::errors;
use crate::faults::FaultKind;
use crate::history;
use crate::network::NetworkCounts;
use crate::options::Options;
use crate::world::World;

/// What became of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first violation, if there was one.
    pub violation: Option<Violation>,
    /// The run reached its limit of events before its end.
    pub is_unfinished: bool,
    /// The hash of all events.
    pub trace: u64,
    /// How many events there were.
    pub events: u64,
    /// How many steps of the run made them; a limit of steps stops there.
    pub steps: u64,
    /// Virtual time that passed.
    pub simulated: Duration,
    /// What was counted.
    pub counts: Counts,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Rare branches that were taken.
    pub marks: BTreeMap<&'static str, u64>,
    /// The last lines of the trace, when they were asked for.
    pub lines: Vec<String>,
}

/// What a run counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Nodes.
    pub nodes: u64,
    /// Turns of lanes.
    pub turns: u64,
    /// Calls that the history holds.
    pub operations: u64,
    /// Those answered.
    pub answered: u64,
    /// Whole scans.
    pub scans: u64,
    /// Terms that had a leader.
    pub terms: u64,
    /// Power losses.
    pub crashes: u64,
    /// Comparisons of replicas' states.
    pub states_compared: u64,
    /// Keys whose linearizability was left undecided.
    pub undecided: u64,
    /// The network.
    pub network: NetworkCounts,
}

impl Outcome {
    /// Neither a violation nor an unfinished run.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.violation.is_none() && !self.is_unfinished
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.violation {
            Some(violation) => write!(f, "seed {}: VIOLATION {violation}", self.seed),
            None if self.is_unfinished => {
                write!(f, "seed {}: unfinished after {} events", self.seed, self.events)
            }
            None => write!(f, "seed {}: ok", self.seed),
        }
    }
}

/// Runs a seed to its end. Panics of the code under test are violations too.
#[must_use]
pub fn run(options: &Options) -> Outcome {
    atoll_base::planted::plant(options.mistake);
    atoll_base::mark::start();
    let mut world = None;
    let mut go = || {
        let world = world.insert(World::new(options));
        let mut steps = 0;
        while world.step() {
            steps += 1;
            if steps >= options.steps_max {
                return false;
            }
        }
        true
    };
    let finished = catch_unwind(AssertUnwindSafe(|| errors::kept_during(&mut go)));
    let marks = atoll_base::mark::take();
    let mut outcome = Outcome { seed: options.seed, marks, ..Outcome::default() };
    if let Some(world) = world {
        describe(world, &mut outcome);
    }
    match finished {
        Ok(finished) => outcome.is_unfinished = !finished && outcome.violation.is_none(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let what = text.unwrap_or("unknown panic").to_owned();
            outcome.violation = Some(Violation::new("assertions", what));
        }
    }
    outcome
}

fn describe(world: World, outcome: &mut Outcome) {
    outcome.violation = world.violation().cloned();
    outcome.trace = world.fabric.trace.hash();
    outcome.events = world.fabric.trace.events();
    outcome.steps = world.fabric.trace.steps();
    outcome.simulated = world.fabric.now().since(Time::ZERO);
    outcome.faults = world.fault_counts();
    let operations = world.record.history.operations();
    let is_done = |op: &&history::Operation| matches!(op.outcome, history::Outcome::Done { .. });
    let (others, others_answered) = world.record.others;
    outcome.counts = Counts {
        nodes: world.nodes.len() as u64,
        turns: world.nodes.iter().map(|node| node.turns).sum(),
        operations: operations.len() as u64 + others,
        answered: operations.iter().filter(is_done).count() as u64 + others_answered,
        scans: world.record.scans,
        terms: world.observer.elections.terms_led() as u64,
        crashes: world.crashes,
        states_compared: world.observer.machines.compared(),
        undecided: world.undecided,
        network: world.network_counts(),
    };
    outcome.lines = world.fabric.trace.into_lines();
}
