//! Golden scripts: `testscripts/*.txt` hold commands (`> ...`) and what each of them made happen,
//! one dense line per event. `ATOLL_GOLDEN=write cargo test -p atoll-raft --test scripts` rewrites
//! what happened; the difference is read in review.
//!
//! Commands: `nodes 1 2 3 [learner=4] [witness=5] [quorum=3,1] [priority=2:5] [lease] [quiesce]`,
//! `add 4`, `elect 1`, `tick 1`, `pass MS`, `propose 1 a b`, `read 1 7`, `deliver [FROM TO]
//! [all|N]`, `drop FROM TO`, `dup FROM TO`, `hold` (shows the network), `write 1 [N]`, `told 1`,
//! `settle`, `crash 1 [survive]`, `start 1`, `cut 1 2`, `heal`, `transfer 1 2`, `change 1 2 3
//! [learner=4]`, `compact 1 KEEP`, `snapshots`, `dead 2 1`, `damaged 1`, `state-lost 1`, `beats N`
//! (20 ms each, everything delivered), `print`.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "the helpers of a test are not seen as one")]

mod world;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use atoll_base::NodeId;
use atoll_raft::{Body, Input, Membership, Message, QuorumRule, Role, SendState};
use world::{Disks, World, config, n};

#[test]
#[allow(clippy::disallowed_methods, reason = "a test reads its own scripts")]
fn every_script_still_happens_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testscripts");
    let rewrite = std::env::var("ATOLL_GOLDEN").is_ok_and(|v| v == "write");
    let mut paths: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let (mut scenarios, mut broken) = (0, Vec::new());
    for path in paths {
        let was = std::fs::read_to_string(&path).unwrap();
        let mut is = String::new();
        let mut player = None;
        for line in was.lines() {
            if line.starts_with('#') || line.is_empty() {
                if line.starts_with("## ") {
                    scenarios += 1;
                    player = None;
                }
                writeln!(is, "{line}").unwrap();
            } else if let Some(command) = line.strip_prefix("> ") {
                writeln!(is, "{line}").unwrap();
                println!("{}: {line}", path.display());
                for event in play(&mut player, command) {
                    writeln!(is, "{event}").unwrap();
                }
            }
        }
        if rewrite {
            std::fs::write(&path, &is).unwrap();
        } else if is != was {
            let at = is.lines().zip(was.lines()).position(|(a, b)| a != b).unwrap_or(0);
            let (a, b) = (is.lines().nth(at), was.lines().nth(at));
            broken.push(format!("{} line {}:\n now {a:?}\n was {b:?}", path.display(), at + 1));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(scenarios >= 60, "{scenarios} scenarios");
}

fn id(word: &str) -> NodeId {
    n(word.parse().expect("a node"))
}

fn members(words: &[&str]) -> Membership {
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

/// Carries one command out and returns what happened.
fn play(player: &mut Option<World>, command: &str) -> Vec<String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    if words[0] == "nodes" {
        let (lease, quiesce) = (words.contains(&"lease"), words.contains(&"quiesce"));
        let mut world = World::new(&members(&words[1..]), Disks::Manual, |id| {
            let mut c = config(id, 11);
            (c.lease_reads, c.quiesce) = (lease, quiesce);
            c
        });
        let witness = |n: &NodeId| world.core(*n).membership().role(*n) == Some(Role::Witness);
        world.checks.witnesses = world.up().into_iter().filter(witness).collect();
        *player = Some(world);
        return Vec::new();
    }
    let w = player.as_mut().expect("a script begins with `nodes`");
    let before = Seen::of(w);
    let mut lines = Vec::new();
    run(w, &words, &mut lines);
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
            w.now = w.now.after(Duration::from_millis(words[1].parse().unwrap()));
        }
        "propose" => w.propose(id(words[1]), &words[2..]),
        "read" => w.read(id(words[1]), words[2].parse().unwrap()),
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
        "write" => w.write_done(id(words[1]), count(2)),
        "told" => w.tell_written(id(words[1])),
        "settle" => w.settle(),
        "crash" => w.crash(id(words[1]), words.get(2).map_or(0, |c| c.parse().unwrap())),
        "start" => w.start(id(words[1])),
        "cut" => {
            w.cuts.insert((id(words[1]), id(words[2])));
        }
        "heal" => w.cuts.clear(),
        "transfer" => w.step(id(words[1]), Input::Transfer(id(words[2]))),
        "change" => w.step(id(words[1]), Input::ChangeMembership(members(&words[2..]))),
        "compact" => w.compact(id(words[1]), words[2].parse().unwrap()),
        "snapshots" => {
            w.send_snapshots();
            w.settle();
        }
        "dead" => {
            let node = id(words[2]);
            w.step(id(words[1]), Input::PeerLiveness { node, alive: false });
        }
        "damaged" => w.step(id(words[1]), Input::Damaged),
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

fn show(m: &Message) -> String {
    let body = match &m.body {
        Body::Append { prev_index, prev_term, commit, entries } => {
            let all: Vec<String> = entries
                .iter()
                .map(|e| format!("{}/{}{}", e.index, e.term, payload(&world::text(e), e)))
                .collect();
            format!("append after {prev_index}/{prev_term} commit {commit} [{}]", all.join(" "))
        }
        Body::AppendReply { matched } => format!("has {matched}"),
        Body::AppendReject { prev_index, conflict_index, conflict_term } => {
            format!("no {prev_index}, try {conflict_index}/{conflict_term}")
        }
        Body::Vote { last_index, last_term, transfer } => {
            let asked = if *transfer { " transfer" } else { "" };
            format!("vote? {last_index}/{last_term}{asked}")
        }
        Body::PreVote { last_index, last_term } => format!("pre-vote? {last_index}/{last_term}"),
        Body::VoteReply { granted } => format!("vote {granted}"),
        Body::PreVoteReply { granted } => format!("pre-vote {granted}"),
        Body::Heartbeat { commit, round } => format!("heartbeat commit {commit} round {round}"),
        Body::HeartbeatReply { round } => format!("heard round {round}"),
        Body::ReadIndex { .. } => "read index?".into(),
        Body::ReadIndexReply { index, .. } => format!("read index {index:?}"),
        Body::TimeoutNow => "campaign now".into(),
        Body::Snapshot { index, term, .. } => format!("snapshot {index}/{term}"),
        Body::SnapshotReply { index, installed } => format!("snapshot {index} {installed}"),
        Body::Quiet { commit } => format!("quiet at {commit}"),
        Body::Wake => "wake".into(),
    };
    format!("{}->{} t{} {body}", m.from, m.to, m.term)
}

fn payload(text: &str, entry: &atoll_base::Entry) -> String {
    match entry.kind {
        atoll_base::EntryKind::Empty => "-".into(),
        atoll_base::EntryKind::Commands => format!("={text}"),
        atoll_base::EntryKind::Membership => "=members".into(),
    }
}

fn print(w: &World, lines: &mut Vec<String>) {
    for node in w.up() {
        let (c, r) = (w.core(node), w.replica(node));
        let mut line = format!(
            "  {node}: {:?} t{} log {}..{} commit {} durable {} applied {}",
            c.role(),
            c.term(),
            c.first_index(),
            c.last_index(),
            c.commit(),
            c.durable(),
            r.applied
        );
        for (of, p) in c.progress() {
            let state = match p.state {
                SendState::Probe { waiting: true } => "probe*",
                SendState::Probe { waiting: false } => "probe",
                SendState::Replicate => "stream",
                SendState::Snapshot => "snapshot",
            };
            let flight = p.inflight();
            write!(line, " | {of} {state} {}<{} +{flight}", p.matched, p.next).unwrap();
        }
        lines.push(line);
    }
}

/// What is told about every replica when it changed.
struct Seen(Vec<(NodeId, String)>, usize, usize, usize, usize);

impl Seen {
    fn of(w: &World) -> Self {
        let state = |node: &NodeId| {
            if !w.is_up(*node) {
                return (*node, "down".to_string());
            }
            let c = w.core(*node);
            let mut text = format!("{:?} t{} commit {}", c.role(), c.term(), c.commit());
            if let Some(leader) = c.leader() {
                write!(text, " leader {leader}").unwrap();
            }
            if let Some(vote) = c.vote() {
                write!(text, " vote {vote}").unwrap();
            }
            if c.is_quiet() {
                text.push_str(" quiet");
            }
            if c.is_damaged() {
                text.push_str(" damaged");
            }
            let joint = if c.membership().is_joint() { " joint" } else { "" };
            let nodes: Vec<String> =
                c.membership().nodes().iter().map(ToString::to_string).collect();
            write!(text, " members {}{joint}", nodes.join(",")).unwrap();
            (*node, text)
        };
        let replicas = w.replicas.keys().map(state).collect();
        Self(replicas, w.outcomes.len(), w.served.len(), w.failed.len(), w.wanted.len())
    }

    fn changes(&self, w: &World, lines: &mut Vec<String>) {
        for (node, outcome) in &w.outcomes[self.1..] {
            lines.push(format!("  {node} answers {outcome:?}"));
        }
        for (node, context, index) in &w.served[self.2..] {
            lines.push(format!("  {node} serves read {} at {}", context.0, index.0));
        }
        for (node, context, leader) in &w.failed[self.3..] {
            lines.push(format!("  {node} can't serve read {}, leader {leader:?}", context.0));
        }
        for (node, to) in w.wanted.iter().skip(self.4) {
            lines.push(format!("  {node} wants a snapshot sent to {to}"));
        }
        let old = |n: &NodeId| self.0.iter().find(|(o, _)| o == n).map(|(_, t)| t.clone());
        for (node, text) in Self::of(w).0 {
            if old(&node).as_deref() != Some(text.as_str()) {
                lines.push(format!("  {node}: {text}"));
            }
        }
    }
}
