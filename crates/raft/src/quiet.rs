//! Groups without traffic cost nothing: after a few idle heartbeats the leader says so once and
//! then rests, and followers that have everything stop their election timers.
//!
//! What heartbeats did is then done by the node layer, which knows for all groups at once whether a
//! node is alive. Everything wakes a quiet group: a proposal or read at the leader, a message, a
//! follower that lost the notice and asks for votes, news of the leader's node or a follower's, an
//! owner that needs the group ([`Input::Wake`](crate::Input::Wake)), a leader that ceases to be
//! one.
//!
//! Quiet is never a safety matter: a quiet follower grants votes by the same rules as others. It is
//! one of liveness, and rests on a contract: the owner tells of a node that it talked with and that
//! is gone, or was gone for a moment, *always*, and lets no follower go quiet for a leader on a
//! node
//! that it does not talk with, since of that one it would have no news. While the leader's node is
//! not gone a quiet follower protects its leader as if it had just been heard; asked for a vote, it
//! wakes, asks the leader for a sign, and protects it for one timeout more.

use std::time::Duration;

use atoll_base::{LogIndex, NodeId};

use crate::core::{CoreRole, RaftCore, Turn};
use crate::membership::Role;
use crate::message::Body;
use crate::quorum;

/// Heartbeat intervals without traffic before a leader goes quiet.
const IDLE_BEATS: u32 = 3;

impl RaftCore {
    /// True when heartbeats and timers rest ([`Config::quiesce`](crate::Config::quiesce)).
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Counts an idle heartbeat interval; true when it was the last one needed.
    pub(crate) fn may_go_quiet(&mut self) -> bool {
        let idle = self.config.quiesce && self.is_idle();
        self.idle_beats = if idle { self.idle_beats + 1 } else { 0 };
        self.idle_beats > IDLE_BEATS
    }

    fn is_idle(&self) -> bool {
        let last = self.log.last();
        let done = self.commit == last
            && self.commit >= self.term_start
            && self.durable() == last
            && self.applied == last;
        let all_know = self
            .progress
            .iter()
            .all(|(_, p)| !p.alive || (p.matched == last && p.commit_sent == last))
            && !self.progress.iter().any(|(_, p)| p.is_stateless || p.owed.is_some());
        let enough_alive = quorum::replicates(self.membership(), |node| {
            node == self.config.id
                || self.follower(node).is_some_and(|at| self.progress[at].1.alive)
        });
        done && all_know
            && enough_alive
            && self.reads.is_idle()
            && self.transfer.is_none()
            && !self.membership().is_joint()
            && self.membership().can_lead(self.config.id)
            && !self.awaits_takeover()
    }

    /// True while somebody is there who should rather lead: that is looked at with heartbeats.
    fn awaits_takeover(&self) -> bool {
        let membership = self.membership();
        let mine = membership.priority(self.config.id);
        self.progress.iter().any(|(node, p)| {
            p.alive
                && membership.members.get(node) == Some(&Role::Voter)
                && membership.priority(*node) > mine
        })
    }

    /// True when the owner vouches for the leader, as heartbeats do otherwise.
    pub(crate) fn is_vouched_for(&self) -> bool {
        self.quiet
            && self.role == CoreRole::Follower
            && self.leader.is_some_and(|leader| !self.down.contains(&leader))
    }

    pub(crate) fn go_quiet(&mut self, t: &mut Turn<'_>) {
        atoll_base::reached!("a group went quiet");
        self.counters.quieted += 1;
        let commit = self.commit;
        for at in 0..self.progress.len() {
            let node = self.progress[at].0;
            self.send(t, node, Body::Quiet { commit });
        }
        self.quiet = true;
        self.heartbeat_deadline = None;
    }

    pub(crate) fn on_quiet(&mut self, t: &mut Turn<'_>, from: NodeId, commit: LogIndex) {
        if !self.hear_leader(t, from) {
            return;
        }
        if !self.config.quiesce
            || self.log.last() != commit
            || self.verified.max(self.commit) < commit
            || !self.has_state()
            || self.down.contains(&from)
            || self.is_amnesic()
        {
            atoll_base::reached!("a follower that is behind refused to go quiet");
            return self.send(t, from, Body::Wake);
        }
        self.commit_to(commit);
        self.quiet = true;
    }

    /// Takes up heartbeats and timers again.
    pub(crate) fn wake(&mut self, t: &mut Turn<'_>) {
        self.idle_beats = 0;
        if !self.quiet {
            return;
        }
        self.quiet = false;
        self.counters.woken += 1;
        if self.role == CoreRole::Leader {
            for (_, progress) in &mut self.progress {
                progress.heard_at = t.now;
            }
            self.heartbeat_deadline = Some(t.now.after(self.config.heartbeat_interval));
        } else {
            self.restart_election_timer(t.now);
        }
    }

    /// The owner needs the group: whoever leads it must show up, or be replaced.
    pub(crate) fn on_wake(&mut self, t: &mut Turn<'_>) {
        let was_quiet = self.quiet;
        self.wake(t);
        if was_quiet
            && self.role != CoreRole::Leader
            && let Some(leader) = self.leader
        {
            atoll_base::reached!("a quiet follower was needed and woke its leader");
            self.send(t, leader, Body::Wake);
        }
    }

    /// A message came: those that show that somebody is not quiet wake this core.
    pub(crate) fn wake_for(&mut self, t: &mut Turn<'_>, from: NodeId, body: &Body) {
        if !self.quiet || matches!(body, Body::HeartbeatReply { .. } | Body::AppendReply { .. }) {
            return;
        }
        let is_vouched_for = self.is_vouched_for();
        self.wake(t);
        // Whoever asks for votes or help has lost sight of the leader.
        let lost = matches!(body, Body::PreVote { .. } | Body::Vote { .. } | Body::Wake);
        if lost && self.role == CoreRole::Leader {
            atoll_base::reached!("a quiet leader was woken by a follower that lost sight of it");
            self.heartbeat(t);
        }
        if lost
            && is_vouched_for
            && let Some(leader) = self.leader.filter(|leader| *leader != from)
        {
            atoll_base::reached!("a quiet follower was asked for a vote and protected its leader");
            self.heard_at = Some(t.now);
            self.send(t, leader, Body::Wake);
        }
    }

    /// A leader that rests ceases to be one: nobody would notice.
    pub(crate) fn wake_all(&mut self, t: &mut Turn<'_>) {
        if self.quiet {
            atoll_base::reached!("a quiet leader ceased to lead and said so");
            for at in 0..self.progress.len() {
                self.send(t, self.progress[at].0, Body::Wake);
            }
        }
    }

    pub(crate) fn on_liveness(&mut self, t: &mut Turn<'_>, node: NodeId, alive: bool) {
        match alive {
            true => self.down.remove(&node),
            false => self.down.insert(node),
        };
        if let Some(at) = self.follower(node) {
            self.progress[at].1.alive = alive;
            // One that is back may lack something, and without one there may be no quorum.
            return self.wake(t);
        }
        if alive || self.leader != Some(node) || self.role == CoreRole::Leader {
            return;
        }
        // The leader's process or link is gone. Asking for pre-votes soon disturbs nobody who still
        // hears it (thesis 9.6), so a crash costs milliseconds rather than an election timeout.
        // Under leader leases the promise to protect the leader stands (thesis 6.4.1).
        let min = self.config.election_timeout_min;
        let span = match self.config.lease_reads {
            true => min,
            false => {
                self.heard_at = None;
                min / 8
            }
        };
        self.quiet = false;
        let soon = t.now.after(Duration::from_nanos(self.rng.below(span.as_nanos() as u64)));
        self.election_deadline = Some(self.election_deadline.map_or(soon, |at| at.min(soon)));
    }
}
