//! What the Raft cores of a node counted: each lane tells the sum of its own when somebody asks.
//!
//! A lane is asked by a flag and a nudge. It looks at the flag once per turn and at its replicas
//! only when it is set, so that what nobody reads costs nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atoll_base::LaneId;
use atoll_raft::Counters;
use tokio::sync::watch;

use super::lanes::Lanes;

/// How long an asker waits. A lane that says nothing for so long counts as when it last spoke.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// What the lanes told last.
#[derive(Debug)]
pub(crate) struct RaftCounts {
    lanes: Vec<LaneCounts>,
}

#[derive(Debug)]
struct LaneCounts {
    is_asked: AtomicBool,
    told: watch::Sender<Counters>,
}

impl RaftCounts {
    /// Nothing counted yet, for so many lanes.
    pub(super) fn new(lanes: u16) -> Self {
        let lane = |_| LaneCounts {
            is_asked: AtomicBool::new(false),
            told: watch::Sender::new(Counters::default()),
        };
        Self { lanes: (0..lanes.max(1)).map(lane).collect() }
    }

    /// Whether somebody waits for this lane to tell; asking it again says no.
    pub(super) fn is_asked(&self, lane: LaneId) -> bool {
        let is_asked = &self.lanes[usize::from(lane.0)].is_asked;
        is_asked.load(Ordering::Relaxed) && is_asked.swap(false, Ordering::AcqRel)
    }

    /// Takes in what the cores of a lane counted.
    pub(super) fn tell(&self, lane: LaneId, counters: Counters) {
        self.lanes[usize::from(lane.0)].told.send_replace(counters);
    }

    /// Has every lane tell, and waits a moment for it.
    pub(crate) async fn gather(&self, lanes: &Lanes) {
        let mut told: Vec<_> = self.lanes.iter().map(|lane| lane.told.subscribe()).collect();
        for lane in &self.lanes {
            lane.is_asked.store(true, Ordering::Release);
        }
        lanes.nudge();
        let all = async {
            for lane in &mut told {
                // The sender is here, so that it can't be gone.
                let _ = lane.changed().await;
            }
        };
        let _ = tokio::time::timeout(WAIT_MAX, all).await;
    }

    /// The sum of what all lanes told last. It never goes back: nor does any lane's.
    pub(crate) fn sum(&self) -> Counters {
        let mut sum = Counters::default();
        for lane in &self.lanes {
            sum += *lane.told.borrow();
        }
        sum
    }
}

/// Every counter with its metric's name and what it means.
pub(crate) fn described(all: &Counters) -> [(&'static str, &'static str, u64); 21] {
    let c = all;
    [
        ("raft_pre_campaigns", "Pre-votes asked for", c.pre_campaigns),
        ("raft_campaigns", "Votes asked for, each in a new term", c.campaigns),
        ("raft_terms_led", "Elections won", c.terms_led),
        ("raft_quorums_lost", "Leaderships given up without a quorum", c.quorums_lost),
        ("raft_transfers", "Hand-overs of leadership begun", c.transfers),
        ("raft_transfers_given_up", "Hand-overs that took too long", c.transfers_given_up),
        ("raft_proposals_refused", "Batches of proposals refused", c.proposals_refused),
        ("raft_appends", "Appends sent, probes and empty ones included", c.appends),
        ("raft_entries_sent", "Entries sent in them", c.entries_sent),
        ("raft_appends_lost", "Appends or answers that a heartbeat found lost", c.appends_lost),
        ("raft_conflicts", "Steps back to where a follower's log agrees", c.conflicts),
        ("raft_replaced", "Ends of this node's logs that a leader replaced", c.replaced),
        ("raft_read_rounds", "Rounds of heartbeats that confirmed reads", c.read_rounds),
        ("raft_reads", "Reads confirmed, followers' included", c.reads),
        ("raft_reads_failed", "Reads that could not be confirmed", c.reads_failed),
        ("raft_changes", "Changes of members begun", c.changes),
        ("raft_snapshots_wanted", "Followers that the log no longer reached", c.snapshots_wanted),
        ("raft_snapshots_installed", "Snapshots installed", c.snapshots_installed),
        ("raft_quieted", "Groups that went quiet, counted by their leader", c.quieted),
        ("raft_woken", "Replicas of quiet groups woken", c.woken),
        ("raft_damaged", "Logs found damaged", c.damaged),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Counters that all differ.
    fn distinct() -> Counters {
        Counters {
            pre_campaigns: 1,
            campaigns: 2,
            terms_led: 3,
            quorums_lost: 4,
            transfers: 5,
            transfers_given_up: 6,
            proposals_refused: 7,
            appends: 8,
            entries_sent: 9,
            appends_lost: 10,
            conflicts: 11,
            replaced: 12,
            read_rounds: 13,
            reads: 14,
            reads_failed: 15,
            changes: 16,
            snapshots_wanted: 17,
            snapshots_installed: 18,
            quieted: 19,
            woken: 20,
            damaged: 21,
        }
    }

    #[test]
    fn every_counter_of_the_core_has_a_metric_of_its_name() {
        let counters = distinct();
        let metrics = described(&counters).map(|(name, _, value)| (name.to_owned(), value));
        let wanted: Vec<_> = counters.all().map(|(name, n)| (format!("raft_{name}"), n)).collect();
        assert_eq!(metrics.as_slice(), wanted);
    }

    #[test]
    fn the_documentation_names_these_and_no_others() {
        let text = include_str!("../../../../docs/metrics.md");
        let named: BTreeSet<_> =
            text.split('`').filter(|word| word.starts_with("atoll_raft_")).collect();
        let told = described(&Counters::default()).map(|(name, ..)| format!("atoll_{name}_total"));
        assert_eq!(named, told.iter().map(String::as_str).collect());
    }

    #[tokio::test]
    async fn the_sum_is_of_what_lanes_say_when_asked_and_of_silent_ones_what_they_said() {
        let (counts, lanes) = (RaftCounts::new(2), Lanes::new(2, 10));
        assert!(!counts.is_asked(LaneId(0)));
        counts.tell(LaneId(1), Counters { campaigns: 4, ..Counters::default() });
        // Lane 1 stands still.
        let lane = async {
            while !counts.is_asked(LaneId(0)) {
                tokio::task::yield_now().await;
            }
            assert!(!counts.is_asked(LaneId(0)), "it is asked once");
            counts.tell(LaneId(0), Counters { campaigns: 1, appends: 2, ..Counters::default() });
        };
        tokio::join!(counts.gather(&lanes), lane);
        assert_eq!(counts.sum(), Counters { campaigns: 5, appends: 2, ..Counters::default() });
    }
}
