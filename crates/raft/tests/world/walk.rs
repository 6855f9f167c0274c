//! A random walk: everything that can happen to a group, in any order, from one seed.
//!
//! A walk is cut into phases. In each, faults come as they like and every checker looks after every
//! step; each ends with [`Action::Recover`] (liveness). A walk is a list of actions, and a failing
//! one is made short by `shrink`.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use atoll_base::{NodeId, Rng};
use atoll_raft::{Membership, QuorumRule, Role};

use super::action::Action;
use super::script::Setup;
use super::shrink::text_of;
use super::{World, n};

/// Steps in one phase.
const PHASE: u64 = 1_500;

/// What walks did.
#[derive(Clone, Default, Debug)]
pub struct Walked {
    pub steps: u64,
    pub committed: u64,
    pub reads: u64,
    pub terms: u64,
    /// How often what was reached.
    pub reached: BTreeMap<&'static str, u64>,
}

impl Walked {
    pub fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.committed += other.committed;
        self.reads += other.reads;
        self.terms += other.terms;
        for (what, count) in other.reached {
            *self.reached.entry(what).or_default() += count;
        }
    }
}

/// How a walk ended early.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub step: u64,
    pub text: String,
    pub setup: Setup,
    pub actions: Vec<Action>,
}

/// Walks `steps` steps from `seed`, with a mistake planted if one is named.
pub fn walk(seed: u64, steps: u64, bug: Option<&str>) -> Result<Walked, Box<Failure>> {
    let mut at = 0;
    let mut walker = Walker::new(seed, bug);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        while at < steps {
            walker.step();
            at += 1;
            if at % PHASE == 0 {
                walker.recover();
            }
            if walker.world.is_over {
                return walker.walked(at);
            }
        }
        walker.recover();
        walker.walked(at)
    }));
    caught.map_err(|panic| {
        let text = text_of(panic.as_ref());
        let Walker { setup, actions, .. } = walker;
        Box::new(Failure { seed, step: at, text, setup, actions })
    })
}

struct Walker {
    setup: Setup,
    actions: Vec<Action>,
    world: World,
    rng: Rng,
    nodes: u64,
    data_nodes: u64,
    payload: u64,
    context: u64,
    /// They neither hear nor tick, but clients still reach them.
    paused: BTreeSet<NodeId>,
    /// How likely rare things are, one in so many.
    calm: u64,
}

impl Walker {
    fn new(seed: u64, bug: Option<&str>) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = rng.range(1, 8);
        let witnesses = if rng.chance(1, 3) { rng.below(nodes / 3 + 1) } else { 0 };
        let data_nodes = nodes - witnesses;
        let founding = membership(&mut rng, nodes, data_nodes);
        let (lease, quiesce, careful) = (rng.chance(1, 4), rng.chance(1, 4), rng.chance(4, 5));
        let spares = (1..=nodes).map(n).filter(|id| !founding.contains(*id)).collect();
        let setup = Setup {
            membership: founding,
            spares,
            witnesses: (data_nodes + 1..=nodes).map(n).collect(),
            lease,
            quiesce,
            careful,
            seed,
            bug: bug.map(ToString::to_string),
        };
        let world = setup.world();
        let calm = rng.range(1, 6);
        Self {
            setup,
            actions: Vec::new(),
            world,
            rng,
            nodes,
            data_nodes,
            payload: 0,
            context: 0,
            paused: BTreeSet::new(),
            calm,
        }
    }

    fn walked(&mut self, steps: u64) -> Walked {
        let checks = &self.world.checks;
        Walked {
            steps,
            committed: checks.committed().0,
            reads: checks.reads_served,
            terms: self.world.up().iter().map(|n| self.world.core(*n).term().0).max().unwrap_or(0),
            reached: std::mem::take(&mut self.world.reached),
        }
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action.clone());
        action.run(&mut self.world);
        self.world.outcomes.clear();
        self.world.served.clear();
        self.world.failed.clear();
    }

    fn any(&mut self) -> NodeId {
        n(self.rng.range(1, self.nodes + 1))
    }

    /// The leader, mostly.
    fn leader_or_any(&mut self) -> NodeId {
        let any = self.any();
        if self.rng.chance(9, 10) { self.world.leader().unwrap_or(any) } else { any }
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
    }

    /// Names the message at `at` of the network.
    fn message(&self, at: usize) -> (NodeId, NodeId, usize) {
        let m = &self.world.net[at];
        let before = self.world.net.iter().take(at);
        let nth = before.filter(|o| (o.from, o.to) == (m.from, m.to)).count();
        (m.from, m.to, nth)
    }

    fn deliver(&mut self) {
        if self.world.net.is_empty() {
            return;
        }
        // Mostly near the front: some messages overtake a few others, some are very late.
        let reach = if self.rng.chance(1, 8) { self.world.net.len() } else { 4 };
        let at = self.rng.below(reach.min(self.world.net.len()) as u64) as usize;
        let (from, to, nth) = self.message(at);
        if !self.paused.contains(&to) {
            self.act(Action::Give { from, to, nth });
        }
    }

    fn lose(&mut self) {
        if self.world.net.is_empty() {
            return;
        }
        let at = self.rng.below(self.world.net.len() as u64) as usize;
        let (from, to, nth) = self.message(at);
        if self.rng.chance(1, 2) {
            self.act(Action::Copy { from, to, nth });
        } else {
            self.act(Action::Lose { from, to, nth });
        }
    }

    /// A disk makes progress, or a core hears of it: late, and not always in order.
    fn disk(&mut self) {
        let node = self.any();
        if self.rng.chance(1, 2) {
            let count = self.rng.range(1, 4) as usize;
            self.act(Action::Write { node, count });
        }
        let notices = self.world.replica(node).notices.len() as u64;
        if notices > 0 {
            let nth = self.rng.below(notices) as usize;
            self.act(Action::Hear { node, nth });
        }
    }

    fn time(&mut self) {
        let longest = if self.rng.chance(1, 12) { 100_000 } else { 12_000 };
        let micros = self.rng.below(longest);
        self.act(Action::Wait { micros });
        for node in self.world.up() {
            let due = self.world.core(node).next_deadline().is_some_and(|d| d <= self.world.now);
            if due && self.rng.chance(3, 4) && !self.paused.contains(&node) {
                self.act(Action::Due { node });
            }
        }
    }

    fn propose(&mut self) {
        let node = self.leader_or_any();
        let count = self.rng.range(1, 4);
        let mut payloads = Vec::new();
        for _ in 0..count {
            self.payload += 1;
            let fill = if self.rng.chance(1, 10) { 250 } else { 5 };
            payloads.push((self.payload, fill));
        }
        self.act(Action::Propose { node, payloads });
    }

    fn read(&mut self) {
        let mut node = if self.rng.chance(1, 2) { self.any() } else { self.leader_or_any() };
        // One that was left behind is the likeliest to answer with the past.
        if self.rng.chance(1, 2) {
            node = self.paused.first().copied().unwrap_or(node);
        }
        if self.world.is_up(node) {
            self.context += 1;
            self.act(Action::Read { node, context: self.context });
        }
    }

    fn snapshots(&mut self) {
        if let Some((leader, to)) = self.world.wanted.last().copied() {
            let ok = self.rng.chance(3, 4);
            self.act(Action::Offer { leader, to, ok });
        }
        let installing: Vec<NodeId> = self
            .world
            .up()
            .into_iter()
            .filter(|n| self.world.replica(*n).install.is_some())
            .collect();
        for node in installing {
            if self.rng.chance(1, 5) {
                self.act(Action::InstallFails { node });
            } else if self.rng.chance(1, 2) {
                self.act(Action::Installed { node });
            }
        }
        let Some((node, ..)) = self.world.offers.last() else { return };
        let node = *node;
        if self.rng.chance(3, 4) {
            self.act(Action::Install { node });
        } else {
            self.act(Action::Forget { node });
        }
    }

    fn rare(&mut self) {
        match self.rng.below(16) {
            0..=1 => self.crash(),
            2..=3 => {
                let node = self.any();
                if !self.world.is_up(node) {
                    self.act(Action::Start { node });
                }
            }
            4..=5 => {
                let (node, keep) = (self.any(), self.rng.below(6));
                self.act(Action::Compact { node, keep });
            }
            6 => {
                let (leader, to) = (self.leader_or_any(), self.any());
                self.act(Action::Transfer { leader, to });
            }
            7..=8 => {
                let leader = self.leader_or_any();
                let members = Box::new(membership(&mut self.rng, self.nodes, self.data_nodes));
                self.act(Action::Change { leader, members });
            }
            9 => self.cut(),
            10 => {
                self.act(Action::Mend);
                self.paused.clear();
            }
            11..=12 => {
                let node = self.leader_or_any();
                if 2 * self.paused.len() as u64 + 2 < self.nodes {
                    self.paused.insert(node);
                }
            }
            13 => self.leave_behind(),
            14 => self.liveness(),
            _ => self.damage(),
        }
    }

    /// The node layer reports on peers: truly, or from a link that is down for itself.
    fn liveness(&mut self) {
        let (node, of) = (self.any(), self.leader_or_any());
        let alive = self.world.is_up(of) && self.rng.chance(2, 3);
        self.act(Action::Live { node, of, alive });
    }

    fn damage(&mut self) {
        let node = self.any();
        if self.world.is_up(node) && self.rng.chance(1, 6) {
            return self.act(Action::Damaged { node });
        }
        if self.world.is_up(node) && self.rng.chance(1, 3) {
            let survive = self.rng.below(3) as usize;
            self.act(Action::Crash { node, survive });
        }
        if !self.world.is_up(node) {
            let count = if self.rng.chance(1, 6) { 1_000 } else { self.rng.range(1, 6) };
            self.act(Action::LoseLog { node, count });
            if self.rng.chance(1, 2) {
                self.act(Action::Start { node });
            }
        }
    }

    fn crash(&mut self) {
        let node = self.any();
        if !self.world.is_up(node) {
            return;
        }
        let pending = self.world.replica(node).pending.len() as u64;
        let survive = self.rng.below(pending + 1) as usize;
        self.act(Action::Crash { node, survive });
        if self.rng.chance(1, 2) {
            for other in self.world.up() {
                self.act(Action::Live { node: other, of: node, alive: false });
            }
        }
    }

    /// The others go on without the leader, which notices nothing and then is asked to read.
    fn leave_behind(&mut self) {
        let Some(old) = self.world.leader() else { return };
        for _ in 0..20 {
            self.act(Action::Wait { micros: 20_000 });
            let others = || (1..=self.nodes).map(n).filter(move |o| *o != old);
            let others: Vec<NodeId> = others().filter(|o| self.world.is_up(*o)).collect();
            for node in &others {
                let due = self.world.core(*node).next_deadline();
                if due.is_some_and(|d| d <= self.world.now) {
                    self.act(Action::Due { node: *node });
                }
            }
            for _ in 0..200 {
                let Some(at) = self.world.net.iter().position(|m| m.to != old) else { break };
                let (from, to, nth) = self.message(at);
                self.act(Action::Give { from, to, nth });
            }
            for node in others {
                self.act(Action::Write { node, count: 100 });
                while !self.world.replica(node).notices.is_empty() {
                    self.act(Action::Hear { node, nth: 0 });
                }
            }
        }
        self.payload += 1;
        let any = self.any();
        let node = self.world.leader().unwrap_or(any);
        self.act(Action::Propose { node, payloads: vec![(self.payload, 0)] });
        if self.world.is_up(old) {
            self.context += 1;
            self.act(Action::Read { node: old, context: self.context });
        }
    }

    fn cut(&mut self) {
        let (from, to) = (self.any(), self.any());
        self.act(Action::Cut { from, to });
        if self.rng.chance(1, 2) {
            self.act(Action::Cut { from: to, to: from });
        }
        if self.rng.chance(1, 4) {
            for other in 1..=self.nodes {
                self.act(Action::Cut { from, to: n(other) });
            }
        }
    }

    fn recover(&mut self) {
        self.paused.clear();
        self.act(Action::Recover);
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
