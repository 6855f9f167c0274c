//! Replicas that the group has left behind are deleted by order.
//!
//! That a description leaves this node out deletes nothing (trap T15): it may be old news, or the
//! group may not have agreed yet and still count this copy. So a replica stays, serving nothing,
//! until somebody orders it away who has heard from the group's leader that a configuration without
//! this node is committed. The order is obeyed only if
//!
//! * the description of that epoch, or a later one, leaves this node out, and
//! * the replica's own log knows of no later configuration that includes it: then it was taken in
//!   again
//!   after the order was given, and what it has acknowledged since counts.
//!
//! A gravestone with the epoch stays behind: no description up to it brings the replica back, not
//! even the founding one that a node is started with. It survives power loss *before* the log
//! forgets the replica: else a node could wake with the description of before and an empty log, as
//! a founding voter that has forgotten what it acknowledged. While the log is still there, the
//! replica may come back, as it was or without its data; then it is ordered away again. So nobody
//! is told that it went before the log's news of that is durable.

use std::collections::BTreeMap;

use atoll_base::{Code, Epoch, Failure, LogIndex, ShardId, Ticket};
use atoll_coord::{AnswerBody, Descriptor};
use atoll_machine::{KeyRange, SnapshotWriter};
use atoll_storage::WriteBatch;

use crate::ask::Ask;
use crate::catalog::erase_shard_records;
use crate::lane::Lane;
use crate::records::RecordsError;
use crate::{records, spool};

/// Steps of clearing, of about a thousand keys each, in one turn.
const CLEAR_STEPS_PER_TURN: usize = 4;

/// A replica whose data is being deleted.
struct Retiring {
    /// The log write that says so.
    logged: Ticket,
    writer: Option<SnapshotWriter>,
    asks: Vec<Ask>,
    /// What the catalog said meanwhile.
    later: Option<Descriptor>,
}

/// An order that waits until the engine keeps its gravestone.
pub(crate) struct Sentence {
    shard: ShardId,
    ask: Ask,
    epoch: Epoch,
    index: LogIndex,
    /// What the gravestone says.
    stone: Epoch,
}

/// The replicas of a lane that go.
#[derive(Default)]
pub(crate) struct Retirements {
    sentences: Vec<Sentence>,
    under_way: BTreeMap<ShardId, Retiring>,
    /// Who is to be told once the engine keeps the gravestones.
    unpersisted: Vec<Ask>,
    /// Log writes up to these were made by replicas that are gone.
    gone: BTreeMap<ShardId, Ticket>,
    /// The newest log write that is durable.
    durable: Ticket,
}

impl Retirements {
    /// True when nothing can be done before something is durable.
    pub(crate) fn is_idle(&self) -> bool {
        let waits =
            |retiring: &Retiring| retiring.writer.is_none() && self.durable < retiring.logged;
        self.under_way.values().all(waits)
    }

    /// The log write `ticket` is durable, and those before it.
    pub(crate) fn note_durable(&mut self, ticket: Ticket) {
        self.durable = self.durable.max(ticket);
    }

    /// Keeps a description for when the old replica is gone. True when it was kept.
    pub(crate) fn postpone(&mut self, descriptor: &Descriptor) -> bool {
        match self.under_way.get_mut(&descriptor.shard) {
            Some(retiring) => {
                retiring.later = Some(descriptor.clone());
                true
            }
            None => false,
        }
    }

    /// What is carried out after the persist that is asked for now.
    pub(crate) fn take_sentences(&mut self) -> Vec<Sentence> {
        std::mem::take(&mut self.sentences)
    }

    /// Who waits for the persist that is asked for now.
    pub(crate) fn take_unpersisted(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.unpersisted)
    }

    /// The replica of `shard` is gone; what it gave the log up to `last` is not its successor's.
    pub(crate) fn note_gone(&mut self, shard: ShardId, last: Ticket) {
        self.gone.insert(shard, last);
    }

    /// True when a write of this ticket belongs to a replica that is gone.
    pub(crate) fn is_gone(&self, shard: ShardId, ticket: Ticket) -> bool {
        self.gone.get(&shard).is_some_and(|last| ticket <= *last)
    }
}

impl Lane {
    /// Deletes this node's replica of `shard`, if that is safe.
    pub(crate) fn retire(&mut self, shard: ShardId, ask: Ask, epoch: Epoch, index: LogIndex) {
        if let Some(retiring) = self.retirements.under_way.get_mut(&shard) {
            retiring.asks.push(ask);
            return;
        }
        let left = match self.replicas.get(&shard) {
            None if self.undescribed.contains_key(&shard) || self.founders.is_waiting(shard) => {
                let text =
                    format!("shard {shard} is not at work here yet, order has epoch {epoch}");
                return self.turn.refuse(ask, Failure::new(Code::StaleEpoch, text));
            }
            // Nothing is here. What may still come of older descriptions must not stay either.
            None => epoch,
            Some(replica) => {
                let known = replica.descriptor.epoch;
                if let Err(failure) = self.check_retirement(shard, epoch, index) {
                    return self.turn.refuse(ask, failure);
                }
                known
            }
        };
        let stone = match self.stone(shard, left) {
            Ok(stone) => stone,
            Err(error) => return self.turn.refuse(ask, unreadable(&error)),
        };
        records::put_gravestone(&mut self.turn.applied, shard, stone);
        self.retirements.sentences.push(Sentence { shard, ask, epoch, index, stone });
        self.upkeep.persist_soon();
    }

    /// The epoch that goes onto the gravestone of a replica that left at `left`: an order that
    /// comes late, or again, does not let in what another one keeps out.
    fn stone(&self, shard: ShardId, left: Epoch) -> Result<Epoch, RecordsError> {
        let stands = records::gravestone(self.turn.engine.as_ref(), shard)?;
        let waiting = self.retirements.sentences.iter().filter(|sentence| sentence.shard == shard);
        let stone = waiting.map(|sentence| sentence.stone).chain(stands).fold(left, Epoch::max);
        if stone > left {
            atoll_base::reached!("an order to retire was older than the gravestone");
        }
        Ok(stone)
    }

    /// The gravestone survives power loss: the replica goes, if the order still holds.
    pub(crate) fn execute(&mut self, sentence: Sentence) {
        let Sentence { shard, ask, epoch, index, .. } = sentence;
        if let Some(retiring) = self.retirements.under_way.get_mut(&shard) {
            retiring.asks.push(ask);
            return;
        }
        if !self.replicas.contains_key(&shard) {
            self.turn.answer(ask, AnswerBody::Retired);
            return;
        }
        if let Err(failure) = self.check_retirement(shard, epoch, index) {
            atoll_base::reached!("a replica was taken in again before it was gone");
            return self.turn.refuse(ask, failure);
        }
        let stone = match self.stone(shard, self.replicas[&shard].descriptor.epoch) {
            Ok(stone) => stone,
            Err(error) => return self.turn.refuse(ask, unreadable(&error)),
        };
        let batch = self.begin_retirement(shard, ask, stone);
        if let Err(reason) = self.turn.engine.write(batch) {
            tracing::error!(shard = shard.0, %reason, "retired replica can't be cleared");
        }
    }

    fn check_retirement(
        &self,
        shard: ShardId,
        epoch: Epoch,
        index: LogIndex,
    ) -> Result<(), Failure> {
        let node = self.turn.config.node;
        let replica = &self.replicas[&shard];
        let known = replica.descriptor.epoch;
        if known < epoch {
            atoll_base::reached!("an order to retire came before its description");
            let text =
                format!("shard {shard} is at epoch {known} on node {node}, order has {epoch}");
            return Err(Failure::new(Code::StaleEpoch, text));
        }
        let refuse = |why: String| Err(Failure::new(Code::PreconditionFailed, why));
        if replica.descriptor.members.iter().any(|m| m.node == node) {
            atoll_base::reached!("an order to retire met a member");
            return refuse(format!("node {node} is a member of shard {shard} at epoch {known}"));
        }
        let core = replica.group.core();
        let at = core.membership_index();
        if core.membership().contains(node) && at > index || core.is_leader() {
            atoll_base::reached!("an order to retire met a later configuration");
            return refuse(format!(
                "node {node} is in the configuration of shard {shard} at entry {at}, \
                 order has {index}"
            ));
        }
        Ok(())
    }

    fn begin_retirement(&mut self, shard: ShardId, ask: Ask, stone: Epoch) -> WriteBatch {
        let descriptor = self.replicas[&shard].descriptor.clone();
        tracing::info!(shard = shard.0, epoch = descriptor.epoch.0, "replica is retired");
        self.remove_replica(shard, "it left the group");
        let range = KeyRange { start: descriptor.start.clone(), end: descriptor.end.clone() };
        let mut writer = SnapshotWriter::new(shard, descriptor.keyspace, range);
        let mut batch = writer.begin();
        records::remove(&mut batch, shard);
        spool::forget(self.turn.engine.as_ref(), &mut batch, shard);
        records::put_gravestone(&mut batch, shard, stone);
        let logged = self.next_ticket();
        let retiring = Retiring { logged, writer: Some(writer), asks: vec![ask], later: None };
        self.retirements.under_way.insert(shard, retiring);
        batch
    }

    /// Clears some more of what retired replicas had.
    pub(crate) fn run_retirements(&mut self) {
        if self.retirements.under_way.is_empty() {
            return;
        }
        let shards: Vec<ShardId> = self.retirements.under_way.keys().copied().collect();
        for shard in shards {
            let engine = self.turn.engine.clone();
            let Some(retiring) = self.retirements.under_way.get_mut(&shard) else { continue };
            let done = match clear_some(shard, retiring, engine.as_ref()) {
                Ok(done) => done,
                Err(reason) => {
                    tracing::error!(shard = shard.0, reason, "retired replica can't be cleared");
                    let text = format!("data of shard {shard} can't be deleted: {reason}");
                    let failure = Failure::new(Code::Internal, text);
                    for ask in retiring.asks.drain(..) {
                        self.turn.refuse(ask, failure.clone());
                    }
                    true
                }
            };
            if done && retiring.logged <= self.retirements.durable {
                self.end_retirement(shard);
            }
        }
    }

    fn end_retirement(&mut self, shard: ShardId) {
        let Some(retiring) = self.retirements.under_way.remove(&shard) else { return };
        atoll_base::reached!("a replica retired");
        // The gravestone must survive a power loss before anybody relies on it.
        self.retirements.unpersisted.extend(retiring.asks);
        self.upkeep.persist_soon();
        if let Some(descriptor) = retiring.later {
            self.describe(descriptor);
        }
    }
}

fn unreadable(error: &RecordsError) -> Failure {
    Failure::new(Code::Internal, error.to_string())
}

/// True when everything is deleted.
fn clear_some(
    shard: ShardId,
    retiring: &mut Retiring,
    engine: &dyn atoll_storage::Engine,
) -> Result<bool, String> {
    for _ in 0..CLEAR_STEPS_PER_TURN {
        let Some(writer) = &mut retiring.writer else { return Ok(true) };
        match writer.clear(engine).map_err(|e| e.to_string())? {
            Some(batch) => engine.write(batch).map_err(|e| e.to_string())?,
            None => {
                let Some(writer) = retiring.writer.take() else { return Ok(true) };
                let mut batch = writer.finish_empty();
                erase_shard_records(shard, &mut batch);
                engine.write(batch).map_err(|e| e.to_string())?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}
