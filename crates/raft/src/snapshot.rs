//! Followers whose next entry is gone from the log (thesis 5), and replicas that must be rebuilt.
//!
//! The core decides who needs a snapshot and when one may be installed; taking, sending and
//! fetching it is the owner's work. A follower in the *snapshot* state gets heartbeats but no
//! appends until the owner reports, or the follower answers that it is within reach of the log
//! again.
//!
//! While a snapshot is installed the old state is gone and the new one is not there: the replica
//! follows and votes, since its log is whole, but can't lead. If the install is cut off it stays so
//! and asks for another one; whatever that ends at, its log goes on from there if it reaches so
//! far, so nothing that it acknowledged is given up. What happens when entries are gone that it
//! acknowledged is told in `amnesia`.

use atoll_base::{LogIndex, NodeId, Term};

use crate::core::{CoreRole, RaftCore, Turn};
use crate::history::History;
use crate::membership::Membership;
use crate::message::{Body, Message};
use crate::progress::SendState;

/// What there is of the state that the log leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StateHeld {
    /// All that was applied.
    Whole,
    /// The owner replaces it by a snapshot at the moment.
    Installing,
    /// Nothing: an install was cut off.
    Lost,
}

impl RaftCore {
    pub(crate) fn want_snapshot(&mut self, t: &mut Turn<'_>, at: usize) {
        let progress = &mut self.progress[at].1;
        progress.state = SendState::Snapshot;
        progress.window.clear();
        self.counters.snapshots_wanted += 1;
        t.out.snapshots_wanted.push(self.progress[at].0);
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
        match (self.log_is_lost, self.state) {
            // What it ends before comes by appends, and until then there is amnesia.
            (true, _) => true,
            // The whole log goes on from the state, or ends before it.
            (_, StateHeld::Lost) => self.holds(index, term) || index > self.commit,
            _ => index > self.commit && !self.holds(index, term),
        }
    }

    /// True when installing this snapshot leaves nothing of the log; false when the log has the
    /// snapshot's last entry and goes on from there (paper, figure 13, step 6). Acknowledged
    /// entries after it must stay.
    #[must_use]
    pub fn snapshot_replaces_log(&self, index: LogIndex, term: Term) -> bool {
        let goes_on = !self.log_is_lost && self.holds(index, term);
        self.accepts_snapshot(index, term) && !goes_on
    }

    /// True while the owner replaces its state by a snapshot.
    #[must_use]
    pub fn is_installing(&self) -> bool {
        self.state == StateHeld::Installing
    }

    fn holds(&self, index: LogIndex, term: Term) -> bool {
        self.log.term(index) == Some(term)
    }

    /// The owner replaces its state: until that is done there is none to lead with.
    pub(crate) fn begin_install(&mut self, t: &mut Turn<'_>) {
        if !self.has_state() {
            return;
        }
        self.state = StateHeld::Installing;
        if self.role == CoreRole::Follower {
            self.fail_asks(t);
        } else {
            self.become_follower(t, self.term, None);
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
        self.counters.snapshots_installed += 1;
        if term > self.term {
            // Fetched before a restart, and its term had not become durable.
            self.become_follower(t, term, None);
        }
        if self.snapshot_replaces_log(index, term) {
            self.log.reset(index, term);
            self.history = History::new(index, membership);
            self.writes.forget();
            self.commit = index;
            self.verified = index;
            self.acknowledged = index;
        } else {
            self.commit_to(index);
            self.verified = self.verified.max(index);
        }
        self.log_is_lost = false;
        self.state = StateHeld::Whole;
        self.handed = index;
        self.applied = index;
        self.recollection.installed = self.leader.map(|_| index);
        self.recollect(t);
        self.tell_installed(t);
    }

    /// Tells the leader of the snapshot that was installed, once that may be said.
    pub(crate) fn tell_installed(&mut self, t: &mut Turn<'_>) {
        let (Some(index), Some(leader)) = (self.recollection.installed, self.leader) else {
            return;
        };
        if index == LogIndex::ZERO {
            self.recollection.installed = None;
            return self.acknowledge(t, leader);
        }
        if !self.keeps_back(index) {
            self.recollection.installed = None;
            let (installed, life) = (true, self.life);
            self.send_after(t, leader, Body::SnapshotReply { index, installed, life });
        }
    }

    /// While the snapshot was being installed the log went beyond it: the log stays, and what the
    /// snapshot holds counts as applied. It was committed where it was taken, and the log has it.
    fn on_snapshot_overtaken(&mut self, t: &mut Turn<'_>, index: LogIndex) {
        if self.is_damaged() {
            return;
        }
        atoll_base::reached!("the log overtook a snapshot while it was installed");
        self.state = StateHeld::Whole;
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
        // Should it still have no state, it asks again.
        progress.snapshot_asked = false;
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
        (index, installed): (LogIndex, bool),
        life: u64,
    ) {
        if index == LogIndex::ZERO {
            return self.on_state_lost(t, from);
        }
        if installed {
            if let Some(at) = self.follower(from) {
                self.progress[at].1.has_state_again();
            }
            self.on_append_reply(t, from, index, life);
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
        if progress.state == SendState::Snapshot {
            let next = progress.matched.next();
            progress.probe(next);
            self.send_appends(t, at);
        }
    }

    /// A follower has no state. Its log is whole: what it acknowledged stands, and appends flow on.
    fn on_state_lost(&mut self, t: &mut Turn<'_>, from: NodeId) {
        let Some(at) = self.follower(from) else { return };
        let progress = &mut self.progress[at].1;
        progress.heard_at = t.now;
        progress.is_stateless = true;
        if progress.state != SendState::Snapshot && !progress.snapshot_asked {
            progress.snapshot_asked = true;
            t.out.snapshots_wanted.push(from);
        }
    }

    /// The state is gone and the log is whole: still a follower and a voter, or the crash of one
    /// leader could leave a group without a quorum whose replicas were cut off in snapshots.
    pub(crate) fn lose_state(&mut self, t: &mut Turn<'_>) {
        if self.state != StateHeld::Lost {
            self.state = StateHeld::Lost;
            self.become_follower(t, self.term, None);
        }
    }
}
