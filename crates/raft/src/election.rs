//! How a leader is found: timers, pre-votes, votes, and the protection of a leader that is alive.
//!
//! A replica that hears no leader for a random time asks the others whether they would vote for it
//! (thesis 9.6); nobody's term moves. Only when enough would, it begins a term and asks for votes.
//! A vote is durable before it is answered, and a candidate's own vote before it counts. Both kinds
//! of requests are refused while a leader is heard (thesis 4.2.3), except those that the leader
//! asked for itself (a transfer). Replicas that forgot what they acknowledged vote as well, with
//! ballots that count for less (`amnesia`).

use std::time::Duration;

use atoll_base::{EntryKind, LogIndex, NodeId, Term, Time};
use bytes::Bytes;

use crate::amnesia::Recollection;
use crate::config::planted;
use crate::core::{CoreRole, RaftCore, Turn};
use crate::message::Body;
use crate::quorum::Amnesia;
use crate::quorum::{self, Ballot, Tally};

/// Why a replica campaigns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// No leader was heard.
    Timeout,
    /// The leader asked for it.
    Transfer,
}

impl RaftCore {
    pub(crate) fn on_tick(&mut self, t: &mut Turn<'_>) {
        self.fail_late_asks(t);
        if self.role == CoreRole::Leader {
            self.on_transfer_deadline(t);
            if self.heartbeat_deadline.is_some_and(|d| d <= t.now) {
                self.on_heartbeat_due(t);
            }
        } else if self.election_deadline.is_some_and(|d| d <= t.now) {
            self.pre_campaign(t);
        }
    }

    /// A follower of `term` and of `leader`, if one is known.
    pub(crate) fn become_follower(&mut self, t: &mut Turn<'_>, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.term, "term {term} after {} (I7)", self.term);
        if term > self.term {
            self.term = term;
            self.vote = None;
            self.verified = LogIndex::ZERO;
            self.acknowledged = LogIndex::ZERO;
            self.recollection = Recollection::default();
        }
        if self.role == CoreRole::Leader {
            self.stop_leading(t, leader);
        }
        self.role = CoreRole::Follower;
        self.votes.clear();
        self.vote_write = None;
        self.quiet = false;
        self.follow(t, leader);
        self.restart_election_timer(t.now);
    }

    /// Takes `leader` as this term's leader; questions to another one are over.
    pub(crate) fn follow(&mut self, t: &mut Turn<'_>, leader: Option<NodeId>) {
        if self.leader != leader {
            self.leader = leader;
            self.fail_asks(t);
        }
    }

    fn stop_leading(&mut self, t: &mut Turn<'_>, leader: Option<NodeId>) {
        self.fail_reads(t, leader);
        self.wake_all(t);
        self.progress.clear();
        self.proposed.clear();
        self.proposed_bytes = 0;
        self.transfer = None;
        self.heartbeat_deadline = None;
        self.idle_beats = 0;
    }

    /// True while a leader must be assumed to be alive.
    pub(crate) fn is_protected(&self, now: Time) -> bool {
        let min = self.config.election_timeout_min;
        self.role == CoreRole::Leader
            || self.is_vouched_for()
            || now < self.protected_until
            || self.heard_at.is_some_and(|at| now < at.after(min))
    }

    /// Asks whether the others would vote for this replica.
    fn pre_campaign(&mut self, t: &mut Turn<'_>) {
        if !self.can_lead() {
            self.election_deadline = None;
            return;
        }
        self.counters.pre_campaigns += 1;
        if planted!(self.config, NoPreVote) {
            return self.campaign(t, Cause::Timeout);
        }
        self.role = CoreRole::PreCandidate;
        self.quiet = false;
        self.follow(t, None);
        self.restart_election_timer(t.now);
        self.votes.clear();
        self.votes.insert(self.config.id, Ballot::Granted);
        let (last_index, last_term) = (self.log.last(), self.log.last_term());
        for to in self.other_voters() {
            let mut message = self.message(to, Body::PreVote { last_index, last_term });
            message.term = self.term.next();
            t.out.messages.push(message);
        }
        self.count_pre_votes(t);
    }

    fn count_pre_votes(&mut self, t: &mut Turn<'_>) {
        match quorum::tally(self.membership(), |n| self.votes.get(&n).copied()) {
            Tally::Won => self.campaign(t, Cause::Timeout),
            Tally::Lost => self.become_follower(t, self.term, None),
            Tally::Pending => {}
        }
    }

    /// Begins a term and asks for its votes.
    pub(crate) fn campaign(&mut self, t: &mut Turn<'_>, cause: Cause) {
        self.counters.campaigns += 1;
        self.term = self.term.next();
        self.vote = Some(self.config.id);
        self.verified = LogIndex::ZERO;
        self.acknowledged = LogIndex::ZERO;
        self.role = CoreRole::Candidate;
        self.quiet = false;
        self.follow(t, None);
        self.restart_election_timer(t.now);
        self.votes.clear();
        // The requests wait for the vote's write, and so do the log's entries that they boast of: a
        // candidate that forgot them could win with answers to a question it no longer asks.
        self.vote_write = Some(self.open_write(t).id);
        let transfer = cause == Cause::Transfer;
        let (last_index, last_term) = (self.log.last(), self.log.last_term());
        for to in self.other_voters() {
            self.send_after(t, to, Body::Vote { last_index, last_term, transfer });
        }
    }

    /// The candidate's own vote counts now.
    pub(crate) fn own_vote_written(&mut self, t: &mut Turn<'_>, write: u64) {
        if self.vote_write.is_some_and(|w| w <= write) {
            self.vote_write = None;
            self.votes.insert(self.config.id, Ballot::Granted);
            self.count_votes(t);
        }
    }

    pub(crate) fn on_pre_vote(
        &mut self,
        t: &mut Turn<'_>,
        from: NodeId,
        term: Term,
        last_index: LogIndex,
        last_term: Term,
    ) {
        let free = term > self.term || (self.leader.is_none() && self.vote.is_none());
        let knows = free && self.amnesia != Amnesia::Votes;
        let granted = knows && !self.is_protected(t.now) && self.is_current(last_index, last_term);
        let ballot = self.ballot(granted);
        let mut message = self.message(from, Body::PreVoteReply { ballot });
        if granted {
            message.term = term;
        } else if !free || self.is_protected(t.now) {
            atoll_base::reached!("a pre-vote was refused to protect the leader or a vote");
        } else {
            atoll_base::reached!("a pre-vote was refused to a log that is behind");
        }
        t.out.messages.push(message);
    }

    pub(crate) fn on_pre_vote_reply(
        &mut self,
        t: &mut Turn<'_>,
        from: NodeId,
        term: Term,
        ballot: Ballot,
    ) {
        let expected = if ballot.is_yes() { self.term.next() } else { self.term };
        if self.role == CoreRole::PreCandidate && term == expected {
            self.votes.entry(from).or_insert(ballot);
            self.count_pre_votes(t);
        }
    }

    pub(crate) fn on_vote(
        &mut self,
        t: &mut Turn<'_>,
        from: NodeId,
        last_index: LogIndex,
        last_term: Term,
    ) {
        let unbound = self.vote.is_none() && self.leader.is_none();
        let bound = self.vote.is_some_and(|v| v != from);
        let free = unbound || self.vote == Some(from) || planted!(self.config, VoteTwice) && bound;
        let knows = self.amnesia != Amnesia::Votes;
        let granted = free && knows && self.is_current(last_index, last_term);
        let ballot = self.ballot(granted);
        if !granted {
            atoll_base::reached!("a vote was refused");
            return self.send(t, from, Body::VoteReply { ballot });
        }
        if !self.has_state() {
            atoll_base::reached!("a replica without state voted");
        }
        self.vote = Some(from);
        self.restart_election_timer(t.now);
        if planted!(self.config, VoteBeforeDurable) {
            return self.send(t, from, Body::VoteReply { ballot });
        }
        self.send_after(t, from, Body::VoteReply { ballot });
    }

    pub(crate) fn on_vote_reply(&mut self, t: &mut Turn<'_>, from: NodeId, ballot: Ballot) {
        if self.role == CoreRole::Candidate {
            self.votes.entry(from).or_insert(ballot);
            self.count_votes(t);
        }
    }

    fn count_votes(&mut self, t: &mut Turn<'_>) {
        match quorum::tally(self.membership(), |n| self.votes.get(&n).copied()) {
            Tally::Won => self.become_leader(t),
            Tally::Lost => {
                atoll_base::reached!("an election was lost by its votes");
                self.become_follower(t, self.term, None);
            }
            Tally::Pending => {}
        }
    }

    /// True when a log that ends so is at least as current as this one (paper 5.4.1). A replica
    /// with
    /// amnesia can't tell, and says so in its ballot.
    fn is_current(&self, last_index: LogIndex, last_term: Term) -> bool {
        planted!(self.config, VoteForStaleLog)
            || self.is_amnesic()
            || (last_term, last_index) >= (self.log.last_term(), self.log.last())
    }

    fn become_leader(&mut self, t: &mut Turn<'_>) {
        assert_eq!(self.role, CoreRole::Candidate, "only a candidate is elected");
        self.counters.terms_led += 1;
        self.role = CoreRole::Leader;
        self.votes.clear();
        self.election_deadline = None;
        self.follow(t, Some(self.config.id));
        let last = self.log.last();
        self.sync_progress(t.now);
        self.term_start = last.next();
        self.reads.begin_term();
        self.takeover_after = t.now.after(self.config.election_timeout_min);
        self.heartbeat_deadline = Some(t.now.after(self.config.heartbeat_interval));
        // Nothing of earlier terms commits by counting, so there must be an entry of this one.
        self.append_own(t, EntryKind::Empty, vec![Bytes::new()], Vec::new());
    }

    fn other_voters(&self) -> Vec<NodeId> {
        let membership = self.membership();
        let mut nodes = membership.nodes();
        nodes.retain(|n| *n != self.config.id && membership.is_voter(*n));
        nodes
    }

    pub(crate) fn restart_election_timer(&mut self, now: Time) {
        self.timeout = self.election_timeout();
        self.election_deadline = self.can_lead().then(|| now.after(self.timeout));
    }

    /// Keeps the timer running exactly where it should.
    pub(crate) fn keep_election_timer(&mut self, now: Time) {
        let wanted = self.role != CoreRole::Leader && !self.quiet && self.can_lead();
        if !wanted {
            self.election_deadline = None;
        } else if self.election_deadline.is_none() {
            self.restart_election_timer(now);
        }
    }

    /// Drawn from `min..2 * min`. Where priorities differ, the highest draw from the first half.
    fn election_timeout(&mut self) -> Duration {
        let min = self.config.election_timeout_min;
        let half = min.as_nanos() as u64 / 2;
        let membership = self.membership();
        let mine = membership.priority(self.config.id);
        let voters = || membership.members.iter().filter(|(_, r)| r.votes()).map(|(n, _)| *n);
        let highest = voters().map(|n| membership.priority(n)).max().unwrap_or(0);
        let lowest = voters().map(|n| membership.priority(n)).min().unwrap_or(0);
        let (from, to) = match (highest == lowest, mine == highest) {
            (true, _) => (0, 2 * half),
            (false, true) => (0, half),
            (false, false) => (half, 2 * half),
        };
        min + Duration::from_nanos(self.rng.range(from, to))
    }
}
