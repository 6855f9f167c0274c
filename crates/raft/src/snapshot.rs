//! Followers whose next entry is gone from the log (thesis 5), and replicas that must be rebuilt.
//!
//! The core decides who needs a snapshot and when one may be installed; taking, sending and
//! fetching it is the owner's work. A follower in the *snapshot* state gets heartbeats but no
//! appends until the owner reports, or the follower answers that it is within reach of the log
//! again.

use atoll_base::{LogIndex, NodeId, Term};

use crate::core::{CoreRole, RaftCore, Turn};
use crate::history::History;
use crate::membership::Membership;
use crate::message::{Body, Message};
use crate::progress::SendState;

impl RaftCore {
    pub(crate) fn want_snapshot(&mut self, t: &mut Turn<'_>, at: usize) {
        let (node, progress) = &mut self.progress[at];
        progress.state = SendState::Snapshot;
        progress.window.clear();
        t.out.snapshots_wanted.push(*node);
    }

    /// The leader's announcement of a snapshot that ends at `index` (at or below the applied index,
    /// and not below the log's start), to send once its chunks can be fetched. `None` when this
    /// core doesn't lead or doesn't know the index.
    #[must_use]
    pub fn snapshot_message(&self, to: NodeId, index: LogIndex) -> Option<Message> {
        if self.role != CoreRole::Leader || index > self.applied {
            return None;
        }
        let term = self.log.term(index)?;
        let membership = self.history.at(index)?.clone();
        Some(self.message(to, Body::Snapshot { index, term, membership }))
    }

    pub(crate) fn on_snapshot(
        &mut self,
        t: &mut Turn<'_>,
        from: NodeId,
        index: LogIndex,
        term: Term,
        membership: Membership,
    ) {
        if !self.hear_leader(t, from) {
            return;
        }
        if self.accepts_snapshot(index, term) {
            t.out.snapshot_offered = Some((from, index, term, membership));
            return;
        }
        // All of it is here already: nothing to fetch.
        atoll_base::reached!("a snapshot was offered that is here already");
        self.commit_to(index);
        self.verified = self.verified.max(index);
        self.acknowledge(t, from);
    }

    /// True when an offered snapshot is still worth installing; ask before replacing any state.
    #[must_use]
    pub fn accepts_snapshot(&self, index: LogIndex, term: Term) -> bool {
        match self.damaged {
            // It must cover all that this replica may have acknowledged.
            Some(end) => index >= end,
            None => index > self.commit && self.log.term(index) != Some(term),
        }
    }

    pub(crate) fn on_snapshot_installed(
        &mut self,
        t: &mut Turn<'_>,
        index: LogIndex,
        term: Term,
        membership: Membership,
    ) {
        if !self.accepts_snapshot(index, term) {
            return self.on_snapshot_overtaken(t, index);
        }
        self.damaged = None;
        self.log_is_whole = true;
        self.log.reset(index, term);
        self.history = History::new(index, membership);
        self.writes.forget();
        self.commit = index;
        self.handed = index;
        self.applied = index;
        self.verified = index;
        self.acknowledged = index;
        if let Some(leader) = self.leader {
            self.send_after(t, leader, Body::SnapshotReply { index, installed: true });
        }
    }

    /// While the snapshot was being installed the log went beyond it: the log stays, and what the
    /// snapshot holds counts as applied. It was committed where it was taken, and the log has it.
    fn on_snapshot_overtaken(&mut self, t: &mut Turn<'_>, index: LogIndex) {
        if self.damaged.is_some() {
            return;
        }
        atoll_base::reached!("the log overtook a snapshot while it was installed");
        self.commit_to(index);
        self.handed = self.handed.max(index);
        self.applied = self.applied.max(index);
        self.verified = self.verified.max(index);
        if let Some(leader) = self.leader {
            self.acknowledge(t, leader);
        }
    }

    pub(crate) fn on_snapshot_sent(
        &mut self,
        t: &mut Turn<'_>,
        to: NodeId,
        index: LogIndex,
        ok: bool,
    ) {
        let Some(at) = self.follower(to) else { return };
        let progress = &mut self.progress[at].1;
        if progress.state != SendState::Snapshot {
            return;
        }
        // Installing takes a while: what it reached is asked with the next heartbeat.
        if !ok {
            atoll_base::reached!("a snapshot's sending was given up");
        }
        let next = if ok { index.next() } else { progress.matched.next() };
        progress.probe(next);
        progress.state = SendState::Probe { waiting: true };
        progress.probe_at = t.now.after(self.config.heartbeat_interval);
    }

    pub(crate) fn on_snapshot_reply(
        &mut self,
        t: &mut Turn<'_>,
        from: NodeId,
        index: LogIndex,
        installed: bool,
    ) {
        if installed {
            self.on_append_reply(t, from, index);
            // The log may have been cut beyond it meanwhile: then it takes another one. A late copy
            // of the reply names an index that is not the newest, and changes nothing.
            if let Some(at) = self.follower(from)
                && self.progress[at].1.state == SendState::Snapshot
                && self.progress[at].1.matched == index
            {
                atoll_base::reached!("the log was cut beyond a snapshot while it was installed");
                self.want_snapshot(t, at);
            }
            return;
        }
        let Some(at) = self.follower(from) else { return };
        let progress = &mut self.progress[at].1;
        progress.heard_at = t.now;
        if index == LogIndex::ZERO {
            // It no longer has what it acknowledged, and says so (trap T14).
            atoll_base::reached!("a follower said that it lost its data");
            progress.matched = LogIndex::ZERO;
            if progress.state != SendState::Snapshot {
                self.want_snapshot(t, at);
            }
        } else if progress.state == SendState::Snapshot {
            let next = progress.matched.next();
            progress.probe(next);
            self.send_appends(t, at);
        }
    }

    /// Damage is met: from here on this replica neither votes nor leads (trap T14).
    pub(crate) fn become_damaged(&mut self, t: &mut Turn<'_>) {
        self.log_is_whole = false;
        self.lose_state(t);
    }

    pub(crate) fn lose_state(&mut self, t: &mut Turn<'_>) {
        if self.damaged.is_none() {
            self.damaged = Some(self.log.last());
            self.become_follower(t, self.term, None);
        }
    }

    /// A damaged replica follows, so that it can be rebuilt, and does nothing else; one with a
    /// whole log votes too: were every replica silent whose snapshot was cut off, the crash of
    /// one leader could leave a group without a quorum for good.
    pub(crate) fn on_message_damaged(
        &mut self,
        t: &mut Turn<'_>,
        from: NodeId,
        term: Term,
        body: Body,
    ) {
        match body {
            Body::PreVote { last_index, last_term } if self.log_is_whole => {
                return self.on_pre_vote(t, from, term, last_index, last_term);
            }
            Body::Vote { last_index, last_term, .. } if self.log_is_whole => {
                atoll_base::reached!("a replica without state voted");
                return self.on_vote(t, from, last_index, last_term);
            }
            _ => {}
        }
        let from_leader = matches!(
            body,
            Body::Append { .. }
                | Body::Heartbeat { .. }
                | Body::Quiet { .. }
                | Body::Snapshot { .. }
        );
        if !from_leader || !self.hear_leader(t, from) {
            return;
        }
        match body {
            Body::Snapshot { index, term, membership } if self.accepts_snapshot(index, term) => {
                t.out.snapshot_offered = Some((from, index, term, membership));
            }
            _ => {
                let (index, installed) = (LogIndex::ZERO, false);
                self.send(t, from, Body::SnapshotReply { index, installed });
            }
        }
    }
}
