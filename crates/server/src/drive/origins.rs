//! Who waits for answers on this node.
//!
//! Every connection and in-process caller is an origin with a bounded queue. A lane hands over one
//! batch per origin and turn. Who lets the queue fill up is hung up on: to wait would let one slow
//! reader stop a lane, to drop one answer would be a lie.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use atoll_coord::{Answer, Origin};
use tokio::sync::mpsc;

/// Answers on their way to one origin.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) answers: Vec<Answer>,
    /// When they left their lane.
    pub(crate) left_at: Instant,
}

impl Batch {
    /// Answers that leave now.
    pub(crate) fn now(answers: Vec<Answer>) -> Self {
        Self { answers, left_at: Instant::now() }
    }
}

/// The registered origins.
#[derive(Debug)]
pub(crate) struct Origins {
    queues: RwLock<HashMap<Origin, mpsc::Sender<Batch>>>,
    next: AtomicU64,
    batches_max: usize,
}

/// An origin with both ends of its queue; the gateway puts refusals of its own into it.
pub(crate) struct Attached {
    pub(crate) origin: Origin,
    pub(crate) sender: mpsc::Sender<Batch>,
    pub(crate) answers: mpsc::Receiver<Batch>,
}

impl Origins {
    /// Origins whose queues hold `batches_max` batches each.
    pub(crate) fn new(batches_max: usize) -> Self {
        Self { queues: RwLock::default(), next: AtomicU64::new(1), batches_max }
    }

    /// A new origin.
    pub(crate) fn attach(&self) -> Attached {
        let origin = Origin(self.next.fetch_add(1, Relaxed));
        let (sender, answers) = mpsc::channel(self.batches_max);
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        queues.insert(origin, sender.clone());
        Attached { origin, sender, answers }
    }

    /// Forgets an origin; false when it was forgotten before.
    pub(crate) fn detach(&self, origin: Origin) -> bool {
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        queues.remove(&origin).is_some()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.queues.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forgets all, so that every connection ends.
    pub(crate) fn hang_up(&self) {
        self.queues.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Hands a turn's answers to who asked, in order. Returns who did not read and was hung up on.
    pub(crate) fn route(&self, answers: &mut Vec<Answer>) -> Vec<Origin> {
        let Some(first) = answers.first().map(|a| a.origin) else { return Vec::new() };
        let mut slow = Vec::new();
        let left_at = Instant::now();
        {
            let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
            let mut send = |origin: Origin, batch: Vec<Answer>| {
                let Some(queue) = queues.get(&origin) else { return };
                if let Err(mpsc::error::TrySendError::Full(_)) =
                    queue.try_send(Batch { answers: batch, left_at })
                {
                    slow.push(origin);
                }
            };
            if answers.iter().all(|a| a.origin == first) {
                send(first, std::mem::take(answers));
            } else {
                let mut batches: BTreeMap<Origin, Vec<Answer>> = BTreeMap::new();
                for answer in answers.drain(..) {
                    batches.entry(answer.origin).or_default().push(answer);
                }
                for (origin, batch) in batches {
                    send(origin, batch);
                }
            }
        }
        for origin in &slow {
            tracing::warn!(
                origin = origin.0,
                limit = self.batches_max,
                "a client does not read its answers, hanging up"
            );
            self.detach(*origin);
        }
        slow
    }
}

#[cfg(test)]
mod tests {
    use atoll_coord::AnswerBody;

    use super::*;

    fn answer(origin: Origin, id: u64) -> Answer {
        Answer { origin, id, body: Ok(AnswerBody::Transferred) }
    }

    #[test]
    fn each_origin_gets_its_answers_in_order_and_the_slow_one_is_hung_up_on() {
        let origins = Origins::new(2);
        let (mut a, b) = (origins.attach(), origins.attach());
        drop(b.sender);
        let (one, two) = (a.origin, b.origin);
        for turn in 0..3 {
            let mut answers = vec![
                answer(one, turn),
                answer(two, turn),
                answer(one, turn + 10),
                answer(Origin(99), 1),
            ];
            let slow = origins.route(&mut answers);
            assert_eq!(slow, if turn == 2 { vec![two] } else { vec![] });
            let ids: Vec<u64> =
                a.answers.try_recv().unwrap().answers.iter().map(|x| x.id).collect();
            assert_eq!(ids, [turn, turn + 10]);
        }
        assert_eq!(origins.len(), 1);
        let mut answers = b.answers;
        assert!(answers.try_recv().is_ok() && answers.try_recv().is_ok());
        assert_eq!(answers.try_recv().unwrap_err(), mpsc::error::TryRecvError::Disconnected);
    }
}
