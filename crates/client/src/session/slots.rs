//! The open calls of a connection, by number: a slab whose slots are used again, each time with
//! another generation in the upper half of the number.

use atoll_base::{Failure, Happened, ShardId};
use atoll_coord::AnswerBody;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::watch::WatchFeed;

/// The index of calls whose answers nobody waits for.
const UNATTENDED: u32 = u32::MAX;

/// Who waits for answers to one number.
#[derive(Debug)]
pub(super) enum Slot {
    /// One answer.
    Call { deadline: Instant, sent: bool, tx: oneshot::Sender<Result<AnswerBody, Failure>> },
    /// Answers until one is a failure.
    Watch { feed: WatchFeed, shard: ShardId },
}

impl Slot {
    /// Hands over the last answer.
    pub(super) fn finish(self, answer: Result<AnswerBody, Failure>) {
        match self {
            Self::Call { tx, .. } => drop(tx.send(answer)), // the caller may be gone
            Self::Watch { feed, .. } => drop(feed.push(answer)),
        }
    }

    /// Whether the request may have had an effect.
    pub(super) fn happened(&self) -> Happened {
        match self {
            Self::Call { sent: true, .. } => Happened::Maybe,
            Self::Call { sent: false, .. } | Self::Watch { .. } => Happened::No,
        }
    }
}

#[derive(Debug)]
struct Place {
    generation: u32,
    slot: Option<Slot>,
}

/// The slab.
#[derive(Debug, Default)]
pub(super) struct Slots {
    places: Vec<Place>,
    free: Vec<u32>,
    calls: usize,
    unattended: u32,
}

impl Slots {
    /// Calls that wait for one answer.
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    /// Puts a slot in and returns its number.
    pub(super) fn insert(&mut self, slot: Slot) -> u64 {
        self.calls += usize::from(matches!(slot, Slot::Call { .. }));
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, slot: None });
            u32::try_from(self.places.len() - 1)
                .expect("calls in flight are bounded far below 2^32")
        });
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        place.slot = Some(slot);
        u64::from(place.generation) << 32 | u64::from(index)
    }

    /// A number for a call whose answer doesn't matter.
    pub(super) fn unattended(&mut self) -> u64 {
        self.unattended = self.unattended.wrapping_add(1);
        u64::from(self.unattended) << 32 | u64::from(UNATTENDED)
    }

    fn place(&mut self, id: u64) -> Option<&mut Place> {
        let place = self.places.get_mut((id & u64::from(u32::MAX)) as usize)?;
        (u64::from(place.generation) == id >> 32).then_some(place)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Slot> {
        self.place(id)?.slot.as_mut()
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Slot> {
        let slot = self.place(id)?.slot.take()?;
        self.free.push((id & u64::from(u32::MAX)) as u32);
        self.calls -= usize::from(matches!(slot, Slot::Call { .. }));
        Some(slot)
    }

    /// Notes that the call leaves; false when nobody waits for it any more.
    pub(super) fn mark_sent(&mut self, id: u64) -> bool {
        if id & u64::from(u32::MAX) == u64::from(UNATTENDED) {
            return true;
        }
        match self.get_mut(id) {
            Some(Slot::Call { sent, .. }) => {
                *sent = true;
                true
            }
            Some(Slot::Watch { .. }) => true,
            None => false,
        }
    }

    /// Takes the calls whose deadline is not after `now`.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<Slot> {
        if self.calls == 0 {
            return Vec::new();
        }
        self.take_if(|slot| matches!(slot, Slot::Call { deadline, .. } if *deadline <= now))
    }

    /// Takes everything.
    pub(super) fn take_all(&mut self) -> Vec<Slot> {
        self.take_if(|_| true)
    }

    fn take_if(&mut self, condition: impl Fn(&Slot) -> bool) -> Vec<Slot> {
        let mut taken = Vec::new();
        for (index, place) in self.places.iter_mut().enumerate() {
            let Some(slot) = place.slot.take_if(|slot| condition(slot)) else { continue };
            self.calls -= usize::from(matches!(slot, Slot::Call { .. }));
            self.free.push(index as u32);
            taken.push(slot);
        }
        taken
    }
}
