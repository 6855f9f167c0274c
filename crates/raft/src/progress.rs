//! What a leader knows about one follower, and how much it dares to send it.
//!
//! A follower is *probed* (one append at a time) until an answer shows where the logs meet; then it
//! is *replicated* to: `next` runs ahead of `matched` and several appends are in flight at once
//! (thesis 10.2). One whose next entry was cut from the log waits for a *snapshot*.
//!
//! Invariant I6: `matched < next`. The window is bounded in messages and in bytes; the message that
//! crosses the byte bound is still sent, so that one large entry can't block a follower for ever.

use std::collections::VecDeque;

use atoll_base::{LogIndex, Time};

/// How a leader sends to a follower (thesis 10.2; the states are those of etcd's raft).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendState {
    /// One append at a time; `waiting` while one is unanswered.
    Probe {
        /// An append or nothing new is under way.
        waiting: bool,
    },
    /// Appends flow, as many as the window allows.
    Replicate,
    /// Its next entry is gone from the log: a snapshot is asked for or on its way.
    Snapshot,
}

/// A leader's view of one follower (paper, figure 2: `matchIndex` and `nextIndex`).
#[derive(Clone, Debug)]
pub struct Progress {
    /// The last entry known to be durable there and equal to the leader's.
    pub matched: LogIndex,
    /// The next entry to send.
    pub next: LogIndex,
    /// How to send.
    pub state: SendState,
    /// The largest commit index that was sent.
    pub commit_sent: LogIndex,
    /// When it was last heard of in this term (check-quorum, thesis 6.2).
    pub heard_at: Time,
    /// The latest round that it answered (thesis 6.4).
    pub round: u64,
    /// What is in flight.
    pub window: Window,
    /// When unanswered appends are looked into.
    pub probe_at: Time,
    /// False when the node layer says that its node is gone.
    pub alive: bool,
    /// The life of its log that acknowledges; what earlier ones did counts no more.
    pub life: u64,
    /// It forgot what it acknowledged up to here, and is whole when it has that again.
    pub owed: Option<LogIndex>,
    /// It holds no data; known also while the entry that leaves it out is being appended.
    pub is_witness: bool,
    /// Its log is whole and its state is not, whatever `state` says.
    pub is_stateless: bool,
    /// A snapshot was asked for its sake and was not reported on yet.
    pub(crate) snapshot_asked: bool,
}

impl Progress {
    /// A follower of which nothing is known: probing starts after `last`.
    #[must_use]
    pub fn new(last: LogIndex, now: Time) -> Self {
        Self {
            matched: LogIndex::ZERO,
            next: last.next(),
            state: SendState::Probe { waiting: false },
            commit_sent: LogIndex::ZERO,
            heard_at: now,
            round: 0,
            window: Window::default(),
            probe_at: now,
            alive: true,
            life: 0,
            owed: None,
            is_witness: false,
            is_stateless: false,
            snapshot_asked: false,
        }
    }

    /// Back to one append at a time, from `next`.
    pub(crate) fn probe(&mut self, next: LogIndex) {
        self.next = next.max(self.matched.next());
        self.state = SendState::Probe { waiting: false };
        self.window.clear();
    }

    /// It speaks of a life of its log; one that is news begins with nothing. `last` ends the
    /// leader's
    /// log.
    pub(crate) fn meet_life(&mut self, life: u64, last: LogIndex) {
        if life > self.life {
            self.life = life;
            self.owed = None;
            if self.matched > LogIndex::ZERO {
                self.matched = LogIndex::ZERO;
                self.probe(last.next());
            }
        }
    }

    /// It no longer says that it has no state.
    pub(crate) fn has_state_again(&mut self) {
        self.is_stateless = false;
        self.snapshot_asked = false;
    }

    /// It is durable and equal up to `matched`. True when that is news.
    pub(crate) fn advance(&mut self, matched: LogIndex) -> bool {
        self.window.free_to(matched);
        let news = matched > self.matched;
        if news {
            self.matched = matched;
            self.next = self.next.max(matched.next());
        }
        self.owed = self.owed.filter(|to| *to > self.matched);
        news
    }

    /// Append messages in flight, probes included.
    #[must_use]
    pub fn inflight(&self) -> usize {
        self.window.messages()
    }
}

/// Appends sent and not yet acknowledged, oldest first (thesis 10.2). Bounded in messages and in
/// bytes by whoever asks [`Window::is_full`] before each push.
#[derive(Clone, Default, Debug)]
pub struct Window {
    sent: VecDeque<(LogIndex, usize)>,
    bytes: usize,
}

impl Window {
    /// Notes an append that ends at `last` and whose entries take `bytes` bytes.
    pub fn push(&mut self, last: LogIndex, bytes: usize) {
        self.sent.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Forgets what an acknowledgement up to `matched` answers.
    pub fn free_to(&mut self, matched: LogIndex) {
        while let Some((last, bytes)) = self.sent.front().copied() {
            if last > matched {
                return;
            }
            self.sent.pop_front();
            self.bytes -= bytes;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.sent.clear();
        self.bytes = 0;
    }

    /// True when nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// True when nothing more may be sent: `messages_max` are in flight, or `bytes_max` bytes.
    #[must_use]
    pub fn is_full(&self, messages_max: usize, bytes_max: usize) -> bool {
        self.sent.len() >= messages_max || self.bytes >= bytes_max
    }

    /// Messages in flight.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.sent.len()
    }

    /// Bytes in flight.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
