//! Replicas come and go as the catalog says.
//!
//! A replica is made when a descriptor names this node, from whatever its log still holds, and
//! deleted only when the catalog says `dropped` or when it is ordered to retire (`retire`): a
//! missing description never deletes (trap T15).
//!
//! A group is founded by its description of epoch 1: its members have that configuration before
//! any log entry, and keep it apart from later descriptions (`founders`). Whoever comes at a later
//! epoch with nothing to show for itself is a newcomer: it knows no configuration, neither votes
//! nor campaigns, and begins with a snapshot from the leader. So a majority of newcomers, or of
//! members that lost their disks, can't elect a leader over those that have the data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atoll_base::{Epoch, KeyspaceId, LogIndex, NodeId, ShardId, Term, Time, planted};
use atoll_coord::Descriptor;
use atoll_machine::{
    Event, EventKind, KeyEnd, KeyRange, KeyValue, MachineError, RangeQuery, Record, ShardMachine,
};
use atoll_raft::{Amnesia, Config, Input, Membership, ReadError};
use atoll_replica::raft_group::{GroupStart, RaftGroup};
use atoll_storage::{
    Engine, LogAmnesia, LogReaderHandle, LogRecord, RecoveredShard, ShardLog, StartReason, Tree,
    WriteBatch,
};
use bytes::Bytes;

use crate::config::LaneConfig;
use crate::founders::FOUNDING;
use crate::lane::Lane;
use crate::members::wished;
use crate::output::Output;
use crate::records::{self, RecordsError};
use crate::replica::{Condition, Replica};
use crate::spool::{self, Spool};

/// Why a lane can't start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What the lane keeps about its replicas can't be read.
    #[error("lane can't start")]
    Records(#[from] RecordsError),
    /// A shard's log can't be read where it must be.
    #[error("lane can't start: log of shard {shard}")]
    Log {
        /// Whose log.
        shard: ShardId,
        /// What is wrong with it.
        #[source]
        source: ReadError,
    },
}

/// What a lane starts from.
pub struct LaneStart {
    /// Where applied state lives.
    pub engine: Arc<dyn Engine>,
    /// Reads log entries that left memory.
    pub log: LogReaderHandle,
    /// What the log held of this lane's shards.
    pub recovered: BTreeMap<ShardId, RecoveredShard>,
    /// A stretch of the log that is lost and may have held all records of a shard: replicas that
    /// were here and of which `recovered` has nothing are damaged.
    pub lost: Option<String>,
    /// Shards known before any catalog is: shard 1 as the founding members describe it.
    pub founding: Vec<Descriptor>,
}

impl Lane {
    /// Starts every replica that this node has in this lane.
    ///
    /// # Errors
    /// [`OpenError`]; damage of one shard does not fail the lane but sends that replica to be
    /// rebuilt.
    pub fn open(config: LaneConfig, now: Time, start: LaneStart) -> Result<Self, OpenError> {
        let (lane, lanes) = (u64::from(config.lane.0), u64::from(config.lanes));
        let mine = |d: &Descriptor| d.shard.0 % lanes == lane;
        let mut known: BTreeMap<ShardId, Descriptor> =
            start.founding.into_iter().filter(mine).map(|d| (d.shard, d)).collect();
        for descriptor in records::descriptors(start.engine.as_ref())?.into_iter().filter(mine) {
            known.insert(descriptor.shard, descriptor);
        }
        let mut this = Self::empty(config, start.engine, start.log, now);
        this.undescribed = start.recovered;
        this.lost = start.lost;
        for descriptor in known.into_values() {
            this.create(descriptor)?;
        }
        // A shard that the engine did not know was never here.
        this.lost = None;
        this.tell_catalog();
        Ok(this)
    }

    /// The whole catalog as events, so that the node's view of it starts complete.
    pub(crate) fn tell_catalog(&mut self) {
        let Some(replica) = self.replicas.get(&ShardId::SYSTEM) else { return };
        let Some(machine) = replica.machine() else { return };
        let engine = self.turn.engine.clone();
        let mut query = RangeQuery::new(Bytes::new(), KeyEnd::ToEnd);
        loop {
            let view = engine.view();
            let page = match machine.range(view.as_ref(), &query) {
                Ok(page) => page,
                Err(failure) => {
                    tracing::error!(%failure, "catalog can't be read");
                    return;
                }
            };
            self.turn.catalog.extend(page.kvs.into_iter().map(put_event));
            let Some(next) = page.more else { return };
            query.start = next;
        }
    }

    pub(crate) fn on_catalog(&mut self, descriptors: Vec<Descriptor>, output: &mut Output) {
        let (lane, lanes) = (u64::from(self.turn.config.lane.0), u64::from(self.turn.config.lanes));
        let mut dropped: BTreeSet<KeyspaceId> = BTreeSet::new();
        for descriptor in descriptors {
            if descriptor.dropped {
                dropped.insert(descriptor.keyspace);
            }
            if descriptor.shard.0 % lanes != lane {
                continue;
            }
            if descriptor.dropped {
                self.destroy(&descriptor);
            } else {
                self.describe(descriptor);
            }
        }
        dropped.retain(|keyspace| !self.drops.is_under_way(*keyspace));
        output.dropped.extend(dropped);
    }

    pub(crate) fn describe(&mut self, descriptor: Descriptor) {
        let shard = descriptor.shard;
        if let Some(replica) = self.replicas.get(&shard) {
            if replica.descriptor.epoch < descriptor.epoch {
                records::put_descriptor(&mut self.turn.applied, &descriptor);
                self.guarded(shard, |replica, turn| replica.describe(descriptor, turn));
            }
            return;
        }
        if self.founders.is_waiting(shard) {
            return self.describe_founder(descriptor);
        }
        if self.retirements.postpone(&descriptor) {
            atoll_base::reached!("a replica was described again while it retired");
            return;
        }
        let node = self.turn.config.node;
        // What is left of a replica that was here is shown too, until it is ordered away.
        let is_here = self.undescribed.contains_key(&shard);
        let is_member = descriptor.members.iter().any(|m| m.node == node);
        let made = match (is_here, is_member) {
            (false, false) => return,
            (false, true) if descriptor.epoch == FOUNDING => self.found(descriptor),
            _ => self.create(descriptor),
        };
        if let Err(e) = made {
            tracing::error!(shard = shard.0, error = %e, "replica can't be made");
        }
    }

    fn found(&mut self, descriptor: Descriptor) -> Result<(), OpenError> {
        match records::gravestone(self.turn.engine.as_ref(), descriptor.shard)? {
            Some(_) => atoll_base::reached!("a gravestone kept a founding description out"),
            None => self.begin_founding(descriptor),
        }
        Ok(())
    }

    /// What the log holds of the shard; and whether that is nothing because it may be lost.
    fn log_of(&mut self, shard: ShardId) -> (RecoveredShard, bool) {
        let recovered = self.undescribed.remove(&shard);
        let may_be_lost = recovered.is_none() && self.lost.is_some();
        let tail_bytes = self.turn.config.raft.tail_bytes_max;
        let mut recovered = recovered.unwrap_or_else(|| RecoveredShard {
            hard_state: None,
            log: ShardLog::new(shard, tail_bytes, Some(self.log.clone())),
            damaged: self.lost.clone(),
            forgot: LogAmnesia::None,
        });
        recovered.log.limit_payload_bytes(tail_bytes);
        (recovered, may_be_lost)
    }

    /// Makes the replica that `descriptor` describes, from what the log and the engine hold of it.
    pub(crate) fn create(&mut self, descriptor: Descriptor) -> Result<(), OpenError> {
        let shard = descriptor.shard;
        let engine = self.turn.engine.clone();
        let left = records::gravestone(engine.as_ref(), shard)?;
        let is_here = self.undescribed.contains_key(&shard);
        if left.is_some_and(|epoch| descriptor.epoch <= epoch) && !is_here {
            atoll_base::reached!("a gravestone kept an old description out");
            return Ok(());
        }
        let (mut recovered, may_be_lost) = self.log_of(shard);
        let damage = recovered.damaged.take();
        let held = self.held(&descriptor)?;
        let forgot = recovered.forgot;
        // Cut off in the middle of a snapshot: the log and its promises are whole.
        let unfinished = matches!(held, Err(MachineError::SnapshotUnfinished { .. }));
        let only_state_lost = unfinished && damage.is_none();
        let spooled = match only_state_lost {
            true => self.unfinished_snapshot(shard)?,
            false => None,
        };
        let (mut condition, applied, log_is) = self.take_up(held, damage, left, &mut recovered)?;
        if may_be_lost {
            atoll_base::reached!("a stretch of the log may have held all of a shard");
            self.turn.sink.batch.records.push(marked_damaged(shard, &recovered.log));
        }
        let recorded = records::membership(engine.as_ref(), shard)?;
        let is_recorded = recorded.is_some();
        let founding = records::founding(engine.as_ref(), shard)?;
        let founding = founding.filter(|_| !planted!(FoundingForgotten));
        let founding =
            founding.unwrap_or_else(|| founding_members(&descriptor, self.turn.config.node));
        let start_of_log = recovered.log.first_index().prev();
        let start = GroupStart {
            shard,
            epoch: descriptor.epoch,
            recovered,
            membership: recorded.unwrap_or_else(|| founding.clone()),
            applied,
        };
        let config = raft_config(&self.turn.config, &descriptor, self.turn.now);
        let group = RaftGroup::new(config, self.turn.now, start)
            .map_err(|source| OpenError::Log { shard, source })?;
        let is_newcomer = group.core().membership().members.is_empty();
        if is_newcomer {
            atoll_base::reached!("a newcomer waits for its first snapshot");
            let reason = "it is new and waits for a snapshot from the leader".to_owned();
            condition = Condition::Rebuilding { reason };
        }
        self.record(&descriptor, &founding, left);
        let forgot = match forgot {
            LogAmnesia::Votes => Amnesia::Votes,
            _ if is_newcomer || log_is == LogIs::Lost || may_be_lost => Amnesia::Votes,
            LogAmnesia::None | LogAmnesia::Entries => Amnesia::Entries,
        };
        let rebuilding = matches!(condition, Condition::Rebuilding { .. });
        let mut replica = Replica::new(descriptor, group, condition, &self.turn.config.limits);
        replica.is_newcomer = is_newcomer;
        if !is_recorded {
            replica.founded_at(start_of_log);
        }
        self.replicas.insert(shard, replica);
        self.guarded(shard, |replica, turn| {
            let input = match (rebuilding, only_state_lost && !is_newcomer) {
                (false, _) => Input::Tick,
                (true, true) => Input::StateLost,
                (true, false) => Input::Damaged(forgot),
            };
            replica.hear_who_is_gone(turn);
            replica.step(input, turn);
            replica.absorb(turn);
            match spooled {
                Some(spool) => replica.resume_incoming(spool, turn),
                None => spool::forget(engine.as_ref(), &mut turn.applied, shard),
            }
            replica.follow_role(turn);
        });
        Ok(())
    }

    /// The snapshot that was being installed when this node went down, where all of it is here.
    fn unfinished_snapshot(&self, shard: ShardId) -> Result<Option<Spool>, RecordsError> {
        atoll_base::reached!("a replica restarted in the middle of a snapshot");
        spool::whole(self.turn.engine.as_ref(), shard)
    }

    /// [`judge`], and begins the log behind a snapshot where power was lost before it was begun.
    fn take_up(
        &mut self,
        held: Result<Held, MachineError>,
        damage: Option<String>,
        gravestone: Option<Epoch>,
        recovered: &mut RecoveredShard,
    ) -> Result<(Condition, LogIndex, LogIs), RecordsError> {
        let log = &mut recovered.log;
        let shard = log.shard();
        let snapshot = records::installed(self.turn.engine.as_ref(), shard)?;
        // A log without anything of the shard never promised anything, unless it was told to forget
        // a replica that went.
        let is_begun = recovered.hard_state.is_some() || gravestone.is_none();
        let is_known = is_begun && damage.is_none() && !planted!(SnapshotEndForgotten);
        let snapshot = snapshot.filter(|_| is_known);
        let found = judge(held, damage, snapshot, log);
        if found.2 == LogIs::Unbegun {
            let state = recovered.hard_state.get_or_insert_default();
            atoll_base::reached!("power was lost between a snapshot and the start of its log");
            let (first, prev_term) = (log.first_index(), log.last_term());
            let reason = StartReason::Snapshot;
            let start = LogRecord::LogStart { shard, first, prev_term, reason };
            if state.term < prev_term {
                // The snapshot's term was not durable either, so no vote was given in it.
                (state.term, state.vote) = (prev_term, None);
                let state = *state;
                self.turn.sink.batch.records.push(LogRecord::HardState { shard, state });
            }
            self.turn.sink.batch.records.push(start);
        }
        Ok(found)
    }

    /// Writes down what describes a replica that is here; a gravestone goes when a later
    /// description brings it back.
    fn record(
        &mut self,
        descriptor: &Descriptor,
        founding: &Membership,
        gravestone: Option<Epoch>,
    ) {
        let applied = &mut self.turn.applied;
        records::put_descriptor(applied, descriptor);
        if !founding.members.is_empty() {
            records::put_founding(applied, descriptor.shard, founding);
        }
        if gravestone.is_some_and(|epoch| descriptor.epoch > epoch) {
            records::remove_gravestone(applied, descriptor.shard);
        }
    }

    /// What the engine holds of the replica.
    fn held(&self, descriptor: &Descriptor) -> Result<Result<Held, MachineError>, RecordsError> {
        let (shard, engine) = (descriptor.shard, self.turn.engine.as_ref());
        if let Some((applied, term)) = records::witness(engine, shard)? {
            return Ok(Ok(Held::Witness { applied, term }));
        }
        let range = KeyRange { start: descriptor.start.clone(), end: descriptor.end.clone() };
        let limits = self.turn.config.limits.machine.clone();
        let opened = ShardMachine::open(shard, descriptor.keyspace, range, limits, engine);
        Ok(opened.map(|machine| Held::Machine(Box::new(machine))))
    }
}

/// The state of a replica in the engine.
enum Held {
    /// Data.
    Machine(Box<ShardMachine>),
    /// A witness's place in the log.
    Witness { applied: LogIndex, term: Term },
}

impl Held {
    /// The last entry whose effects it has.
    fn applied(&self) -> (LogIndex, Term) {
        match self {
            Self::Machine(machine) => (machine.applied(), machine.applied_term()),
            Self::Witness { applied, term } => (*applied, *term),
        }
    }
}

/// What the log is beside what the engine holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LogIs {
    /// As far as can be seen, all that it ever held.
    Whole,
    /// Without the start that a snapshot gives it: power was lost after the engine had the whole
    /// snapshot. Nothing that was promised is gone.
    Unbegun,
    /// Without entries that it held.
    Lost,
}

/// What the replica can do with what its engine and its log hold, the applied index that its core
/// starts from, and what became of the log. `snapshot` is the place of the last one installed.
fn judge(
    held: Result<Held, MachineError>,
    damage: Option<String>,
    snapshot: Option<(LogIndex, Term)>,
    log: &mut ShardLog,
) -> (Condition, LogIndex, LogIs) {
    let before_log = log.first_index().prev();
    let held = match held {
        Ok(held) => held,
        Err(e) => {
            return (Condition::Rebuilding { reason: text_of(&e) }, before_log, LogIs::Whole);
        }
    };
    let (applied, term) = held.applied();
    let last = log.last_index();
    let mut log_is = LogIs::Whole;
    if applied > last {
        log_is = if snapshot == Some((applied, term)) { LogIs::Unbegun } else { LogIs::Lost };
        log.reset(applied, term);
    }
    let reason = if applied < before_log {
        atoll_base::reached!("an engine ended before its log began");
        format!("its engine ends at entry {applied}, its log begins after {before_log}")
    } else if log_is == LogIs::Lost {
        atoll_base::reached!("an engine was ahead of its log");
        // Entries that were durable are gone: amnesia (trap T3). What the engine has is older than
        // what this replica may have promised.
        format!("its engine is at entry {applied}, its log ends at {last}")
    } else if let Some(reason) = damage {
        atoll_base::reached!("a replica found its log damaged");
        reason
    } else {
        return match held {
            Held::Machine(machine) => (Condition::Serving(machine), applied, log_is),
            Held::Witness { .. } => (Condition::Witness, applied, log_is),
        };
    };
    (Condition::Rebuilding { reason }, log.first_index().prev(), log_is)
}

/// Says, as the first record of a replica whose log may be gone, that something was lost.
fn marked_damaged(shard: ShardId, log: &ShardLog) -> LogRecord {
    let (first, reason) = (log.first_index(), StartReason::Damaged);
    let prev_term = log.term(first.prev()).unwrap_or_default();
    LogRecord::LogStart { shard, first, prev_term, reason }
}

/// Deletes what belongs to the shard itself; the keyspace's trees go as a whole.
pub(crate) fn erase_shard_records(shard: ShardId, batch: &mut WriteBatch) {
    let (from, to) = (shard.0.to_be_bytes(), (shard.0 + 1).to_be_bytes());
    batch.delete_range(Tree::Meta, from.to_vec(), Some(Bytes::copy_from_slice(&to)));
}

fn text_of(error: &MachineError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn put_event(kv: KeyValue) -> Event {
    let record = Record {
        mod_revision: kv.mod_revision,
        create_revision: kv.create_revision,
        version: kv.version,
        lease: kv.lease,
        value: kv.value,
    };
    Event { revision: kv.mod_revision, key: kv.key, kind: EventKind::Put(record), previous: None }
}

/// The configuration before the log, where nothing recorded says otherwise: that of the founding
/// description for those it names, or none that could be known. Who holds a replica and is not
/// named came later, and its description is older than its replica: it follows a catalog that is
/// behind. What it is to the group it does not know, so it begins as newcomers do.
fn founding_members(descriptor: &Descriptor, node: NodeId) -> Membership {
    match descriptor.epoch {
        FOUNDING => Some(wished(descriptor)).filter(|it| it.role(node).is_some()),
        _ => None,
    }
    .unwrap_or_default()
}

fn raft_config(config: &LaneConfig, descriptor: &Descriptor, now: Time) -> Config {
    let NodeId(node) = config.node;
    let seed = config.seed ^ node.rotate_left(40) ^ descriptor.shard.0.rotate_left(20) ^ now.0;
    let raft = &config.raft;
    let mut made = Config::new(config.node, seed);
    made.election_timeout_min = raft.election_timeout_min;
    made.heartbeat_interval = raft.heartbeat_interval;
    made.append_bytes_max = raft.append_bytes_max;
    made.inflight_messages_max = raft.inflight_messages_max;
    made.inflight_bytes_max = raft.inflight_bytes_max;
    made.uncommitted_bytes_max = raft.uncommitted_bytes_max;
    made.tail_bytes_max = raft.tail_bytes_max;
    made.quiesce = raft.quiesce;
    made.lease_reads = descriptor.options.lease_reads;
    made.lease_margin = raft.election_timeout_min / 5;
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_coord::Catalog;

    #[test]
    fn who_the_founding_description_does_not_name_is_no_founder() {
        let founders = [NodeId(1), NodeId(2)];
        let descriptor = Catalog::system_descriptor(&founders);
        assert_eq!(founding_members(&descriptor, NodeId(2)), wished(&descriptor));
        assert_eq!(founding_members(&descriptor, NodeId(3)), Membership::default());
        let later = Descriptor { epoch: Epoch(2), ..descriptor };
        assert_eq!(founding_members(&later, NodeId(2)), Membership::default());
    }

    #[test]
    fn an_engine_is_ahead_of_its_log_by_a_snapshot_or_because_entries_are_gone() {
        let place = (LogIndex(5), Term(2));
        let found = |snapshot| {
            let held = Ok(Held::Witness { applied: place.0, term: place.1 });
            let mut log = ShardLog::new(ShardId(7), 1 << 20, None);
            let (condition, applied, log_is) = judge(held, None, snapshot, &mut log);
            assert_eq!((applied, log.first_index()), (LogIndex(5), LogIndex(6)));
            (matches!(condition, Condition::Witness), log_is)
        };
        assert_eq!(found(Some(place)), (true, LogIs::Unbegun));
        assert_eq!(found(Some((LogIndex(4), Term(2)))), (false, LogIs::Lost));
        assert_eq!(found(None), (false, LogIs::Lost));
    }
}
