//! What waits for one thread.
//!
//! Many threads push, one takes everything at once. The taker sleeps while there is nothing and is
//! woken by the first push only, so that an idle node does nothing at all and a busy one hands over
//! a batch per wake.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A queue with one taker.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
    weight_max: usize,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    weight: usize,
    /// When the oldest of `items` came.
    since: Option<Instant>,
    is_asleep: bool,
    is_nudged: bool,
    is_closed: bool,
}

/// Whose room an item takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Urgency {
    /// The ordinary room.
    Normal,
    /// As much again, which ordinary items never take: clients can't crowd out consensus.
    Urgent,
}

/// A push that found no room, or nobody to take it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// So much waits already; the limit is reached.
    Full {
        /// What waits.
        waiting: usize,
        /// The most that may wait.
        limit: usize,
    },
    /// The taker is gone.
    Closed,
}

/// What a taker got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// Items, the first of which waited for so long.
    Items(Duration),
    /// Nothing waits, but somebody wants the taker awake.
    Nudged,
    /// Nothing came in time.
    TimedOut,
    /// Nothing waits and nothing will come.
    Closed,
}

impl<T> Mailbox<T> {
    /// A queue that refuses optional items beyond `weight_max`.
    pub(crate) fn new(weight_max: usize) -> Self {
        let state = State {
            items: Vec::new(),
            weight: 0,
            since: None,
            is_asleep: false,
            is_nudged: false,
            is_closed: false,
        };
        Self { state: Mutex::new(state), wake: Condvar::new(), weight_max }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what must not be lost, whatever waits already; its producer bounds it.
    pub(crate) fn push(&self, item: T) {
        let state = self.lock();
        if !state.is_closed {
            self.add(state, item, 0);
        }
    }

    /// Adds an item of this weight if there is room.
    pub(crate) fn try_push(&self, item: T, weight: usize, urgency: Urgency) -> Result<(), Refused> {
        let state = self.lock();
        match self.refusal(&state, weight, urgency) {
            Some(refused) => Err(refused),
            None => {
                self.add(state, item, weight);
                Ok(())
            }
        }
    }

    /// Makes the taker return from `take`, now or the next time, with nothing if nothing waits.
    pub(crate) fn nudge(&self) {
        let mut state = self.lock();
        state.is_nudged = true;
        let wake = std::mem::take(&mut state.is_asleep);
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    fn add(&self, mut state: MutexGuard<'_, State<T>>, item: T, weight: usize) {
        state.items.push(item);
        state.weight += weight;
        state.since.get_or_insert_with(Instant::now);
        let wake = std::mem::take(&mut state.is_asleep);
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Why an ordinary item of this weight would be refused now, if it would.
    pub(crate) fn would_refuse(&self, weight: usize) -> Option<Refused> {
        self.refusal(&self.lock(), weight, Urgency::Normal)
    }

    fn refusal(&self, state: &State<T>, weight: usize, urgency: Urgency) -> Option<Refused> {
        if state.is_closed {
            return Some(Refused::Closed);
        }
        let waiting = state.weight;
        let limit = match urgency {
            Urgency::Normal => self.weight_max,
            Urgency::Urgent => self.weight_max.saturating_mul(2),
        };
        // A batch larger than the limit passes when nothing else waits: it would never fit.
        (waiting > 0 && waiting + weight > limit).then_some(Refused::Full { waiting, limit })
    }

    /// Swaps everything that waits into `out` (which must be empty); sleeps until something comes,
    /// at most for `timeout`.
    pub(crate) fn take(&self, out: &mut Vec<T>, timeout: Option<Duration>) -> Taken {
        let end = timeout.map(|t| Instant::now() + t);
        let mut state = self.lock();
        loop {
            let is_nudged = std::mem::take(&mut state.is_nudged);
            if !state.items.is_empty() {
                std::mem::swap(&mut state.items, out);
                state.weight = 0;
                let waited = state.since.take().map_or(Duration::ZERO, |since| since.elapsed());
                return Taken::Items(waited);
            }
            if state.is_closed {
                return Taken::Closed;
            }
            if is_nudged {
                return Taken::Nudged;
            }
            state.is_asleep = true;
            state = match end {
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        state.is_asleep = false;
                        return Taken::TimedOut;
                    }
                    self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Refuses what comes from now on; what waits can still be taken.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.is_asleep = false;
        drop(state);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn everything_that_waits_is_taken_at_once_and_in_order() {
        let mailbox = Mailbox::new(10);
        mailbox.push(1);
        mailbox.try_push(2, 8, Urgency::Normal).unwrap();
        let full = Refused::Full { waiting: 8, limit: 10 };
        assert_eq!(mailbox.try_push(3, 3, Urgency::Normal), Err(full));
        assert_eq!(mailbox.would_refuse(3), Some(full));
        mailbox.try_push(3, 3, Urgency::Urgent).unwrap();
        mailbox.push(4);
        let mut out = Vec::new();
        assert!(matches!(mailbox.take(&mut out, None), Taken::Items(_)));
        assert_eq!(out, [1, 2, 3, 4]);
        out.clear();
        assert_eq!(mailbox.take(&mut out, Some(Duration::ZERO)), Taken::TimedOut);
        mailbox.push(5);
        mailbox.close();
        assert_eq!(mailbox.try_push(6, 1, Urgency::Urgent), Err(Refused::Closed));
        assert!(matches!(mailbox.take(&mut out, None), Taken::Items(_)));
        assert_eq!(out, [5]);
        out.clear();
        assert_eq!(mailbox.take(&mut out, None), Taken::Closed);
    }

    #[test]
    fn a_nudge_wakes_the_taker_once_and_hides_nothing() {
        let mailbox = Arc::new(Mailbox::new(1));
        let mut out = Vec::new();
        mailbox.nudge();
        mailbox.nudge();
        assert_eq!(mailbox.take(&mut out, None), Taken::Nudged);
        assert_eq!(mailbox.take(&mut out, Some(Duration::ZERO)), Taken::TimedOut);
        mailbox.nudge();
        mailbox.push(1);
        assert!(matches!(mailbox.take(&mut out, None), Taken::Items(_)));
        out.clear();
        assert_eq!(mailbox.take(&mut out, Some(Duration::ZERO)), Taken::TimedOut);
        let taker = std::thread::spawn({
            let mailbox = mailbox.clone();
            move || mailbox.take(&mut Vec::new(), None)
        });
        mailbox.nudge();
        assert_eq!(taker.join().unwrap(), Taken::Nudged);
        mailbox.close();
        mailbox.nudge();
        assert_eq!(mailbox.take(&mut out, None), Taken::Closed);
    }

    #[test]
    fn a_sleeping_taker_misses_nothing() {
        let mailbox = Arc::new(Mailbox::new(1));
        let taker = std::thread::spawn({
            let mailbox = mailbox.clone();
            move || {
                let (mut all, mut out) = (0, Vec::new());
                while mailbox.take(&mut out, None) != Taken::Closed {
                    all += out.drain(..).count();
                }
                all
            }
        });
        let pushers: Vec<_> = (0..3)
            .map(|_| {
                let mailbox = mailbox.clone();
                std::thread::spawn(move || (0..2000).for_each(|i| mailbox.push(i)))
            })
            .collect();
        for pusher in pushers {
            pusher.join().unwrap();
        }
        mailbox.close();
        assert_eq!(taker.join().unwrap(), 6000);
    }
}
