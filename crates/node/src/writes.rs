//! Commands on their way through the log: gathered, proposed, applied, answered.
//!
//! All commands that reach a shard in one turn become as few log entries as their bytes allow. The
//! leader remembers who waits for which entry; when the entry is applied, the machine's replies are
//! matched to them in order. Leadership lost in between makes the outcome unknown: the asker is
//! told so at once and may retry with its idempotency key (DESIGN 8).

use std::collections::VecDeque;

use atoll_base::{Code, Failure, LogIndex, NodeId, Revision, Term, Time};
use atoll_coord::AnswerBody;
use atoll_machine::{BatchWriter, Command, LockReply, Op, Reply};
use bytes::Bytes;

use crate::ask::Ask;
use crate::claims::Claims;
use crate::turn::Turn;

/// The asks behind one proposed entry.
struct Pending {
    term: Term,
    index: LogIndex,
    proposed_at: Time,
    asks: Vec<Ask>,
}

/// A shard's commands that are not yet answered.
#[derive(Default)]
pub(crate) struct Writes {
    queued: Vec<(Ask, Command)>,
    pending: VecDeque<Pending>,
    count: usize,
}

/// Payloads for the log and who waits for each.
pub(crate) struct Proposal {
    pub(crate) payloads: Vec<Bytes>,
    asks: Vec<Vec<Ask>>,
}

impl Writes {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn push(&mut self, ask: Ask, command: Command) {
        self.count += 1;
        self.queued.push((ask, command));
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// A mistake to plant: puts are answered with what they will probably come to.
    pub(crate) fn answer_puts(&mut self, revision: Revision, turn: &mut Turn) {
        for (ask, command) in &mut self.queued {
            if let Op::Put(_) = command.op {
                turn.answer(*ask, AnswerBody::Command(Reply::Put { revision, previous: None }));
                ask.id = EXPIRED;
            }
        }
    }

    /// The queued commands as entry payloads of about `entry_bytes_max` each.
    pub(crate) fn take_queued(&mut self, turn: &Turn) -> Proposal {
        let limit = turn.config.limits.entry_bytes_max;
        let mut proposal = Proposal { payloads: Vec::new(), asks: Vec::new() };
        let mut batch = BatchWriter::new(turn.wall);
        let mut asks = Vec::with_capacity(self.queued.len());
        for (ask, command) in self.queued.drain(..) {
            batch.push(&command);
            asks.push(ask);
            if batch.len() >= limit {
                atoll_base::reached!("a turn's commands took several entries");
                let full = std::mem::replace(&mut batch, BatchWriter::new(turn.wall));
                proposal.payloads.push(full.finish());
                proposal.asks.push(std::mem::take(&mut asks));
            }
        }
        if !asks.is_empty() {
            proposal.payloads.push(batch.finish());
            proposal.asks.push(asks);
        }
        proposal
    }

    /// The proposal stands in the log from `first` on.
    pub(crate) fn appended(
        &mut self,
        proposal: Vec<Vec<Ask>>,
        (term, first): (Term, LogIndex),
        proposed_at: Time,
    ) {
        for (offset, asks) in proposal.into_iter().enumerate() {
            let index = first.plus(offset as u64);
            self.pending.push_back(Pending { term, index, proposed_at, asks });
        }
    }

    /// The proposal was refused; nothing happened.
    pub(crate) fn refused(&mut self, asks: Vec<Vec<Ask>>, failure: &Failure, turn: &mut Turn) {
        for ask in asks.into_iter().flatten() {
            self.count -= 1;
            turn.refuse(ask, failure.clone());
        }
    }

    /// Who waits for the entry at `(term, index)`. Asks of entries that this one shows to be lost
    /// are answered.
    pub(crate) fn applied(&mut self, term: Term, index: LogIndex, turn: &mut Turn) -> Vec<Ask> {
        while let Some(front) = self.pending.front() {
            if front.index > index {
                break;
            }
            let front = self.pending.pop_front().expect("it was just seen");
            self.count -= front.asks.len();
            if front.index == index && front.term == term {
                turn.replicated.push(turn.now.since(front.proposed_at));
                return front.asks;
            }
            atoll_base::reached!("a proposed entry was replaced by another leader's");
            let lost = Failure::new(Code::Indeterminate, "entry was replaced by another leader's");
            for ask in front.asks {
                turn.refuse(ask, lost.clone().with_happened(atoll_base::Happened::No));
            }
        }
        Vec::new()
    }

    /// Leadership was lost: what is proposed may or may not happen.
    pub(crate) fn leadership_lost(&mut self, leader: Option<NodeId>, turn: &mut Turn) {
        let maybe = Failure::new(Code::Indeterminate, "leadership changed before the outcome")
            .with_leader(leader);
        for pending in std::mem::take(&mut self.pending) {
            atoll_base::reached!("leadership ended under proposed writes");
            self.count -= pending.asks.len();
            for ask in pending.asks {
                turn.refuse(ask, maybe.clone());
            }
        }
        let not_leader =
            Failure::new(Code::NotLeader, "this replica does not lead").with_leader(leader);
        for (ask, _) in std::mem::take(&mut self.queued) {
            self.count -= 1;
            turn.refuse(ask, not_leader.clone());
        }
    }

    /// Answers those whose deadline has passed; their commands may still happen.
    pub(crate) fn expire(&mut self, turn: &mut Turn) {
        let late = Failure::new(Code::DeadlineExceeded, "deadline passed while the write waited");
        let now = turn.now;
        for pending in &mut self.pending {
            for ask in &mut pending.asks {
                if ask.deadline <= now && ask.id != EXPIRED {
                    atoll_base::reached!("a write's deadline passed while it waited");
                    turn.refuse(*ask, late.clone());
                    ask.id = EXPIRED;
                }
            }
        }
    }
}

/// The id of an ask that was answered because its deadline passed; it stays in its place so that
/// the entry's replies still match.
const EXPIRED: u64 = u64::MAX;

impl Proposal {
    pub(crate) fn split(self) -> (Vec<Bytes>, Vec<Vec<Ask>>) {
        (self.payloads, self.asks)
    }
}

/// Gives the machine's replies to those who wait for them, once the engine holds what they tell of.
pub(crate) fn hold_replies(
    asks: Vec<Ask>,
    replies: Vec<Reply>,
    claims: &mut Claims,
    turn: &mut Turn,
) {
    if asks.is_empty() {
        return;
    }
    assert_eq!(asks.len(), replies.len(), "one reply per command");
    for (ask, reply) in asks.into_iter().zip(replies) {
        if ask.id == EXPIRED {
            continue;
        }
        let body = match reply {
            Reply::Failed(failure) => Err(failure),
            Reply::Lock(LockReply::Queued { claim }) => {
                claims.wait(claim, ask);
                continue;
            }
            reply => Ok(AnswerBody::Command(reply)),
        };
        turn.held.push(ask.answer(body));
    }
}
