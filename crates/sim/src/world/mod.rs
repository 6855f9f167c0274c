//! The world: nodes, clients, network and faults in one thread on virtual time.
//!
//! ```text
//!              ┌── clients: jobs, retries, watchers ──> record (what they were told)
//!   queue ─────┼── nodes: lanes + log + engine ───────> observer (what they did)
//!  of events   ├── network: delays, cuts, losses
//!              └── schedule of faults
//! ```
//!
//! A run has three phases. *Safety*: clients work while faults strike. *Liveness*: faults stop, all
//! is mended, and every shard must serve within a bound. *Closing*: clients finish, every shard is
//! read a last time, replicas and watchers catch up, and the judges compare what was seen.

mod judge;
pub(crate) mod log;
pub(crate) mod node;
pub(crate) mod observer;
mod strike;

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_base::{NodeId, Revision, Rng, ShardId, Time};
use atoll_coord::ReplicaStatus;

use crate::check::Violation;
use crate::check::liveness::Liveness;
use crate::check::machines::Sample;
use crate::client::jobs::{Job, Then};
use crate::client::record::Record;
use crate::client::watcher::SimWatcher;
use crate::client::{Around, Client};
use crate::clock::NodeClock;
use crate::fabric::{Event, Fabric, Life, Packet};
use crate::faults::{FaultKind, Scale, Schedule};
use crate::history::{Call, KeyNumber, OperationNumber};
use crate::network::{Network, NetworkCounts, Place};
use crate::options::{Options, Shape, lane_settings};
use crate::shell::Shell;
use crate::trace::Trace;
use crate::value::KEYS_END;
use node::SimNode;
use observer::Observer;

/// Virtual time in which a healed cluster must serve, and then in which everybody must catch up.
const LIVENESS_BOUND: Duration = Duration::from_secs(30);
/// How often the world looks at itself.
const INSPECT_INTERVAL: Duration = Duration::from_millis(100);

/// Where a run is.
#[derive(Clone, Debug)]
enum Phase {
    /// Faults strike.
    Safety,
    /// Every shard must serve.
    Liveness(Liveness),
    /// Clients finish what they began.
    Finishing,
    /// Every shard is read a last time; replicas and watchers catch up.
    Closing,
    /// The judges have spoken.
    Over,
}

/// A run in progress.
pub(crate) struct World {
    pub(crate) fabric: Fabric,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) shell: Shell,
    pub(crate) observer: Observer,
    pub(crate) record: Record,
    pub(crate) schedule: Schedule,
    clients: Vec<Client>,
    /// One client per shard that probes and closes, and does nothing else.
    closers: BTreeMap<ShardId, Client>,
    /// What each closer was told to call last.
    probes: BTreeMap<ShardId, (OperationNumber, Call)>,
    watchers: Vec<SimWatcher>,
    phase: Phase,
    phase_ends: Time,
    healed: Time,
    rng: Rng,
    inspections: u64,
    pub(crate) hurt_max: usize,
    pub(crate) crashes: u64,
    pub(crate) undecided: u64,
}

impl World {
    pub(crate) fn new(options: &Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let shape = Shape::random(&mut rng, options);
        let settings = lane_settings(&mut rng);
        let scale =
            Scale { nodes: shape.nodes, shards: shape.shards + 1, duration: shape.duration };
        let schedule = Schedule::random(&mut rng, scale, &options.faults);
        let network = Network::new(rng.fork(), shape.network);
        let mut fabric = Fabric::new(network, Trace::new(options.lines_max), rng.fork());
        fabric.say(format_args!("{shape:?}"));
        fabric.say(format_args!("{settings:?}"));
        let nodes = (1..=shape.nodes as u64)
            .map(|id| {
                let clock = NodeClock::random(&mut rng, shape.drift_ppm);
                SimNode::new(NodeId(id), clock, rng.fork())
            })
            .collect();
        // As many as a group survives: what a majority has lost is lost.
        let hurt_max = (shape.replicas - 1) / 2;
        let healed = Time::ZERO.after(shape.duration);
        let shell = Shell::new(shape, settings, options.plant, rng.fork());
        let mut world = Self {
            fabric,
            nodes,
            shell,
            observer: Observer::default(),
            record: Record::default(),
            schedule,
            clients: Vec::new(),
            closers: BTreeMap::new(),
            probes: BTreeMap::new(),
            watchers: Vec::new(),
            phase: Phase::Safety,
            phase_ends: healed,
            healed,
            rng,
            inspections: 0,
            hurt_max,
            crashes: 0,
            undecided: 0,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        for descriptor in &self.shell.founding {
            let voters = descriptor.members.iter().map(|member| member.node);
            self.observer.logs.voters(descriptor.shard, voters);
        }
        let shape = self.shell.shape.clone();
        for number in 0..shape.clients {
            self.clients.push(Client::new(number, shape.slots, self.rng.fork()));
        }
        let shards = self.shell.user_shards();
        let mut number = shape.clients;
        for shard in &shards {
            self.closers.insert(*shard, Client::new(number, 1, self.rng.fork()));
            number += 1;
        }
        let all = Some(Revision(2));
        for shard in &shards {
            for _ in 0..2 {
                let rng = self.rng.fork();
                self.watchers.push(SimWatcher::new(number, *shard, 0..KEYS_END, all, rng));
                number += 1;
            }
            for _ in 0..shape.watchers {
                let (a, b) = (self.rng.below(8) as u32, self.rng.below(8) as u32);
                let keys = a.min(b)..a.max(b) + 1;
                let start = self.rng.chance(1, 2).then(|| Revision(self.rng.range(1, 60)));
                let rng = self.rng.fork();
                self.watchers.push(SimWatcher::new(number, *shard, keys, start, rng));
                number += 1;
            }
        }
        for i in 0..self.nodes.len() {
            self.boot(i);
        }
        let mut around =
            Around { fabric: &mut self.fabric, record: &mut self.record, shell: &self.shell };
        for client in &mut self.clients {
            client.start(&mut around);
        }
        for watcher in &mut self.watchers {
            watcher.ask(&mut around);
        }
        for (i, planned) in self.schedule.faults.iter().enumerate() {
            self.fabric.queue.at(planned.from, Event::Strike(i));
        }
        self.fabric.queue.at(self.healed, Event::Heal);
        self.fabric.queue.after(INSPECT_INTERVAL, Event::Inspect);
    }

    /// Runs one event. False when the run is over.
    pub(crate) fn step(&mut self) -> bool {
        let Some((now, event)) = self.fabric.queue.pop() else {
            self.observer.report("liveness", "nothing will ever happen again");
            return false;
        };
        self.fabric.trace.fold(&[now.0]);
        self.dispatch(event);
        if self.violation().is_some() {
            self.describe_replicas();
        }
        self.violation().is_none() && !matches!(self.phase, Phase::Over)
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Arrive { from, to, packet } => self.arrive(from, to, packet),
            Event::Turn { node, life, lane } => {
                let (it, fabric) = (&mut self.nodes[index(node)], &mut self.fabric);
                if it.life == life {
                    it.turn(lane, fabric, &mut self.observer, &mut self.shell);
                }
            }
            Event::LogDone { node, life } => self.log_done(node, life),
            Event::Persisted { node, life, lane, request } => {
                let it = &mut self.nodes[index(node)];
                if it.life == life {
                    it.persisted(lane, request, &mut self.fabric, &self.shell);
                }
            }
            Event::Heartbeat { node, life } => {
                let nodes = self.nodes.len();
                let it = &mut self.nodes[index(node)];
                if it.life == life {
                    it.heartbeat(nodes, &mut self.fabric);
                }
            }
            Event::Gone { node, origin } => {
                self.nodes[index(node)].on_gone(origin, &mut self.fabric);
            }
            Event::Client { client, token } => {
                self.with_client(client, |c, a| c.on_timer(token, a), |w, a| w.on_timer(token, a));
            }
            Event::Broken { client, node, origin } => self.with_client(
                client,
                |c, a| c.on_broken(node, origin, a),
                |w, a| w.on_broken(origin, a),
            ),
            Event::Strike(i) => self.strike(i),
            Event::Mend(i) => self.mend(i),
            Event::Boot { node, life } => {
                let i = index(node);
                if self.nodes[i].life == life && self.nodes[i].running.is_none() {
                    self.boot(i);
                }
            }
            Event::Heal => self.heal(),
            Event::Inspect => self.inspect(),
        }
    }

    fn arrive(&mut self, from: Place, to: Place, packet: Packet) {
        match (from, to, packet) {
            (Place::Node(from), Place::Node(to), packet) => {
                let it = &mut self.nodes[index(to)];
                it.on_peer(from, packet, &mut self.fabric, &mut self.shell);
            }
            (Place::Client(client), Place::Node(to), Packet::Request { request, within }) => {
                let around = (&mut self.fabric, &mut self.shell);
                self.nodes[index(to)].on_request(client, request, within, around);
            }
            (_, Place::Client(client), Packet::Answer(answer)) => {
                if self.watcher_of(client).is_some() {
                    self.with_client(client, |_, _| {}, |w, a| w.on_answer(answer, a));
                } else {
                    self.with_client(client, |c, a| c.on_answer(answer, a), |_, _| {});
                }
            }
            (from, to, packet) => unreachable!("{packet:?} from {from:?} to {to:?}"),
        }
    }

    fn watcher_of(&self, client: u32) -> Option<usize> {
        let first = self.clients.len() + self.closers.len();
        (client as usize).checked_sub(first)
    }

    fn with_client(
        &mut self,
        number: u32,
        call: impl FnOnce(&mut Client, &mut Around<'_>),
        watch: impl FnOnce(&mut SimWatcher, &mut Around<'_>),
    ) {
        let watcher = self.watcher_of(number);
        let mut around =
            Around { fabric: &mut self.fabric, record: &mut self.record, shell: &self.shell };
        let number = number as usize;
        if let Some(watcher) = watcher {
            watch(&mut self.watchers[watcher], &mut around);
        } else if let Some(client) = self.clients.get_mut(number) {
            call(client, &mut around);
        } else if let Some(closer) = self.closers.values_mut().nth(number - self.clients.len()) {
            call(closer, &mut around);
        }
    }

    fn log_done(&mut self, node: NodeId, life: Life) {
        let it = &mut self.nodes[index(node)];
        if it.life != life {
            return;
        }
        let done = it.log_done(&mut self.fabric, &mut self.observer, &mut self.shell);
        if let Err(reason) = done {
            atoll_base::reached!("a node aborted because its disk failed");
            self.fabric.say(format_args!("n{node} aborts: {reason}"));
            self.crash(index(node));
            let (life, delay) = (self.nodes[index(node)].life, self.rng.range(1, 2_000));
            self.fabric.queue.after(Duration::from_millis(delay), Event::Boot { node, life });
        }
    }

    pub(crate) fn boot(&mut self, i: usize) {
        self.shell.forget(self.nodes[i].id);
        let booted = self.nodes[i].boot(&mut self.fabric, &mut self.observer, &self.shell);
        if let Err(reason) = booted {
            let id = self.nodes[i].id;
            self.observer.report("recovery", format!("node {id} can't start: {reason}"));
        }
    }

    pub(crate) fn crash(&mut self, i: usize) {
        if self.nodes[i].running.is_some() {
            self.crashes += 1;
            self.nodes[i].crash(&mut self.fabric, &mut self.observer);
        }
    }

    /// Faults stop; everything is mended.
    fn heal(&mut self) {
        self.fabric.say(format_args!("faults stop"));
        self.fabric.network.heal();
        self.fabric.network.use_profile(crate::network::NetworkProfile::CALM);
        self.shell.heal();
        let now = self.fabric.now();
        for i in 0..self.nodes.len() {
            let it = &mut self.nodes[i];
            it.paused_until = now;
            it.disk_stall = Duration::ZERO;
            it.disk.limit_capacity(u64::MAX);
            it.disk.fail_syncs(0);
            if it.running.is_none() {
                self.boot(i);
            }
        }
        let shards = self.shell.user_shards();
        self.phase = Phase::Liveness(Liveness::new(now, LIVENESS_BOUND, shards.iter().copied()));
        for shard in shards {
            let call = Call::Put(self.record.next_value());
            self.probe(shard, call);
        }
    }

    /// Lets a closer call its shard once.
    fn probe(&mut self, shard: ShardId, call: Call) {
        let Some(closer) = self.closers.get_mut(&shard) else { return };
        let mut around =
            Around { fabric: &mut self.fabric, record: &mut self.record, shell: &self.shell };
        let job = closer.operation(shard, KeyNumber(0), call, &mut around);
        if let Job::Operation(number) = job.0 {
            self.probes.insert(shard, (number, call));
        }
        closer.close();
        closer.begin(shard, LIVENESS_BOUND, job, &mut around);
    }

    /// True when the shard has answered a write and then a read; asks on until it has.
    fn has_served(&mut self, shard: ShardId) -> bool {
        let Some(&(number, call)) = self.probes.get(&shard) else { return true };
        if !self.closers[&shard].is_idle() {
            return false;
        }
        match (self.record.history.is_done(number), call) {
            (true, Call::Get) => return true,
            (true, _) => self.probe(shard, Call::Get),
            (false, Call::Get) => self.probe(shard, Call::Get),
            (false, _) => {
                let call = Call::Put(self.record.next_value());
                self.probe(shard, call);
            }
        }
        false
    }

    /// Lets a closer scan its shard.
    fn look(&mut self, shard: ShardId, then: Then) {
        let Some(closer) = self.closers.get_mut(&shard) else { return };
        let mut around =
            Around { fabric: &mut self.fabric, record: &mut self.record, shell: &self.shell };
        let job: (Job, _) = closer.scan(shard, then, &mut around);
        closer.begin(shard, LIVENESS_BOUND, job, &mut around);
    }

    /// Looks at every node, and moves to the next phase when it is time.
    fn inspect(&mut self) {
        self.inspections += 1;
        self.fabric.queue.after(INSPECT_INTERVAL, Event::Inspect);
        self.look_at_nodes();
        let now = self.fabric.now();
        match self.phase.clone() {
            Phase::Safety | Phase::Over => {}
            Phase::Liveness(mut liveness) => {
                for shard in self.shell.user_shards() {
                    if self.has_served(shard) {
                        liveness.served(shard, now);
                    }
                }
                self.observer.note(liveness.check(now));
                if liveness.is_satisfied() {
                    self.fabric.say(format_args!("all shards serve"));
                    for client in &mut self.clients {
                        client.close();
                    }
                    self.enter(Phase::Finishing);
                } else {
                    self.phase = Phase::Liveness(liveness);
                }
            }
            Phase::Finishing if self.clients.iter().all(Client::is_idle) => {
                for shard in self.shell.user_shards() {
                    self.look(shard, Then::Close);
                }
                self.enter(Phase::Closing);
            }
            Phase::Finishing => self.expect_end("clients do not finish", now),
            Phase::Closing => match self.laggard() {
                None => {
                    self.judge();
                    self.phase = Phase::Over;
                }
                Some(who) => self.expect_end(&who, now),
            },
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.phase_ends = self.fabric.now().after(LIVENESS_BOUND);
    }

    fn expect_end(&mut self, what: &str, now: Time) {
        if now >= self.phase_ends {
            let what = format!("{what} within {LIVENESS_BOUND:?}");
            self.observer.report("liveness", what);
        }
    }

    /// Who has not caught up with the last look at its shard.
    fn laggard(&self) -> Option<String> {
        for shard in self.shell.user_shards() {
            let Some((revision, _)) = self.record.closed.get(&shard) else {
                return Some(format!("shard {shard} is not read"));
            };
            for watcher in self.watchers.iter().filter(|w| w.shard() == shard) {
                if watcher.through() < *revision {
                    let through = watcher.through();
                    return Some(format!(
                        "a watcher of shard {shard} stays at revision {through} of {revision}"
                    ));
                }
            }
            for node in &self.nodes {
                for status in node.lanes().flat_map(|lane| lane.statuses()) {
                    if status.shard == shard && status.revision < *revision {
                        let progress = self.progress_of(shard);
                        return Some(format!(
                            "node {} of shard {shard} stays at revision {} of {revision}: \
                             {status:?}, its leaders see {progress:?}",
                            node.id, status.revision
                        ));
                    }
                }
            }
        }
        None
    }

    /// Keeps lines of every replica's state, for a failure's report.
    fn describe_replicas(&mut self) {
        for node in &self.nodes {
            for lane in node.lanes() {
                for status in lane.statuses() {
                    let trouble = lane.trouble(status.shard);
                    self.fabric.say(format_args!("n{} {status:?} {trouble:?}", node.id));
                }
            }
        }
    }

    fn progress_of(&self, shard: ShardId) -> Vec<ReplicaStatus> {
        let statuses = self.nodes.iter().flat_map(SimNode::lanes).flat_map(|lane| lane.statuses());
        statuses.filter(|s| s.shard == shard && s.state == "leader").collect()
    }

    fn look_at_nodes(&mut self) {
        let sample = self.inspections.is_multiple_of(5) || matches!(self.phase, Phase::Closing);
        for node in &self.nodes {
            let (waiting, unsynced) = node.backlogs();
            let observer = &mut self.observer;
            let result = observer.bounds.size(node.id, "inputs of a lane", waiting as u64, 5_000);
            observer.note(result);
            let result = observer.bounds.size(node.id, "log writes", unsynced as u64, 2_000);
            observer.note(result);
            for lane in node.lanes() {
                for status in lane.statuses() {
                    if status.state == "quarantined" {
                        let what = format!("node {} shard {}", node.id, status.shard);
                        let why = lane.trouble(status.shard).unwrap_or_default();
                        observer.report("assertions", format!("{what}: {why}"));
                    }
                    if !sample || status.state == "rebuilding" {
                        continue;
                    }
                    let Some(checked) = lane.check(status.shard) else { continue };
                    match checked {
                        Ok(hash) => {
                            let (applied, revision) = (status.applied_index, status.revision);
                            let sample = Sample { applied, revision, hash };
                            let result = observer.machines.sample(status.shard, node.id, sample);
                            observer.note(result);
                        }
                        Err(error) => observer.report("machine invariants", error),
                    }
                }
            }
        }
    }

    /// The first violation, whoever found it.
    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.observer.violation().or(self.record.violation.as_ref())
    }

    pub(crate) fn network_counts(&self) -> NetworkCounts {
        self.fabric.network.counts()
    }

    pub(crate) fn shards_all(&self) -> Vec<ShardId> {
        self.shell.founding.iter().map(|d| d.shard).collect()
    }

    pub(crate) fn fault_counts(&self) -> BTreeMap<FaultKind, u64> {
        self.schedule.counts()
    }
}

/// A node's place in the list.
pub(crate) fn index(node: NodeId) -> usize {
    node.0 as usize - 1
}
