//! Virtual time: what will happen, in order.
//!
//! The queue is the only clock of a simulation. Two events at the same instant happen in the order
//! in which they were scheduled, so that a seed has one future.

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
}

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
        }
    }
}

impl<E> EventQueue<E> {
    /// The time of the last event taken.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// Events not yet taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True when nothing will ever happen again.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
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
    pub fn pop(&mut self) -> Option<(Time, E)> {
        let next = self.heap.pop()?;
        assert!(next.at >= self.now, "time went back: {:?} after {:?}", next.at, self.now);
        self.now = next.at;
        self.free.push(next.place);
        let event = self.events[next.place as usize].take().expect("it was scheduled once");
        Some((next.at, event))
    }

    /// When the next event happens.
    #[must_use]
    pub fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|next| next.at)
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
        assert_eq!(queue.pop(), Some((Time(10), 'a')));
        queue.at(Time(5), 'x');
        assert_eq!(queue.pop(), Some((Time(10), 'b')));
        assert_eq!(queue.pop(), Some((Time(10), 'x')));
        assert_eq!(queue.next_at(), Some(Time(20)));
        assert_eq!(queue.pop(), Some((Time(20), 'c')));
        assert!(queue.is_empty());
        assert_eq!(queue.now(), Time(20));
    }
}
