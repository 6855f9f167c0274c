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

mod agents;
mod catalog;
mod judge;
pub(crate) mod log;
pub(crate) mod node;
mod notable;
pub(crate) mod observer;
mod phases;
mod strike;

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_base::{LogIndex, NodeId, Rng, ShardId, Time};

use crate::check::Violation;
use crate::check::liveness::Liveness;
use crate::check::machines::Sample;
use crate::client::Around;
use crate::client::record::Record;
use crate::clock::NodeClock;
use crate::errors;
use crate::fabric::{Event, Fabric, Life, Packet, lane_of_alarm};
use crate::faults::{FaultKind, Scale, Schedule};
use crate::history::{Call, OperationNumber};
use crate::moment::Moment;
use crate::network::{Network, NetworkCounts, Place};
use crate::options::Options;
use crate::queue::Due;
use crate::shape::{Shape, lane_settings};
use crate::shell::Shell;
use crate::trace::Trace;
use agents::Agents;
use node::SimNode;
use observer::Observer;
use strike::Wait;

/// Virtual time in which a healed cluster must serve, and then in which everybody must catch up.
const LIVENESS_BOUND: Duration = Duration::from_secs(30);
/// How often the world looks at itself.
const INSPECT_INTERVAL: Duration = Duration::from_millis(100);
/// Every so many looks replicas' states are compared.
const COMPARE_EVERY: u64 = 5;
/// Every so many looks each replica's state is checked in itself too, which costs much.
const CHECK_EVERY: u64 = 40;

/// How closely the world looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scrutiny {
    /// At conditions and queues.
    Glance,
    /// At the hashes of states that have changed.
    Compare,
    /// At everything that must hold of a state.
    Check,
}

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
    agents: Agents,
    /// The faults that wait for a moment, or did.
    waits: BTreeMap<usize, Wait>,
    /// Whom the moment was about that the fault which strikes now has waited for.
    actor: Option<NodeId>,
    /// What each closer was told to call last.
    probes: BTreeMap<ShardId, (OperationNumber, Call)>,
    phase: Phase,
    phase_ends: Time,
    healed: Time,
    rng: Rng,
    inspections: u64,
    /// What each replica had applied when its state was looked at last.
    sampled: BTreeMap<(NodeId, ShardId), (Life, LogIndex)>,
    pub(crate) hurt_max: usize,
    pub(crate) crashes: u64,
    pub(crate) undecided: u64,
}

impl World {
    pub(crate) fn new(options: &Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let mut shape = Shape::random(&mut rng, options.nodes, options.duration);
        let mut settings = lane_settings(&mut rng, options.seed);
        let script = options.script.as_deref();
        match script {
            Some(script) => script.apply(&mut shape, &mut settings),
            None => {
                shape.imported = crate::shape::imported(options.seed);
                shape.has_list = crate::shape::has_list(options.seed);
            }
        }
        let (nodes, shards) = (shape.all_nodes(), shape.shards + 1);
        let scale = Scale { nodes, shards, duration: shape.duration };
        let schedule = match script {
            Some(script) => Schedule { faults: script.faults.clone() },
            None => Schedule::random(&mut rng, scale, &options.faults),
        };
        let spoils = |kind| matches!(kind, FaultKind::BitFlip | FaultKind::LostStretch);
        shape.spoils = schedule.faults.iter().any(|planned| spoils(planned.kind));
        let network = Network::new(rng.fork(), shape.network);
        let mut fabric = Fabric::new(network, Trace::new(options.lines_max), rng.fork());
        fabric.say(format_args!("{shape:?}"));
        fabric.say(format_args!("{settings:?}"));
        let nodes = (1..=nodes as u64)
            .map(|id| {
                let clock = NodeClock::random(&mut rng, shape.drift_ppm);
                SimNode::new(NodeId(id), clock, rng.fork())
            })
            .collect();
        // As many as a group survives: what a majority has lost is lost.
        let hurt_max = (shape.replicas - 1) / 2;
        let healed = Time::ZERO.after(shape.duration);
        let shell = Shell::new(shape, settings, options.plant, rng.fork());
        let shards = shell.user_shards();
        let agents = Agents::new(&shell.shape, &shards, script, &mut rng);
        let mut world = Self {
            fabric,
            nodes,
            shell,
            observer: Observer::default(),
            record: Record::default(),
            schedule,
            agents,
            waits: BTreeMap::new(),
            actor: None,
            probes: BTreeMap::new(),
            phase: Phase::Safety,
            phase_ends: healed,
            healed,
            rng,
            inspections: 0,
            sampled: BTreeMap::new(),
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
        for i in 0..self.nodes.len() {
            self.boot(i);
        }
        let (agents, mut around) = self.around();
        agents.start(&mut around);
        for (i, planned) in self.schedule.faults.iter().enumerate() {
            self.fabric.queue.at(planned.from, Event::Strike(i));
        }
        self.fabric.queue.at(self.healed, Event::Heal);
        self.fabric.queue.after(INSPECT_INTERVAL, Event::Inspect);
    }

    /// The agents, and what they need of the world.
    fn around(&mut self) -> (&mut Agents, Around<'_>) {
        let (fabric, record) = (&mut self.fabric, &mut self.record);
        (&mut self.agents, Around { fabric, record, shell: &self.shell })
    }

    /// Runs one event. False when the run is over.
    pub(crate) fn step(&mut self) -> bool {
        let Some((now, due)) = self.fabric.queue.pop() else {
            self.observer.report("liveness", "nothing will ever happen again");
            return false;
        };
        self.fabric.trace.begin_step();
        self.fabric.trace.fold(&[now.0]);
        match due {
            Due::Alarm(place) => self.turn(place),
            Due::Event(event) => self.dispatch(event),
        }
        while let Some((moment, node)) = self.observer.lookout.take() {
            self.on_moment(moment, node);
        }
        if let Some(line) = errors::take_first() {
            self.on_error_line(&line);
        }
        if self.violation().is_some() {
            self.describe_replicas();
        }
        self.violation().is_none() && !matches!(self.phase, Phase::Over)
    }

    /// The product logged an error. A replica may say that it is damaged where a fault damaged it.
    fn on_error_line(&mut self, line: &str) {
        self.fabric.say(format_args!("error: {line}"));
        // A quarantined replica is reported with its reason when the nodes are looked at.
        let is_explained = line.contains("replica is quarantined")
            || line.contains("replica is damaged") && self.nodes.iter().any(|node| node.is_hurt);
        if !is_explained {
            self.observer.report("error lines", line);
        }
    }

    fn turn(&mut self, alarm: usize) {
        let (node, lane) = lane_of_alarm(alarm);
        let it = &mut self.nodes[index(node)];
        it.turn(lane, &mut self.fabric, &mut self.observer, &mut self.shell);
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Arrive { from, to, packet } => self.arrive(from, to, packet),
            Event::LogDone { node, life } => self.log_done(node, life),
            Event::Persisted { node, life, lane, request, batch } => {
                let it = &mut self.nodes[index(node)];
                if it.life == life {
                    it.persisted(lane, (request, batch), &mut self.fabric, &self.shell);
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
                let (agents, mut around) = self.around();
                agents.on_timer(client, token, &mut around);
            }
            Event::Broken { client, node, origin } => {
                let (agents, mut around) = self.around();
                agents.on_broken(client, node, origin, &mut around);
            }
            Event::Strike(i) => self.strike_or_wait(i),
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
                self.nodes[index(to)].on_request(client, *request, within, around);
            }
            (_, Place::Client(client), Packet::Answer(answer)) => {
                let (agents, mut around) = self.around();
                agents.on_answer(client, *answer, &mut around);
            }
            (from, to, packet) => unreachable!("{packet:?} from {from:?} to {to:?}"),
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
        self.observer.lookout.came(Moment::Boot, self.nodes[i].id);
    }

    pub(crate) fn crash(&mut self, i: usize) {
        if self.nodes[i].running.is_some() {
            self.crashes += 1;
            self.nodes[i].crash(&mut self.fabric, &mut self.observer);
        }
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

    fn look_at_nodes(&mut self, scrutiny: Scrutiny) {
        for node in &self.nodes {
            let (waiting, unsynced) = node.backlogs();
            let observer = &mut self.observer;
            let result = observer.bounds.size(node.id, "inputs of a lane", waiting as u64, 5_000);
            observer.note(result);
            let result = observer.bounds.size(node.id, "log writes", unsynced as u64, 2_000);
            observer.note(result);
            for lane in node.lanes() {
                for (shard, applied, is_sound) in lane.conditions() {
                    if !is_sound {
                        let what = format!("node {} shard {shard}", node.id);
                        let why = lane.trouble(shard).unwrap_or_default();
                        observer.report("assertions", format!("{what}: {why}"));
                        continue;
                    }
                    let place = (node.id, shard);
                    let known = self.sampled.get(&place) == Some(&(node.life, applied));
                    let checked = match scrutiny {
                        Scrutiny::Glance => continue,
                        Scrutiny::Compare if known => continue,
                        Scrutiny::Compare => lane.state_hash(shard),
                        Scrutiny::Check => lane.check(shard),
                    };
                    let Some(checked) = checked else { continue };
                    self.sampled.insert(place, (node.life, applied));
                    match checked {
                        Ok(hash) => {
                            let revision = lane.revision(shard).unwrap_or_default();
                            let sample = Sample { applied, revision, hash };
                            let result = observer.machines.sample(shard, node.id, sample);
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
