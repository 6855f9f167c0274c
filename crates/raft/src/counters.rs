//! What a core has done so far, for whoever measures: numbers that only grow, from 0 at its start.
//!
//! Nothing is decided by them, and they cost an addition where something happens. An owner with
//! many cores adds them up with `+=`.

use std::ops::AddAssign;

use crate::core::RaftCore;

macro_rules! counters {
    ($($(#[doc = $doc:expr])* $name:ident,)*) => {
        /// See the module. Each is a number of events, not of bytes or entries, unless it says so.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every counter's name and value, in a fixed order.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        impl AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Pre-votes asked for (thesis 9.6).
    pre_campaigns,
    /// Votes asked for, each in a new term (thesis 3.4).
    campaigns,
    /// Elections won (thesis 3.4).
    terms_led,
    /// Leaderships given up because no quorum was heard (thesis 6.2).
    quorums_lost,
    /// Hand-overs begun (thesis 3.10).
    transfers,
    /// Hand-overs that took too long.
    transfers_given_up,
    /// Batches of proposals refused: too much uncommitted, or a hand-over.
    proposals_refused,
    /// Appends sent, probes and empty ones included (thesis 3.5).
    appends,
    /// Entries sent in them.
    entries_sent,
    /// Appends or answers that a heartbeat found lost (thesis 10.2).
    appends_lost,
    /// Steps back to where a follower's log meets the leader's (thesis 3.5).
    conflicts,
    /// Ends of a follower's log that were replaced (thesis 3.5).
    replaced,
    /// Rounds of heartbeats that confirmed reads; many reads share one (thesis 6.4).
    read_rounds,
    /// Reads confirmed, followers' included, by a round or a lease (thesis 6.4).
    reads,
    /// Reads that could not be confirmed.
    reads_failed,
    /// Changes of members begun (thesis 4.3).
    changes,
    /// Followers that the log no longer reached (thesis 5).
    snapshots_wanted,
    /// Snapshots installed (thesis 5).
    snapshots_installed,
    /// Times that the group went quiet, as its leader.
    quieted,
    /// Times that it was woken.
    woken,
    /// Logs found damaged (trap T14).
    damaged,
}

impl RaftCore {
    /// What this core did since it was made.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_taken_of_each_by_its_name() {
        let one = Counters { campaigns: 2, appends: 3, ..Counters::default() };
        let mut sum = Counters { appends: 4, damaged: 1, ..Counters::default() };
        sum += one;
        let told: Vec<_> = sum.all().filter(|(_, n)| *n > 0).collect();
        assert_eq!(told, [("campaigns", 2), ("appends", 7), ("damaged", 1)]);
    }
}
