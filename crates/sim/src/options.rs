//! What the caller of a run fixes. The seed decides the rest (`shape`, `faults`).

use std::sync::Arc;
use std::time::Duration;

use atoll_base::planted::Mistake;

use crate::faults::FaultKind;
use crate::plant::Plant;
use crate::script::Script;

/// What the caller of a run fixes. What is `None` the seed decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything else.
    pub seed: u64,
    /// Number of nodes, 1 to 7.
    pub nodes: Option<usize>,
    /// The kinds of faults that may strike.
    pub faults: Vec<FaultKind>,
    /// Events after which the run is given up as unfinished.
    pub steps_max: u64,
    /// How long faults may strike.
    pub duration: Option<Duration>,
    /// A bug to plant.
    pub plant: Option<Plant>,
    /// A mistake to plant inside the crates under test; does nothing unless they were built for
    /// that, with the feature `planted-bugs`.
    pub mistake: Option<Mistake>,
    /// A script that fixes what it names, its faults in the place of all others.
    pub script: Option<Arc<Script>>,
    /// Trace lines to keep for a failure's report.
    pub lines_max: usize,
}

impl Options {
    /// A run of `seed` with all faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: None,
            faults: FaultKind::ALL.to_vec(),
            steps_max: 20_000_000,
            duration: None,
            plant: None,
            mistake: None,
            script: None,
            lines_max: 0,
        }
    }
}
