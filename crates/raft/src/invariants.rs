//! What must always hold, as far as one core can see it. Checked after every step in tests and
//! simulation; what only a view of the whole group shows (I1, I3, I4) is checked there.

use atoll_base::LogIndex;

use crate::core::{CoreRole, RaftCore};
use crate::progress::SendState;

impl RaftCore {
    /// Asserts the invariants that one core can see. Cost: proportional to the followers.
    ///
    /// # Panics
    /// When one is broken, naming it and both values.
    pub fn validate(&self) {
        let (commit, last) = (self.commit, self.log.last());
        assert!(self.applied <= self.handed, "I5: applied {} > {}", self.applied, self.handed);
        assert!(self.handed <= commit, "I5: handed {} > commit {commit}", self.handed);
        assert!(commit <= last, "I5: commit {commit} > last {last}");
        assert!(self.durable() <= last, "I5: durable {} > last {last}", self.durable());
        assert!(self.log.first() <= self.applied.next(), "cut above {}", self.applied);
        assert!(self.verified <= last, "verified {} > last {last}", self.verified);
        assert!(self.log.last_term() <= self.term, "an entry from the future of {}", self.term);
        assert!(
            self.history.index() <= last,
            "I9: configuration at {}, last is {last}",
            self.history.index()
        );
        assert_eq!(self.role == CoreRole::Leader, self.leader == Some(self.config.id));
        if self.role == CoreRole::Leader {
            self.validate_leader(last);
        } else {
            assert!(self.progress.is_empty(), "only leaders know followers");
            assert!(self.transfer.is_none(), "only leaders hand over");
            let timer = self.election_deadline.is_some();
            assert_eq!(timer, !self.quiet && self.can_lead(), "the election timer");
        }
    }

    fn validate_leader(&self, last: LogIndex) {
        assert!(self.has_state(), "T14: a leader without state");
        assert!(!self.is_amnesic(), "T14: a leader with amnesia");
        assert_eq!(self.vote, Some(self.config.id), "a leader voted for itself");
        assert!(self.term_start <= last, "the term's first entry {}", self.term_start);
        assert_eq!(self.log.term(last), Some(self.term), "a leader's last entry is its own");
        assert_eq!(self.heartbeat_deadline.is_none(), self.quiet, "the heartbeat timer");
        let followers: Vec<_> = self.progress.iter().map(|(n, _)| *n).collect();
        let mut members = self.membership().nodes();
        members.retain(|n| *n != self.config.id);
        assert_eq!(followers, members, "progress follows the configuration (I9)");
        for (node, p) in &self.progress {
            assert!(p.matched < p.next, "I6: node {node} matched {}, next {}", p.matched, p.next);
            assert!(p.matched <= last, "node {node} matched {}, last is {last}", p.matched);
            assert!(p.next <= last.next(), "node {node} next {}, last is {last}", p.next);
            let window = p.window.messages();
            assert!(window <= self.config.inflight_messages_max, "window of {node}: {window}");
            if p.state != SendState::Replicate {
                assert!(p.window.is_empty(), "only replication pipelines");
            }
        }
        let proposed: usize = self.proposed.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(proposed, self.proposed_bytes, "bytes proposed");
    }
}
