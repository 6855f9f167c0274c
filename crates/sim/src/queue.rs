//! Virtual time: what will happen, in order.
//!
//! The queue is the only clock of a simulation. Two events at the same instant happen in the order
//! in which they were scheduled, so that a seed has one future.
//!
//! Most of what happens are turns of lanes, and each lane has at most one to come, which often is
//! moved: those are *alarms*, beside the heap, so that moving one leaves nothing behind.

use std::cmp::Ordering;
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
    heap: BinaryHeap<Scheduled>,
    events: Vec<Option<E>>,
    free: Vec<u32>,
    /// When each alarm rings, and the number under which that was set.
    alarms: Vec<(Time, u64)>,
    /// The alarm that rings first.
    first_alarm: usize,
}

/// What happens next.
#[derive(PartialEq, Eq, Debug)]
pub enum Due<E> {
    /// An event that was scheduled.
    Event(E),
    /// An alarm rings; it is not set any more.
    Alarm(usize),
}

/// An alarm that is not set.
const UNSET: (Time, u64) = (Time::MAX, u64::MAX);

#[derive(PartialEq, Eq, Debug)]
struct Scheduled {
    at: Time,
    number: u64,
    place: u32,
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, since the heap gives the greatest first. Numbers are unique.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
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
            alarms: Vec::new(),
            first_alarm: 0,
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
        self.heap.is_empty() && self.alarms.iter().all(|alarm| *alarm == UNSET)
    }

    /// Sets the alarm `place` to `at`, or to now when that has passed; it rings only then.
    pub fn set_alarm(&mut self, place: usize, at: Time) {
        self.scheduled += 1;
        self.move_alarm(place, (at.max(self.now), self.scheduled));
    }

    /// Lets the alarm `place` not ring.
    pub fn clear_alarm(&mut self, place: usize) {
        self.move_alarm(place, UNSET);
    }

    fn move_alarm(&mut self, place: usize, to: (Time, u64)) {
        if self.alarms.len() <= place {
            self.alarms.resize(place + 1, UNSET);
        }
        self.alarms[place] = to;
        if to < self.alarms[self.first_alarm] {
            self.first_alarm = place;
        } else if place == self.first_alarm {
            let all = self.alarms.iter().enumerate().min_by_key(|(_, alarm)| **alarm);
            self.first_alarm = all.map_or(0, |(first, _)| first);
        }
    }

    /// Lets `event` happen at `at`, or now when that has passed.
    ///
    /// # Panics
    /// With more than four billion events to come.
    pub fn at(&mut self, at: Time, event: E) {
        self.scheduled += 1;
        let place = match self.free.pop() {
            Some(place) => {
                self.events[place as usize] = Some(event);
                place
            }
            None => {
                self.events.push(Some(event));
                u32::try_from(self.events.len() - 1).expect("a run has fewer events to come")
            }
        };
        self.heap.push(Scheduled { at: at.max(self.now), number: self.scheduled, place });
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
        let alarm = self.alarms.get(self.first_alarm).copied().unwrap_or(UNSET);
        if alarm != UNSET && self.heap.peek().is_none_or(|next| alarm < (next.at, next.number)) {
            let (at, place) = (alarm.0, self.first_alarm);
            self.move_alarm(place, UNSET);
            self.now = at;
            return Some((at, Due::Alarm(place)));
        }
        let next = self.heap.pop()?;
        assert!(next.at >= self.now, "time went back: {:?} after {:?}", next.at, self.now);
        self.now = next.at;
        self.free.push(next.place);
        let event = self.events[next.place as usize].take().expect("it was scheduled once");
        Some((next.at, Due::Event(event)))
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
        let mut alarms = [None; 5];
        for n in 0..2_000_u64 {
            let at = Time(queue.now().0 + rng.below(50));
            if rng.chance(1, 2) {
                let place = rng.below(5) as usize;
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
