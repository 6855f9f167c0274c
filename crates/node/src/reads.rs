//! Reads on their way through confirmation: gathered, confirmed, served.
//!
//! All linearizable reads that reach a shard in one turn share one confirmation of leadership
//! (Raft thesis 6.4). Each is served as soon as its read index is applied.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use atoll_base::{Code, Failure, LogIndex, NodeId, Revision, planted};
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

/// A shard's reads that are not yet answered.
#[derive(Default)]
pub(crate) struct Reads {
    queued: Vec<(Ask, What)>,
    asked: BTreeMap<u64, Vec<(Ask, What)>>,
    confirmed: VecDeque<(LogIndex, Vec<(Ask, What)>)>,
    context: u64,
    count: usize,
}

impl Reads {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn push(&mut self, ask: Ask, what: What) {
        self.count += 1;
        self.queued.push((ask, what));
    }

    /// A context for all queued reads, if there are any.
    pub(crate) fn take_queued(&mut self) -> Option<u64> {
        if self.queued.is_empty() {
            return None;
        }
        self.context += 1;
        self.asked.insert(self.context, std::mem::take(&mut self.queued));
        Some(self.context)
    }

    /// The reads of `context` may be served once `index` is applied.
    pub(crate) fn confirmed(&mut self, context: u64, index: LogIndex) {
        if let Some(reads) = self.asked.remove(&context) {
            self.confirmed.push_back((index, reads));
        }
    }

    /// The reads of `context` can't be confirmed here.
    pub(crate) fn failed(&mut self, context: u64, leader: Option<NodeId>, turn: &mut Turn) {
        let reads = self.asked.remove(&context).unwrap_or_default();
        self.refuse_all(reads, leader, turn);
    }

    /// Leadership was lost: nothing that waits can be confirmed.
    pub(crate) fn leadership_lost(&mut self, leader: Option<NodeId>, turn: &mut Turn) {
        let mut reads = std::mem::take(&mut self.queued);
        reads.extend(std::mem::take(&mut self.asked).into_values().flatten());
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
        let mut waiting = VecDeque::new();
        for (index, reads) in std::mem::take(&mut self.confirmed) {
            if index > applied && !planted!(ReadUnapplied) {
                atoll_base::reached!("a read waited for its index to be applied");
                waiting.push_back((index, reads));
                continue;
            }
            self.count -= reads.len();
            for (ask, what) in reads {
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
        let groups = self.asked.values_mut().chain(self.confirmed.iter_mut().map(|(_, r)| r));
        for group in groups {
            group.retain(|(ask, _)| {
                let live = ask.deadline > now;
                if !live {
                    expired.push(*ask);
                }
                live
            });
        }
        self.asked.retain(|_, reads| !reads.is_empty());
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
