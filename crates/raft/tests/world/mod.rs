//! A group of cores in one thread: their logs, disks that forget what was not written, a network
//! that does what it is told, virtual time, and checkers that look at everything after every step.
//!
//! Shared by the golden scripts, the random walk, the examples and the benchmarks.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each user needs another part of it")]
#![allow(clippy::unwrap_used, reason = "the helpers of a test are not seen as one")]

pub mod action;
pub mod checks;
pub mod losses;
pub mod mem_log;
pub mod recover;
pub mod script;
pub mod show;
pub mod shrink;
pub mod snapshots;
pub mod walk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use atoll_base::{Entry, LogIndex, NodeId, Term, Time};
use atoll_raft::{
    Amnesia, Body, Config, CoreRole, HardState, Input, LogReader, Membership, Message, Output,
    ProposalOutcome, RaftCore, ReadContext, Write, validate_group,
};
use bytes::Bytes;

use checks::Checks;
use mem_log::MemLog;

/// What a snapshot holds: the state is a digest of all that was applied.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub index: LogIndex,
    pub term: Term,
    pub membership: Membership,
    pub state: u64,
}

/// One replica: its core, if it runs, and what surrounds it.
pub struct Replica {
    pub config: Config,
    pub core: Option<RaftCore>,
    /// The log as handed over.
    pub log: MemLog,
    /// The log and hard state as they would survive a crash.
    pub disk: MemLog,
    pub disk_hard: HardState,
    /// The configuration as of the entry before the log.
    pub base: Membership,
    pub pending: VecDeque<Write>,
    /// Completions not yet told to the core.
    pub notices: Vec<Input>,
    pub applied: LogIndex,
    pub state: u64,
    /// What the engine would come back with.
    pub persisted: (LogIndex, u64),
    /// What the disk holds beside the log; more than once found out after a start.
    pub health: Health,
    /// The snapshot that is being installed.
    pub install: Option<Snapshot>,
    pub lives: u64,
}

/// What a replica's disk is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    Whole,
    /// A snapshot was begun and not finished.
    NoState,
    /// The end of the log is gone.
    LogLost,
}

/// When a write becomes durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disks {
    /// At once, and the core is told in the next step.
    Sync,
    /// When `write_done` is called.
    Manual,
}

pub struct World {
    pub now: Time,
    pub replicas: BTreeMap<NodeId, Replica>,
    pub net: VecDeque<Message>,
    /// One-way cuts: `(from, to)`.
    pub cuts: BTreeSet<(NodeId, NodeId)>,
    pub disks: Disks,
    pub checks: Checks,
    /// Off in benchmarks, where disks keep nothing and nothing crashes.
    pub checking: bool,
    /// Logs are lost, and members change, only where the group survives it (see `losses`).
    pub careful: bool,
    /// It can't recover by itself (see `recover`).
    pub is_over: bool,
    /// How often something worth reaching was reached.
    pub reached: BTreeMap<&'static str, u64>,
    /// What the last steps answered.
    pub outcomes: Vec<(NodeId, ProposalOutcome)>,
    pub served: Vec<(NodeId, ReadContext, LogIndex)>,
    pub failed: Vec<(NodeId, ReadContext, Option<NodeId>)>,
    pub wanted: Vec<(NodeId, NodeId)>,
    pub offers: Vec<(NodeId, NodeId, Snapshot)>,
    /// Snapshots taken, by their end; every replica's are equal.
    pub snapshots: BTreeMap<LogIndex, Snapshot>,
    out: Output,
}

pub fn n(id: u64) -> NodeId {
    NodeId(id)
}

/// Small limits, so that they are met.
pub fn config(id: NodeId, seed: u64) -> Config {
    Config {
        election_timeout_min: Duration::from_millis(100),
        heartbeat_interval: Duration::from_millis(20),
        append_bytes_max: 200,
        inflight_messages_max: 4,
        inflight_bytes_max: 600,
        uncommitted_bytes_max: 2_000,
        tail_bytes_max: 400,
        lease_margin: Duration::from_millis(20),
        ..Config::new(id, seed)
    }
}

impl World {
    /// Replicas of `membership`, all with the same founding configuration and an empty log.
    pub fn new(membership: &Membership, disks: Disks, config: impl Fn(NodeId) -> Config) -> Self {
        let mut world = Self {
            now: Time::from_millis(1),
            replicas: BTreeMap::new(),
            net: VecDeque::new(),
            cuts: BTreeSet::new(),
            disks,
            checks: Checks::default(),
            checking: true,
            careful: false,
            is_over: false,
            reached: BTreeMap::new(),
            outcomes: Vec::new(),
            served: Vec::new(),
            failed: Vec::new(),
            wanted: Vec::new(),
            offers: Vec::new(),
            snapshots: BTreeMap::new(),
            out: Output::default(),
        };
        for node in membership.nodes() {
            world.add(node, membership.clone(), config(node));
        }
        world
    }

    /// A further replica with an empty log.
    pub fn add(&mut self, node: NodeId, base: Membership, config: Config) {
        let replica = Replica {
            config,
            core: None,
            log: MemLog::default(),
            disk: MemLog::default(),
            disk_hard: HardState::default(),
            base,
            pending: VecDeque::new(),
            notices: Vec::new(),
            applied: LogIndex::ZERO,
            state: 0,
            persisted: (LogIndex::ZERO, 0),
            health: Health::Whole,
            install: None,
            lives: 0,
        };
        self.replicas.insert(node, replica);
        self.start(node);
    }

    pub fn reach(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    pub fn replica(&self, node: NodeId) -> &Replica {
        &self.replicas[&node]
    }

    pub fn core(&self, node: NodeId) -> &RaftCore {
        self.replicas[&node].core.as_ref().expect("the replica runs")
    }

    pub fn is_up(&self, node: NodeId) -> bool {
        self.replicas.get(&node).is_some_and(|r| r.core.is_some())
    }

    pub fn up(&self) -> Vec<NodeId> {
        self.replicas.keys().copied().filter(|n| self.is_up(*n)).collect()
    }

    /// Starts a replica from what its disk holds.
    pub fn start(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).expect("a replica");
        replica.lives += 1;
        replica.log = replica.disk.clone();
        (replica.applied, replica.state) = replica.persisted;
        if replica.health != Health::Whole {
            (replica.applied, replica.state) = (replica.log.first_index().prev(), 0);
        }
        let mut config = replica.config.clone();
        config.seed = config.seed.wrapping_mul(31).wrapping_add(replica.lives);
        let (hard, base) = (replica.disk_hard, replica.base.clone());
        let core = RaftCore::new(config, self.now, hard, base, replica.applied, &replica.log);
        let core = core.expect("the disk holds a whole log");
        core.validate();
        replica.core = Some(core);
        match replica.health {
            Health::Whole => {}
            Health::NoState => self.step(node, Input::StateLost),
            Health::LogLost => self.step(node, Input::Damaged(Amnesia::Entries)),
        }
    }

    /// Stops a replica; writes under way are lost, but for the `survive` oldest.
    pub fn crash(&mut self, node: NodeId, survive: usize) {
        let replica = self.replicas.get_mut(&node).expect("a replica");
        for write in replica.pending.drain(..).take(survive) {
            replica.disk_hard = write.hard_state.unwrap_or(replica.disk_hard);
            replica.disk.replace_from(&write.entries);
        }
        replica.notices.clear();
        replica.core = None;
        replica.install = None;
        self.checks.forget_reads(node);
    }

    /// Gives one input to a core and carries out what it asks for.
    pub fn step(&mut self, node: NodeId, input: Input) {
        let mut out = std::mem::take(&mut self.out);
        let replica = self.replicas.get_mut(&node).expect("a replica");
        let Some(core) = replica.core.as_mut() else { return };
        if matches!(input, Input::Damaged(_) | Input::StateLost) {
            replica.install = None;
        }
        let name = self.checking.then(|| show::name(&input)).flatten();
        let before = (core.role(), core.is_quiet(), core.membership().is_joint());
        let followed = core.membership_index();
        core.step(self.now, input, &replica.log, &mut out);
        if self.checking {
            core.validate_output(&out);
        }
        let mut log_changed = core.membership_index() != followed;
        if let Some(write) = out.write.take() {
            replica.log.replace_from(&write.entries);
            if self.checking {
                self.checks.on_entries(node, &replica.log, &write.entries);
                log_changed |= !write.entries.is_empty();
            }
            replica.pending.push_back(write);
        }
        if self.checking {
            core.validate();
            let after = (core.role(), core.is_quiet(), core.membership().is_joint());
            self.checks.on_step(&self.replicas, node);
            if out.role_changed {
                let cores: Vec<_> =
                    self.replicas.values().filter_map(|r| r.core.as_ref()).collect();
                validate_group(&cores);
            }
            if log_changed {
                self.checks.on_log(&self.replicas[&node]);
            }
            self.note_reached(name, before, after);
        }
        for message in out.messages.drain(..) {
            self.post(message);
        }
        if let Some(outcome) = out.proposal {
            self.outcomes.push((node, outcome));
        }
        if self.checking {
            for (context, index) in &out.reads {
                self.checks.on_read_served(*context, *index);
            }
        }
        self.served.extend(out.reads.drain(..).map(|(c, i)| (node, c, i)));
        self.failed.extend(out.reads_failed.drain(..).map(|(c, l)| (node, c, l)));
        self.wanted.extend(out.snapshots_wanted.drain(..).map(|to| (node, to)));
        if let Some((from, index, term, membership)) = out.snapshot_offered.take() {
            let state = self.snapshots.get(&index).map_or(0, |s| s.state);
            self.offers.push((node, from, Snapshot { index, term, membership, state }));
        }
        let commit = out.commit;
        out.clear();
        self.out = out;
        if self.disks == Disks::Sync {
            self.write_done(node, usize::MAX);
            self.tell_written(node);
        }
        if let Some(commit) = commit {
            self.apply(node, commit);
        }
    }

    fn note_reached(
        &mut self,
        input: Option<&'static str>,
        before: (CoreRole, bool, bool),
        after: (CoreRole, bool, bool),
    ) {
        if let Some(input) = input {
            self.reach(input);
        }
        if before.0 != after.0 {
            self.reach(match after.0 {
                CoreRole::Follower => "became follower",
                CoreRole::PreCandidate => "became pre-candidate",
                CoreRole::Candidate => "became candidate",
                CoreRole::Leader => "became leader",
            });
        }
        if !before.1 && after.1 {
            self.reach("went quiet");
        }
        if !before.2 && after.2 {
            self.reach("became joint");
        }
    }

    pub fn post(&mut self, message: Message) {
        if self.checking {
            self.checks.on_send(&self.replicas, &message);
        }
        if !self.cuts.contains(&(message.from, message.to)) {
            self.net.push_back(message);
        }
    }

    fn apply(&mut self, node: NodeId, commit: LogIndex) {
        let replica = self.replicas.get_mut(&node).expect("a replica");
        if commit <= replica.applied {
            return;
        }
        if !self.checking {
            replica.applied = commit;
            return self.step(node, Input::Applied(commit));
        }
        let mut entries = Vec::new();
        let from = replica.applied.next();
        replica.log.entries(from, commit.next(), usize::MAX, &mut entries).expect("in the log");
        for entry in &entries {
            replica.state = checks::digest(replica.state, entry);
            self.checks.on_apply(node, entry, replica.state);
        }
        replica.applied = commit;
        self.step(node, Input::Applied(commit));
    }

    /// The `count` oldest writes of a replica become durable; what waited for them leaves.
    pub fn write_done(&mut self, node: NodeId, count: usize) {
        for _ in 0..count {
            let replica = self.replicas.get_mut(&node).expect("a replica");
            let Some(write) = replica.pending.pop_front() else { return };
            if self.checking {
                replica.disk_hard = write.hard_state.unwrap_or(replica.disk_hard);
                replica.disk.replace_from(&write.entries);
            }
            let mut write = write;
            let (id, term, index) = (write.id, write.term, write.index);
            replica.notices.push(Input::Written { write: id, term, index });
            for message in write.after.drain(..) {
                self.post(message);
            }
            self.out.reuse(write);
        }
    }

    /// Tells a core of its completed writes, in order, merged into the last one.
    pub fn tell_written(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).expect("a replica");
        let last = replica.notices.pop();
        replica.notices.clear();
        if let Some(notice) = last {
            self.step(node, notice);
        }
    }

    /// Delivers the message at `at` of the network.
    pub fn deliver(&mut self, at: usize) {
        let Some(message) = self.net.remove(at) else { return };
        let (from, to) = (message.from, message.to);
        if self.is_up(to) && !self.cuts.contains(&(from, to)) {
            self.step(to, Input::Message(message));
        }
    }

    /// Delivers everything, and what that causes, in order; disks and snapshots do their part.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            while !self.net.is_empty() {
                self.deliver(0);
            }
            for node in self.up() {
                self.write_done(node, usize::MAX);
                self.tell_written(node);
            }
            self.send_snapshots();
            self.install_snapshots();
            let busy = self.replicas.values().any(|r| !r.pending.is_empty());
            if self.net.is_empty() && !busy && self.wanted.is_empty() && self.offers.is_empty() {
                return;
            }
        }
        panic!("the world does not settle");
    }

    /// Lets time pass up to the next deadline of any core and ticks who is due; settles.
    pub fn pass_deadline(&mut self) {
        let due = self.up().into_iter().filter_map(|n| self.core(n).next_deadline()).min();
        let Some(due) = due else { return };
        self.now = self.now.max(due);
        self.tick_due();
        self.settle();
    }

    pub fn tick_due(&mut self) {
        for node in self.up() {
            if self.core(node).next_deadline().is_some_and(|d| d <= self.now) {
                self.step(node, Input::Tick);
            }
        }
    }

    /// Passes deadlines until `done`, 1000 at most.
    pub fn until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..1_000 {
            if done(self) {
                return true;
            }
            self.pass_deadline();
        }
        done(self)
    }

    /// The leader of the highest term among those that run.
    pub fn leader(&self) -> Option<NodeId> {
        let up = self.up();
        let leaders = up.iter().filter(|n| self.core(**n).is_leader());
        leaders.max_by_key(|n| self.core(**n).term()).copied()
    }

    pub fn elect(&mut self) -> NodeId {
        assert!(self.until(|w| w.leader().is_some()), "no leader");
        self.leader().expect("just seen")
    }

    pub fn propose(&mut self, node: NodeId, payloads: &[&str]) {
        let payloads = payloads.iter().map(|p| Bytes::copy_from_slice(p.as_bytes())).collect();
        self.step(node, Input::Propose(payloads));
    }

    pub fn read(&mut self, node: NodeId, context: u64) {
        let context = ReadContext(context);
        self.checks.on_read(&self.replicas, node, context);
        self.step(node, Input::Read(context));
    }

    /// Makes the engine durable and cuts the log, keeping `keep` applied entries.
    pub fn compact(&mut self, node: NodeId, keep: u64) {
        let replica = self.replicas.get_mut(&node).expect("a replica");
        let Some(core) = replica.core.as_ref() else { return };
        if replica.health != Health::Whole {
            return;
        }
        replica.persisted = (replica.applied, replica.state);
        let prev = LogIndex(replica.applied.0.saturating_sub(keep));
        if prev < replica.log.first_index() || self.checking && prev > replica.disk.last_index() {
            return;
        }
        let prev_term = core.term_at(prev).expect("applied and not cut");
        replica.base = core.membership_at(prev).expect("known").clone();
        replica.log.compact(prev.next());
        replica.disk.compact(prev.next());
        self.step(node, Input::Compacted { first: prev.next(), prev_term });
    }

    /// True when every running replica has applied the same and nothing is left to do.
    pub fn is_even(&self) -> bool {
        let mut seen = None;
        for node in self.up() {
            let (core, replica) = (self.core(node), self.replica(node));
            let state = (core.last_index(), core.commit(), replica.applied);
            if state.0 != state.2 || seen.is_some_and(|s| s != state) {
                return false;
            }
            seen = Some(state);
        }
        true
    }
}

/// True for messages that carry entries.
pub fn carries_entries(message: &Message) -> bool {
    matches!(&message.body, Body::Append { entries, .. } if !entries.is_empty())
}

/// An entry's payload as text.
pub fn text(entry: &Entry) -> String {
    String::from_utf8_lossy(&entry.payload).into_owned()
}
