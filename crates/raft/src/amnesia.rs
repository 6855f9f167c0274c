//! Replicas that lost entries which they may have acknowledged (traps T14, T20).
//!
//! Raft's safety rests on one promise: who acknowledged an entry still has it when it votes. A
//! damaged disk breaks that promise, and a replica with *amnesia* can't even tell what it promised.
//! As long as its term and vote are whole it can do more than wait:
//!
//! - *Acknowledgements name the life of the log.* Each loss begins another life, recorded before
//!   anything is said in it. A leader that hears of a later life forgets what earlier ones
//!   acknowledged, and an old acknowledgement that is still under way counts no more. A replica
//!   that lost the count of its lives as well is told which one its leader knows, and begins the
//!   one after it.
//! - *It is rebuilt while it takes part.* It asks its leader for a snapshot, of whatever the leader
//!   has applied, and then follows like others; what it acknowledges in the new life counts. So a
//!   group of two goes on although nothing could commit without the one that forgot.
//! - *It votes for a term, not for a log.* Its ballot keeps a second leader out of the term, and
//!   the candidate must be granted by so many others with a whole memory that one of them is in
//!   every replication quorum ([`quorum::tally`](crate::quorum::tally)).
//! - *It is whole again* when its log is durable, and equal to that of its term's leader, up to
//!   what that leader had when it learned of the loss. It says so by acknowledging that much, and
//!   not before it would know it after a power loss: a leader that takes it for whole may make it a
//!   voter, on which a group depends.
//!
//! # Why that is safe
//! Let `e` be an entry of term `t` that is committed, or will be by acknowledgements under way, and
//! `C` the winner of a later term. `e` is acknowledged by a replication quorum `Q`; among the
//! voters that granted `C` with a whole memory is a `V` of `Q`. If `V` acknowledged `e` in this
//! life of its log, it has `e` and compared logs: `C` has `e` too, as the paper shows. If in an
//! earlier life, it became whole since, under a leader `L` of a term of at least `t` (terms survive
//! the loss, and messages of earlier terms are ignored). `L` had `e` when it learned of the loss:
//! it
//! either sent `e` itself, or was elected after `t` and has `e` by this same argument. So `V` has
//! `e`. One leader a term (I1) needs only votes, and those are durable as before.
//!
//! Where the vote may be lost as well ([`Amnesia::Votes`]) the replica gives none before it is
//! whole.
//! That is not enough for I1: an earlier vote may be under way to a candidate of a term that its
//! leader knows nothing of. A replica that lost its vote for certain must come back under another
//! identity, as one that lost its disk.
//!
//! It can't be done with less: where no such `V` is left, all copies of a committed entry may be
//! among those that were lost, and the group waits for a memory to come back.

use atoll_base::{LogIndex, NodeId};

use crate::config::planted;
use crate::core::{RaftCore, Turn};
use crate::membership::Role;
use crate::message::Body;
use crate::progress::SendState;
use crate::quorum::Amnesia;
use crate::quorum::Ballot;
use crate::snapshot::StateHeld;

/// How far a replica with amnesia has come in this term.
#[derive(Debug, Default)]
pub(crate) struct Recollection {
    /// What was lost ends here at most, as the leader says.
    pub(crate) owed: Option<LogIndex>,
    /// The end of a snapshot that was installed and of which the leader was not told yet.
    pub(crate) installed: Option<LogIndex>,
}

impl RaftCore {
    /// True from the loss of entries that may have been acknowledged until all of them are here
    /// again: until then this replica doesn't lead, and its votes count for less.
    #[must_use]
    pub fn is_amnesic(&self) -> bool {
        self.amnesia != Amnesia::None
    }

    /// What is missing, as [`RaftCore::is_amnesic`].
    #[must_use]
    pub fn amnesia(&self) -> Amnesia {
        self.amnesia
    }

    /// How often this replica lost entries that it may have acknowledged.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.life
    }

    /// True when this replica may campaign: a voter with data, with its memory whole and not in the
    /// middle of a snapshot. One that an uncommitted configuration leaves out still may, because it
    /// can be the only one with the longest log (thesis 4.2.2).
    #[must_use]
    pub fn can_lead(&self) -> bool {
        let id = self.config.id;
        let in_doubt = self.history.index() > self.commit;
        !self.is_amnesic()
            && self.has_state()
            && (self.membership().can_lead(id)
                || in_doubt && self.history.previous().is_some_and(|m| m.can_lead(id)))
    }

    /// True when the state that the log leads to is here: not lost, not being replaced.
    pub(crate) fn has_state(&self) -> bool {
        !self.log_is_lost && self.state == StateHeld::Whole
    }

    /// True when this replica holds data to read: no witness, and its state is here.
    pub(crate) fn has_data(&self) -> bool {
        self.has_state() && self.membership().role(self.config.id) != Some(Role::Witness)
    }

    pub(crate) fn ballot(&self, granted: bool) -> Ballot {
        let forgot = self.is_amnesic() && !planted!(self.config, VoteInAmnesia);
        match (granted, forgot) {
            (false, _) => Ballot::Refused,
            (true, false) => Ballot::Granted,
            (true, true) => Ballot::Amnesic,
        }
    }

    /// Damage is met: a new life begins, with nothing in it.
    pub(crate) fn become_damaged(&mut self, t: &mut Turn<'_>, lost: Amnesia) {
        self.amnesia = self.amnesia.max(lost).max(Amnesia::Entries);
        if self.log_is_lost {
            return;
        }
        self.log_is_lost = true;
        self.counters.damaged += 1;
        self.recollection = Recollection::default();
        self.life += 1;
        self.verified = LogIndex::ZERO;
        self.acknowledged = LogIndex::ZERO;
        self.become_follower(t, self.term, None);
    }

    pub(crate) fn on_owed(&mut self, t: &mut Turn<'_>, from: NodeId, life: u64, to: LogIndex) {
        if !self.hear_leader(t, from) {
            return;
        }
        if to == LogIndex::ZERO {
            self.recount_lives(t, from, life);
        } else if life == self.life && self.recollection.owed.is_none() {
            // Each answer in this life is right; the first one asks for least.
            self.recollection.owed = Some(to);
            self.recollect(t);
            self.tell_what_was_kept_back(t);
        }
    }

    /// The leader knows this replica in life `known` of its log. Where that is to come, or here
    /// but has acknowledged something while nothing was acknowledged in it, the count of lives was
    /// lost too.
    fn recount_lives(&mut self, t: &mut Turn<'_>, leader: NodeId, known: u64) {
        if known > self.life || known == self.life && self.log_is_lost {
            atoll_base::reached!("a replica lost the count of its lives");
            self.life = known + 1;
            self.recollection.owed = None;
            if !self.ask_for_rest(t, leader) && !self.is_amnesic() {
                self.acknowledge(t, leader);
            }
        }
    }

    /// Ends the amnesia if everything is here again.
    pub(crate) fn recollect(&mut self, t: &mut Turn<'_>) {
        if !self.is_amnesic() || self.log_is_lost {
            return;
        }
        let has = self.verified.min(self.durable());
        if self.recollection.owed.is_some_and(|to| has >= to)
            || planted!(self.config, WholeTooEarly)
        {
            atoll_base::reached!("a replica with amnesia became whole");
            self.amnesia = Amnesia::None;
            self.tell_what_was_kept_back(t);
        }
    }

    /// True when acknowledging what is here up to `matched` would say that this replica is whole
    /// while it is not, or, after a power loss, would not know that it is.
    pub(crate) fn keeps_back(&self, matched: LogIndex) -> bool {
        self.is_amnesic() && self.recollection.owed.is_none_or(|to| matched >= to)
    }

    fn tell_what_was_kept_back(&mut self, t: &mut Turn<'_>) {
        self.tell_installed(t);
        self.acknowledge_written(t);
    }

    /// Says what is missing here, if something is: with every heartbeat, as long as it takes. True
    /// when that is so much that heartbeats can't be answered.
    pub(crate) fn ask_for_rest(&mut self, t: &mut Turn<'_>, leader: NodeId) -> bool {
        if self.log_is_lost || self.is_amnesic() && self.recollection.owed.is_none() {
            let (life, log_is_lost) = (self.life, self.log_is_lost);
            self.send_after(t, leader, Body::Amnesia { life, log_is_lost });
        }
        if self.state == StateHeld::Lost && !self.log_is_lost {
            let (index, installed, life) = (LogIndex::ZERO, true, self.life);
            self.send(t, leader, Body::SnapshotReply { index, installed, life });
        }
        self.log_is_lost || self.state == StateHeld::Lost
    }

    /// With its log lost a replica votes and lets itself be rebuilt, and does nothing else.
    pub(crate) fn on_message_lost(&mut self, t: &mut Turn<'_>, from: NodeId, body: Body) {
        match body {
            Body::Snapshot { index, term, membership } => {
                self.on_snapshot(t, from, index, term, membership);
            }
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Quiet { .. }
                if self.hear_leader(t, from) =>
            {
                self.ask_for_rest(t, from);
            }
            Body::Owed { life, to } => self.on_owed(t, from, life, to),
            Body::Vote { last_index, last_term, .. } => {
                self.on_vote(t, from, last_index, last_term);
            }
            _ => {}
        }
    }

    /// A follower speaks of a life of its log that is over, as far as is known here: perhaps late,
    /// perhaps because it can't count its lives any more.
    pub(crate) fn tell_life(&mut self, t: &mut Turn<'_>, to: NodeId, known: u64) {
        if !atoll_base::planted!(LivesNotTold) {
            self.send(t, to, Body::Owed { life: known, to: LogIndex::ZERO });
        }
    }

    /// A follower forgot what it acknowledged before `life`.
    pub(crate) fn on_amnesia(
        &mut self,
        t: &mut Turn<'_>,
        from: NodeId,
        life: u64,
        log_is_lost: bool,
    ) {
        let Some(at) = self.follower(from) else { return };
        let last = self.log.last();
        let progress = &mut self.progress[at].1;
        progress.heard_at = t.now;
        let known = progress.life;
        if life < known || life == known && log_is_lost && progress.matched > LogIndex::ZERO {
            return self.tell_life(t, from, known);
        }
        atoll_base::reached!("a follower said that it lost entries");
        progress.meet_life(life, last);
        progress.owed.get_or_insert(last);
        self.send(t, from, Body::Owed { life, to: last });
        let progress = &mut self.progress[at].1;
        if !log_is_lost {
            return self.send_appends(t, at);
        }
        progress.has_state_again();
        // One that refused an offer says so at once, and again with each heartbeat: so it gets one
        // offer a heartbeat.
        let waits = progress.state == SendState::Probe { waiting: true };
        if progress.state != SendState::Snapshot && (!waits || t.now >= progress.probe_at) {
            self.want_snapshot(t, at);
        }
    }
}
