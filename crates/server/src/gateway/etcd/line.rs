//! Who waits on this node for a place at the head of a queue of keys, and when to tell them.
//!
//! A queue that somebody waits in is followed by one watch of the node, whoever and however many
//! wait: a key that goes reaches the node as an event, and the one whose key is the oldest then is
//! told. So a hand-over costs one change in the log and one event, and nobody reads the queue anew.
//!
//! The event says what was so at a revision: the waiter's key stood there, in the shard's own
//! order, and none older did. A key that its lease took along is gone from the queue at that
//! revision, too, so nobody is served whose lease had ended by then (trap T27). A waiter whose key
//! exists and that nobody stands before stays first until its key goes, so it does not matter that
//! the node may hear of it a moment later.
//!
//! Invariants:
//! - L1 The queue is that of the shard at revision `through`.
//! - L2 No waiter's key is the oldest, and none that should be in the queue by now is missing: such
//!   waiters were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_base::{Code, Failure, Revision};
use atoll_client::{Keys, Watch};
use atoll_machine::{Event, EventKind, KeyValue};
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::queue::prefix;
use super::refusal::{refused, stopped};
use super::{Call, TIMEOUT};

/// A queue that nobody here waited in for so long is followed no more.
const LINGER: Duration = Duration::from_secs(10);

/// What became of a waiter's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// At this revision it was in the queue and none older was.
    First(Revision),
    /// It is not in the queue any more.
    Gone,
}

type Waiter = oneshot::Sender<Result<Verdict, Status>>;
/// A key's place: the revision that created it, then the key, for those of one transaction.
type Standing = (Revision, Bytes);

/// One queue.
#[derive(Default)]
struct Line {
    through: Revision,
    keys: BTreeMap<Bytes, Revision>,
    order: BTreeSet<Standing>,
    waiters: BTreeMap<Standing, Vec<Waiter>>,
    /// Somebody came since it was looked at last.
    is_used: bool,
}

impl Line {
    fn wait(&mut self, standing: Standing, waiter: Waiter) {
        self.is_used = true;
        if standing.0 <= self.through && !self.order.contains(&standing) {
            let _ = waiter.send(Ok(Verdict::Gone));
            return;
        }
        self.waiters.entry(standing).or_default().push(waiter);
        self.settle();
    }

    /// The queue at `revision`, whatever was known before.
    fn begin(&mut self, revision: Revision, queue: Vec<KeyValue>) {
        self.through = revision;
        self.order = queue.iter().map(|kv| (kv.create_revision, kv.key.clone())).collect();
        self.keys = queue.into_iter().map(|kv| (kv.key, kv.create_revision)).collect();
        let order = &self.order;
        let gone = self.waiters.extract_if(.., |s, _| s.0 <= revision && !order.contains(s));
        gone.for_each(|(_, waiters)| tell(Some(waiters), Verdict::Gone));
        self.settle();
    }

    /// What happened to keys of the queue, up to `through`.
    fn take(&mut self, events: Vec<Event>, through: Revision) {
        for Event { key, kind, .. } in events {
            let now = match kind {
                EventKind::Put(record) => Some(record.create_revision),
                EventKind::Delete => None,
            };
            let before = match now {
                Some(created) => self.keys.insert(key.clone(), created),
                None => self.keys.remove(&key),
            };
            if let Some(created) = before.filter(|_| before != now) {
                let standing = (created, key.clone());
                self.order.remove(&standing);
                tell(self.waiters.remove(&standing), Verdict::Gone);
            }
            if let Some(created) = now {
                self.order.insert((created, key));
            }
        }
        self.through = self.through.max(through);
        self.settle();
    }

    /// Tells those whose keys are the oldest (L2).
    fn settle(&mut self) {
        let Some((first, _)) = self.order.first() else { return };
        for standing in self.order.iter().take_while(|(created, _)| created == first) {
            tell(self.waiters.remove(standing), Verdict::First(self.through));
        }
    }

    /// Whether nobody waited since this was asked last.
    fn is_unused(&mut self) -> bool {
        self.waiters.retain(|_, waiters| waiters.iter().any(|w| !w.is_closed()));
        !std::mem::take(&mut self.is_used) && self.waiters.is_empty()
    }
}

fn tell(waiters: Option<Vec<Waiter>>, verdict: Verdict) {
    // Who is not there any more gives up the place by itself.
    waiters.into_iter().flatten().for_each(|w| drop(w.send(Ok(verdict))));
}

/// The queues of a store that this node follows, by their names.
#[derive(Default)]
pub(super) struct Lines {
    all: Mutex<BTreeMap<Bytes, Line>>,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Bytes, Line>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the queue is being followed.
    pub(super) fn is_followed(&self, name: &[u8]) -> bool {
        self.lock().contains_key(name)
    }

    fn with<T>(&self, name: &[u8], change: impl FnOnce(&mut Line) -> T) -> Option<T> {
        self.lock().get_mut(name).map(change)
    }
}

/// Waits until the key that was created at `created` is the first of the queue for `name`, or gone.
pub(super) async fn verdict(
    call: &Call,
    name: &Bytes,
    standing: Standing,
) -> Result<Verdict, Status> {
    let (waiter, told) = oneshot::channel();
    {
        let mut all = call.lines.lock();
        let line = all.entry(name.clone()).or_insert_with(|| {
            tokio::spawn(follow(call.patient(), name.clone()));
            Line::default()
        });
        line.wait(standing, waiter);
    }
    told.await.unwrap_or_else(|_| Err(stopped()))
}

/// Follows a queue for as long as somebody waits in it here.
async fn follow(call: Call, name: Bytes) {
    let ended = pass_on(&call, &name).await;
    let Err(status) = ended else { return };
    let line = call.lines.lock().remove(&name);
    let waiters = line.into_iter().flat_map(|line| line.waiters.into_values()).flatten();
    waiters.for_each(|w| drop(w.send(Err(status.clone()))));
}

async fn pass_on(call: &Call, name: &Bytes) -> Result<(), Status> {
    loop {
        let (revision, queue) = call.queue(name).await?;
        if call.lines.with(name, |line| line.begin(revision, queue)).is_none() {
            return Ok(());
        }
        let watch = call.keyspace.watch(Keys::prefix(prefix(name))).from(revision.next());
        let ended = match watch.start().await {
            Ok(watch) => tell_of(call, name, watch).await,
            Err(failure) => Err(failure),
        };
        match ended {
            Ok(()) => return Ok(()),
            // Too far behind: what the queue is now says all that is needed.
            Err(failure) if failure.code == Code::Compacted => {}
            Err(failure) => return Err(refused(&failure)),
        }
    }
}

/// Passes on what is heard until nobody needs it.
async fn tell_of(call: &Call, name: &Bytes, mut watch: Watch) -> Result<(), Failure> {
    let mut look_at = Instant::now() + LINGER;
    loop {
        let Ok(next) = timeout_at(look_at, watch.next()).await else {
            look_at = Instant::now() + LINGER;
            let mut all = call.lines.lock();
            if all.get_mut(name).is_none_or(Line::is_unused) {
                all.remove(name);
                return Ok(());
            }
            continue;
        };
        let ended = || Failure::new(Code::Internal, "the watch of a queue ended");
        let changes = next.ok_or_else(ended)??;
        call.space.saw(changes.through);
        call.lines.with(name, |line| line.take(changes.events, changes.through));
    }
}

impl Call {
    /// The same store for as long as it takes, whatever time this call has.
    fn patient(&self) -> Self {
        Self {
            space: self.space.clone(),
            feed: self.feed.clone(),
            lines: self.lines.clone(),
            client: self.client.clone(),
            keyspace: self.keyspace.clone().with_timeout(TIMEOUT),
            timeout: TIMEOUT,
        }
    }
}

#[cfg(test)]
mod tests {
    use atoll_machine::Record;

    use super::*;

    fn standing(created: u64, key: &'static str) -> Standing {
        (Revision(created), Bytes::from(key))
    }

    fn pair((created, key): Standing) -> KeyValue {
        KeyValue { key, create_revision: created, mod_revision: created, ..KeyValue::default() }
    }

    fn put((created, key): Standing, revision: u64) -> Event {
        let revision = Revision(revision);
        let record = Record {
            mod_revision: revision,
            create_revision: created,
            version: 1,
            lease: None,
            value: Bytes::new(),
        };
        Event { revision, key, kind: EventKind::Put(record), previous: None }
    }

    fn delete(key: &'static str, revision: u64) -> Event {
        let revision = Revision(revision);
        Event { revision, key: key.into(), kind: EventKind::Delete, previous: None }
    }

    type Told = oneshot::Receiver<Result<Verdict, Status>>;

    fn wait(line: &mut Line, standing: Standing) -> Told {
        let (waiter, told) = oneshot::channel();
        line.wait(standing, waiter);
        told
    }

    /// What a waiter was told; nothing so far, or its answer.
    fn heard(told: &mut Told) -> Option<Verdict> {
        told.try_recv().ok().map(|verdict| verdict.expect("no failure"))
    }

    #[test]
    fn the_oldest_key_is_served_when_the_one_before_goes() {
        let mut line = Line::default();
        let mut second = wait(&mut line, standing(7, "a"));
        line.begin(Revision(6), vec![pair(standing(5, "b"))]);
        assert_eq!(heard(&mut second), None, "it is not yet known to be in the queue");
        line.take(vec![put(standing(7, "a"), 7)], Revision(7));
        // The holder says something else: its place stays.
        line.take(vec![put(standing(5, "b"), 8)], Revision(8));
        let mut first = wait(&mut line, standing(5, "b"));
        assert_eq!(heard(&mut first), Some(Verdict::First(Revision(8))));
        assert_eq!(heard(&mut second), None);
        line.take(vec![delete("b", 9)], Revision(9));
        assert_eq!(heard(&mut second), Some(Verdict::First(Revision(9))));
        // Whoever asks again is told the same.
        assert_eq!(
            heard(&mut wait(&mut line, standing(7, "a"))),
            Some(Verdict::First(Revision(9)))
        );
    }

    #[test]
    fn a_key_that_went_is_never_served() {
        let mut line = Line::default();
        let mut lost = wait(&mut line, standing(4, "lost"));
        line.begin(Revision(6), vec![pair(standing(5, "b"))]);
        assert_eq!(heard(&mut lost), Some(Verdict::Gone));
        assert_eq!(heard(&mut wait(&mut line, standing(6, "c"))), Some(Verdict::Gone));
        let mut waiter = wait(&mut line, standing(8, "d"));
        // The lease of both ends in one revision, and its key comes back at once.
        let news = vec![put(standing(8, "d"), 8), delete("b", 9), delete("d", 9)];
        line.take(news, Revision(9));
        line.take(vec![put(standing(10, "d"), 10)], Revision(10));
        assert_eq!(heard(&mut waiter), Some(Verdict::Gone));
        assert_eq!(
            heard(&mut wait(&mut line, standing(10, "d"))),
            Some(Verdict::First(Revision(10)))
        );
    }

    #[test]
    fn a_queue_read_anew_tells_what_was_missed() {
        let mut line = Line::default();
        line.begin(Revision(9), [5, 6, 7].map(|n| pair(standing(n, KEYS[n as usize]))).to_vec());
        let mut waiting = [6, 7].map(|n| wait(&mut line, standing(n, KEYS[n as usize])));
        line.begin(Revision(20), vec![pair(standing(7, KEYS[7]))]);
        let [sixth, seventh] = &mut waiting;
        assert_eq!(heard(sixth), Some(Verdict::Gone));
        assert_eq!(heard(seventh), Some(Verdict::First(Revision(20))));
    }

    const KEYS: [&str; 8] = ["0", "1", "2", "3", "4", "5", "6", "7"];

    #[test]
    fn keys_of_one_transaction_are_first_together() {
        let mut line = Line::default();
        line.begin(Revision(5), vec![pair(standing(5, "a")), pair(standing(5, "b"))]);
        for key in ["a", "b"] {
            let told = heard(&mut wait(&mut line, standing(5, key)));
            assert_eq!(told, Some(Verdict::First(Revision(5))));
        }
    }

    #[test]
    fn a_queue_is_unused_when_nobody_waited_since_the_last_look() {
        let mut line = Line::default();
        line.begin(Revision(5), vec![pair(standing(5, "a"))]);
        let waiter = wait(&mut line, standing(6, "b"));
        assert!(!line.is_unused());
        assert!(!line.is_unused(), "somebody still waits");
        drop(waiter);
        assert!(line.is_unused());
    }
}
