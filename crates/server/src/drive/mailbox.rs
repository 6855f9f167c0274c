//! What waits for one thread, or for one task.
//!
//! Many threads push, one takes everything at once. The taker sleeps while there is nothing and is
//! woken by the first push only, so that an idle node does nothing at all and a busy one hands over
//! a batch per wake.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
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
    taker: Taker,
    is_nudged: bool,
    is_closed: bool,
}

/// What the taker does.
#[derive(Debug)]
enum Taker {
    /// It will look by itself.
    Awake,
    /// It is a thread that waits to be woken.
    Thread,
    /// It is a task that waits to be woken.
    Task(Waker),
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
            taker: Taker::Awake,
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
        self.wake(state);
    }

    fn add(&self, mut state: MutexGuard<'_, State<T>>, item: T, weight: usize) {
        state.items.push(item);
        state.weight += weight;
        state.since.get_or_insert_with(Instant::now);
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        let taker = std::mem::replace(&mut state.taker, Taker::Awake);
        drop(state);
        match taker {
            Taker::Awake => {}
            Taker::Thread => self.wake.notify_one(),
            Taker::Task(waker) => waker.wake(),
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
            if let Some(taken) = state.take(out) {
                return taken;
            }
            state.taker = Taker::Thread;
            state = match end {
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        state.taker = Taker::Awake;
                        return Taken::TimedOut;
                    }
                    self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// As [`take`](Self::take), for a task: ready when something came or nothing will.
    pub(crate) fn poll_take(&self, context: &Context<'_>, out: &mut Vec<T>) -> Poll<Taken> {
        let mut state = self.lock();
        match state.take(out) {
            Some(taken) => Poll::Ready(taken),
            None => {
                state.taker = Taker::Task(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// As [`poll_take`](Self::poll_take), but what came stays.
    pub(crate) fn poll_filled(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if !state.items.is_empty() || state.is_closed || state.is_nudged {
            return Poll::Ready(());
        }
        state.taker = Taker::Task(context.waker().clone());
        Poll::Pending
    }

    /// Whether something waits.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.lock().items.is_empty()
    }

    /// Refuses what comes from now on; what waits can still be taken.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        self.wake(state);
    }
}

impl<T> State<T> {
    /// Swaps everything that waits into `out`; `None` while nothing does.
    fn take(&mut self, out: &mut Vec<T>) -> Option<Taken> {
        let is_nudged = std::mem::take(&mut self.is_nudged);
        if self.items.is_empty() && self.is_closed {
            return Some(Taken::Closed);
        }
        if self.items.is_empty() {
            return is_nudged.then_some(Taken::Nudged);
        }
        std::mem::swap(&mut self.items, out);
        self.weight = 0;
        let waited = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        Some(Taken::Items(waited))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_task_is_woken_once_for_all_that_comes_and_when_nothing_more_will() {
        let mailbox = Mailbox::new(1);
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let context = Context::from_waker(&waker);
        let mut out = Vec::new();
        assert!(mailbox.poll_take(&context, &mut out).is_pending());
        assert!(!mailbox.has_waiting());
        mailbox.push(1);
        mailbox.push(2);
        assert_eq!(wakes.0.load(SeqCst), 1);
        assert!(mailbox.has_waiting());
        assert!(matches!(mailbox.poll_take(&context, &mut out), Poll::Ready(Taken::Items(_))));
        assert_eq!(out, [1, 2]);
        out.clear();
        assert!(mailbox.poll_take(&context, &mut out).is_pending());
        mailbox.nudge();
        assert_eq!(mailbox.poll_filled(&context), Poll::Ready(()));
        assert_eq!(mailbox.poll_take(&context, &mut out), Poll::Ready(Taken::Nudged));
        assert!(mailbox.poll_filled(&context).is_pending());
        mailbox.push(3);
        assert_eq!(wakes.0.load(SeqCst), 3);
        assert_eq!(mailbox.poll_filled(&context), Poll::Ready(()));
        assert!(matches!(mailbox.poll_take(&context, &mut out), Poll::Ready(Taken::Items(_))));
        out.clear();
        assert!(mailbox.poll_take(&context, &mut out).is_pending());
        mailbox.close();
        assert_eq!(wakes.0.load(SeqCst), 4);
        assert_eq!(mailbox.poll_take(&context, &mut out), Poll::Ready(Taken::Closed));
    }

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
