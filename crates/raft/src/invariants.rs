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

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use atoll_base::{Entry, NodeId, Term, Time};

    use super::*;
    use crate::config::Config;
    use crate::input::Input;
    use crate::membership::Membership;
    use crate::message::{Body, Message};
    use crate::output::{HardState, Output};
    use crate::quorum::Amnesia;
    use crate::quorum::Ballot;
    use crate::reader::{LogReader, ReadError};
    use crate::snapshot::StateHeld;
    use crate::transfer::Transfer;

    /// The core's own view of the log is enough here.
    struct NoLog;

    impl LogReader for NoLog {
        fn first_index(&self) -> LogIndex {
            LogIndex(1)
        }

        fn last_index(&self) -> LogIndex {
            LogIndex(0)
        }

        fn term(&self, _: LogIndex) -> Result<Term, ReadError> {
            Ok(Term(0))
        }

        fn entries(
            &self,
            _: LogIndex,
            _: LogIndex,
            _: usize,
            _: &mut Vec<Entry>,
        ) -> Result<(), ReadError> {
            Ok(())
        }
    }

    fn follower() -> RaftCore {
        let members = Membership::of_voters([NodeId(1), NodeId(2)]);
        let (config, hard) = (Config::new(NodeId(1), 1), HardState::default());
        RaftCore::new(config, Time::ZERO, hard, members, LogIndex(0), &NoLog).unwrap()
    }

    /// Leads with node 2's vote; its first entry is not written.
    fn leader() -> RaftCore {
        let mut core = follower();
        let now = core.next_deadline().unwrap();
        let mut out = Output::default();
        let say = |body| Message { from: NodeId(2), to: NodeId(1), term: Term(1), body };
        let ballot = Ballot::Granted;
        core.step(now, Input::Tick, &NoLog, &mut out);
        let asked = Input::Message(say(Body::PreVoteReply { ballot }));
        core.step(now, asked, &NoLog, &mut out);
        let vote = out.write.take().unwrap();
        let (write, term, index) = (vote.id, vote.term, vote.index);
        core.step(now, Input::Written { write, term, index }, &NoLog, &mut out);
        core.step(now, Input::Message(say(Body::VoteReply { ballot })), &NoLog, &mut out);
        assert!(core.is_leader());
        core.validate();
        core
    }

    /// What is broken, and what `validate` must say to it.
    type Case = (&'static str, fn(&mut RaftCore));

    fn caught(make: fn() -> RaftCore, cases: &[Case]) {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let mut missed = Vec::new();
        for (expected, corrupt) in cases {
            let mut core = make();
            corrupt(&mut core);
            let said = match catch_unwind(AssertUnwindSafe(|| core.validate())) {
                Ok(()) => "nothing".to_owned(),
                Err(panic) => match panic.downcast_ref::<String>() {
                    Some(text) => text.clone(),
                    None => panic.downcast_ref::<&str>().unwrap_or(&"").to_string(),
                },
            };
            if !said.contains(expected) {
                missed.push(format!("{expected}: it says {said}"));
            }
        }
        std::panic::set_hook(hook);
        assert!(missed.is_empty(), "{missed:#?}");
    }

    #[test]
    fn every_assertion_about_one_core_can_fail() {
        caught(
            leader,
            &[
                ("I5: applied", |c| c.applied = c.handed.next()),
                ("I5: handed", |c| c.handed = c.commit.next()),
                ("I5: commit", |c| c.commit = c.log.last().next()),
                ("cut above", |c| c.log.compact(LogIndex(2))),
                ("verified", |c| c.verified = c.log.last().next()),
                ("from the future", |c| c.term = Term(0)),
                ("I9: configuration", |c| {
                    c.history.push(LogIndex(9), Membership::of_voters([NodeId(1)]));
                }),
                ("left == right", |c| c.leader = None),
            ],
        );
        caught(
            follower,
            &[
                ("only leaders know", |c| {
                    c.progress.push((NodeId(2), crate::Progress::new(LogIndex(0), Time::ZERO)));
                }),
                ("only leaders hand over", |c| {
                    let (target, deadline) = (NodeId(2), Time::ZERO);
                    c.transfer = Some(Transfer { target, deadline, told: false });
                }),
                ("the election timer", |c| c.election_deadline = None),
            ],
        );
    }

    #[test]
    fn every_assertion_about_a_leader_can_fail() {
        caught(
            leader,
            &[
                ("T14: a leader without state", |c| c.state = StateHeld::Lost),
                ("T14: a leader with amnesia", |c| c.amnesia = Amnesia::Entries),
                ("a leader voted for itself", |c| c.vote = None),
                ("the term's first entry", |c| c.term_start = LogIndex(9)),
                ("a leader's last entry is its own", |c| c.term = Term(7)),
                ("the heartbeat timer", |c| c.heartbeat_deadline = None),
                ("progress follows the configuration", |c| c.progress.clear()),
                ("I6: node 2 matched", |c| c.progress[0].1.matched = c.progress[0].1.next),
                ("matched 5, last is", |c| {
                    let p = &mut c.progress[0].1;
                    (p.matched, p.next) = (LogIndex(5), LogIndex(6));
                }),
                ("next 9, last is", |c| c.progress[0].1.next = LogIndex(9)),
                ("window of 2", |c| {
                    c.progress[0].1.state = SendState::Replicate;
                    (1..=65).for_each(|i| c.progress[0].1.window.push(LogIndex(i), 1));
                }),
                ("only replication pipelines", |c| {
                    c.progress[0].1.window.push(LogIndex(1), 1);
                }),
                ("bytes proposed", |c| c.proposed_bytes += 1),
            ],
        );
    }
}
