//! What must always hold, as far as one core can see it. Checked after every step in tests and
//! simulation; what takes a view of several cores (I1, I3, I4) is [`validate_group`]'s.
//!
//! [`validate_group`]: crate::validate_group

use atoll_base::LogIndex;

use crate::core::{CoreRole, RaftCore};
use crate::message::{Body, Message};
use crate::output::Output;
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

    /// Asserts I8 of what this core's last step, and no other, left in `out`: what may leave at
    /// once promises only what is durable, and what waits for a write no more than that write.
    ///
    /// # Panics
    /// When it is broken, naming the addressee and both values.
    pub fn validate_output(&self, out: &Output) {
        let durable = self.durable();
        for Message { to, term, body, .. } in &out.messages {
            match body {
                Body::AppendReply { matched, .. } => {
                    assert!(
                        *matched <= durable,
                        "I8: {matched} is told {to}, durable is {durable}"
                    );
                }
                Body::VoteReply { ballot } if ballot.is_yes() => {
                    let given = (*term, Some(*to));
                    let recorded = (self.recorded.term, self.recorded.vote);
                    assert_eq!(given, recorded, "I8: a vote leaves for {to} that is not recorded");
                    let begun = usize::from(out.write.is_some());
                    let records = out.write.as_ref().is_some_and(|w| w.hard_state.is_some());
                    let is_durable = self.writes.len() == begun && !records;
                    assert!(is_durable, "I8: a vote leaves for {to} before it is durable");
                }
                _ => {}
            }
        }
        let Some(write) = &out.write else { return };
        for Message { to, body, .. } in &write.after {
            if let Body::AppendReply { matched, .. } = body {
                let end = write.index;
                assert!(*matched <= end, "I8: {matched} is told {to} after a write to {end}");
            }
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
pub(crate) mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use atoll_base::{Entry, NodeId, Term, Time};

    use super::*;
    use crate::config::Config;
    use crate::input::Input;
    use crate::membership::Membership;
    use crate::output::HardState;
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

    pub(crate) fn follower() -> RaftCore {
        let members = Membership::of_voters([NodeId(1), NodeId(2)]);
        let (config, hard) = (Config::new(NodeId(1), 1), HardState::default());
        RaftCore::new(config, Time::ZERO, hard, members, LogIndex(0), &NoLog).unwrap()
    }

    /// Leads with node 2's vote; its first entry is not written.
    pub(crate) fn leader() -> RaftCore {
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

    /// A follower that was asked for its vote: the step's output, before anything is written.
    fn voter() -> (RaftCore, Output) {
        let mut core = follower();
        let mut out = Output::default();
        let body = Body::Vote { last_index: LogIndex(0), last_term: Term(0), transfer: false };
        let asked = Message { from: NodeId(2), to: NodeId(1), term: Term(1), body };
        core.step(Time::ZERO, Input::Message(asked), &NoLog, &mut out);
        core.validate_output(&out);
        (core, out)
    }

    fn says(core: &RaftCore, out: &Output) -> String {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let panic = catch_unwind(AssertUnwindSafe(|| core.validate_output(out))).unwrap_err();
        std::panic::set_hook(hook);
        panic.downcast_ref::<String>().unwrap().clone()
    }

    #[test]
    fn a_vote_that_leaves_before_its_write_is_seen() {
        let (core, mut out) = voter();
        let vote = out.write.as_mut().unwrap().after.pop().unwrap();
        out.messages.push(vote.clone());
        assert!(says(&core, &out).contains("before it is durable"));
        out.write = None;
        assert!(says(&core, &out).contains("before it is durable"), "the write was taken");
        out.messages = vec![Message { to: NodeId(3), ..vote }];
        assert!(says(&core, &out).contains("not recorded"));
    }

    #[test]
    fn an_acknowledgement_of_what_is_not_written_is_seen() {
        let (core, mut out) = voter();
        let body = Body::AppendReply { matched: LogIndex(1), life: 0 };
        let reply = Message { from: NodeId(1), to: NodeId(2), term: Term(1), body };
        out.write.as_mut().unwrap().after.push(reply.clone());
        assert!(says(&core, &out).contains("after a write to"));
        out.write = None;
        out.messages.push(reply);
        assert!(says(&core, &out).contains("durable is"));
    }
}
