//! The group follows its description: what a leader does so that the members in force become those
//! that the catalog names.
//!
//! The description is a wish. Whoever leads compares it with the configuration in force and makes
//! the next step: it takes newcomers in as learners, waits until those that shall vote have caught
//! up, hands leadership over where it is to leave itself, and then changes the members, through a
//! joint configuration where votes move (Raft thesis 4.3). A new leader goes on where its
//! predecessor ended, because the next step follows from the two configurations alone.
//!
//! * **M1** One change at a time, each committed before the next is begun.
//! * **M2** Nobody votes before its log is nearly the leader's; a group never waits for a newcomer.
//! * **M3** No change is begun that would leave a group whose majority does not answer: removing
//!   a node during a partition must not stop the group (trap T16). Who has lost its data and is
//!   being rebuilt does not answer either.
//! * **M4** The founding configuration stands in no log. It is written there before anybody waits
//!   for the first change, so that a replica that restarts never has to guess it from a
//!   description that has moved on.

use std::time::Duration;

use atoll_base::{Code, Failure, NodeId};
use atoll_coord::{AnswerBody, Descriptor};
use atoll_raft::{Input, Member, Membership, Progress, ProposalOutcome, RaftCore, Role, SendState};

use crate::ask::Ask;
use crate::replica::{Replica, not_leader};
use crate::turn::Turn;

/// A follower that is at most this many entries behind has caught up.
const CATCH_UP_ENTRIES: u64 = 1000;

/// A member that was not heard for so many of the shortest election timeouts doesn't answer.
const SILENT_TIMEOUTS: u32 = 2;

/// How long a member may be silent before it counts as one that doesn't answer.
fn silent_after(turn: &Turn) -> Duration {
    turn.config.raft.election_timeout_min * SILENT_TIMEOUTS
}

/// What a replica knows about its group's way to the members that its description names.
#[derive(Default)]
pub(crate) struct Members {
    /// The members in force are those of the description, for all that this leader knows.
    is_settled: bool,
    /// What the next step waits for, for people.
    waits_for: String,
    asks: Vec<Ask>,
}

/// What a leader does next.
#[derive(PartialEq, Eq, Debug)]
enum Step {
    /// Nothing: it is as described.
    Settled,
    /// Nothing yet.
    Wait(String),
    /// Propose these members.
    Change(Membership),
    /// Let this one lead.
    HandOver(NodeId),
}

impl Members {
    /// The description or the leader changed: look again.
    pub(crate) fn unsettle(&mut self) {
        self.is_settled = false;
    }

    /// What the next step waits for; empty when nothing is to be done.
    pub(crate) fn waits_for(&self) -> &str {
        &self.waits_for
    }

    pub(crate) fn has_asks(&self) -> bool {
        !self.asks.is_empty()
    }

    /// Refuses everybody who waits.
    pub(crate) fn refuse_all(&mut self, failure: &Failure, turn: &mut Turn) {
        for ask in self.asks.drain(..) {
            turn.refuse(ask, failure.clone());
        }
    }
}

impl Replica {
    /// Answers when the members are as described; `expected` guards against a description that is
    /// newer or older than the asker's.
    pub(crate) fn await_members(&mut self, ask: Ask, expected: &[Member], turn: &mut Turn) {
        let shard = self.shard();
        let wish = wished(&self.descriptor);
        let same = expected.len() == wish.members.len()
            && expected.iter().all(|m| wish.members.get(&m.node) == Some(&m.role));
        if !expected.is_empty() && !same {
            let epoch = self.descriptor.epoch;
            let text = format!("shard {shard} has other members at epoch {epoch}");
            turn.refuse(ask, Failure::new(Code::StaleEpoch, text));
            return;
        }
        self.members.asks.push(ask);
        self.members.unsettle();
    }

    /// Makes the next step towards the description, if this replica leads.
    pub(crate) fn follow_description(&mut self, turn: &mut Turn) {
        if self.members.is_settled || !self.leads() {
            return;
        }
        // Who waits looks again with each heartbeat.
        self.step(Input::Wake, turn);
        let silent_after = silent_after(turn);
        let heard = |at: atoll_base::Time| turn.now.since(at) <= silent_after;
        let step = next_step(self.group.core(), &self.descriptor, self.is_recorded(), heard);
        match step {
            Step::Settled => self.settle_members(turn),
            Step::Wait(reason) => self.members.waits_for = reason,
            Step::Change(target) => self.propose_members(target, turn),
            Step::HandOver(to) => {
                self.members.waits_for = format!("leadership to be handed to node {to}");
                self.step(Input::Transfer(to), turn);
                self.absorb(turn);
            }
        }
    }

    fn propose_members(&mut self, target: Membership, turn: &mut Turn) {
        let shard = self.shard();
        self.step(Input::ChangeMembership(target.clone()), turn);
        let outcome = self.group.output().proposal.take();
        self.members.waits_for = match outcome {
            Some(ProposalOutcome::Appended { .. }) => {
                tracing::info!(shard = shard.0, members = ?target.members, "members are changed");
                "the group to agree on its members".to_owned()
            }
            _ => "its leader to be able to change members".to_owned(),
        };
        self.absorb(turn);
    }

    fn settle_members(&mut self, turn: &mut Turn) {
        self.members.is_settled = true;
        self.members.waits_for.clear();
        let (epoch, index) = (self.descriptor.epoch, self.group.core().membership_index());
        for ask in std::mem::take(&mut self.members.asks) {
            turn.answer(ask, AnswerBody::Members { epoch, index });
        }
    }

    /// Leadership is elsewhere: the one who has it will know.
    pub(crate) fn stop_awaiting_members(&mut self, leader: Option<NodeId>, turn: &mut Turn) {
        self.members.unsettle();
        self.members.waits_for.clear();
        self.members.refuse_all(&not_leader(self.descriptor.shard, leader), turn);
    }

    pub(crate) fn expire_members(&mut self, turn: &mut Turn) {
        let (now, shard) = (turn.now, self.shard());
        let (late, waiting) = self.members.asks.drain(..).partition(|ask| ask.deadline <= now);
        self.members.asks = waiting;
        let late: Vec<Ask> = late;
        for ask in late {
            let text = format!("shard {shard} waits for {}", self.members.waits_for);
            turn.refuse(ask, Failure::new(Code::DeadlineExceeded, text));
        }
    }

    /// Why leadership can't go to that voter now.
    fn cannot_hand_over(&self, to: NodeId, turn: &Turn) -> Option<Failure> {
        let (core, shard) = (self.group.core(), self.shard());
        if let Some((_, other)) = &self.transfer {
            let text = format!("shard {shard} is being handed to node {other} at the moment");
            return Some(Failure::new(Code::Overloaded, text));
        }
        let (_, follower) = core.progress().iter().find(|(node, _)| *node == to)?;
        let silent = turn.now.since(follower.heard_at);
        // Nobody talks in a group that rests.
        let is_expected = !core.is_quiet() || !follower.alive;
        if is_expected && silent > silent_after(turn) {
            let text = format!(
                "node {to} was not heard from for {:.1} s and can't take shard {shard} over",
                silent.as_secs_f64()
            );
            return Some(Failure::new(Code::PreconditionFailed, text));
        }
        None
    }

    /// Tells whoever asked for a transfer how it went, once that can be said.
    pub(crate) fn follow_transfer(&mut self, turn: &mut Turn) {
        let core = self.group.core();
        let (leader, is_under_way) = (core.leader(), core.is_transferring());
        let Some((ask, to)) = self
            .transfer
            .take_if(|(_, to)| leader == Some(*to) || leader.is_some() && !is_under_way)
        else {
            return;
        };
        if leader == Some(to) {
            turn.answer(ask, AnswerBody::Transferred);
        } else if self.leads() {
            let text = format!("node {to} did not take shard {} over in time", self.shard());
            turn.refuse(ask, Failure::new(Code::DeadlineExceeded, text));
        } else {
            turn.refuse(ask, not_leader(self.shard(), leader));
        }
    }

    /// Hands leadership over.
    pub(crate) fn transfer(&mut self, ask: Ask, to: NodeId, turn: &mut Turn) {
        let core = self.group.core();
        if core.leader() == Some(to) {
            turn.answer(ask, AnswerBody::Transferred);
            return;
        }
        if !core.membership().can_lead(to) {
            let what = match core.membership().role(to) {
                Some(Role::Witness) => "a witness",
                _ => "no voter",
            };
            let text = format!("node {to} is {what} of shard {} and can't lead it", self.shard());
            turn.refuse(ask, Failure::new(Code::InvalidArgument, text));
            return;
        }
        if let Some(refusal) = self.cannot_hand_over(to, turn) {
            turn.refuse(ask, refusal);
            return;
        }
        self.transfer = Some((ask, to));
        self.step(Input::Transfer(to), turn);
        self.absorb(turn);
    }
}

/// The configuration that a description asks for.
pub(crate) fn wished(descriptor: &Descriptor) -> Membership {
    let mut membership = Membership::default();
    for member in &descriptor.members {
        membership.members.insert(member.node, member.role);
    }
    // The first member of a descriptor is who should lead, so that leaders spread over the nodes.
    if let Some(first) = descriptor.members.iter().find(|m| m.role == Role::Voter) {
        membership.priorities.insert(first.node, 1);
    }
    membership
}

/// What the leader `core` does next; `heard` tells whether a time of hearing somebody is recent.
fn next_step(
    core: &RaftCore,
    descriptor: &Descriptor,
    is_recorded: bool,
    heard: impl Fn(atoll_base::Time) -> bool,
) -> Step {
    let current = core.membership();
    let wish = wished(&reachable(current, descriptor));
    if current.is_joint() || core.membership_index() > core.applied() {
        return Step::Wait("the group to agree on its members".to_owned());
    }
    if *current == wish {
        // M4: what is in force may still be known from the description only.
        return if is_recorded { Step::Settled } else { Step::Change(wish) };
    }
    let newcomers = newcomers(current, &wish);
    if !newcomers.is_empty() {
        let mut target = current.clone();
        target.members.extend(newcomers);
        return Step::Change(target);
    }
    if let Some(reason) = lagging(core, &wish) {
        return Step::Wait(reason);
    }
    let target = match hand_over(core, &wish) {
        HandOver::NotNeeded => wish,
        HandOver::Step(step) => return step,
        HandOver::Later(target) => target,
    };
    match silent(core, &target, heard) {
        Some(reason) => Step::Wait(reason),
        None => Step::Change(target),
    }
}

/// The description without those who hold data and are to be witnesses, or the other way round: the
/// group lets them go first, and their replicas begin anew (`witness`, W1).
fn reachable(current: &Membership, descriptor: &Descriptor) -> Descriptor {
    let mut reachable = descriptor.clone();
    reachable.members.retain(|m| {
        let is = current.members.get(&m.node);
        is.is_none_or(|role| (*role == Role::Witness) == (m.role == Role::Witness))
    });
    reachable
}

/// Those who are to come, in the role in which they begin: nobody begins as a voter (M2). A witness
/// has nothing to catch up with; it comes when the votes change.
fn newcomers(current: &Membership, wish: &Membership) -> Vec<(NodeId, Role)> {
    let is_new = |node: &NodeId| !current.members.contains_key(node);
    let new = wish.members.iter().filter(|(node, role)| is_new(node) && **role == Role::Voter);
    new.map(|(node, _)| (*node, Role::Learner)).collect()
}

/// Which learner that is to vote is still behind.
fn lagging(core: &RaftCore, wish: &Membership) -> Option<String> {
    let current = core.membership();
    let becomes_voter = |node: &NodeId| {
        wish.members.get(node) == Some(&Role::Voter)
            && current.members.get(node) == Some(&Role::Learner)
    };
    let last = core.last_index();
    core.progress().iter().filter(|(node, _)| becomes_voter(node)).find_map(|(node, p)| {
        // Who lost entries may have lost votes, too, and gives none before it has all it owes: as
        // a voter that crashes before that it could keep the group without a leader for good.
        let is_whole = p.owed.is_none();
        let is_near = p.state == SendState::Replicate && last.0 - p.matched.0 <= CATCH_UP_ENTRIES;
        let state = match p.state {
            SendState::Snapshot => "is getting a snapshot",
            _ if !is_whole => "is being rebuilt after damage",
            _ => "has",
        };
        (!is_near || !is_whole).then(|| {
            atoll_base::reached!("a change waited for a newcomer to catch up");
            format!("node {node} to catch up: it {state}, {} of {last} entries", p.matched)
        })
    })
}

enum HandOver {
    NotNeeded,
    /// First this.
    Step(Step),
    /// After these members, which keep the leader, are in force.
    Later(Membership),
}

/// What a leader does that is not to vote any more: it makes somebody else lead, who removes it.
fn hand_over(core: &RaftCore, wish: &Membership) -> HandOver {
    let (me, current) = (core.id(), core.membership());
    if wish.members.get(&me) == Some(&Role::Voter) {
        return HandOver::NotNeeded;
    }
    let stays = |node: &NodeId| {
        wish.members.get(node) == Some(&Role::Voter)
            && current.members.get(node) == Some(&Role::Voter)
    };
    if !current.members.keys().any(stays) {
        atoll_base::reached!("a group moved as a whole");
        return HandOver::Later(wish.clone().with(me, Role::Voter));
    }
    let able = core
        .progress()
        .iter()
        .filter(|(node, p)| stays(node) && p.alive && p.state == SendState::Replicate);
    let best =
        able.max_by_key(|(node, p)| (wish.priority(*node), p.matched)).map(|(node, _)| *node);
    let Some(to) = best else {
        let text = "a remaining voter that can take over the leadership";
        return HandOver::Step(Step::Wait(text.to_owned()));
    };
    if current.priority(to) <= current.priority(me) && current.priority(me) > 0 {
        atoll_base::reached!("a leader gave up being preferred before it left");
        // Or the group would hand leadership back.
        let mut target = current.clone();
        target.priorities = [(to, 1)].into();
        return HandOver::Step(Step::Change(target));
    }
    if core.is_transferring() {
        return HandOver::Step(Step::Wait(format!("leadership to be handed to node {to}")));
    }
    atoll_base::reached!("a leader that is to leave handed over");
    HandOver::Step(Step::HandOver(to))
}

/// Who of the target does not answer, where that would leave it without a majority (M3).
fn silent(
    core: &RaftCore,
    target: &Membership,
    heard: impl Fn(atoll_base::Time) -> bool,
) -> Option<String> {
    let answers = |node: NodeId| {
        let known = core.progress().iter().find(|(n, _)| *n == node);
        // Who is being rebuilt answers, and acknowledges nothing.
        let is_whole = |p: &Progress| p.state != SendState::Snapshot && p.owed.is_none();
        let counts = |p: &Progress| p.alive && heard(p.heard_at) && is_whole(p);
        node == core.id() || known.is_some_and(|(_, p)| counts(p))
    };
    let voters: Vec<NodeId> =
        target.members.iter().filter(|(_, r)| r.votes()).map(|(n, _)| *n).collect();
    let missing: Vec<String> =
        voters.iter().filter(|n| !answers(**n)).map(ToString::to_string).collect();
    let needed = target.quorum.replication(voters.len());
    if voters.len() - missing.len() >= needed {
        return None;
    }
    atoll_base::reached!("a change waited for silent members");
    Some(format!(
        "a majority of the new members: {needed} of {} must answer, silent: node {}",
        voters.len(),
        missing.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use atoll_base::{Entry, LogIndex, Term, Time};
    use atoll_raft::{Body, Config, HardState, LogReader, Message, Output, ReadError};
    use bytes::Bytes;

    use super::*;

    const LEADER: NodeId = NodeId(1);
    const LEARNER: NodeId = NodeId(2);

    /// All that is asked for is in the core's memory.
    struct EmptyLog;

    impl LogReader for EmptyLog {
        fn first_index(&self) -> LogIndex {
            LogIndex(1)
        }
        fn last_index(&self) -> LogIndex {
            LogIndex::ZERO
        }
        fn term(&self, _: LogIndex) -> Result<Term, ReadError> {
            Ok(Term::ZERO)
        }
        fn entries(
            &self,
            from: LogIndex,
            to: LogIndex,
            _: usize,
            _: &mut Vec<Entry>,
        ) -> Result<(), ReadError> {
            unreachable!("entries {from} to {to}")
        }
    }

    /// One input, and what is written and applied at once after it.
    fn step(core: &mut RaftCore, now: Time, input: Input) {
        let (mut out, mut next) = (Output::default(), Some(input));
        while let Some(input) = next.take() {
            core.step(now, input, &EmptyLog, &mut out);
            if let Some(write) = out.write.take() {
                next =
                    Some(Input::Written { write: write.id, term: write.term, index: write.index });
            } else if let Some(commit) = out.commit {
                next = Some(Input::Applied(commit));
            }
            out.clear();
        }
    }

    fn says(core: &mut RaftCore, now: Time, body: Body) {
        let (from, to, term) = (LEARNER, LEADER, core.term());
        step(core, now, Input::Message(Message { from, to, term, body }));
    }

    #[test]
    fn a_learner_that_owes_entries_does_not_become_a_voter() {
        let membership = Membership::of_voters([LEADER]).with(LEARNER, Role::Learner);
        let (config, hard) = (Config::new(LEADER, 1), HardState::default());
        let mut core =
            RaftCore::new(config, Time::ZERO, hard, membership, LogIndex::ZERO, &EmptyLog).unwrap();
        let now = core.next_deadline().unwrap();
        step(&mut core, now, Input::Tick);
        assert!(core.is_leader());
        step(&mut core, now, Input::Propose(vec![Bytes::from_static(b"one")]));
        let last = core.last_index();
        let wish = Membership::of_voters([LEADER, LEARNER]);
        let acknowledges = |life| Body::AppendReply { matched: last, life };
        says(&mut core, now, acknowledges(0));
        assert_eq!(lagging(&core, &wish), None);
        // It was damaged, and has all but the last entry again.
        says(&mut core, now, Body::Amnesia { life: 1, log_is_lost: false });
        let (prev_index, conflict_index, conflict_term) = (last, LogIndex(1), Term::ZERO);
        says(&mut core, now, Body::AppendReject { prev_index, conflict_index, conflict_term });
        says(&mut core, now, Body::AppendReply { matched: last.prev(), life: 1 });
        let follower = &core.progress().iter().find(|(node, _)| *node == LEARNER).unwrap().1;
        assert_eq!((follower.state, follower.owed), (SendState::Replicate, Some(last)));
        let reason = lagging(&core, &wish).unwrap();
        assert!(reason.contains("node 2 to catch up: it is being rebuilt"), "{reason}");
        let reason = silent(&core, &wish, |_| true).unwrap();
        assert!(reason.contains("2 of 2 must answer, silent: node 2"), "{reason}");
        says(&mut core, now, acknowledges(1));
        assert_eq!(lagging(&core, &wish), None);
        assert_eq!(silent(&core, &wish, |_| true), None);
    }
}
