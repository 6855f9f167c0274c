//! What one stream of watches has to say, in order.
//!
//! The feed, the stream's own task and the tasks of watches that catch up all put things in; the
//! connection takes them out when it can send. Changes of one watch that wait are told in one
//! answer, and those of one revision always are. The queue is bounded: whoever can wait waits for
//! room, and the feed, which can't, takes the watch out and leaves a note that it fell behind.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use atoll_base::Revision;
use atoll_wire::etcd::etcdserverpb as pb;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio_stream::Stream;
use tonic::Status;

use super::super::space::Space;

/// Bytes that wait before there is no more room.
const WAITING_BYTES_MAX: usize = 2 << 20;
/// What a thing that waits costs besides its bytes.
const ITEM_COST: usize = 64;
/// An answer with this many bytes of changes takes no more revisions.
const ANSWER_BYTES: usize = 1 << 20;

/// The receiver of a stream is gone.
pub(super) struct Gone;

/// What keeps the feed from putting changes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// There is no room.
    Full,
    /// Nobody takes anything out any more.
    Closed,
}

/// One change for one watch, as it goes over the wire.
#[derive(Clone)]
pub(super) struct Piece {
    pub(super) watch: i64,
    pub(super) revision: Revision,
    pub(super) event: Bytes,
}

enum Item {
    Said(Result<pb::WatchResponse, Status>),
    Piece(Piece),
}

impl Item {
    fn cost(&self) -> usize {
        match self {
            Self::Said(Ok(answer)) => {
                answer.events.iter().map(Bytes::len).sum::<usize>() + ITEM_COST
            }
            Self::Said(Err(_)) => ITEM_COST,
            Self::Piece(piece) => piece.event.len() + ITEM_COST,
        }
    }
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// Put together, not yet taken.
    answers: VecDeque<(Result<pb::WatchResponse, Status>, usize)>,
    waker: Option<Waker>,
    is_closed: bool,
    is_ended: bool,
    /// Watches that the feed took out, and the first revision that each was not told.
    behind: Vec<(i64, Revision)>,
}

/// The queue of one stream.
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    /// There is room again, or nobody reads any more.
    room: Notify,
    closed: Notify,
    fell_behind: Notify,
}

impl Outbox {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            room: Notify::new(),
            closed: Notify::new(),
            fell_behind: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(mut queue: MutexGuard<'_, Queue>, items: impl Iterator<Item = Item>) {
        for item in items {
            queue.bytes += item.cost();
            queue.items.push_back(item);
        }
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Says something when there is room.
    pub(super) async fn say(&self, said: Result<pb::WatchResponse, Status>) -> Result<(), Gone> {
        let mut said = Some(said);
        loop {
            let room = self.room.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            if self.say_if_room(&mut said)? {
                return Ok(());
            }
            room.await;
        }
    }

    /// Takes what is to be said, if there is room for it.
    fn say_if_room(
        &self,
        said: &mut Option<Result<pb::WatchResponse, Status>>,
    ) -> Result<bool, Gone> {
        let queue = self.lock();
        if queue.is_closed {
            return Err(Gone);
        }
        if queue.bytes >= WAITING_BYTES_MAX {
            return Ok(false);
        }
        Self::put(queue, said.take().map(Item::Said).into_iter());
        Ok(true)
    }

    /// Says something short at once, whether there is room or not.
    pub(super) fn say_now(&self, said: pb::WatchResponse) {
        Self::put(self.lock(), std::iter::once(Item::Said(Ok(said))));
    }

    pub(super) fn has_room(&self) -> bool {
        self.lock().bytes < WAITING_BYTES_MAX
    }

    /// Puts changes in, all or none; those of one revision must come together.
    pub(super) fn deliver(&self, pieces: &mut dyn Iterator<Item = Piece>) -> Result<(), Refused> {
        let queue = self.lock();
        if queue.is_closed {
            return Err(Refused::Closed);
        }
        if queue.bytes >= WAITING_BYTES_MAX {
            return Err(Refused::Full);
        }
        Self::put(queue, pieces.map(Item::Piece));
        Ok(())
    }

    /// Notes that a watch is no longer in the feed; `next` is the first revision it has not got.
    pub(super) fn note_behind(&self, watch: i64, next: Revision) {
        self.lock().behind.push((watch, next));
        self.fell_behind.notify_one();
    }

    /// Whether a watch fell behind and nobody has asked for that yet.
    pub(super) fn is_noted(&self, watch: i64) -> bool {
        self.lock().behind.iter().any(|(id, _)| *id == watch)
    }

    /// Waits until watches fell behind.
    pub(super) async fn behind(&self) -> Vec<(i64, Revision)> {
        loop {
            let behind = std::mem::take(&mut self.lock().behind);
            if !behind.is_empty() {
                return behind;
            }
            self.fell_behind.notified().await;
        }
    }

    /// Waits until nobody reads any more.
    pub(super) async fn closed(&self) {
        while !self.lock().is_closed {
            self.closed.notified().await;
        }
    }

    /// Nothing more will be said; the stream ends behind what waits.
    pub(super) fn end(&self) {
        let mut queue = self.lock();
        queue.is_ended = true;
        Self::put(queue, std::iter::empty());
    }
}

/// The stream that the connection reads.
pub(super) struct Answers {
    outbox: Arc<Outbox>,
    space: Arc<Space>,
}

impl Answers {
    pub(super) fn new(outbox: Arc<Outbox>, space: Arc<Space>) -> Self {
        Self { outbox, space }
    }
}

impl Stream for Answers {
    type Item = Result<pb::WatchResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = self.outbox.lock();
        if queue.answers.is_empty() {
            queue.assemble(&self.space);
        }
        let Some((answer, cost)) = queue.answers.pop_front() else {
            if queue.is_ended {
                return Poll::Ready(None);
            }
            queue.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        let was_full = queue.bytes >= WAITING_BYTES_MAX;
        queue.bytes = queue.bytes.saturating_sub(cost);
        let has_room = queue.bytes < WAITING_BYTES_MAX;
        drop(queue);
        if was_full && has_room {
            self.outbox.room.notify_waiters();
        }
        Poll::Ready(Some(answer))
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.outbox.lock().is_closed = true;
        self.outbox.room.notify_waiters();
        self.outbox.closed.notify_one();
    }
}

impl Queue {
    /// Makes answers of what waits: the changes of a watch that nothing parts become one.
    fn assemble(&mut self, space: &Space) {
        let mut pieces: Vec<Piece> = Vec::new();
        while let Some(item) = self.items.pop_front() {
            let cost = item.cost();
            match item {
                Item::Piece(piece) => pieces.push(piece),
                Item::Said(said) => {
                    self.gather(&mut pieces, space);
                    self.answers.push_back((said, cost));
                }
            }
        }
        self.gather(&mut pieces, space);
    }

    fn gather(&mut self, pieces: &mut Vec<Piece>, space: &Space) {
        // Stable: a watch's changes stay in order.
        pieces.sort_by_key(|piece| piece.watch);
        let mut rest = pieces.drain(..).peekable();
        while let Some(piece) = rest.next() {
            let watch_id = piece.watch;
            let mut revision = piece.revision;
            let mut cost = piece.event.len() + ITEM_COST;
            let mut events = vec![piece.event];
            while let Some(more) = rest.next_if(|more| {
                more.watch == watch_id && (cost < ANSWER_BYTES || more.revision == revision)
            }) {
                revision = more.revision;
                cost += more.event.len() + ITEM_COST;
                events.push(more.event);
            }
            let header = Some(space.header(revision));
            let answer = pb::WatchResponse { header, watch_id, events, ..Default::default() };
            self.answers.push_back((Ok(answer), cost));
        }
    }
}
