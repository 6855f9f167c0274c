//! Linearizable reads without a log entry (thesis 6.4).
//!
//! A leader that has committed in its term knows the group's commit index, but not whether it still
//! leads. It notes the index, begins a *round* (one heartbeat with a number that is unique within
//! its term) and serves the read when a replication quorum has answered that round or a later one.
//! All reads that wait when a round begins share it; few rounds are under way at once, so under
//! load each carries many. An answer counts for the rounds up to its own number and in its own term
//! only: a delayed one confirms nothing that came after it (trap R1). Before the first commit of
//! the term reads wait (trap R2).
//!
//! A follower asks the leader for an index the same way, in batches, under numbers that start at
//! random in each life. Its question says that it was in the leader's term after all its reads had
//! begun, which is what an answer to a round says. Where it and the leader are a replication
//! quorum, as with three voters, the leader answers at once: a leader of a later term that had
//! committed anything before those reads would have had the vote of one of the two.
//!
//! With leases (thesis 6.4.1) a confirmed round answers reads for an election timeout less a
//! margin; handing leadership over ends that for the rest of the term, because the successor's
//! request overrides the protection that the lease rests on.

use std::collections::VecDeque;

use atoll_base::{LogIndex, NodeId, Time};

use crate::config::planted;
use crate::core::{CoreRole, RaftCore, Turn};
use crate::input::ReadContext;
use crate::message::Body;
use crate::quorum;

/// Rounds under way at once.
const ROUNDS_MAX: usize = 2;
/// Reads that wait in one core; more are refused.
const WAITING_MAX: usize = 1 << 16;
/// A list of readers longer than that gives its memory back.
const SPARE_READERS_MAX: usize = 4_096;

/// Who waits for an index.
#[derive(Clone, Copy, Debug)]
enum Reader {
    Here(ReadContext),
    There { node: NodeId, context: u64 },
}

/// A heartbeat round and who waits for it.
#[derive(Debug)]
struct Round {
    number: u64,
    began: Time,
    index: LogIndex,
    readers: Vec<Reader>,
}

/// The leader's reads.
#[derive(Default, Debug)]
pub(crate) struct Reads {
    round: u64,
    rounds: VecDeque<Round>,
    waiting: Vec<Reader>,
    /// Lists of rounds that are over, to be filled again.
    spare: Vec<Vec<Reader>>,
    /// When the last confirmed round began.
    lease_from: Option<Time>,
    lease_lost: bool,
}

impl Reads {
    /// Rounds are numbered on and on; only what they confirm ends with a term.
    pub(crate) fn begin_term(&mut self) {
        self.round += 1;
        self.rounds.clear();
        self.waiting.clear();
        self.lease_from = None;
        self.lease_lost = false;
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.rounds.iter().all(|r| r.readers.is_empty())
    }

    fn keep_spare(&mut self, readers: Vec<Reader>) {
        if self.spare.len() <= ROUNDS_MAX && readers.capacity() <= SPARE_READERS_MAX {
            self.spare.push(readers);
        }
    }

    /// No lease for the rest of this term.
    pub(crate) fn lose_lease(&mut self) {
        self.lease_lost = true;
    }
}

impl RaftCore {
    pub(crate) fn on_reads(&mut self, t: &mut Turn<'_>, contexts: &[ReadContext]) {
        if contexts.is_empty() {
            return;
        }
        if self.role == CoreRole::Leader {
            return self.read(t, contexts.iter().copied().map(Reader::Here), false);
        }
        let full = self.asks.waiting.len() + contexts.len() > WAITING_MAX;
        if self.leader.is_none() || !self.has_data() || full {
            let leader = self.leader;
            t.out.reads_failed.extend(contexts.iter().map(|c| (*c, leader)));
            return;
        }
        self.asks.waiting.extend_from_slice(contexts);
        self.ask(t);
    }

    pub(crate) fn on_read_index(&mut self, t: &mut Turn<'_>, from: NodeId, context: u64) {
        if self.role != CoreRole::Leader {
            return self.send(t, from, Body::ReadIndexReply { context, index: None });
        }
        let is_confirmed = self.is_quorum_with(from);
        self.read(t, std::iter::once(Reader::There { node: from, context }), is_confirmed);
    }

    /// Whether this leader and `voter` are a replication quorum.
    fn is_quorum_with(&self, voter: NodeId) -> bool {
        quorum::replicates(self.membership(), |node| node == self.config.id || node == voter)
    }

    /// Serves reads: at once with a lease, or where a quorum is known to have been in this term
    /// after they began (`is_confirmed`), and with a round otherwise.
    fn read(
        &mut self,
        t: &mut Turn<'_>,
        readers: impl ExactSizeIterator<Item = Reader>,
        is_confirmed: bool,
    ) {
        self.wake(t);
        if self.reads.waiting.len() + readers.len() > WAITING_MAX {
            atoll_base::reached!("a read was refused because too many wait");
            return self.refuse(t, readers, Some(self.config.id));
        }
        let first_pending =
            self.commit < self.term_start && !planted!(self.config, ReadBeforeCommit);
        let is_certain = is_confirmed || self.has_lease(t.now);
        if !first_pending && (is_certain || planted!(self.config, ReadWithoutRound)) {
            if is_confirmed {
                atoll_base::reached!("a question for a read index was its own confirmation");
            }
            return self.serve(t, readers, self.commit);
        }
        self.reads.waiting.extend(readers);
        if first_pending {
            atoll_base::reached!("a read waited for the first commit of the term");
        } else {
            self.start_waiting_reads(t);
        }
    }

    /// Begins a round for the reads that wait, unless enough rounds are under way.
    pub(crate) fn start_waiting_reads(&mut self, t: &mut Turn<'_>) {
        let busy = self.reads.rounds.iter().filter(|r| !r.readers.is_empty()).count();
        if self.reads.waiting.is_empty() || busy >= ROUNDS_MAX {
            return;
        }
        let empty = self.reads.spare.pop().unwrap_or_default();
        let readers = std::mem::replace(&mut self.reads.waiting, empty);
        if !planted!(self.config, ReuseRound) {
            self.reads.round += 1;
        }
        let (number, began, index) = (self.reads.round, t.now, self.commit);
        self.reads.rounds.push_back(Round { number, began, index, readers });
        for at in 0..self.progress.len() {
            let node = self.progress[at].0;
            if self.membership().is_voter(node) {
                let commit = self.commit_for(at);
                self.progress[at].1.commit_sent = self.progress[at].1.commit_sent.max(commit);
                self.send(t, node, Body::Heartbeat { commit, round: number });
            }
        }
        self.confirm_reads(t);
    }

    /// The number that a periodic heartbeat carries; with leases each begins a round of its own.
    pub(crate) fn round_for_heartbeat(&mut self, now: Time) -> u64 {
        if self.config.lease_reads {
            self.reads.round += 1;
            let (number, index) = (self.reads.round, self.commit);
            self.reads.rounds.retain(|r| !r.readers.is_empty() || r.began >= now);
            self.reads.rounds.push_back(Round { number, began: now, index, readers: Vec::new() });
        }
        self.reads.round
    }

    /// Serves the rounds that a replication quorum has answered.
    pub(crate) fn confirm_reads(&mut self, t: &mut Turn<'_>) {
        while let Some(number) = self.reads.rounds.front().map(|r| r.number) {
            let confirmed = quorum::replicates(self.membership(), |node| {
                node == self.config.id
                    || self.follower(node).is_some_and(|at| self.progress[at].1.round >= number)
            });
            if !confirmed {
                break;
            }
            let Some(mut round) = self.reads.rounds.pop_front() else { break };
            self.reads.lease_from = self.reads.lease_from.max(Some(round.began));
            self.counters.read_rounds += u64::from(!round.readers.is_empty());
            self.serve(t, round.readers.drain(..), round.index);
            self.reads.keep_spare(round.readers);
        }
        if !self.reads.waiting.is_empty() && self.commit >= self.term_start {
            self.start_waiting_reads(t);
        }
    }

    fn has_lease(&self, now: Time) -> bool {
        let length = self.config.election_timeout_min.saturating_sub(self.config.lease_margin);
        self.config.lease_reads
            && !self.reads.lease_lost
            && self.reads.lease_from.is_some_and(|from| now < from.after(length))
    }

    fn serve(&mut self, t: &mut Turn<'_>, readers: impl Iterator<Item = Reader>, index: LogIndex) {
        for reader in readers {
            self.counters.reads += 1;
            match reader {
                Reader::Here(context) => t.out.reads.push((context, index)),
                Reader::There { node, context } => {
                    self.send(t, node, Body::ReadIndexReply { context, index: Some(index) });
                }
            }
        }
    }

    fn refuse(
        &mut self,
        t: &mut Turn<'_>,
        readers: impl Iterator<Item = Reader>,
        leader: Option<NodeId>,
    ) {
        for reader in readers {
            self.counters.reads_failed += 1;
            match reader {
                Reader::Here(context) => t.out.reads_failed.push((context, leader)),
                Reader::There { node, context } => {
                    self.send(t, node, Body::ReadIndexReply { context, index: None });
                }
            }
        }
    }

    /// Leadership is over: nothing that waits can be confirmed.
    pub(crate) fn fail_reads(&mut self, t: &mut Turn<'_>, leader: Option<NodeId>) {
        let rounds = std::mem::take(&mut self.reads.rounds);
        let waiting = std::mem::take(&mut self.reads.waiting);
        for readers in rounds.into_iter().map(|r| r.readers).chain([waiting]) {
            self.refuse(t, readers.into_iter(), leader);
        }
    }
}

/// A follower's reads: one question at a time to the leader, for all that wait when it is asked.
#[derive(Debug)]
pub(crate) struct Asks {
    next: u64,
    asked: Option<Asked>,
    waiting: Vec<ReadContext>,
    /// The list of the last question, to be filled again.
    spare: Vec<ReadContext>,
}

#[derive(Debug)]
struct Asked {
    context: u64,
    deadline: Time,
    readers: Vec<ReadContext>,
}

impl Asks {
    /// `start` must differ between the lives of a replica, or a late answer could be taken for one
    /// to a later question (trap R1).
    pub(crate) fn new(start: u64) -> Self {
        Self { next: start, asked: None, waiting: Vec::new(), spare: Vec::new() }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.asked.as_ref().map(|a| a.deadline)
    }
}

impl RaftCore {
    fn ask(&mut self, t: &mut Turn<'_>) {
        let Some(leader) = self.leader else { return };
        if self.asks.asked.is_some() || self.asks.waiting.is_empty() {
            return;
        }
        self.asks.next = self.asks.next.wrapping_add(1);
        let context = self.asks.next;
        let deadline = t.now.after(self.config.election_timeout_min);
        let empty = std::mem::take(&mut self.asks.spare);
        let readers = std::mem::replace(&mut self.asks.waiting, empty);
        self.asks.asked = Some(Asked { context, deadline, readers });
        self.send(t, leader, Body::ReadIndex { context });
    }

    pub(crate) fn on_read_index_reply(
        &mut self,
        t: &mut Turn<'_>,
        context: u64,
        index: Option<LogIndex>,
    ) {
        if self.asks.asked.as_ref().is_none_or(|a| a.context != context) {
            return;
        }
        let Some(mut asked) = self.asks.asked.take() else { return };
        match index {
            Some(index) => t.out.reads.extend(asked.readers.drain(..).map(|c| (c, index))),
            None => {
                let leader = self.leader;
                t.out.reads_failed.extend(asked.readers.drain(..).map(|c| (c, leader)));
            }
        }
        if asked.readers.capacity() <= SPARE_READERS_MAX {
            self.asks.spare = asked.readers;
        }
        self.ask(t);
    }

    /// An answer that takes an election timeout won't come.
    pub(crate) fn fail_late_asks(&mut self, t: &mut Turn<'_>) {
        if self.asks.deadline().is_some_and(|d| d <= t.now) {
            atoll_base::reached!("a follower's question for a read index was not answered");
            self.fail_asks(t);
            self.on_wake(t);
        }
    }

    /// The leader that was asked is gone.
    pub(crate) fn fail_asks(&mut self, t: &mut Turn<'_>) {
        let leader = self.leader.filter(|l| *l != self.config.id);
        let asked = self.asks.asked.take().map(|a| a.readers).unwrap_or_default();
        let waiting = std::mem::take(&mut self.asks.waiting);
        t.out.reads_failed.extend(asked.into_iter().chain(waiting).map(|c| (c, leader)));
    }
}
