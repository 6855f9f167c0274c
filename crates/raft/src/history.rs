//! Which configuration is in force, and which was at any entry that the log still knows.
//!
//! Invariant I9: in force is the last configuration in the log, committed or not. It follows the
//! log wherever that goes: appended with its entry, forgotten when the entry is cut off (trap R8),
//! folded into the base when the entry is compacted, replaced by a snapshot's.

use atoll_base::LogIndex;

use crate::membership::Membership;

/// See the module. Never empty; the first one is the base, of the entry before the log or earlier.
#[derive(Debug)]
pub(crate) struct History {
    kept: Vec<(LogIndex, Membership)>,
}

impl History {
    pub(crate) fn new(base: LogIndex, membership: Membership) -> Self {
        Self { kept: vec![(base, membership)] }
    }

    /// The configuration in force.
    pub(crate) fn current(&self) -> &Membership {
        &self.kept[self.kept.len() - 1].1
    }

    /// The entry that holds it.
    pub(crate) fn index(&self) -> LogIndex {
        self.kept[self.kept.len() - 1].0
    }

    /// The configuration before the one in force, where the log still knows it.
    pub(crate) fn previous(&self) -> Option<&Membership> {
        self.kept.iter().rev().nth(1).map(|(_, m)| m)
    }

    /// The configuration as of `index`.
    pub(crate) fn at(&self, index: LogIndex) -> Option<&Membership> {
        self.kept.iter().rev().find(|(i, _)| *i <= index).map(|(_, m)| m)
    }

    pub(crate) fn push(&mut self, index: LogIndex, membership: Membership) {
        assert!(index > self.index(), "configuration {index} follows {}", self.index());
        self.kept.push((index, membership));
    }

    /// The log was cut from `from` on.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        while self.kept.len() > 1 && self.index() >= from {
            self.kept.pop();
        }
    }

    /// The log now begins after `prev`.
    pub(crate) fn compact(&mut self, prev: LogIndex) {
        let base = self.kept.iter().rposition(|(i, _)| *i <= prev).unwrap_or(0);
        self.kept.drain(..base);
    }
}
