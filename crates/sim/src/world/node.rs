//! A simulated node: real lanes, the real log on a simulated disk, and a shell that carries their
//! outputs out in virtual time.
//!
//! Everything that survives power loss is in `disk` and `engine`; everything else is in
//! [`Running`] and goes with it. Threads are modelled by time: a lane takes one turn at a time, the
//! log thread one write at a time, and what arrives meanwhile waits and is taken together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_base::{KeyspaceId, LaneId, NodeId, Rng, ShardId, Time};
use atoll_coord::{Catalog, Origin, Request};
use atoll_node::{Input, Lane, LaneStart, LogWrite, Output};
use atoll_replica::PeerMessage;
use atoll_storage::{Engine, Location, LogError, MemDisk, MemEngine};

use super::log::{SimLog, WriteEnd, write_time};
use super::notable::is_notable;
use super::observer::Observer;
use crate::clock::NodeClock;
use crate::fabric::{Event, Fabric, Life, Packet};
use crate::network::Place;
use crate::shape::lane_config;
use crate::shell::Shell;

/// How often nodes tell each other that they live.
const ALIVE_INTERVAL: Duration = Duration::from_millis(100);
/// Silence after which a peer counts as gone.
const ALIVE_TIMEOUT: Duration = Duration::from_millis(400);
/// Turns in a row without input or output: beyond, a lane is spinning.
const IDLE_TURNS_MAX: u64 = 2_000;
/// How long a node that could not start stays down.
const BOOT_RETRY: Duration = Duration::from_millis(200);
/// How long the log thread waits before it tries a write again that found no room.
const FULL_RETRY: Duration = Duration::from_millis(50);

/// One node of the world.
pub(crate) struct SimNode {
    pub(crate) id: NodeId,
    pub(crate) disk: MemDisk,
    pub(crate) engine: MemEngine,
    pub(crate) clock: NodeClock,
    pub(crate) life: Life,
    pub(crate) running: Option<Running>,
    pub(crate) paused_until: Time,
    pub(crate) disk_stall: Duration,
    /// An entry's place in the log from before the last crash, to be damaged.
    pub(crate) old_entry: Option<Location>,
    pub(crate) is_hurt: bool,
    pub(crate) turns: u64,
    pub(super) rng: Rng,
}

/// What a node knows of a peer.
struct KnownPeer {
    heard: Time,
    is_alive: bool,
    life: u64,
}

/// What goes with the power.
pub(crate) struct Running {
    lanes: Vec<SimLane>,
    pub(crate) log: SimLog,
    /// When each peer was heard last, and whether it counts as alive.
    peers: BTreeMap<NodeId, KnownPeer>,
    clients: BTreeMap<Origin, u32>,
    disk_full: bool,
    /// Reused between turns.
    output: Option<Box<Output>>,
    /// The catalog as this node knows it.
    pub(crate) view: Catalog,
    /// Which lanes hold nothing any more of a dropped keyspace.
    pub(super) dropped: BTreeMap<KeyspaceId, BTreeSet<LaneId>>,
    pub(super) beats: u64,
}

struct SimLane {
    lane: Lane,
    inputs: Vec<Input>,
    busy_until: Time,
    turn_at: Option<Time>,
    /// Turns in a row that nothing came into and nothing came out of.
    idle_turns: u64,
}

impl SimNode {
    pub(crate) fn new(id: NodeId, clock: NodeClock, mut rng: Rng) -> Self {
        Self {
            id,
            disk: MemDisk::new(rng.next_u64()),
            engine: MemEngine::new(),
            clock,
            life: Life(0),
            running: None,
            paused_until: Time::ZERO,
            disk_stall: Duration::ZERO,
            old_entry: None,
            is_hurt: false,
            turns: 0,
            rng,
        }
    }

    /// Starts the node from what its disk and engine hold.
    pub(crate) fn boot(
        &mut self,
        fabric: &mut Fabric,
        observer: &mut Observer,
        shell: &Shell,
    ) -> Result<(), String> {
        assert!(self.running.is_none(), "node {} boots twice", self.id);
        self.life.0 += 1;
        // Writes that a full disk cuts short are those of a node at work.
        self.disk.cut_writes_short(0);
        self.clock.reboot(fabric.now(), &mut self.rng);
        let (log, mut recovered, reader) = match SimLog::open(&self.disk, &shell.shape.log) {
            Ok(opened) => opened,
            Err(LogError::SyncFailed { .. } | LogError::DiskFull { .. }) => {
                // The process ends with a message; whoever runs it starts it again.
                atoll_base::reached!("a node could not start because its disk failed");
                let event = Event::Boot { node: self.id, life: self.life };
                fabric.queue.after(BOOT_RETRY, event);
                return Ok(());
            }
            Err(error) => return Err(error.to_string()),
        };
        for warning in &recovered.warnings {
            fabric.say(format_args!("n{} log: {warning}", self.id));
        }
        self.compare_recovered(&recovered.shards, observer);
        let now = self.clock.monotonic(fabric.now());
        let engine: Arc<dyn Engine> = Arc::new(self.engine.clone());
        let mut lanes = Vec::new();
        for number in 0..shell.shape.lanes {
            let lanes_n = u64::from(shell.shape.lanes);
            let mine = |shard: &ShardId| shard.0 % lanes_n == u64::from(number);
            let start = LaneStart {
                engine: engine.clone(),
                log: reader.clone(),
                recovered: recovered.shards.extract_if(.., |shard, _| mine(shard)).collect(),
                lost: recovered.unexplained.clone(),
                founding: shell.founding_of(self.id),
            };
            let seed = self.rng.next_u64();
            let config = lane_config(&shell.settings, self.id, number, shell.shape.lanes, seed);
            let lane = Lane::open(config, now, start).map_err(|e| e.to_string())?;
            self.look_for_gaps(&lane, observer);
            lanes.push(SimLane {
                lane,
                inputs: Vec::new(),
                busy_until: fabric.now(),
                turn_at: None,
                idle_turns: 0,
            });
        }
        self.running = Some(Running {
            lanes,
            log,
            peers: BTreeMap::new(),
            clients: BTreeMap::new(),
            disk_full: false,
            output: None,
            view: Catalog::new(),
            dropped: BTreeMap::new(),
            beats: 0,
        });
        fabric.say(format_args!("n{} boots, life {}", self.id, self.life.0));
        for number in 0..shell.shape.lanes {
            self.schedule(LaneId(number), fabric);
        }
        fabric.queue.after(Duration::ZERO, Event::Heartbeat { node: self.id, life: self.life });
        Ok(())
    }

    fn compare_recovered(
        &self,
        shards: &BTreeMap<ShardId, atoll_storage::RecoveredShard>,
        observer: &mut Observer,
    ) {
        let present = shards.keys().copied().collect();
        match self.is_hurt {
            true => observer.may_have_lost(self.id, &present),
            false => observer.present(self.id, &present),
        }
        for (shard, recovered) in shards {
            let log = &recovered.log;
            let (first, last) = (log.first_index(), log.last_index());
            let mut entries = Vec::new();
            let read = match last < first {
                true => Ok(()),
                false => log.entries(first, last.next(), usize::MAX, &mut entries),
            };
            let result = match read {
                Ok(()) if recovered.damaged.is_some() => {
                    observer.damaged(self.id, *shard, first, &entries);
                    Ok(())
                }
                Ok(()) => observer.logs.recovered(self.id, *shard, first, &entries),
                Err(error) => Err(crate::check::Violation::new(
                    "log durability",
                    format!("node {} shard {shard}: recovered log can't be read: {error}", self.id),
                )),
            };
            observer.note(result);
        }
    }

    /// A log is cut only below what the engine keeps: on a disk that was not damaged the two meet.
    fn look_for_gaps(&self, lane: &Lane, observer: &mut Observer) {
        for (shard, ..) in lane.conditions().filter(|_| !self.is_hurt) {
            let trouble = lane.trouble(shard).unwrap_or_default();
            let result = observer.cuts.check(self.id, shard, &trouble);
            observer.note(result);
        }
    }

    /// Loses power.
    pub(crate) fn crash(&mut self, fabric: &mut Fabric, observer: &mut Observer) {
        let Some(running) = self.running.take() else { return };
        self.old_entry = running.log.lose_power(&self.disk, &mut self.rng).or(self.old_entry);
        for lane in 0..running.lanes.len() as u16 {
            fabric.plan_no_turn(self.id, LaneId(lane));
        }
        drop(running.lanes);
        self.disk.crash();
        self.engine.crash(&mut self.rng);
        self.paused_until = Time::ZERO;
        for (origin, client) in running.clients {
            fabric.break_stream(Place::Client(client), Place::Node(self.id), origin);
        }
        observer.crashed(self.id);
        fabric.say(format_args!("n{} loses power", self.id));
    }

    /// When something that takes `delay` from now is done, pauses included.
    fn done_at(&self, now: Time, delay: Duration) -> Time {
        now.max(self.paused_until).after(delay)
    }

    /// Gives a lane an input.
    pub(crate) fn give(&mut self, lane: LaneId, input: Input, fabric: &mut Fabric) {
        let Some(running) = &mut self.running else { return };
        running.lanes[usize::from(lane.0)].inputs.push(input);
        self.schedule(lane, fabric);
    }

    pub(crate) fn give_all(&mut self, make: impl Fn() -> Input, fabric: &mut Fabric) {
        for lane in 0..self.lane_count() {
            self.give(LaneId(lane), make(), fabric);
        }
    }

    fn lane_count(&self) -> u16 {
        self.running.as_ref().map_or(0, |running| running.lanes.len() as u16)
    }

    pub(crate) fn lane_of(&self, shard: ShardId) -> LaneId {
        LaneId((shard.0 % u64::from(self.lane_count().max(1))) as u16)
    }

    /// Makes sure that the lane takes its turn when it has reason to.
    fn schedule(&mut self, lane: LaneId, fabric: &mut Fabric) {
        let now = fabric.now();
        let Some(running) = &mut self.running else { return };
        let it = &mut running.lanes[usize::from(lane.0)];
        let wanted = match it.inputs.is_empty() {
            true => it.lane.next_deadline().map(|local| self.clock.virtual_time(local)),
            false => Some(now),
        };
        let Some(wanted) = wanted else { return };
        let at = wanted.max(it.busy_until).max(self.paused_until).max(now);
        if it.turn_at.is_none_or(|planned| at < planned) {
            it.turn_at = Some(at);
            fabric.plan_turn(self.id, lane, at);
        }
    }

    /// A lane's turn has come.
    pub(crate) fn turn(
        &mut self,
        lane: LaneId,
        fabric: &mut Fabric,
        observer: &mut Observer,
        shell: &mut Shell,
    ) {
        let now = fabric.now();
        let (mono, wall) = (self.clock.monotonic(now), self.clock.wall(now));
        let paused = self.paused_until;
        let Some(running) = &mut self.running else { return };
        let it = &mut running.lanes[usize::from(lane.0)];
        it.turn_at = None;
        if now < it.busy_until.max(paused) {
            self.schedule(lane, fabric);
            return;
        }
        if shell.is_stuck(self.id, lane) {
            return;
        }
        let inputs = it.inputs.len() as u64;
        self.turns += 1;
        let mut output = running.output.take().unwrap_or_default();
        it.lane.turn(mono, wall, &mut it.inputs, &mut output);
        it.busy_until = now.after(Duration::from_nanos(
            self.rng.range(1_000, u64::try_from(shell.shape.turn.as_nanos()).unwrap_or(2_000)),
        ));
        fabric.trace.fold(&[2, now.0, self.id.0, u64::from(lane.0), inputs]);
        let is_idle = inputs == 0 && output.write.is_none() && output.messages.is_empty();
        it.idle_turns = if is_idle { it.idle_turns + 1 } else { 0 };
        if it.idle_turns > IDLE_TURNS_MAX {
            let next = it.lane.next_deadline();
            let what = format!("node {} lane {lane}: now {mono:?}, next {next:?}", self.id);
            observer.report("idle turns", what);
        }
        observer.output(self.id, &output);
        self.carry_out(lane, &mut output, fabric, shell);
        if let Some(running) = &mut self.running {
            running.output = Some(output);
        }
        self.schedule(lane, fabric);
    }

    fn carry_out(
        &mut self,
        lane: LaneId,
        output: &mut Output,
        fabric: &mut Fabric,
        shell: &mut Shell,
    ) {
        shell.spoil(output);
        self.send_all(std::mem::take(&mut output.messages), fabric);
        let (id, life) = (self.id, self.life);
        let Some(running) = &mut self.running else { return };
        let mut told = None;
        if let Some(mut write) = output.write.take() {
            fabric.trace.fold(&[3, write.ticket.0, write.batch.records.len() as u64]);
            if shell.tells_early(id, lane, &write) {
                told = Some((write.ticket, std::mem::take(&mut write.after)));
            }
            running.log.push(lane, write);
        }
        output.release.clear(); // the batch holds it as a record
        for answer in output.answers.drain(..) {
            let Some(client) = running.clients.get(&answer.origin).copied() else { continue };
            fabric.trace.fold(&[4, answer.origin.0, answer.id, u64::from(answer.body.is_ok())]);
            let (from, to) = (Place::Node(id), Place::Client(client));
            fabric.stream(from, to, answer.origin, Packet::Answer(Box::new(answer)));
        }
        if let Some(request) = output.persist.take() {
            let delay = self.rng.below(shell.shape.persist.as_nanos() as u64);
            let at = self.done_at(fabric.now(), Duration::from_nanos(delay) + self.disk_stall);
            let batch = self.engine.newest_batch();
            fabric.queue.at(at, Event::Persisted { node: id, life, lane, request, batch });
        }
        let events = std::mem::take(&mut output.catalog);
        let dropped = std::mem::take(&mut output.dropped);
        output.leaders.clear();
        output.replicated.clear();
        if let Some((ticket, after)) = told {
            self.send_all(after, fabric);
            self.give(lane, Input::Written { ticket, entries: Vec::new() }, fabric);
        }
        self.start_write(fabric, shell);
        self.follow_catalog(events, fabric, shell);
        self.drop_keyspaces(lane, dropped);
    }

    fn send_all(&self, messages: BTreeMap<NodeId, Vec<PeerMessage>>, fabric: &mut Fabric) {
        for (to, messages) in messages {
            let told = if fabric.trace.keeps_lines() { &messages[..] } else { &[] };
            for message in told.iter().filter(|message| is_notable(message)) {
                fabric.say(format_args!("n{} -> n{to}: {:.300}", self.id, format!("{message:?}")));
            }
            if !messages.is_empty() {
                fabric.send(self.id, to, Packet::Peer(messages));
            }
        }
    }

    fn start_write(&mut self, fabric: &mut Fabric, shell: &Shell) {
        let Some(running) = &mut self.running else { return };
        if !running.log.start() {
            return;
        }
        let (least, spread) = shell.shape.sync;
        let time = write_time(&mut self.rng, least, spread, self.disk_stall);
        let at = self.done_at(fabric.now(), time);
        fabric.queue.at(at, Event::LogDone { node: self.id, life: self.life });
    }

    /// The log write's time is over. An error text when the process must abort.
    pub(crate) fn log_done(
        &mut self,
        fabric: &mut Fabric,
        observer: &mut Observer,
        shell: &mut Shell,
    ) -> Result<(), String> {
        let now = fabric.now();
        if now < self.paused_until {
            let event = Event::LogDone { node: self.id, life: self.life };
            fabric.queue.at(self.paused_until, event);
            return Ok(());
        }
        let Some(running) = &mut self.running else { return Ok(()) };
        match running.log.finish() {
            WriteEnd::Done(done) => {
                let was_full = std::mem::take(&mut running.disk_full);
                for (lane, write, entries) in done {
                    self.written(lane, write, entries, (fabric, observer, shell));
                }
                if was_full {
                    self.give_all(|| Input::DiskFull(None), fabric);
                }
                self.start_write(fabric, shell);
                if self.rng.chance(1, 20) {
                    return self.maintain();
                }
            }
            WriteEnd::Full => {
                if !std::mem::replace(&mut running.disk_full, true) {
                    atoll_base::reached!("the log found no room");
                    let failure = shell.disk_full(self.id);
                    self.give_all(|| Input::DiskFull(Some(failure.clone())), fabric);
                }
                let event = Event::LogDone { node: self.id, life: self.life };
                fabric.queue.after(FULL_RETRY, event);
            }
            WriteEnd::Failed(reason) => return Err(reason),
        }
        Ok(())
    }

    fn maintain(&mut self) -> Result<(), String> {
        let Some(running) = &mut self.running else { return Ok(()) };
        match running.log.maintain() {
            WriteEnd::Failed(reason) => Err(reason),
            WriteEnd::Done(_) | WriteEnd::Full => Ok(()),
        }
    }

    fn written(
        &mut self,
        lane: LaneId,
        mut write: LogWrite,
        entries: Vec<atoll_storage::WrittenEntry>,
        (fabric, observer, shell): (&mut Fabric, &mut Observer, &mut Shell),
    ) {
        fabric.trace.fold(&[5, fabric.now().0, self.id.0, write.ticket.0]);
        observer.durable(self.id, &write);
        self.send_all(std::mem::take(&mut write.after), fabric);
        let ticket = write.ticket;
        if shell.was_told(self.id, lane, ticket) {
            return;
        }
        self.give(lane, Input::Written { ticket, entries }, fabric);
    }

    /// The persist thread is done with what the engine held when it was asked.
    pub(crate) fn persisted(
        &mut self,
        lane: LaneId,
        (request, batch): (u64, u64),
        fabric: &mut Fabric,
        shell: &Shell,
    ) {
        if !shell.lies_about_persisting() {
            self.engine.persist_to(batch);
        }
        self.give(lane, Input::Persisted { request }, fabric);
    }

    /// Tells the peers that this node lives, and the lanes who does not.
    pub(crate) fn heartbeat(&mut self, nodes: usize, fabric: &mut Fabric) {
        let now = fabric.now();
        let at = self.done_at(now, ALIVE_INTERVAL);
        fabric.queue.at(at, Event::Heartbeat { node: self.id, life: self.life });
        if now < self.paused_until {
            return;
        }
        let mut lost = Vec::new();
        let Some(running) = &mut self.running else { return };
        for (peer, known) in &mut running.peers {
            if known.is_alive && now.since(known.heard) > ALIVE_TIMEOUT {
                known.is_alive = false;
                lost.push(*peer);
            }
        }
        for node in lost {
            self.give_all(|| Input::PeerLiveness { node, alive: false }, fabric);
        }
        let peers = (1..=nodes as u64).map(NodeId).filter(|peer| *peer != self.id);
        for peer in peers.clone() {
            fabric.send(self.id, peer, Packet::Alive(self.life.0.into()));
        }
        let peers: Vec<NodeId> = peers.collect();
        self.ask_catalog(&peers, fabric);
    }

    /// A packet of `from` came. One that says that its node was started again since breaks the
    /// connection that stood before, as a real one breaks: the lanes hear that it was gone. Who is
    /// heard for the first time counts as alive with its first sign of life, not with what it sends
    /// before: real connections go one way each, and this node's own may take longer.
    fn heard(&mut self, from: NodeId, packet: &Packet, fabric: &mut Fabric) {
        let Some(running) = &mut self.running else { return };
        if !matches!(packet, Packet::Alive(_)) && !running.peers.contains_key(&from) {
            return;
        }
        let heard = fabric.now();
        let new = KnownPeer { heard, is_alive: false, life: 0 };
        let known = running.peers.entry(from).or_insert(new);
        let life = if let Packet::Alive(life) = packet { *life } else { 0 };
        let (was_alive, is_other) = (known.is_alive, known.life > 0 && life > known.life);
        *known = KnownPeer { heard, is_alive: true, life: known.life.max(life) };
        if was_alive && is_other {
            self.give_all(|| Input::PeerLiveness { node: from, alive: false }, fabric);
        }
        if !was_alive || is_other {
            self.give_all(|| Input::PeerLiveness { node: from, alive: true }, fabric);
        }
    }

    /// A packet from a peer arrives.
    pub(crate) fn on_peer(
        &mut self,
        from: NodeId,
        packet: Packet,
        fabric: &mut Fabric,
        shell: &mut Shell,
    ) {
        if self.running.is_none() {
            return;
        }
        self.heard(from, &packet, fabric);
        let mut messages = match packet {
            Packet::Peer(messages) => messages,
            other => return self.on_catalog_packet(from, other, fabric, shell),
        };
        shell.tamper(&mut messages);
        if let [only] = &messages[..] {
            let lane = self.lane_of(only.shard);
            return self.give(lane, Input::Peer { from, messages }, fabric);
        }
        let mut by_lane: BTreeMap<LaneId, Vec<PeerMessage>> = BTreeMap::new();
        for message in messages {
            by_lane.entry(self.lane_of(message.shard)).or_default().push(message);
        }
        for (lane, messages) in by_lane {
            self.give(lane, Input::Peer { from, messages }, fabric);
        }
    }

    /// A call from a client arrives.
    pub(crate) fn on_request(
        &mut self,
        client: u32,
        mut request: Request,
        within: Duration,
        (fabric, shell): (&mut Fabric, &mut Shell),
    ) {
        if self.running.is_none() {
            // The connection dies with the node, or was made to a node that is down.
            let ends = (Place::Client(client), Place::Node(self.id));
            fabric.break_stream(ends.0, ends.1, request.origin);
            return;
        }
        request.deadline = self.clock.monotonic(fabric.now()).after(within);
        shell.spoil_request(&mut request);
        if let Some(running) = &mut self.running {
            running.clients.insert(request.origin, client);
        }
        let lane = self.lane_of(request.shard);
        self.give(lane, Input::Requests(vec![request]), fabric);
    }

    /// A client's connection is gone.
    pub(crate) fn on_gone(&mut self, origin: Origin, fabric: &mut Fabric) {
        if let Some(running) = &mut self.running {
            running.clients.remove(&origin);
        }
        self.give_all(|| Input::OriginGone(origin), fabric);
    }

    /// The lanes, for looking into.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.running.iter().flat_map(|running| running.lanes.iter().map(|it| &it.lane))
    }

    /// Inputs that wait, and log writes that are not durable.
    pub(crate) fn backlogs(&self) -> (usize, usize) {
        let Some(running) = &self.running else { return (0, 0) };
        let waiting = running.lanes.iter().map(|it| it.inputs.len()).max().unwrap_or(0);
        (waiting, running.log.backlog())
    }
}
