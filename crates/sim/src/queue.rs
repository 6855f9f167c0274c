//! Virtual time: what will happen, in order.
//!
//! The queue is the only clock of a simulation. Two events at the same instant happen in the order
//! in which they were scheduled, so that a seed has one future.
//!
//! Most of what happens are turns of lanes, and each lane has at most one to come, which often is
//! moved: those are *alarms*, beside the heap, so that moving one leaves nothing behind.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use atoll_base::Time;

/// Events to come and the time that is now.
///
/// The heap holds small keys; the events themselves, which are large, stay in one place until they
/// happen.
#[derive(Debug)]
pub struct EventQueue<E> {
    now: Time,
    scheduled: u64,
    heap: BinaryHeap<Reverse<When>>,
    events: Vec<Option<E>>,
    free: Vec<u32>,
    alarms: Alarms,
    /// The alarm that rang last, while it still stands among the others: whoever it is for sets it
    /// again most of the time.
    rung: Option<usize>,
}

/// What happens next.
#[derive(PartialEq, Eq, Debug)]
pub enum Due<E> {
    /// An event that was scheduled.
    Event(E),
    /// An alarm rings; it is not set any more.
    Alarm(usize),
}

/// When something happens, by time and then by age, and its place: one number, which the processor
/// compares without a guess.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct When(u128);

impl When {
    /// What never happens.
    const NEVER: Self = Self(u128::MAX);
    const PLACE_BITS: u32 = 24;

    /// The `number`th thing that was scheduled: unique, and less than a million million.
    fn new(at: Time, number: u64, place: u32) -> Self {
        let age = number << Self::PLACE_BITS | u64::from(place);
        Self(u128::from(at.0) << 64 | u128::from(age))
    }

    fn at(self) -> Time {
        Time((self.0 >> 64) as u64)
    }

    fn place(self) -> usize {
        self.0 as usize & ((1 << Self::PLACE_BITS) - 1)
    }
}

/// Alarms as a tournament: each node holds the earlier of the two below it, the first one is the
/// earliest of all. Moving an alarm plays its matches again, until one ends as before.
#[derive(Debug)]
struct Alarms {
    /// The root is at 1, alarm `n` at `len / 2 + n`.
    tree: Vec<When>,
}

impl Default for Alarms {
    fn default() -> Self {
        Self { tree: vec![When::NEVER; 2] }
    }
}

impl Alarms {
    fn first(&self) -> When {
        self.tree[1]
    }

    fn set(&mut self, place: usize, to: When) {
        while self.tree.len() / 2 <= place {
            self.grow();
        }
        let mut at = self.tree.len() / 2 + place;
        self.tree[at] = to;
        while at > 1 {
            let earlier = self.tree[at & !1].min(self.tree[at | 1]);
            at /= 2;
            if self.tree[at] == earlier {
                return;
            }
            self.tree[at] = earlier;
        }
    }

    fn grow(&mut self) {
        let half = self.tree.len() / 2;
        let old = self.tree.split_off(half);
        self.tree = vec![When::NEVER; 4 * half];
        for (place, when) in old.into_iter().enumerate() {
            self.set(place, when);
        }
    }
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self {
            now: Time::ZERO,
            scheduled: 0,
            heap: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            alarms: Alarms::default(),
            rung: None,
        }
    }
}

impl<E> EventQueue<E> {
    /// The time of the last event taken.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// Events not yet taken, alarms apart.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True when nothing will ever happen again.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let mut alarms = self.alarms.tree.iter().skip(self.alarms.tree.len() / 2).enumerate();
        let is_set =
            |(place, when): (usize, &When)| *when != When::NEVER && self.rung != Some(place);
        self.heap.is_empty() && !alarms.any(is_set)
    }

    /// Sets the alarm `place` to `at`, or to now when that has passed; it rings only then.
    pub fn set_alarm(&mut self, place: usize, at: Time) {
        self.scheduled += 1;
        self.alarms.set(place, When::new(at.max(self.now), self.scheduled, place as u32));
        self.rung.take_if(|rung| *rung == place);
    }

    /// Lets the alarm `place` not ring.
    pub fn clear_alarm(&mut self, place: usize) {
        self.alarms.set(place, When::NEVER);
        self.rung.take_if(|rung| *rung == place);
    }

    /// Lets `event` happen at `at`, or now when that has passed.
    ///
    /// # Panics
    /// With more than sixteen million events to come.
    pub fn at(&mut self, at: Time, event: E) {
        self.scheduled += 1;
        let place = match self.free.pop() {
            Some(place) => {
                self.events[place as usize] = Some(event);
                place
            }
            None => {
                self.events.push(Some(event));
                assert!(
                    self.events.len() < 1 << When::PLACE_BITS,
                    "a run has fewer events to come"
                );
                (self.events.len() - 1) as u32
            }
        };
        self.heap.push(Reverse(When::new(at.max(self.now), self.scheduled, place)));
    }

    /// Lets `event` happen after `delay`.
    pub fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now.after(delay), event);
    }

    /// Takes the next event and moves time to it.
    ///
    /// # Panics
    /// When time went back.
    pub fn pop(&mut self) -> Option<(Time, Due<E>)> {
        if let Some(rung) = self.rung.take() {
            self.alarms.set(rung, When::NEVER);
        }
        let alarm = self.alarms.first();
        if self.heap.peek().is_none_or(|Reverse(next)| alarm < *next) {
            if alarm == When::NEVER {
                return None;
            }
            self.rung = Some(alarm.place());
            self.now = alarm.at();
            return Some((self.now, Due::Alarm(alarm.place())));
        }
        let Reverse(next) = self.heap.pop()?;
        let (at, place) = (next.at(), next.place());
        assert!(at >= self.now, "time went back: {at:?} after {:?}", self.now);
        self.now = at;
        self.free.push(place as u32);
        let event = self.events[place].take().expect("it was scheduled once");
        Some((at, Due::Event(event)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_by_age() {
        let mut queue = EventQueue::default();
        queue.at(Time(20), 'c');
        queue.at(Time(10), 'a');
        queue.at(Time(10), 'b');
        assert_eq!(queue.pop(), Some((Time(10), Due::Event('a'))));
        queue.at(Time(5), 'x');
        assert_eq!(queue.pop(), Some((Time(10), Due::Event('b'))));
        assert_eq!(queue.pop(), Some((Time(10), Due::Event('x'))));
        assert_eq!(queue.pop(), Some((Time(20), Due::Event('c'))));
        assert!(queue.is_empty());
        assert_eq!(queue.now(), Time(20));
    }

    #[test]
    fn alarms_ring_once_where_they_were_set_last() {
        let mut queue = EventQueue::default();
        queue.set_alarm(3, Time(30));
        queue.set_alarm(1, Time(10));
        queue.at(Time(10), 'a');
        queue.set_alarm(0, Time(10));
        assert_eq!(queue.pop(), Some((Time(10), Due::Alarm(1))));
        assert_eq!(queue.pop(), Some((Time(10), Due::Event('a'))));
        assert_eq!(queue.pop(), Some((Time(10), Due::Alarm(0))));
        queue.set_alarm(2, Time(5));
        queue.set_alarm(3, Time(20));
        queue.set_alarm(2, Time(40));
        assert_eq!(queue.pop(), Some((Time(20), Due::Alarm(3))));
        assert!(!queue.is_empty());
        queue.clear_alarm(2);
        assert!(queue.is_empty());
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn alarms_and_events_come_in_one_order() {
        let mut rng = atoll_base::Rng::new(7);
        let mut queue = EventQueue::default();
        let mut wanted = std::collections::BTreeMap::new();
        let mut alarms = [None; 9];
        for n in 0..2_000_u64 {
            let at = Time(queue.now().0 + rng.below(50));
            if rng.chance(1, 2) {
                let place = rng.below(9) as usize;
                queue.set_alarm(place, at);
                wanted.insert((at, n), Due::Alarm(place));
                if let Some(old) = alarms[place].replace((at, n)) {
                    wanted.remove(&old);
                }
            } else {
                queue.at(at, n);
                wanted.insert((at, n), Due::Event(n));
            }
            if rng.chance(1, 2) {
                let ((at, _), due) = wanted.pop_first().expect("one was just added");
                if let Due::Alarm(place) = due {
                    alarms[place] = None;
                }
                assert_eq!(queue.pop(), Some((at, due)));
            }
        }
    }
}
