//! A random walk: everything that can happen to a group, in any order, from one seed.
//!
//! A walk is cut into phases. In each, faults come as they like and every checker looks after every
//! step; at its end the faults stop, everything is started and connected, and the group must elect
//! a leader, commit something new and become even (liveness, trap R7).

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use atoll_base::{LogIndex, NodeId, Rng};
use atoll_raft::{Config, Input, Membership, QuorumRule, Role};

use super::{Disks, World, config, n};

/// Steps in one phase.
const PHASE: u64 = 1_500;

/// What a walk did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Walked {
    pub steps: u64,
    pub committed: u64,
    pub reads: u64,
    pub terms: u64,
    pub changes: u64,
}

/// How a walk ended early.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub step: u64,
    pub text: String,
    pub trace: Vec<String>,
}

/// Walks `steps` steps from `seed`; `setup` changes every core's settings.
pub fn walk(seed: u64, steps: u64, setup: &dyn Fn(&mut Config)) -> Result<Walked, Failure> {
    let mut at = 0;
    let mut trace = Vec::new();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let mut walker = Walker::new(seed, setup);
        while at < steps {
            walker.step();
            at += 1;
            if let Some(lines) = &mut walker.world.trace {
                trace.append(lines);
                let extra = trace.len().saturating_sub(80);
                trace.drain(..extra);
            }
            if at % PHASE == 0 {
                walker.heal();
            }
        }
        walker.heal();
        walker.walked(at)
    }));
    caught.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_string()));
        Failure { seed, step: at, text: text.unwrap_or_default(), trace }
    })
}

struct Walker {
    world: World,
    rng: Rng,
    nodes: u64,
    data_nodes: u64,
    payload: u64,
    context: u64,
    changes: u64,
    /// They neither hear nor tick, but clients still reach them.
    paused: BTreeSet<NodeId>,
    /// How likely rare things are, one in so many.
    calm: u64,
}

impl Walker {
    fn new(seed: u64, setup: &dyn Fn(&mut Config)) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = rng.range(1, 8);
        let witnesses = if rng.chance(1, 3) { rng.below(nodes / 3 + 1) } else { 0 };
        let data_nodes = nodes - witnesses;
        let founding = membership(&mut rng, nodes, data_nodes);
        let (lease_reads, quiesce) = (rng.chance(1, 4), rng.chance(1, 4));
        let make = |id: NodeId| {
            let mut c = config(id, seed ^ (id.0 << 40));
            (c.lease_reads, c.quiesce) = (lease_reads, quiesce);
            setup(&mut c);
            c
        };
        let mut world = World::new(&founding, Disks::Manual, make);
        for id in 1..=nodes {
            if !world.replicas.contains_key(&n(id)) {
                world.add(n(id), Membership::default(), make(n(id)));
            }
        }
        world.checks.witnesses = (data_nodes + 1..=nodes).map(n).collect();
        world.trace = Some(Vec::new());
        let calm = rng.range(1, 6);
        Self {
            world,
            rng,
            nodes,
            data_nodes,
            payload: 0,
            context: 0,
            changes: 0,
            paused: BTreeSet::new(),
            calm,
        }
    }

    fn walked(&self, steps: u64) -> Walked {
        let checks = &self.world.checks;
        Walked {
            steps,
            committed: checks.committed().0,
            reads: checks.reads_served,
            terms: self.world.up().iter().map(|n| self.world.core(*n).term().0).max().unwrap_or(0),
            changes: self.changes,
        }
    }

    fn any(&mut self) -> NodeId {
        n(self.rng.range(1, self.nodes + 1))
    }

    /// The leader, mostly.
    fn leader_or_any(&mut self) -> NodeId {
        let any = self.any();
        if self.rng.chance(9, 10) { self.world.leader().unwrap_or(any) } else { any }
    }

    fn note(&mut self, what: &str, node: NodeId) {
        let at = self.world.now;
        self.world.say(|| format!("{at:?} {what} {node}"));
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..=39 => self.deliver(),
            40..=59 => self.disk(),
            60..=74 => self.time(),
            75..=84 => self.propose(),
            85..=88 => self.read(),
            89..=92 => self.snapshots(),
            93..=95 => self.lose(),
            _ => {
                if self.rng.chance(1, self.calm) {
                    self.rare();
                }
            }
        }
        self.world.outcomes.clear();
        self.world.served.clear();
        self.world.failed.clear();
    }

    fn deliver(&mut self) {
        if self.world.net.is_empty() {
            return;
        }
        // Mostly near the front: some messages overtake a few others, some are very late.
        let reach = if self.rng.chance(1, 8) { self.world.net.len() } else { 4 };
        let at = self.rng.below(reach.min(self.world.net.len()) as u64) as usize;
        if self.paused.contains(&self.world.net[at].to) {
            return;
        }
        let line = self.world.net.get(at).map(|m| format!("{m:?}"));
        self.world.say(|| format!("deliver {}", line.unwrap_or_default()));
        self.world.deliver(at);
    }

    fn lose(&mut self) {
        if self.world.net.is_empty() {
            return;
        }
        let at = self.rng.below(self.world.net.len() as u64) as usize;
        if self.rng.chance(1, 2) {
            let copy = self.world.net[at].clone();
            self.world.net.push_back(copy);
        } else {
            self.world.net.remove(at);
        }
    }

    /// A disk makes progress, or a core hears of it: late, and not always in order.
    fn disk(&mut self) {
        let node = self.any();
        if self.rng.chance(1, 2) {
            let count = self.rng.range(1, 4) as usize;
            self.note("disk", node);
            self.world.write_done(node, count);
        }
        let notices = &mut self.world.replicas.get_mut(&node).expect("a replica").notices;
        if notices.is_empty() {
            return;
        }
        let at = self.rng.below(notices.len() as u64) as usize;
        let notice = notices.remove(at);
        self.world.say(|| format!("node {node}: {notice:?}"));
        self.world.step(node, notice);
    }

    fn time(&mut self) {
        let longest = if self.rng.chance(1, 12) { 100_000_000 } else { 12_000_000 };
        self.world.now.0 += self.rng.below(longest);
        for node in self.world.up() {
            let due = self.world.core(node).next_deadline().is_some_and(|d| d <= self.world.now);
            if due && self.rng.chance(3, 4) && !self.paused.contains(&node) {
                self.note("tick", node);
                self.world.step(node, Input::Tick);
            }
        }
    }

    fn propose(&mut self) {
        let node = self.leader_or_any();
        let count = self.rng.range(1, 4);
        let mut payloads = Vec::new();
        for _ in 0..count {
            self.payload += 1;
            let long = if self.rng.chance(1, 10) { 250 } else { 5 };
            payloads.push(format!("{}{}", self.payload, "x".repeat(long)).into());
        }
        self.note("propose", node);
        self.world.step(node, Input::Propose(payloads));
    }

    fn read(&mut self) {
        let mut node = if self.rng.chance(1, 2) { self.any() } else { self.leader_or_any() };
        // One that was left behind is the likeliest to answer with the past.
        if self.rng.chance(1, 2) {
            node = self.paused.first().copied().unwrap_or(node);
        }
        if self.world.is_up(node) {
            self.context += 1;
            let context = self.context;
            self.note("read", node);
            self.world.read(node, context);
        }
    }

    fn snapshots(&mut self) {
        if let Some((leader, to)) = self.world.wanted.pop() {
            let Some(snapshot) = self.world.take_snapshot(leader) else { return };
            let index = snapshot.index;
            let message = self.world.core(leader).snapshot_message(to, index);
            let ok = self.rng.chance(3, 4);
            if let Some(message) = message.filter(|_| ok) {
                self.world.net.push_back(message);
            }
            if self.world.is_up(leader) {
                self.note("snapshot sent by", leader);
                self.world.step(leader, Input::SnapshotSent { to, index, ok });
            }
        }
        let Some((node, _, snapshot)) = self.world.offers.pop() else { return };
        if self.world.is_up(node) && self.rng.chance(3, 4) {
            self.note("install", node);
            self.world.install(node, snapshot);
        }
    }

    fn rare(&mut self) {
        match self.rng.below(15) {
            0..=1 => self.crash(),
            2..=3 => {
                let node = self.any();
                if !self.world.is_up(node) {
                    self.note("start", node);
                    self.world.start(node);
                }
            }
            4..=5 => {
                let (node, keep) = (self.any(), self.rng.below(6));
                self.note("compact", node);
                self.world.compact(node, keep);
            }
            6 => {
                let (leader, target) = (self.leader_or_any(), self.any());
                self.note("transfer to", target);
                self.world.step(leader, Input::Transfer(target));
            }
            7..=8 => self.change(),
            9 => self.cut(),
            10 => {
                self.world.cuts.clear();
                self.paused.clear();
            }
            13 => self.leave_behind(),
            11..=12 => {
                let node = self.leader_or_any();
                if 2 * self.paused.len() as u64 + 2 < self.nodes {
                    self.note("pause", node);
                    self.paused.insert(node);
                }
            }
            _ => {
                let (node, of) = (self.any(), self.any());
                let alive = self.world.is_up(of);
                self.world.step(node, Input::PeerLiveness { node: of, alive });
                if self.rng.chance(1, 10) {
                    self.note("damaged", node);
                    self.world.step(node, Input::Damaged);
                }
            }
        }
    }

    fn crash(&mut self) {
        let node = self.any();
        if self.world.is_up(node) {
            let pending = self.world.replica(node).pending.len() as u64;
            let survive = self.rng.below(pending + 1) as usize;
            self.note("crash", node);
            self.world.crash(node, survive);
            self.world.wanted.retain(|(n, _)| *n != node);
            self.world.offers.retain(|(n, ..)| *n != node);
        }
    }

    fn change(&mut self) {
        let leader = self.leader_or_any();
        if !self.world.is_up(leader) {
            return;
        }
        let target = membership(&mut self.rng, self.nodes, self.data_nodes);
        self.note(&format!("change members to {:?} on", target.members), leader);
        self.changes += 1;
        self.world.step(leader, Input::ChangeMembership(target));
    }

    /// The others go on without the leader, which notices nothing and then is asked to read.
    fn leave_behind(&mut self) {
        let Some(old) = self.world.leader() else { return };
        self.note("leave behind", old);
        for _ in 0..20 {
            self.world.now.0 += 20_000_000;
            for node in self.world.up() {
                let due = self.world.core(node).next_deadline();
                if node != old && due.is_some_and(|d| d <= self.world.now) {
                    self.world.step(node, Input::Tick);
                }
            }
            for _ in 0..200 {
                let Some(at) = self.world.net.iter().position(|m| m.to != old) else { break };
                self.world.deliver(at);
            }
            for node in self.world.up() {
                if node != old {
                    self.world.write_done(node, usize::MAX);
                    self.world.tell_written(node);
                }
            }
        }
        let next = self.any();
        self.world.propose(self.world.leader().unwrap_or(next), &["without it"]);
        if self.world.is_up(old) {
            self.context += 1;
            let context = self.context;
            self.world.read(old, context);
        }
    }

    fn cut(&mut self) {
        let (a, b) = (self.any(), self.any());
        self.note(&format!("cut {a} ->"), b);
        self.world.cuts.insert((a, b));
        if self.rng.chance(1, 2) {
            self.world.cuts.insert((b, a));
        }
        if self.rng.chance(1, 4) {
            for other in 1..=self.nodes {
                self.world.cuts.insert((a, n(other)));
            }
        }
    }

    /// Faults stop: the group must work.
    fn heal(&mut self) {
        self.world.say(|| "heal".into());
        self.world.cuts.clear();
        self.paused.clear();
        for id in 1..=self.nodes {
            // A damaged replica may be one too many; its disk was said to be broken, and isn't.
            if self.world.is_up(n(id)) && self.world.core(n(id)).is_damaged() {
                self.world.crash(n(id), usize::MAX);
            }
            if !self.world.is_up(n(id)) {
                self.world.start(n(id));
            }
            // Whoever asked for a snapshot in vain asks again.
            for of in 1..=self.nodes {
                self.world.step(n(id), Input::PeerLiveness { node: n(of), alive: true });
            }
        }
        self.world.settle();
        for _ in 0..5 {
            self.world.now = self.world.now.after(std::time::Duration::from_millis(30));
            self.world.tick_due();
            self.world.settle();
        }
        let before = self.world.checks.committed();
        let goes_on = self.world.until(|w| {
            w.leader().is_some_and(|l| w.core(l).commit() >= before && !w.core(l).is_transferring())
        });
        assert!(goes_on, "liveness: no leader after healing\n{}", self.describe());
        let mut done = false;
        for _ in 0..200 {
            let Some(leader) = self.world.leader() else {
                self.world.pass_deadline();
                continue;
            };
            self.payload += 1;
            let text = format!("healed {}", self.payload);
            self.world.propose(leader, &[&text]);
            self.world.settle();
            done = self.world.checks.committed() > before && self.members_even(leader);
            if done {
                break;
            }
            self.world.pass_deadline();
        }
        assert!(done, "liveness: nothing commits after healing\n{}", self.describe());
    }

    fn members_even(&self, leader: NodeId) -> bool {
        if !self.world.is_up(leader) || !self.world.core(leader).is_leader() {
            return false;
        }
        let (core, w) = (self.world.core(leader), &self.world);
        let members = core.membership().nodes();
        members.iter().all(|node| w.replica(*node).applied >= LogIndex(core.commit().0))
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for node in self.world.up() {
            let (c, r) = (self.world.core(node), self.world.replica(node));
            text.push_str(&format!(
                "node {node} {:?} term {} leader {:?} first {} commit {} durable {} last {} \
                 applied {} damaged {} quiet {} deadline {:?} members {:?}\n",
                c.role(),
                c.term(),
                c.leader(),
                c.first_index(),
                c.commit(),
                c.durable(),
                c.last_index(),
                r.applied,
                c.is_damaged(),
                c.is_quiet(),
                c.next_deadline(),
                c.membership(),
            ));
            for (of, p) in c.progress() {
                text.push_str(&format!("    {of}: {p:?}\n"));
            }
        }
        text
    }
}

/// Some members out of `nodes`, those above `data_nodes` as witnesses.
fn membership(rng: &mut Rng, nodes: u64, data_nodes: u64) -> Membership {
    let mut m = Membership::default();
    let mut some: Vec<u64> = (1..=nodes).collect();
    rng.shuffle(&mut some);
    let size = rng.range(1, nodes + 1) as usize;
    for id in &some[..size] {
        let role = match rng.below(8) {
            _ if *id > data_nodes => Role::Witness,
            0 => Role::Learner,
            _ => Role::Voter,
        };
        m.members.insert(n(*id), role);
    }
    if !m.members.values().any(|r| *r == Role::Voter) {
        m.members.insert(n(rng.range(1, data_nodes + 1)), Role::Voter);
    }
    let voters = m.members.values().filter(|r| r.votes()).count() as u64;
    if rng.chance(1, 4) {
        let election = rng.range(voters / 2 + 1, voters + 1);
        let replication = rng.range(voters - election + 1, voters + 1);
        let (election, replication) = (election as u8, replication as u8);
        m.quorum = QuorumRule::Sizes { election, replication };
    }
    if rng.chance(1, 4) {
        m.priorities.insert(n(some[0]), 5);
    }
    m
}

/// The command that repeats a walk.
pub fn replay(failure: &Failure) -> String {
    format!(
        "cargo run --release -p atoll-raft --example walk -- --seed {} --steps {}",
        failure.seed,
        failure.step + 1
    )
}
