//! Moments that faults wait for.
//!
//! Much of what can go wrong needs a power loss within the few milliseconds between two steps of a
//! protocol: after a vote, before the winner's first entry; after a snapshot reached the engine,
//! before the log starts anew. Random times seldom hit them (FoundationDB's buggify and the crash
//! points of ALICE, Pillai et al. 2014, are other answers to the same). So a fault may wait for a
//! moment and strike whoever it is about.

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_base::{NodeId, Rng};

/// What a fault may wait for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Moment {
    /// A node tells a candidate that it has its vote.
    Vote,
    /// A node acts as a leader for the first time in a term.
    Lead,
    /// A leader announces a snapshot to a follower.
    Announce,
    /// A node hands its log the start that follows a snapshot.
    Install,
    /// A node hands its log an entry that changes the members.
    Change,
    /// A node hands its log the news that it gave a replica up.
    Removal,
    /// A node has started again.
    Boot,
}

impl Moment {
    /// Every moment.
    pub const ALL: [Self; 7] = [
        Self::Vote,
        Self::Lead,
        Self::Announce,
        Self::Install,
        Self::Change,
        Self::Removal,
        Self::Boot,
    ];
}

/// How a fault waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cue {
    /// For what.
    pub moment: Moment,
    /// How long after the moment it strikes.
    pub lag: Duration,
    /// How long it waits at most. Then it strikes all the same.
    pub patience: Duration,
}

impl Cue {
    /// Draws a cue. One of two waits for a vote: all votes of an election come within milliseconds,
    /// and a run has few elections.
    #[must_use]
    pub fn random(rng: &mut Rng) -> Self {
        let any = *rng.pick(&Moment::ALL).expect("not empty");
        let moment = if rng.chance(1, 2) { Moment::Vote } else { any };
        let lag = if rng.chance(2, 3) { 0 } else { rng.below(30) };
        let lag = Duration::from_millis(lag);
        Self { moment, lag, patience: Duration::from_millis(rng.range(100, 3_000)) }
    }
}

/// Looks out for the moments that faults wait for.
#[derive(Default, Debug)]
pub(crate) struct Lookout {
    awaited: BTreeSet<Moment>,
    seen: Vec<(Moment, NodeId)>,
}

impl Lookout {
    /// Only these are looked out for from now on.
    pub(crate) fn look_out(&mut self, moments: impl Iterator<Item = Moment>) {
        self.awaited.clear();
        self.awaited.extend(moments);
    }

    /// `node` has come to this.
    pub(crate) fn came(&mut self, moment: Moment, node: NodeId) {
        if self.awaited.remove(&moment) {
            self.seen.push((moment, node));
        }
    }

    /// A moment that came and was awaited, once, with the first node that came to it.
    pub(crate) fn take(&mut self) -> Option<(Moment, NodeId)> {
        self.seen.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_seen_once_and_only_when_it_is_awaited() {
        let mut lookout = Lookout::default();
        lookout.came(Moment::Vote, NodeId(1));
        assert_eq!(lookout.take(), None);
        lookout.look_out([Moment::Vote, Moment::Lead].into_iter());
        lookout.came(Moment::Vote, NodeId(2));
        lookout.came(Moment::Vote, NodeId(3));
        lookout.came(Moment::Boot, NodeId(3));
        assert_eq!(lookout.take(), Some((Moment::Vote, NodeId(2))));
        assert_eq!(lookout.take(), None);
    }
}
