//! The language of golden scripts: one command a line, carried out on a world.
//!
//! A script begins with `nodes 1 2 3 [learner=4] [witness=5] [quorum=3,1] [priority=2:5] [spare=6]
//! [spare-witness=7] [lease] [quiesce] [careful] [seed=9] [bug=Name]`; spares are replicas
//! without a configuration; `careful` leaves out losses of logs that the group can't survive. Then
//! come
//! - what can happen to a group, one thing at a time ([`Action`]): `give`, `lose`, `copy` (FROM TO
//!   NTH, a message in flight), `write NODE COUNT`, `hear NODE NTH`, `wait MICROSECONDS`,
//!   `due NODE`, `put NODE ID+FILL...`, `read NODE CONTEXT`, `offer LEADER TO`, `offer-fails`,
//!   `install NODE`, `forget NODE` (an offer), `installed NODE`, `install-fails NODE`, `crash
//!   NODE [SURVIVING]`, `start`,
//!   `lose-log NODE COUNT`, `compact NODE KEEP`, `transfer`, `change LEADER MEMBERS`, `cut FROM
//!   TO`,
//!   `heal`, `dead NODE OF`, `alive NODE OF`, `damaged NODE`, `recover`;
//! - and shorter ways to say many of them: `add 4`, `elect 1`, `tick 1`, `pass MS`,
//!   `propose 1 a b`, `deliver [FROM TO [N]]`, `drop FROM TO`, `dup FROM TO`, `write 1`, `told 1`,
//!   `settle`, `snapshots`, `state-lost 1`, `beats N` (20 ms each, everything delivered); `hold`
//!   shows the network, `print` every replica.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use atoll_base::NodeId;
use atoll_raft::{Config, Input, Membership, Message, QuorumRule, Role};

use super::action::Action;
use super::show::{Seen, print, show};
use super::{Disks, World, config, n};

pub fn id(word: &str) -> NodeId {
    n(word.parse().expect("a node"))
}

pub fn members(words: &[&str]) -> Membership {
    let mut m = Membership::default();
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or(("voter", word));
        match name {
            "voter" if value.parse::<u64>().is_ok() => {
                m.members.insert(id(value), Role::Voter);
            }
            "learner" => {
                m.members.insert(id(value), Role::Learner);
            }
            "witness" => {
                m.members.insert(id(value), Role::Witness);
            }
            "quorum" => {
                let (e, r) = value.split_once(',').expect("two sizes");
                let (election, replication) = (e.parse().unwrap(), r.parse().unwrap());
                m.quorum = QuorumRule::Sizes { election, replication };
            }
            "priority" => {
                let (node, p) = value.split_once(':').expect("node and priority");
                m.priorities.insert(id(node), p.parse().unwrap());
            }
            _ => {}
        }
    }
    m
}

/// `members` backwards, each word with a space before it.
pub fn words(m: &Membership) -> String {
    let mut text = String::new();
    for (node, role) in &m.members {
        let _ = match role {
            Role::Voter => write!(text, " {node}"),
            Role::Learner => write!(text, " learner={node}"),
            Role::Witness => write!(text, " witness={node}"),
        };
    }
    if let QuorumRule::Sizes { election, replication } = m.quorum {
        let _ = write!(text, " quorum={election},{replication}");
    }
    for (node, priority) in &m.priorities {
        let _ = write!(text, " priority={node}:{priority}");
    }
    text
}

/// What a world begins with.
#[derive(Clone, Default, Debug)]
pub struct Setup {
    pub membership: Membership,
    /// Replicas without a configuration.
    pub spares: BTreeSet<NodeId>,
    /// All that hold no data, spares among them.
    pub witnesses: BTreeSet<NodeId>,
    pub lease: bool,
    pub quiesce: bool,
    pub careful: bool,
    pub seed: u64,
    /// A planted mistake's name.
    pub bug: Option<String>,
}

impl Setup {
    /// Reads the words after `nodes`.
    pub fn parse(words: &[&str]) -> Self {
        let mut setup = Self { membership: members(words), seed: 11, ..Self::default() };
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("lease", _) => setup.lease = true,
                ("quiesce", _) => setup.quiesce = true,
                ("careful", _) => setup.careful = true,
                ("seed", value) => setup.seed = value.parse().expect("a seed"),
                ("bug", value) => setup.bug = Some(value.to_string()),
                ("spare", value) => {
                    setup.spares.insert(id(value));
                }
                ("spare-witness", value) => {
                    setup.spares.insert(id(value));
                    setup.witnesses.insert(id(value));
                }
                ("witness", value) => {
                    setup.witnesses.insert(id(value));
                }
                _ => {}
            }
        }
        setup
    }

    /// The world.
    pub fn world(&self) -> World {
        let make = |id: NodeId| {
            let mut c = config(id, self.seed);
            (c.lease_reads, c.quiesce) = (self.lease, self.quiesce);
            plant(&mut c, self.bug.as_deref());
            c
        };
        let mut world = World::new(&self.membership, Disks::Manual, make);
        for node in &self.spares {
            world.add(*node, Membership::default(), make(*node));
        }
        world.checks.witnesses.clone_from(&self.witnesses);
        world.careful = self.careful;
        world
    }

    /// The command that begins a script.
    pub fn command(&self) -> String {
        let mut text = format!("nodes{}", words(&self.membership));
        for node in &self.spares {
            let kind = if self.witnesses.contains(node) { "spare-witness" } else { "spare" };
            let _ = write!(text, " {kind}={node}");
        }
        let flags = [("lease", self.lease), ("quiesce", self.quiesce), ("careful", self.careful)];
        for (name, is) in flags {
            if is {
                let _ = write!(text, " {name}");
            }
        }
        let _ = write!(text, " seed={}", self.seed);
        if let Some(bug) = &self.bug {
            let _ = write!(text, " bug={bug}");
        }
        text
    }
}

#[cfg(feature = "planted-bugs")]
fn plant(config: &mut Config, bug: Option<&str>) {
    let Some(bug) = bug else { return };
    let found = atoll_raft::planted::Bug::ALL.iter().find(|b| format!("{b:?}") == bug);
    config.bug = Some(*found.unwrap_or_else(|| panic!("no planted mistake is named {bug}")));
}

#[cfg(not(feature = "planted-bugs"))]
fn plant(_config: &mut Config, bug: Option<&str>) {
    assert_eq!(bug, None, "mistakes are planted with --features planted-bugs");
}

/// Carries one command out and returns what happened.
pub fn play(player: &mut Option<World>, command: &str) -> Vec<String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    if words[0] == "nodes" {
        *player = Some(Setup::parse(&words[1..]).world());
        return Vec::new();
    }
    let w = player.as_mut().expect("a script begins with `nodes`");
    let before = Seen::of(w);
    let mut lines = Vec::new();
    match Action::parse(&words) {
        Some(action) => action.run(w),
        None => run(w, &words, &mut lines),
    }
    before.changes(w, &mut lines);
    lines
}

fn run(w: &mut World, words: &[&str], lines: &mut Vec<String>) {
    let all = usize::MAX;
    let count = |at: usize| words.get(at).map_or(all, |c| c.parse().expect("a number"));
    match words[0] {
        "add" => w.add(id(words[1]), Membership::default(), config(id(words[1]), 11)),
        "elect" => elect(w, id(words[1])),
        "tick" => {
            let due = w.core(id(words[1])).next_deadline();
            w.now = w.now.max(due.unwrap_or(w.now));
            w.step(id(words[1]), Input::Tick);
        }
        "pass" => {
            w.now = w.now.after(Duration::from_millis(words[1].parse().expect("milliseconds")));
        }
        "propose" => w.propose(id(words[1]), &words[2..]),
        "deliver" => deliver(w, &words[1..], lines),
        "drop" | "dup" => {
            let (from, to) = (id(words[1]), id(words[2]));
            let at = w.net.iter().position(|m| m.from == from && m.to == to).expect("a message");
            if words[0] == "drop" {
                w.net.remove(at);
            } else {
                let copy = w.net[at].clone();
                w.net.push_back(copy);
            }
        }
        "hold" => lines.extend(w.net.iter().map(|m| format!("  in flight {}", show(m)))),
        "write" => w.write_done(id(words[1]), all),
        "told" => w.tell_written(id(words[1])),
        "settle" => w.settle(),
        "snapshots" => {
            w.send_snapshots();
            w.settle();
        }
        "state-lost" => w.step(id(words[1]), Input::StateLost),
        "beats" => {
            for _ in 0..count(1) {
                w.now = w.now.after(Duration::from_millis(20));
                w.tick_due();
                w.settle();
            }
        }
        "print" => print(w, lines),
        other => panic!("unknown command {other}"),
    }
}

/// Makes `node` the leader, with everything delivered.
fn elect(w: &mut World, node: NodeId) {
    let due = w.core(node).next_deadline().expect("a timer");
    w.now = w.now.max(due).after(Duration::from_millis(100));
    w.step(node, Input::Tick);
    w.settle();
    assert!(w.core(node).is_leader(), "{node} is not elected");
}

/// `deliver`, `deliver all`, `deliver FROM TO [N]`: in order, what is in flight now.
fn deliver(w: &mut World, words: &[&str], lines: &mut Vec<String>) {
    let pair = (words.len() >= 2).then(|| (id(words[0]), id(words[1])));
    let many = words.get(2).map_or(usize::MAX, |c| c.parse().unwrap());
    let fits = |m: &Message| pair.is_none_or(|p| (m.from, m.to) == p);
    let now = w.net.iter().filter(|m| fits(m)).count().min(many);
    for _ in 0..now {
        let at = w.net.iter().position(fits).expect("counted");
        lines.push(format!("  {}", show(&w.net[at])));
        w.deliver(at);
    }
}
