//! What waits for one connection to one peer.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use atoll_replica::PeerMessage;
use atoll_wire::peer::{self, encode};
use atoll_wire::peer_v1::{Hello, PeerFrame};
use tokio::time::{Instant, Sleep};
use tokio_stream::Stream;

use super::stats::{LinkStats, add};

/// Messages kept while there is no connection: enough for an election to begin, too few to be
/// stale.
const DOWN_MESSAGES_MAX: usize = 64;

/// Bounds of one queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueBounds {
    pub(super) messages_max: usize,
    pub(super) bytes_max: usize,
    pub(super) frame_bytes: usize,
    pub(super) message_bytes_max: usize,
    /// A stream that carried nothing for so long carries an empty frame.
    pub(super) sign_of_life: Duration,
}

/// Whether somebody pulls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Connection {
    Up,
    Down,
}

/// A bounded queue with one puller, which is a stream of frames.
#[derive(Debug)]
pub(super) struct Queue {
    bounds: QueueBounds,
    stats: Arc<LinkStats>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    messages: VecDeque<PeerMessage>,
    bytes: usize,
    connection: Connection,
    /// Grows with every connection: a stream of an older one ends instead of stealing messages.
    generation: u64,
    waker: Option<Waker>,
}

impl Queue {
    pub(super) fn new(bounds: QueueBounds, stats: Arc<LinkStats>) -> Self {
        let state = State {
            messages: VecDeque::new(),
            bytes: 0,
            connection: Connection::Down,
            generation: 0,
            waker: None,
        };
        Self { bounds, stats, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what fits; wakes the puller once. Never blocks.
    pub(super) fn push(&self, messages: impl IntoIterator<Item = PeerMessage>) {
        let (mut full, mut down, mut large) = (0, 0, 0);
        let mut state = self.lock();
        for message in messages {
            let bytes = peer::size_hint(&message);
            if bytes > self.bounds.message_bytes_max {
                large += 1;
                continue;
            }
            if state.connection == Connection::Down {
                if state.messages.len() >= DOWN_MESSAGES_MAX {
                    state.drop_oldest();
                    down += 1;
                }
            } else if state.messages.len() >= self.bounds.messages_max
                || (state.bytes + bytes > self.bounds.bytes_max && !state.messages.is_empty())
            {
                full += 1;
                continue;
            }
            state.bytes += bytes;
            state.messages.push_back(message);
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        add(&self.stats.dropped_full, full);
        add(&self.stats.dropped_down, down);
        add(&self.stats.dropped_too_large, large);
    }

    /// Begins a connection: its frames, the first of which says hello.
    pub(super) fn connected(self: &Arc<Self>, hello: Hello) -> Frames {
        let mut state = self.lock();
        state.connection = Connection::Up;
        state.generation += 1;
        let sign = Box::pin(tokio::time::sleep(self.bounds.sign_of_life));
        Frames { queue: self.clone(), generation: state.generation, hello: Some(hello), sign }
    }

    /// The connection is gone: what waits beyond a few messages is dropped.
    pub(super) fn disconnected(&self) {
        let mut state = self.lock();
        state.connection = Connection::Down;
        state.generation += 1;
        let mut dropped = 0;
        while state.messages.len() > DOWN_MESSAGES_MAX {
            state.drop_oldest();
            dropped += 1;
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        add(&self.stats.dropped_down, dropped);
    }

    /// Ready once something waits. Only for the owner task, while there is no connection.
    pub(super) fn poll_waiting(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if !state.messages.is_empty() {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl State {
    fn drop_oldest(&mut self) {
        if let Some(message) = self.messages.pop_front() {
            self.bytes -= peer::size_hint(&message);
        }
    }

    /// Takes from the front until a frame is full.
    fn take_frame(&mut self, frame_bytes: usize) -> Vec<PeerMessage> {
        let mut taken = 0;
        let mut bytes = 0;
        for message in &self.messages {
            let size = peer::size_hint(message);
            if taken > 0 && bytes + size > frame_bytes {
                break;
            }
            (taken, bytes) = (taken + 1, bytes + size);
        }
        self.bytes -= bytes;
        self.messages.drain(..taken).collect()
    }
}

/// The frames of one connection: whatever waits, whenever the network asks for more.
#[derive(Debug)]
pub(super) struct Frames {
    queue: Arc<Queue>,
    generation: u64,
    hello: Option<Hello>,
    /// When the next empty frame is due.
    sign: Pin<Box<Sleep>>,
}

impl Frames {
    /// Something leaves: the next sign of life has time.
    fn put_off(&mut self) {
        let at = Instant::now() + self.queue.bounds.sign_of_life;
        self.sign.as_mut().reset(at);
    }
}

impl Stream for Frames {
    type Item = PeerFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PeerFrame>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(PeerFrame { hello: Some(hello), messages: Vec::new() }));
        }
        let queue = self.queue.clone();
        let mut state = queue.lock();
        if state.generation != self.generation {
            return Poll::Ready(None);
        }
        if state.messages.is_empty() {
            state.waker = Some(cx.waker().clone());
            drop(state);
            if self.sign.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.put_off();
            return Poll::Ready(Some(PeerFrame::default()));
        }
        let messages = state.take_frame(queue.bounds.frame_bytes);
        drop(state);
        add(&queue.stats.frames_sent, 1);
        add(&queue.stats.messages_sent, messages.len());
        self.put_off();
        let messages = messages.into_iter().map(encode).collect();
        Poll::Ready(Some(PeerFrame { hello: None, messages }))
    }
}
