//! Handing leadership over (thesis 3.10): refuse proposals, bring the target up to date, tell it to
//! campaign at once. Given up after one election timeout.
//!
//! Priorities use the same way: a leader that sees a caught-up member with a higher priority than
//! its own hands over to it; nobody fights for leadership.

use atoll_base::{NodeId, Time};

use crate::core::{CoreRole, RaftCore, Turn};
use crate::election::Cause;
use crate::membership::Role;
use crate::message::Body;
use crate::progress::SendState;

/// A hand-over under way.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) target: NodeId,
    pub(crate) deadline: Time,
    /// The target was told to campaign.
    pub(crate) told: bool,
}

impl RaftCore {
    /// True while leadership is being handed over.
    #[must_use]
    pub fn is_transferring(&self) -> bool {
        self.transfer.is_some()
    }

    pub(crate) fn on_transfer(&mut self, t: &mut Turn<'_>, target: NodeId) {
        let able = self.membership().members.get(&target) == Some(&Role::Voter);
        if self.role != CoreRole::Leader || self.transfer.is_some() || !able {
            return;
        }
        let Some(at) = self.follower(target) else { return };
        self.wake(t);
        let deadline = t.now.after(self.config.election_timeout_min);
        self.transfer = Some(Transfer { target, deadline, told: false });
        self.counters.transfers += 1;
        self.send_appends(t, at);
        self.transfer_if_ready(t);
    }

    /// Tells the target to campaign once it has the whole log.
    pub(crate) fn transfer_if_ready(&mut self, t: &mut Turn<'_>) {
        let Some(transfer) = &mut self.transfer else { return };
        let target = transfer.target;
        let found = self.progress.binary_search_by_key(&target, |(n, _)| *n);
        let ready = found.is_ok_and(|at| self.progress[at].1.matched == self.log.last());
        if ready && !transfer.told {
            transfer.told = true;
            self.reads.lose_lease();
            self.send(t, target, Body::TimeoutNow);
        }
    }

    pub(crate) fn on_transfer_deadline(&mut self, t: &mut Turn<'_>) {
        if self.transfer.as_ref().is_some_and(|transfer| transfer.deadline <= t.now) {
            atoll_base::reached!("a transfer of leadership took too long");
            self.counters.transfers_given_up += 1;
            self.transfer = None;
        }
    }

    pub(crate) fn on_timeout_now(&mut self, t: &mut Turn<'_>, from: NodeId) {
        if self.role == CoreRole::Follower && self.leader == Some(from) && self.can_lead() {
            atoll_base::reached!("a successor campaigned because it was told to");
            self.campaign(t, Cause::Transfer);
        }
    }

    /// Hands over to the caught-up voter with the highest priority above this leader's.
    pub(crate) fn take_over_by_priority(&mut self, t: &mut Turn<'_>) {
        let membership = self.membership();
        if membership.priorities.is_empty()
            || self.transfer.is_some()
            || t.now < self.takeover_after
            || membership.is_joint()
            || self.commit < self.term_start
        {
            return;
        }
        let mine = membership.priority(self.config.id);
        let recent = self.config.heartbeat_interval * 2;
        let ready = self.progress.iter().filter(|(node, p)| {
            membership.members.get(node) == Some(&Role::Voter)
                && membership.priority(*node) > mine
                && p.state == SendState::Replicate
                && p.owed.is_none()
                && p.matched >= self.commit
                && t.now < p.heard_at.after(recent)
        });
        let best = ready.max_by_key(|(node, _)| membership.priority(*node)).map(|(node, _)| *node);
        if let Some(target) = best {
            atoll_base::reached!("leadership went to the preferred leader");
            self.takeover_after = t.now.after(self.config.election_timeout_min * 4);
            self.on_transfer(t, target);
        }
    }
}
