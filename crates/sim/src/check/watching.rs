//! Watches are ordered, complete, without repetition, and resume where they stopped.
//!
//! Source: etcd's watch guarantees (ordered, unique, reliable, atomic, resumable, bookmarkable),
//! and traps T41 (progress overtook events) and T42 (events older than the start). A watcher is
//! checked while it listens (order, no repetition, no gap behind its progress) and at the end
//! against the shard's history of changes (nothing missing, nothing invented).

use atoll_base::{Revision, ShardId};

use super::Violation;
use super::effects::Effect;
use crate::history::KeyNumber;

/// One watcher's view: what it asked for and what it got, over all its connections.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// Its number, for messages.
    pub number: u32,
    /// The shard watched.
    pub shard: ShardId,
    /// The keys watched, as workload numbers `from..to`.
    pub keys: std::ops::Range<u32>,
    /// The first revision asked for.
    pub from: Revision,
    /// Everything up to here has been delivered.
    through: Revision,
    events: Vec<Effect>,
}

impl Watcher {
    /// A watcher that wants all changes of `keys` from `from` on.
    #[must_use]
    pub fn new(number: u32, shard: ShardId, keys: std::ops::Range<u32>, from: Revision) -> Self {
        Self { number, shard, keys, from, through: from.prev(), events: Vec::new() }
    }

    /// Where to resume after a lost connection: behind everything that is known to be whole.
    #[must_use]
    pub fn resume_from(&self) -> Revision {
        self.through.next()
    }

    /// The last revision whose events were all delivered.
    #[must_use]
    pub fn through(&self) -> Revision {
        self.through
    }

    /// Events delivered so far.
    #[must_use]
    pub fn events(&self) -> &[Effect] {
        &self.events
    }

    /// One batch arrives: events in order and the revision through which they are complete.
    ///
    /// # Errors
    /// When it repeats, goes back, shows a key that was not asked for, or its progress does not
    /// cover its own events.
    pub fn deliver(&mut self, events: &[Effect], through: Revision) -> Result<(), Violation> {
        let mut last: Option<(Revision, KeyNumber)> = None;
        for event in events {
            let here = (event.revision, event.key);
            if event.revision <= self.through {
                return Err(self.wrong(format!(
                    "event of revision {} after progress through {}",
                    event.revision, self.through
                )));
            }
            if let Some(before) = last
                && (event.revision < before.0 || here == before)
            {
                return Err(self.wrong(format!("event {here:?} after {before:?}")));
            }
            if event.revision > through {
                return Err(self.wrong(format!(
                    "event of revision {} in a batch that is complete through {through}",
                    event.revision
                )));
            }
            if !self.keys.contains(&event.key.0) {
                return Err(
                    self.wrong(format!("event of key {} that nobody asked for", event.key.0))
                );
            }
            last = Some(here);
        }
        if through < self.through {
            return Err(self.wrong(format!("progress {through} after {}", self.through)));
        }
        self.through = through;
        self.events.extend_from_slice(events);
        Ok(())
    }

    /// Compares everything delivered with the shard's history, which must reach as far.
    ///
    /// # Errors
    /// The first event missing, or invented.
    pub fn check(&self, truth: &[Effect]) -> Result<(), Violation> {
        let range = self.from..=self.through;
        let mut due: Vec<&Effect> = truth
            .iter()
            .filter(|e| range.contains(&e.revision) && self.keys.contains(&e.key.0))
            .collect();
        let mut got: Vec<&Effect> = self.events.iter().collect();
        due.sort_by_key(|e| (e.revision, e.key));
        got.sort_by_key(|e| (e.revision, e.key));
        for i in 0..due.len().max(got.len()) {
            let (due, got) = (due.get(i), got.get(i));
            if due != got {
                let through = self.through;
                return Err(
                    self.wrong(format!("got {got:?} where {due:?} was due, through {through}"))
                );
            }
        }
        Ok(())
    }

    fn wrong(&self, what: String) -> Violation {
        let (number, shard) = (self.number, self.shard);
        Violation::new("watch", format!("watcher {number} of shard {shard}: {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, key: u32) -> Effect {
        Effect { revision: Revision(revision), key: KeyNumber(key), value: Some(revision) }
    }

    fn watcher() -> Watcher {
        Watcher::new(1, ShardId(2), 0..10, Revision(2))
    }

    #[test]
    fn whole_deliveries_over_several_batches_are_fine() {
        let truth = [event(1, 1), event(2, 1), event(3, 2), event(3, 3), event(4, 99), event(6, 1)];
        let mut w = watcher();
        w.deliver(&truth[1..2], Revision(2)).unwrap();
        w.deliver(&truth[2..4], Revision(5)).unwrap();
        assert_eq!(w.resume_from(), Revision(6));
        w.deliver(&[], Revision(5)).unwrap();
        w.check(&truth).unwrap();
        w.deliver(&truth[5..], Revision(6)).unwrap();
        w.check(&truth).unwrap();
    }

    #[test]
    fn a_skipped_event_is_caught() {
        let mut w = watcher();
        w.deliver(&[event(2, 1), event(4, 1)], Revision(4)).unwrap();
        assert!(w.check(&[event(2, 1), event(3, 1), event(4, 1)]).is_err());
    }

    #[test]
    fn an_invented_event_is_caught() {
        let mut w = watcher();
        w.deliver(&[event(2, 1), event(3, 1)], Revision(4)).unwrap();
        assert!(w.check(&[event(2, 1)]).is_err());
    }

    #[test]
    fn repetition_after_resuming_is_caught() {
        let mut w = watcher();
        w.deliver(&[event(2, 1), event(3, 1)], Revision(3)).unwrap();
        assert!(w.deliver(&[event(3, 1)], Revision(4)).is_err());
    }

    #[test]
    fn order_progress_and_ranges_are_kept() {
        let bad: [(&[Effect], u64); 4] = [
            (&[event(3, 1), event(2, 1)], 3),
            (&[event(1, 1)], 3),
            (&[event(5, 1)], 4),
            (&[event(3, 11)], 3),
        ];
        for (events, through) in bad {
            assert!(watcher().deliver(events, Revision(through)).is_err(), "{events:?}");
        }
    }
}
