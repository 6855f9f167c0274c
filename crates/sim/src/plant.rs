//! Bugs to plant: each is a mistake that a real server has made, done here by the simulated shell
//! around correct lanes, so that the checkers can be seen to catch it without a line of test code
//! in what ships.

/// A bug to plant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Plant {
    /// Log writes are called durable before they are (trap T13).
    AckBeforeSync,
    /// The engine is called persisted before it is, so logs are cut too far.
    PersistLie,
    /// Votes and terms are left out of the log.
    VotesForgotten,
    /// Messages that promise durability leave before the write is durable.
    PromiseEarly,
    /// Commands lose their ids, so a retry is a new command (trap T11).
    IdsStripped,
    /// Linearizable reads are served as stale ones.
    StaleReads,
    /// A watch batch loses one revision's events.
    WatchSkips,
    /// A watch batch comes twice.
    WatchRepeats,
    /// Pages of a scan each read the newest state.
    TornScans,
    /// A payload changes on its way to a follower.
    PayloadFlips,
    /// The commit index in heartbeats and appends runs ahead.
    CommitAhead,
    /// Pre-votes stop arriving for good once faults end.
    NoElections,
    /// A command that took effect is called refused (trap T34).
    RefusalLies,
    /// A follower leaves an entry out of its log but acknowledges it.
    EntryDropped,
    /// A node never drains one lane's inputs again.
    LaneStuck,
    /// An import notes records as stored that are still under way.
    NoteAhead,
    /// Whoever appends to a list overwrites what others appended meanwhile.
    BlindAppends,
}

impl Plant {
    /// Every bug.
    pub const ALL: [Self; 17] = [
        Self::AckBeforeSync,
        Self::PersistLie,
        Self::VotesForgotten,
        Self::PromiseEarly,
        Self::IdsStripped,
        Self::StaleReads,
        Self::WatchSkips,
        Self::WatchRepeats,
        Self::TornScans,
        Self::PayloadFlips,
        Self::CommitAhead,
        Self::NoElections,
        Self::RefusalLies,
        Self::EntryDropped,
        Self::LaneStuck,
        Self::NoteAhead,
        Self::BlindAppends,
    ];

    /// The bug's name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::PersistLie => "persist-lie",
            Self::VotesForgotten => "votes-forgotten",
            Self::PromiseEarly => "promise-early",
            Self::IdsStripped => "ids-stripped",
            Self::StaleReads => "stale-reads",
            Self::WatchSkips => "watch-skips",
            Self::WatchRepeats => "watch-repeats",
            Self::TornScans => "torn-scans",
            Self::PayloadFlips => "payload-flips",
            Self::CommitAhead => "commit-ahead",
            Self::NoElections => "no-elections",
            Self::RefusalLies => "refusal-lies",
            Self::EntryDropped => "entry-dropped",
            Self::LaneStuck => "lane-stuck",
            Self::NoteAhead => "note-ahead",
            Self::BlindAppends => "blind-appends",
        }
    }

    /// The bug with this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plant| plant.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_read_back() {
        for plant in Plant::ALL {
            assert_eq!(Plant::from_name(plant.name()), Some(plant));
        }
    }
}
