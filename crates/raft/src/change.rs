//! Changing the members (thesis 4).
//!
//! A change of voters, of any size, is two entries: the joint configuration, and when that is
//! committed the new one alone, which the leader appends by itself (a new leader finishes what its
//! predecessor began). Learners and priorities don't decide anything, so a change of those alone is
//! one entry. One change at a time; and none before the leader has committed an entry of its own
//! term (trap R10). A leader that is no longer a voter leads until that is committed, then hands
//! over.

use atoll_base::{EntryKind, LogIndex, NodeId};

use crate::config::planted;
use crate::core::{CoreRole, RaftCore, Turn};
use crate::membership::{Membership, QuorumRule, Role};
use crate::message::Body;
use crate::output::ProposalOutcome;
use crate::progress::SendState;

impl RaftCore {
    pub(crate) fn on_change(&mut self, t: &mut Turn<'_>, target: Membership) {
        t.out.proposal = Some(self.change(t, target));
    }

    fn change(&mut self, t: &mut Turn<'_>, target: Membership) -> ProposalOutcome {
        if self.role != CoreRole::Leader {
            return ProposalOutcome::NotLeader { leader: self.leader };
        }
        let current = self.membership();
        let settled = self.commit >= self.history.index() && !current.is_joint();
        let committed = self.commit >= self.term_start;
        let refused = !settled
            || !(committed || planted!(self.config, ChangeBeforeCommit))
            || self.transfer.is_some()
            || target.check_target(current).is_err();
        if refused {
            atoll_base::reached!("a change of members was refused");
            return ProposalOutcome::Refused;
        }
        let next = if target.decides_like(current) || planted!(self.config, NoJoint) {
            target
        } else {
            Membership {
                outgoing: Some(current.members.clone()),
                outgoing_quorum: current.quorum,
                ..target
            }
        };
        self.wake(t);
        let first = self.log.last().next();
        self.append_membership(t, next);
        self.counters.changes += 1;
        ProposalOutcome::Appended { term: self.term, first }
    }

    fn append_membership(&mut self, t: &mut Turn<'_>, membership: Membership) {
        let index = self.log.last().next();
        let payload = membership.encode();
        // In force at once (I9): the entry itself is sent to, and counted among, the new members.
        let (kind, carried) = (EntryKind::Membership, vec![(index, membership)]);
        self.append_own(t, kind, vec![payload], carried);
        if self.role != CoreRole::Leader {
            return;
        }
        self.sync_progress(t.now);
        for at in 0..self.progress.len() {
            self.send_appends(t, at);
        }
        self.maybe_commit(t);
    }

    /// What follows when the configuration in force is committed.
    pub(crate) fn on_membership_commit(&mut self, t: &mut Turn<'_>) {
        if self.history.index() > self.commit || self.commit < self.term_start {
            return;
        }
        let current = self.membership();
        if current.is_joint() {
            atoll_base::reached!("a joint configuration was left");
            let left = Membership {
                outgoing: None,
                outgoing_quorum: QuorumRule::Majority,
                ..current.clone()
            };
            return self.append_membership(t, left);
        }
        self.resign_if_left_out(t);
    }

    /// A leader that the committed configuration leaves out goes as soon as somebody can follow it:
    /// without a voter that has the state, the group would have no leader for good.
    pub(crate) fn resign_if_left_out(&mut self, t: &mut Turn<'_>) {
        let membership = self.membership();
        let settled = self.history.index() <= self.commit && !membership.is_joint();
        if !settled || membership.can_lead(self.config.id) {
            return;
        }
        let able = self.progress.iter().filter(|(node, p)| {
            membership.members.get(node) == Some(&Role::Voter)
                && p.state == SendState::Replicate
                && !p.is_stateless
                && p.owed.is_none()
        });
        let furthest: Option<(LogIndex, NodeId)> = able.map(|(node, p)| (p.matched, *node)).max();
        let Some((_, node)) = furthest else { return };
        atoll_base::reached!("a leader that is no voter any more resigned");
        // They learn now that the change is done, not from the next leader.
        self.heartbeat(t);
        self.send(t, node, Body::TimeoutNow);
        self.become_follower(t, self.term, None);
    }
}
