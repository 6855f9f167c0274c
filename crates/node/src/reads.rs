//! Reads on their way through confirmation: gathered, confirmed, served.
//!
//! All linearizable reads that reach a shard in one turn share one confirmation of leadership
//! (Raft thesis 6.4). Each is served as soon as its read index is applied.
//!
//! A confirmation also tells how old the replica's state is at most: once its index is applied,
//! nothing is missing that was acknowledged before the question was *asked*. Only that moment
//! counts, on this node's own clock. When a leader was last heard says nothing: its message may
//! have been under way for long, a leader may have been replaced without knowing it, and what it
//! tells a follower of the commit index never passes what that follower has. So a stale read that
//! finds the last confirmation too long ago asks for another one, and waits for it only where its
//! bound says so.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use atoll_base::{Code, Failure, LogIndex, NodeId, Revision, Time, planted};
use atoll_coord::AnswerBody;
use atoll_machine::{RangeQuery, ShardMachine};
use bytes::Bytes;

use crate::ask::Ask;
use crate::leases::{Leases, Question};
use crate::turn::Turn;

/// What is read.
pub(crate) enum What {
    Get {
        key: Bytes,
        at: Option<Revision>,
    },
    Range(RangeQuery),
    /// About leases and locks.
    Coordination(Question),
}

/// Reads that share a confirmation.
struct Group {
    /// When it was asked for.
    asked_at: Time,
    reads: Vec<(Ask, What)>,
}

/// A shard's reads that are not yet answered.
#[derive(Default)]
pub(crate) struct Reads {
    queued: Vec<(Ask, What)>,
    asked: BTreeMap<u64, Group>,
    confirmed: VecDeque<(LogIndex, Group)>,
    context: u64,
    count: usize,
    /// A confirmation is wanted although no read waits for it.
    wants_news: bool,
    /// The state here lacks nothing that was acknowledged before.
    complete_at: Option<Time>,
}

impl Reads {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn push(&mut self, ask: Ask, what: What) {
        self.count += 1;
        self.queued.push((ask, what));
    }

    /// How old the state here may be; `None` when nobody has told since the replica was opened.
    pub(crate) fn age(&self, now: Time) -> Option<Duration> {
        self.complete_at.map(|at| now.since(at))
    }

    /// Asks for a confirmation with the next turn's reads, unless one is under way.
    pub(crate) fn want_news(&mut self) {
        self.wants_news = self.asked.is_empty();
    }

    /// What is here now may be older than what was: its age is not known any more.
    pub(crate) fn forget_age(&mut self) {
        self.complete_at = None;
        for group in self.asked.values_mut().chain(self.confirmed.iter_mut().map(|(_, g)| g)) {
            // Nothing is as old as the beginning of time.
            group.asked_at = Time::ZERO;
        }
    }

    /// A context for all queued reads, if there are any.
    pub(crate) fn take_queued(&mut self, now: Time) -> Option<u64> {
        if self.queued.is_empty() && !self.wants_news {
            return None;
        }
        self.wants_news = false;
        self.context += 1;
        let group = Group { asked_at: now, reads: std::mem::take(&mut self.queued) };
        self.asked.insert(self.context, group);
        Some(self.context)
    }

    /// The reads of `context` may be served once `index` is applied.
    pub(crate) fn confirmed(&mut self, context: u64, index: LogIndex) {
        if let Some(group) = self.asked.remove(&context) {
            self.confirmed.push_back((index, group));
        }
    }

    /// The reads of `context` can't be confirmed here.
    pub(crate) fn failed(&mut self, context: u64, leader: Option<NodeId>, turn: &mut Turn) {
        let reads = self.asked.remove(&context).map(|group| group.reads);
        self.refuse_all(reads.unwrap_or_default(), leader, turn);
    }

    /// Leadership was lost: nothing that waits can be confirmed.
    pub(crate) fn leadership_lost(&mut self, leader: Option<NodeId>, turn: &mut Turn) {
        let mut reads = std::mem::take(&mut self.queued);
        reads.extend(std::mem::take(&mut self.asked).into_values().flat_map(|g| g.reads));
        self.refuse_all(reads, leader, turn);
    }

    fn refuse_all(&mut self, reads: Vec<(Ask, What)>, leader: Option<NodeId>, turn: &mut Turn) {
        let failure = Failure::new(Code::NotLeader, "leadership could not be confirmed for a read")
            .with_leader(leader);
        self.count -= reads.len();
        for (ask, _) in reads {
            turn.refuse(ask, failure.clone());
        }
    }

    /// Serves every read whose index is applied.
    pub(crate) fn serve(
        &mut self,
        applied: LogIndex,
        machine: &ShardMachine,
        leases: &mut Leases,
        turn: &mut Turn,
    ) {
        if self.confirmed.is_empty() {
            return;
        }
        let mut waiting = VecDeque::new();
        for (index, group) in std::mem::take(&mut self.confirmed) {
            if index > applied && !planted!(ReadUnapplied) {
                atoll_base::reached!("a read waited for its index to be applied");
                waiting.push_back((index, group));
                continue;
            }
            if group.asked_at > Time::ZERO {
                self.complete_at = self.complete_at.max(Some(group.asked_at));
            }
            self.count -= group.reads.len();
            for (ask, what) in group.reads {
                let body = read(ask, machine, leases, what, Duration::ZERO, turn);
                turn.answers.push(ask.answer(body));
            }
        }
        self.confirmed = waiting;
    }

    /// Answers those whose deadline has passed; reads have no effect.
    pub(crate) fn expire(&mut self, turn: &mut Turn) {
        let late = Failure::new(Code::DeadlineExceeded, "deadline passed while the read waited")
            .with_happened(atoll_base::Happened::No);
        let now = turn.now;
        let mut expired = Vec::new();
        let groups = self.asked.values_mut().chain(self.confirmed.iter_mut().map(|(_, g)| g));
        for group in groups {
            group.reads.retain(|(ask, _)| {
                let live = ask.deadline > now;
                if !live {
                    expired.push(*ask);
                }
                live
            });
        }
        self.count -= expired.len();
        for ask in expired {
            atoll_base::reached!("a read's deadline passed while it waited");
            turn.refuse(ask, late.clone());
        }
    }
}

/// Reads the machine's state as it is.
pub(crate) fn read(
    ask: Ask,
    machine: &ShardMachine,
    leases: &mut Leases,
    what: What,
    staleness: Duration,
    turn: &Turn,
) -> Result<AnswerBody, Failure> {
    let engine = turn.engine.as_ref();
    match what {
        What::Get { key, at } => {
            let kv = machine.get(engine, &key, at)?;
            let revision = at.unwrap_or(machine.revision());
            Ok(AnswerBody::Get { kv, revision, staleness })
        }
        What::Range(query) => {
            let view = engine.view();
            let page = machine.range(view.as_ref(), &query)?;
            Ok(AnswerBody::Range { page, newest: machine.revision(), staleness })
        }
        What::Coordination(question) => leases.answer(ask, question, machine, turn),
    }
}
