//! The lane: many replicas, one owner, one turn at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use atoll_base::planted;
use atoll_base::{Code, Failure, LogIndex, NodeId, ShardId, Ticket, Time, Timestamp};
use atoll_coord::{Request, RequestBody};
use atoll_raft::Counters;
use atoll_replica::{CoreWrite, PeerBody, PeerMessage};
use atoll_storage::{Engine, LogReaderHandle, LogRecord, RecoveredShard, WrittenEntry};

use crate::config::LaneConfig;
use crate::drops::Drops;
use crate::founders::Founders;
use crate::input::Input;
use crate::output::{LogWrite, Output};
use crate::replica::{Condition, Replica};
use crate::retire::Retirements;
use crate::turn::Turn;
use crate::upkeep::LaneUpkeep;

/// A log write that is on its way to the disk.
struct InFlight {
    ticket: Ticket,
    writes: Vec<CoreWrite>,
}

/// Owns the replicas of its shards and steps them, a turn at a time.
pub struct Lane {
    pub(crate) turn: Turn,
    pub(crate) log: LogReaderHandle,
    pub(crate) replicas: BTreeMap<ShardId, Replica>,
    /// Logs recovered for shards that nothing describes yet. Absence never deletes (trap T15): they
    /// wait for the catalog.
    pub(crate) undescribed: BTreeMap<ShardId, RecoveredShard>,
    pub(crate) upkeep: LaneUpkeep,
    pub(crate) leaders: BTreeMap<ShardId, Option<NodeId>>,
    pub(crate) retirements: Retirements,
    pub(crate) drops: Drops,
    pub(crate) founders: Founders,
    /// While the lane opens: what the log lost and may have held all of a shard.
    pub(crate) lost: Option<String>,
    /// What the cores of replicas that are gone had counted.
    pub(crate) counted: Counters,
    touched: Vec<ShardId>,
    /// The replicas of the turn under way.
    turning: Vec<ShardId>,
    timers: BTreeSet<(Time, ShardId)>,
    in_flight: VecDeque<InFlight>,
    last_ticket: Ticket,
    work_left: bool,
}

impl Lane {
    /// A lane without replicas; `open` fills it.
    pub(crate) fn empty(
        config: LaneConfig,
        engine: Arc<dyn Engine>,
        log: LogReaderHandle,
        now: Time,
    ) -> Self {
        let mut turn = Turn::new(config, engine);
        turn.now = now;
        Self {
            upkeep: LaneUpkeep::new(now, turn.config.upkeep.persist_interval),
            turn,
            log,
            replicas: BTreeMap::new(),
            undescribed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            retirements: Retirements::default(),
            drops: Drops::default(),
            founders: Founders::default(),
            lost: None,
            counted: Counters::default(),
            touched: Vec::new(),
            turning: Vec::new(),
            timers: BTreeSet::new(),
            in_flight: VecDeque::new(),
            last_ticket: Ticket::ZERO,
            work_left: true,
        }
    }

    /// Takes everything that happened since the last turn and says what to do about it: the three
    /// parts of a turn, one after the other. Who wants to know how long each takes calls them
    /// itself, in this order.
    ///
    /// # Panics
    /// As [`Lane::step`].
    pub fn turn(
        &mut self,
        now: Time,
        wall: Timestamp,
        inputs: &mut Vec<Input>,
        output: &mut Output,
    ) {
        self.step(now, wall, inputs, output);
        self.apply();
        self.serve(output);
    }

    /// The first part of a turn: takes the inputs and proposes what they ask for.
    ///
    /// `wall` stamps log entries; it decides nothing. `inputs` comes back empty.
    ///
    /// # Panics
    /// When a log write completes that was never issued.
    pub fn step(
        &mut self,
        now: Time,
        wall: Timestamp,
        inputs: &mut Vec<Input>,
        output: &mut Output,
    ) {
        self.turn.now = self.turn.now.max(now);
        self.turn.wall = self.turn.wall.max(wall);
        for input in inputs.drain(..) {
            self.on_input(input, output);
        }
        self.fire_timers();
        self.work_left = false;
        let mut empty = std::mem::take(&mut self.turning);
        empty.clear();
        let turning = std::mem::replace(&mut self.touched, empty);
        for shard in &turning {
            self.guarded(*shard, |replica, turn| {
                replica.follow_description(turn);
                replica.flush(turn);
            });
        }
        self.turning = turning;
    }

    /// The second part: applies what is committed and gives it to the engine. True when that was
    /// anything.
    pub fn apply(&mut self) -> bool {
        let turning = std::mem::take(&mut self.turning);
        for shard in &turning {
            let more = self.guarded(*shard, |replica, turn| replica.apply(turn));
            if more == Some(true) {
                self.work_left = true;
                self.touched.push(*shard);
            }
        }
        self.turning = turning;
        self.write_engine()
    }

    /// The last part: serves what the engine now holds, and says what is to be done.
    pub fn serve(&mut self, output: &mut Output) {
        let mut touched = std::mem::take(&mut self.turning);
        for shard in &touched {
            let served = self.guarded(*shard, |replica, turn| {
                replica.sweep(turn);
                (replica.serve(turn), replica.keep_house(turn))
            });
            let (more, has_snapshot) = served.unwrap_or_default();
            if more {
                self.work_left = true;
                self.touched.push(*shard);
            }
            self.upkeep.may_have_installed |= has_snapshot;
        }
        self.run_retirements();
        self.run_upkeep(output);
        for shard in touched.drain(..) {
            self.settle(shard);
        }
        self.turning = touched;
        self.finish(output);
    }

    /// When to call `turn` at the latest; `None` when the lane waits for inputs only.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        if self.work_left || !self.retirements.is_idle() {
            return Some(self.turn.now);
        }
        let timer = self.timers.first().map(|(at, _)| *at);
        Time::earliest([timer, self.upkeep.next_deadline()])
    }

    /// Who leads `shard`, as its replica here knows. Of the catalog a replica that serves nothing
    /// knows nothing: whoever has a witness, or one that is rebuilt, follows the catalog elsewhere.
    #[must_use]
    pub fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.replicas.get(&shard)?.leader_told()
    }

    /// How far the replica of `shard` here has applied its log.
    #[must_use]
    pub fn applied(&self, shard: ShardId) -> Option<LogIndex> {
        Some(self.replicas.get(&shard)?.applied)
    }

    fn on_input(&mut self, input: Input, output: &mut Output) {
        match input {
            Input::Peer { from, messages } => self.on_peer(from, messages),
            Input::Requests(requests) => self.on_requests(requests),
            Input::OriginGone(origin) => {
                for replica in self.replicas.values_mut() {
                    replica.watches.origin_gone(origin);
                    replica.leases.claims.origin_gone(origin);
                }
            }
            Input::Written { ticket, entries } => {
                self.on_written(ticket, &entries);
                self.finish_drops(ticket, output);
                self.retirements.note_durable(ticket);
            }
            Input::DiskFull(failure) => self.turn.disk_full = failure,
            Input::Catalog(descriptors) => self.on_catalog(descriptors, output),
            Input::Persisted { request } => self.on_persisted(request),
            Input::LogPinned(shards) => self.on_log_pinned(&shards),
            Input::PeerLiveness { node, alive } => self.on_liveness(node, alive),
            Input::Damaged { shard, reason } => {
                self.guarded(shard, |replica, turn| replica.damaged(reason, turn));
            }
        }
    }

    fn on_peer(&mut self, from: NodeId, messages: Vec<PeerMessage>) {
        for message in messages {
            let PeerMessage { shard, epoch, body } = message;
            self.guarded(shard, |replica, turn| {
                if epoch > replica.descriptor.epoch {
                    // The sender knows a newer configuration; the catalog will tell this node too.
                    // Terms and log matching keep consensus safe meanwhile.
                    tracing::debug!(shard = shard.0, epoch = epoch.0, "peer is at a newer epoch");
                }
                match body {
                    PeerBody::Raft(message) if message.from == from => {
                        replica.on_raft(message, turn);
                    }
                    PeerBody::Raft(message) => {
                        tracing::warn!(from = from.0, says = message.from.0, "forged sender");
                    }
                    PeerBody::SnapshotPull { index, term, chunk } => {
                        replica.on_snapshot_pull(from, index, term, chunk, turn);
                    }
                    PeerBody::SnapshotChunk { index, term, chunk, data, crc32c, end } => {
                        let piece = crate::incoming::Piece { chunk, data, crc32c, end };
                        replica.on_snapshot_chunk(from, (index, term), piece, turn);
                    }
                }
            });
        }
    }

    fn on_requests(&mut self, requests: Vec<Request>) {
        for request in requests {
            let shard = request.shard;
            let ask = crate::ask::Ask::of(&request);
            if let RequestBody::Retire { epoch, index } = request.body {
                self.retire(shard, ask, epoch, index);
                continue;
            }
            let mut request = Some(request);
            let taken = self.guarded(shard, |replica, turn| {
                if let Some(request) = request.take() {
                    replica.on_request(request, turn);
                }
            });
            if taken.is_none() && request.is_some() {
                let node = self.turn.config.node;
                let text = format!("node {node} has no working replica of shard {shard}");
                self.turn.refuse(ask, Failure::new(Code::NotLeader, text));
            }
        }
    }

    fn on_written(&mut self, ticket: Ticket, entries: &[WrittenEntry]) {
        let done = self.in_flight.pop_front().expect("a completed write was issued");
        assert_eq!(done.ticket, ticket, "log writes complete in order");
        for entry in entries.iter().filter(|e| !self.retirements.is_gone(e.shard, ticket)) {
            if let Some(replica) = self.replicas.get_mut(&entry.shard) {
                replica.group.located(entry);
            }
        }
        for write in done.writes {
            if self.retirements.is_gone(write.shard, ticket) {
                continue;
            }
            self.guarded(write.shard, |replica, turn| {
                replica.group.written(turn.now, write, &mut turn.sink);
                replica.absorb(turn);
            });
        }
    }

    fn on_liveness(&mut self, node: NodeId, alive: bool) {
        self.turn.peers.insert(node, alive);
        let shards: Vec<ShardId> = self.replicas.keys().copied().collect();
        for shard in shards {
            self.guarded(shard, |replica, turn| replica.hear_of(node, alive, turn));
        }
    }

    fn fire_timers(&mut self) {
        while let Some((at, shard)) = self.timers.first().copied() {
            if at > self.turn.now {
                break;
            }
            self.timers.pop_first();
            if let Some(replica) = self.replicas.get_mut(&shard) {
                replica.timer = None;
            }
            self.guarded(shard, |replica, turn| {
                replica.step(atoll_raft::Input::Tick, turn);
                replica.absorb(turn);
                replica.retry_incoming(turn);
            });
        }
    }

    /// Runs `f` on a replica and marks it touched. A failed assertion quarantines that replica
    /// alone (STYLE 27). `None` when there is no such replica or it does not work.
    pub(crate) fn guarded<R>(
        &mut self,
        shard: ShardId,
        f: impl FnOnce(&mut Replica, &mut Turn) -> R,
    ) -> Option<R> {
        let replica = self.replicas.get_mut(&shard)?;
        if replica.is_quarantined() {
            return None;
        }
        if !replica.touched {
            replica.touched = true;
            self.touched.push(shard);
        }
        let turn = &mut self.turn;
        match catch_unwind(AssertUnwindSafe(|| f(replica, turn))) {
            Ok(result) => Some(result),
            Err(panic) => {
                atoll_base::reached!("a failed assertion quarantined a replica");
                replica.quarantine(panic_text(panic.as_ref()), turn);
                None
            }
        }
    }

    /// Takes a replica out of the lane and makes the log forget it.
    pub(crate) fn remove_replica(&mut self, shard: ShardId, why: &str) {
        self.take_out(shard, why);
        self.turn.sink.batch.records.push(LogRecord::ShardRemoved { shard });
    }

    /// The ticket of the turn's log write, if there is one.
    pub(crate) fn next_ticket(&self) -> Ticket {
        self.last_ticket.next()
    }

    /// Takes a replica out of the lane, with everything of it that this turn has not handed over
    /// yet. What it stored is for the caller to delete.
    pub(crate) fn take_out(&mut self, shard: ShardId, why: &str) {
        let Some(mut replica) = self.replicas.remove(&shard) else { return };
        replica.abandon(why.to_owned(), &mut self.turn);
        self.counted += replica.group.core().counters();
        if let Some(at) = replica.timer {
            self.timers.remove(&(at, shard));
        }
        if self.leaders.remove(&shard).is_some() {
            self.upkeep.leaders_changed.push((shard, None));
        }
        self.touched.retain(|s| *s != shard);
        let sink = &mut self.turn.sink;
        sink.writes.retain(|w| w.shard != shard);
        sink.batch.records.retain(|r| r.shard() != shard);
        for messages in sink.messages.values_mut().chain(sink.after.values_mut()) {
            messages.retain(|m| m.shard != shard);
        }
        self.retirements.note_gone(shard, self.last_ticket);
    }

    /// True when something was applied.
    fn write_engine(&mut self) -> bool {
        let batch = std::mem::take(&mut self.turn.applied);
        let is_something = !batch.is_empty();
        if is_something {
            self.upkeep.note_applied(batch.byte_size() as u64, self.turn.now);
            if let Err(e) = self.turn.engine.write(batch) {
                self.engine_failed(&e.to_string());
            }
        }
        self.turn.answers.append(&mut self.turn.held);
        is_something
    }

    /// The engine takes no more writes until the node is restarted. What was applied in memory is
    /// not stored, so every replica that applied in this turn stops; the log still has it all.
    fn engine_failed(&mut self, reason: &str) {
        let text = format!("engine write failed: {reason}; free disk space and restart the node");
        let failure = Failure::new(Code::Indeterminate, text.clone());
        for answer in &mut self.turn.held {
            answer.body = Err(failure.clone());
        }
        let shards: Vec<ShardId> = self.replicas.keys().copied().collect();
        for shard in shards {
            self.guarded(shard, |replica, turn| {
                if let Condition::Serving(_) | Condition::Witness = replica.condition {
                    replica.quarantine(text.clone(), turn);
                }
            });
        }
    }

    /// Notes when the replica wants to be looked at next.
    fn settle(&mut self, shard: ShardId) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let stays = self.touched.contains(&shard);
        replica.touched = stays;
        let wanted = replica.next_deadline();
        if wanted != replica.timer {
            if let Some(old) = replica.timer {
                self.timers.remove(&(old, shard));
            }
            if let Some(at) = wanted {
                self.timers.insert((at, shard));
            }
            replica.timer = wanted;
        }
        let leader = replica.leader_told();
        if self.leaders.insert(shard, leader) != Some(leader) {
            self.upkeep.leaders_changed.push((shard, leader));
        }
    }

    fn finish(&mut self, output: &mut Output) {
        let sink = &mut self.turn.sink;
        if output.messages.is_empty() {
            std::mem::swap(&mut output.messages, &mut sink.messages);
        }
        while let Some((to, messages)) = sink.messages.pop_first() {
            output.messages.entry(to).or_default().extend(messages);
        }
        output.answers.append(&mut self.turn.answers);
        output.replicated.append(&mut self.turn.replicated);
        output.catalog.append(&mut self.turn.catalog);
        output.leaders.append(&mut self.upkeep.leaders_changed);
        if sink.has_no_write() {
            return;
        }
        self.last_ticket = self.last_ticket.next();
        let ticket = self.last_ticket;
        self.in_flight.push_back(InFlight { ticket, writes: std::mem::take(&mut sink.writes) });
        let mut after = std::mem::take(&mut sink.after);
        if planted!(AcknowledgedUnsynced) {
            for (to, messages) in std::mem::take(&mut after) {
                output.messages.entry(to).or_default().extend(messages);
            }
        }
        output.write = Some(LogWrite { ticket, batch: std::mem::take(&mut sink.batch), after });
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown panic").to_owned()
}
