//! Faults stop: everything is started and connected, and the group must elect a leader, commit
//! something new and become even (liveness, trap R7).

use std::fmt::Write as _;
use std::time::Duration;

use atoll_base::NodeId;
use atoll_raft::Input;

use super::{Health, World};

impl World {
    /// See the module.
    ///
    /// # Panics
    /// When the group does not recover.
    pub fn recover(&mut self) {
        self.cuts.clear();
        self.start_all();
        self.settle();
        for _ in 0..5 {
            self.now = self.now.after(Duration::from_millis(30));
            self.tick_due();
            self.settle();
        }
        let before = self.checks.committed();
        let goes_on = self.until(|w| {
            w.leader().is_some_and(|l| w.core(l).commit() >= before && !w.core(l).is_transferring())
        });
        if !goes_on && !self.careful && !self.somebody_can_win() {
            // All copies of what was committed may be gone: nobody may lead.
            self.reach("too many logs were lost");
            self.is_over = true;
            return;
        }
        if !goes_on && !self.somebody_can_win() && self.is_newest_log_a_learners() {
            // Voters that had it as well forgot it, and a change that was not committed gives the
            // learner a vote, which goes to nobody with less.
            self.reach("the newest log is a learner's");
            self.is_over = true;
            return;
        }
        if !goes_on && !self.somebody_can_win() && self.is_newest_log_without_state() {
            // A voter's install was cut off, it took an entry that its leader had not written yet,
            // and that leader crashed: the one has no state to lead with, all others less of a log.
            self.reach("the newest log's voter has no state");
            self.is_over = true;
            return;
        }
        if !goes_on && !self.somebody_can_lead() {
            // A change of members and crashes took the state from all that it left as voters: what
            // is committed is in their logs and elsewhere, but nobody may lead.
            self.reach("no voter has the state");
            self.is_over = true;
            return;
        }
        assert!(goes_on, "liveness: no leader after healing\n{}", self.describe());
        let mut done = false;
        for _ in 0..200 {
            let Some(leader) = self.leader() else {
                self.pass_deadline();
                continue;
            };
            let text = format!("healed {}", self.core(leader).last_index());
            self.propose(leader, &[&text]);
            self.settle();
            done = self.checks.committed() > before && self.members_even(leader);
            if done {
                break;
            }
            self.pass_deadline();
        }
        assert!(done, "liveness: nothing commits after healing\n{}", self.describe());
        self.reach("recovered");
    }

    fn start_all(&mut self) {
        let nodes: Vec<NodeId> = self.replicas.keys().copied().collect();
        for node in &nodes {
            // A damaged replica may be one too many; where its disk was only said to be broken, it
            // is read again.
            let said = self.replicas[node].health != Health::LogLost;
            if said && self.is_up(*node) && self.core(*node).is_damaged() {
                self.crash(*node, usize::MAX);
            }
            if !self.is_up(*node) {
                self.start(*node);
            }
            self.finish_install(*node);
        }
        // Whoever asked for a snapshot in vain asks again.
        for node in &nodes {
            for of in &nodes {
                self.step(*node, Input::PeerLiveness { node: *of, alive: true });
            }
        }
    }

    /// Of the replicas that remember all, one with the newest log.
    fn newest(&self) -> Option<NodeId> {
        let mut up = self.up();
        up.retain(|n| self.replica(*n).remembers());
        let end = |n: &NodeId| {
            let core = self.core(*n);
            (core.term_at(core.last_index()), core.last_index())
        };
        up.into_iter().max_by_key(end)
    }

    fn is_newest_log_a_learners(&self) -> bool {
        self.newest().is_some_and(|n| !self.core(n).membership().can_lead(n))
    }

    fn is_newest_log_without_state(&self) -> bool {
        self.newest().is_some_and(|n| self.core(n).is_damaged())
    }

    fn somebody_can_lead(&self) -> bool {
        let up = self.up();
        let logs = up.iter().map(|n| self.core(*n));
        let best = logs.max_by_key(|c| (c.term_at(c.last_index()), c.last_index()));
        let Some(best) = best else { return false };
        up.iter().any(|n| best.membership().can_lead(*n) && self.core(*n).can_lead())
            || up.iter().any(|n| self.core(*n).is_leader())
    }

    fn members_even(&self, leader: NodeId) -> bool {
        if !self.is_up(leader) || !self.core(leader).is_leader() {
            return false;
        }
        let core = self.core(leader);
        let even = |node: &NodeId| {
            let replica = self.replica(*node);
            replica.applied >= core.commit()
                && replica.health == Health::Whole
                && replica.remembers()
        };
        core.membership().nodes().iter().all(even)
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for node in self.up() {
            let (c, r) = (self.core(node), self.replica(node));
            let _ = writeln!(
                text,
                "node {node} {:?} term {} leader {:?} first {} commit {} durable {} last {} \
                 applied {} damaged {} amnesic {} quiet {} deadline {:?} members {:?}",
                c.role(),
                c.term(),
                c.leader(),
                c.first_index(),
                c.commit(),
                c.durable(),
                c.last_index(),
                r.applied,
                c.is_damaged(),
                c.is_amnesic(),
                c.is_quiet(),
                c.next_deadline(),
                c.membership(),
            );
            for (of, p) in c.progress() {
                let _ = writeln!(text, "    {of}: {p:?}");
            }
        }
        text
    }
}
