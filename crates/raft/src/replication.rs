//! The leader's side of the log: proposals, appends, what commits, and what followers are told.
//!
//! Appends leave before the leader's own write is durable (thesis 10.2.1); the leader counts itself
//! only up to its durable end. Appends are pipelined within a window per follower (thesis 10.2). An
//! entry commits when a replication quorum holds it durably and it is of the leader's own term
//! (thesis 3.6.2). A follower with nothing in flight is told at once that the commit index moved;
//! one to which appends flow learns it from the next.

use atoll_base::{Entry, EntryKind, LogIndex, NodeId, Term, Time};
use bytes::Bytes;

use crate::config::planted;
use crate::core::{CoreRole, RaftCore, Turn};
use crate::membership::{Membership, Role};
use crate::message::Body;
use crate::output::ProposalOutcome;
use crate::progress::{Progress, SendState};
use crate::quorum;
use crate::quorum::Amnesia;
use crate::reader::ReadError;

impl RaftCore {
    pub(crate) fn on_propose(&mut self, t: &mut Turn<'_>, payloads: Vec<Bytes>) {
        t.out.proposal = Some(self.propose(t, payloads));
    }

    fn propose(&mut self, t: &mut Turn<'_>, payloads: Vec<Bytes>) -> ProposalOutcome {
        if self.role != CoreRole::Leader {
            return ProposalOutcome::NotLeader { leader: self.leader };
        }
        let bytes: usize = payloads.iter().map(|p| p.len() + ENTRY_OVERHEAD).sum();
        let full = self.proposed_bytes > 0
            && self.proposed_bytes + bytes > self.config.uncommitted_bytes_max;
        if full || self.transfer.is_some() {
            atoll_base::reached!("a proposal was refused");
            self.counters.proposals_refused += 1;
            return ProposalOutcome::Refused;
        }
        self.wake(t);
        let first = self.log.last().next();
        self.append_own(t, EntryKind::Commands, payloads, Vec::new());
        ProposalOutcome::Appended { term: self.term, first }
    }

    /// Appends entries of this leader's term, sends them on and counts them.
    pub(crate) fn append_own(
        &mut self,
        t: &mut Turn<'_>,
        kind: EntryKind,
        payloads: Vec<Bytes>,
        memberships: Vec<(LogIndex, Membership)>,
    ) {
        let (term, mut index) = (self.term, self.log.last());
        let mut bytes = 0;
        let mut entries = t.out.entries_buffer();
        entries.reserve(payloads.len());
        for payload in payloads {
            index = index.next();
            let entry = Entry { term, index, kind, payload };
            bytes += entry.cost();
            entries.push(entry);
        }
        if entries.is_empty() {
            return;
        }
        self.append(t, entries, memberships);
        self.proposed.push_back((index, bytes));
        self.proposed_bytes += bytes;
        for at in 0..self.progress.len() {
            self.send_appends(t, at);
        }
    }

    /// Sends the follower at `at` what it lacks, as far as its window allows.
    pub(crate) fn send_appends(&mut self, t: &mut Turn<'_>, at: usize) {
        loop {
            // A log that can't be read ends leadership, also between two followers.
            let Some((_, progress)) = self.progress.get(at) else { return };
            match progress.state {
                SendState::Snapshot | SendState::Probe { waiting: true } => return,
                SendState::Probe { waiting: false } => {
                    if self.send_append(t, at, self.config.append_bytes_max) {
                        self.progress[at].1.state = SendState::Probe { waiting: true };
                    }
                    return;
                }
                SendState::Replicate => {
                    let (messages, bytes) =
                        (self.config.inflight_messages_max, self.config.inflight_bytes_max);
                    let limit = self.sendable(self.progress[at].0);
                    if progress.next > limit || progress.window.is_full(messages, bytes) {
                        return;
                    }
                    if !self.send_append(t, at, self.config.append_bytes_max) {
                        return;
                    }
                }
            }
        }
    }

    /// Sends one append of at most `bytes_max` (nothing but the question at 0). False when the
    /// follower needs a snapshot or the log can't be read.
    fn send_append(&mut self, t: &mut Turn<'_>, at: usize, bytes_max: usize) -> bool {
        let (node, next) = (self.progress[at].0, self.progress[at].1.next);
        let limit = self.sendable(node);
        let prev_index = next.prev();
        let Some(prev_term) = self.log.term(prev_index) else {
            atoll_base::reached!("a follower needs what came before the log");
            self.want_snapshot(t, at);
            return false;
        };
        let mut entries = t.out.entries_buffer();
        let mut bytes = 0;
        if bytes_max > 0 {
            match self.log.entries(next, bytes_max, t.log, &mut entries) {
                Ok(cost) => bytes = cost,
                Err(ReadError::Compacted { .. }) => {
                    atoll_base::reached!("a follower needs entries that the log has cut");
                    self.want_snapshot(t, at);
                    return false;
                }
                Err(ReadError::Damaged { .. }) => {
                    atoll_base::reached!("a leader met damage in its own log");
                    self.become_damaged(t, Amnesia::Entries);
                    return false;
                }
            }
        }
        if self.is_witness(node) {
            entries.truncate((limit.0 + 1).saturating_sub(next.0) as usize);
            strip(&mut entries);
            bytes = entries.iter().map(Entry::cost).sum();
        }
        let end = entries.last().map_or(prev_index, |e| e.index);
        let progress = &mut self.progress[at].1;
        progress.commit_sent = progress.commit_sent.max(self.commit.min(end));
        progress.probe_at = t.now.after(self.config.heartbeat_interval);
        if progress.state == SendState::Replicate && end > prev_index {
            progress.window.push(end, bytes);
            progress.next = end.next();
        }
        self.counters.appends += 1;
        self.counters.entries_sent += entries.len() as u64;
        let commit = self.commit;
        self.send(t, node, Body::Append { prev_index, prev_term, commit, entries });
        true
    }

    /// The last entry that `node` may be sent. A witness gets only what a voter with data holds
    /// durably: if it held entries that no such voter has, nobody could be elected over it.
    fn sendable(&self, node: NodeId) -> LogIndex {
        if self.is_witness(node) {
            quorum::reached_with_data(self.membership(), |n| self.reached_by(n))
        } else {
            self.log.last()
        }
    }

    /// What `node` is known to hold durably.
    fn reached_by(&self, node: NodeId) -> LogIndex {
        if node == self.config.id {
            return self.durable();
        }
        self.follower(node).map_or(LogIndex::ZERO, |at| self.progress[at].1.matched)
    }

    fn is_witness(&self, node: NodeId) -> bool {
        self.follower(node).is_some_and(|at| self.progress[at].1.is_witness)
    }

    /// More of this leader's log is durable.
    pub(crate) fn on_own_write(&mut self, t: &mut Turn<'_>) {
        self.maybe_commit(t);
        self.send_to_witnesses(t);
    }

    fn send_to_witnesses(&mut self, t: &mut Turn<'_>) {
        for at in 0..self.progress.len() {
            // Committing may have ended this leadership.
            if self.progress.get(at).is_some_and(|(node, _)| self.is_witness(*node)) {
                self.send_appends(t, at);
            }
        }
    }

    pub(crate) fn on_append_reply(
        &mut self,
        t: &mut Turn<'_>,
        from: NodeId,
        matched: LogIndex,
        life: u64,
    ) {
        let Some(at) = self.follower(from) else { return };
        let last = self.log.last();
        let known = self.progress[at].1.life;
        if life < known && !planted!(self.config, OldLifeCounts) {
            return self.tell_life(t, from, known);
        }
        if matched > last {
            return;
        }
        let interval = self.config.heartbeat_interval;
        let first = self.log.first();
        let progress = &mut self.progress[at].1;
        progress.heard_at = t.now;
        progress.meet_life(life, last);
        let news = progress.advance(matched);
        let resumes = match progress.state {
            SendState::Probe { .. } => matched.next() >= progress.next,
            SendState::Snapshot => matched.next() >= first,
            SendState::Replicate => false,
        };
        if resumes {
            if progress.state == SendState::Snapshot {
                atoll_base::reached!("a follower in the snapshot state met the log again");
            }
            progress.state = SendState::Replicate;
            progress.next = progress.matched.next();
            progress.window.clear();
        }
        if news {
            progress.probe_at = t.now.after(interval);
            self.maybe_commit(t);
            self.send_to_witnesses(t);
        }
        // Committing may have ended this leadership.
        if let Some(at) = self.follower(from) {
            self.send_appends(t, at);
            self.notify_commit(t, from);
            self.transfer_if_ready(t);
        }
    }

    pub(crate) fn on_append_reject(
        &mut self,
        t: &mut Turn<'_>,
        from: NodeId,
        prev_index: LogIndex,
        conflict: (LogIndex, Term),
    ) {
        let Some(at) = self.follower(from) else { return };
        let progress = &mut self.progress[at].1;
        progress.heard_at = t.now;
        let stale = match progress.state {
            SendState::Snapshot => true,
            SendState::Replicate => prev_index <= progress.matched,
            SendState::Probe { .. } => prev_index != progress.next.prev(),
        };
        if stale || prev_index == LogIndex::ZERO {
            return;
        }
        let (index, term) = conflict;
        atoll_base::reached!("a leader went back to where a log meets its own");
        self.counters.conflicts += 1;
        let meets = self.log.last_at_most(index.min(prev_index), term).min(prev_index.prev());
        progress.probe(meets.next());
        self.send_appends(t, at);
    }

    /// Advances the commit index to what a replication quorum holds (thesis 3.6.2).
    pub(crate) fn maybe_commit(&mut self, t: &mut Turn<'_>) {
        let matched = |node: NodeId| {
            if planted!(self.config, CountUnwritten) && node == self.config.id {
                return self.log.last();
            }
            self.reached_by(node)
        };
        let membership = self.membership();
        let index = if planted!(self.config, HalfQuorum) && membership.is_joint() {
            let half = Membership { outgoing: None, ..membership.clone() };
            quorum::reached(&half, matched)
        } else {
            quorum::reached(membership, matched)
        };
        let own_term = index >= self.term_start || planted!(self.config, CommitEarlierTerm);
        if index <= self.commit || !own_term {
            return;
        }
        let first_of_term = self.commit < self.term_start;
        self.commit = index;
        while let Some((last, bytes)) = self.proposed.front().copied() {
            if last > index {
                break;
            }
            self.proposed.pop_front();
            self.proposed_bytes -= bytes;
        }
        if first_of_term {
            self.start_waiting_reads(t);
        }
        self.on_membership_commit(t);
        for at in 0..self.progress.len() {
            let node = self.progress[at].0;
            self.notify_commit(t, node);
        }
    }

    /// Tells a follower to which nothing is under way how far the group has committed.
    fn notify_commit(&mut self, t: &mut Turn<'_>, node: NodeId) {
        let Some(at) = self.follower(node) else { return };
        let commit = self.commit_for(at);
        let progress = &mut self.progress[at].1;
        let flows = !progress.window.is_empty() || progress.state != SendState::Replicate;
        if flows || progress.commit_sent >= commit {
            return;
        }
        progress.commit_sent = commit;
        self.send(t, node, Body::Heartbeat { commit, round: 0 });
    }

    /// The commit index that the follower at `at` may be told outside of appends: it must hold it.
    pub(crate) fn commit_for(&self, at: usize) -> LogIndex {
        if planted!(self.config, HeartbeatCommitsUnmatched) {
            return self.commit;
        }
        self.commit.min(self.progress[at].1.matched)
    }

    pub(crate) fn on_heartbeat_due(&mut self, t: &mut Turn<'_>) {
        if !self.hears_quorum(t.now) && !planted!(self.config, NoCheckQuorum) {
            atoll_base::reached!("a leader that hears no quorum stepped down");
            self.counters.quorums_lost += 1;
            return self.become_follower(t, self.term, None);
        }
        self.heartbeat_deadline = Some(t.now.after(self.config.heartbeat_interval));
        self.take_over_by_priority(t);
        self.resign_if_left_out(t);
        if self.role != CoreRole::Leader {
            return;
        }
        if self.may_go_quiet() {
            return self.go_quiet(t);
        }
        self.heartbeat(t);
    }

    /// One heartbeat to every member.
    pub(crate) fn heartbeat(&mut self, t: &mut Turn<'_>) {
        let round = self.round_for_heartbeat(t.now);
        for at in 0..self.progress.len() {
            let commit = self.commit_for(at);
            let (node, progress) = &mut self.progress[at];
            let node = *node;
            progress.commit_sent = progress.commit_sent.max(commit);
            self.send(t, node, Body::Heartbeat { commit, round });
        }
    }

    /// True when a replication quorum was heard within an election timeout (thesis 6.2).
    fn hears_quorum(&self, now: Time) -> bool {
        let timeout = self.config.election_timeout_min;
        quorum::replicates(self.membership(), |node| {
            node == self.config.id
                || self
                    .follower(node)
                    .is_some_and(|at| now < self.progress[at].1.heard_at.after(timeout))
        })
    }

    pub(crate) fn on_heartbeat_reply(&mut self, t: &mut Turn<'_>, from: NodeId, round: u64) {
        let Some(at) = self.follower(from) else { return };
        let last = self.log.last();
        let progress = &mut self.progress[at].1;
        progress.heard_at = t.now;
        progress.round = progress.round.max(round);
        if progress.is_stateless {
            progress.has_state_again();
        }
        // Unanswered for a whole interval: the append, or its answer, was lost.
        if t.now >= progress.probe_at {
            match progress.state {
                SendState::Probe { .. } => {
                    progress.state = SendState::Probe { waiting: false };
                    if progress.matched < last {
                        self.send_appends(t, at);
                    }
                }
                SendState::Replicate if progress.matched < last => {
                    atoll_base::reached!("an append or its answer was lost");
                    self.counters.appends_lost += 1;
                    self.send_append(t, at, 0);
                }
                _ => {}
            }
        }
        if self.role == CoreRole::Leader {
            self.confirm_reads(t);
        }
    }

    /// Where `node` stands among the followers.
    pub(crate) fn follower(&self, node: NodeId) -> Option<usize> {
        self.progress.binary_search_by_key(&node, |(n, _)| *n).ok()
    }

    /// Makes the list of followers that of the configuration in force.
    pub(crate) fn sync_progress(&mut self, now: Time) {
        let (id, last) = (self.config.id, self.log.last());
        let mut old = std::mem::take(&mut self.progress);
        for node in self.membership().nodes() {
            if node == id {
                continue;
            }
            let known = old.iter().position(|(n, _)| *n == node);
            let mut progress =
                known.map_or_else(|| Progress::new(last, now), |at| old.swap_remove(at).1);
            progress.is_witness = self.membership().role(node) == Some(Role::Witness);
            progress.alive = !self.down.contains(&node);
            self.progress.push((node, progress));
        }
    }
}

/// What an entry costs beside its payload; see [`Entry::cost`].
const ENTRY_OVERHEAD: usize = 32;

/// A witness gets the log's shape and its configurations, no data.
fn strip(entries: &mut [Entry]) {
    for entry in entries {
        if entry.kind == EntryKind::Commands {
            entry.payload = Bytes::new();
        }
    }
}
