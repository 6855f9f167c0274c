//! Groups without traffic cost nothing: after a few idle heartbeats the leader says so once and
//! then rests, and followers that have everything stop their election timers.
//!
//! What heartbeats did is then done by the node layer, which knows for all groups at once whether a
//! node is alive. Everything wakes a quiet group: a proposal or read at the leader, a message, a
//! follower that lost the notice and asks for votes, the news that the leader's node is gone.
//! Quiet is an optimisation and never a safety matter: a quiet follower refuses and grants votes by
//! the same rules as others.

use std::time::Duration;

use atoll_base::{LogIndex, NodeId};

use crate::core::{CoreRole, RaftCore, Turn};
use crate::message::Body;
use crate::quorum;

/// Heartbeat intervals without traffic before a leader goes quiet.
const IDLE_BEATS: u32 = 3;

impl RaftCore {
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
            && !self.progress.iter().any(|(_, p)| p.is_stateless);
        let enough_alive = quorum::replicates(self.membership(), |node| {
            node == self.config.id
                || self.follower(node).is_some_and(|at| self.progress[at].1.alive)
        });
        done && all_know
            && enough_alive
            && self.reads.is_idle()
            && self.transfer.is_none()
            && !self.membership().is_joint()
    }

    pub(crate) fn go_quiet(&mut self, t: &mut Turn<'_>) {
        atoll_base::reached!("a group went quiet");
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
        if self.role == CoreRole::Leader {
            for (_, progress) in &mut self.progress {
                progress.heard_at = t.now;
            }
            self.heartbeat_deadline = Some(t.now.after(self.config.heartbeat_interval));
        } else {
            self.restart_election_timer(t.now);
        }
    }

    /// A message came: those that show that somebody is not quiet wake this core.
    pub(crate) fn wake_for(&mut self, t: &mut Turn<'_>, body: &Body) {
        if !self.quiet || matches!(body, Body::HeartbeatReply { .. } | Body::AppendReply { .. }) {
            return;
        }
        self.wake(t);
        // Whoever asks for votes or help has lost sight of the leader.
        let lost = matches!(body, Body::PreVote { .. } | Body::Vote { .. } | Body::Wake);
        if lost && self.role == CoreRole::Leader {
            atoll_base::reached!("a quiet leader was woken by a follower that lost sight of it");
            self.heartbeat(t);
        }
    }

    pub(crate) fn on_liveness(&mut self, t: &mut Turn<'_>, node: NodeId, alive: bool) {
        if let Some(at) = self.follower(node) {
            let was = std::mem::replace(&mut self.progress[at].1.alive, alive);
            if alive && !was {
                self.wake(t);
            }
            return;
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
