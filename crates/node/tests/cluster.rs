//! Three nodes' lanes in one thread, with a log and an engine in memory and a network that loses
//! nothing: the whole path of a request, without faults. The simulator adds those.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atoll_base::{Epoch, LaneId, NodeId, ShardId, Time, Timestamp};
use atoll_coord::{
    Answer, AnswerBody, Catalog, Consistency, Origin, Request, RequestBody, Told, WatchSpec,
};
use atoll_machine::{Command, KeyEnd, Op, PutOp, Reply};
use atoll_node::{Input, Lane, LaneConfig, LaneStart, Limits, Output, RaftSettings, Upkeep};
use atoll_storage::log::{LogOptions, LogWriter};
use atoll_storage::{Disk, Engine, MemDisk, MemEngine};
use bytes::Bytes;

struct Node {
    id: NodeId,
    lane: Lane,
    log: LogWriter,
    disk: MemDisk,
    engine: MemEngine,
    inputs: Vec<Input>,
    is_up: bool,
    /// How often its engine was persisted.
    persists: usize,
}

struct Cluster {
    nodes: Vec<Node>,
    now: Time,
    answers: Vec<Answer>,
    next_call: u64,
    upkeep: Upkeep,
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: 1 << 20, record_bytes_max: 512 << 10, ..LogOptions::default() }
}

fn config(node: NodeId, upkeep: &Upkeep) -> LaneConfig {
    LaneConfig {
        node,
        lane: LaneId(0),
        lanes: 1,
        seed: node.0,
        raft: RaftSettings::default(),
        limits: Limits::default(),
        upkeep: upkeep.clone(),
    }
}

fn start(id: NodeId, disk: &MemDisk, engine: &MemEngine, now: Time, upkeep: &Upkeep) -> Node {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (log, recovered) =
        LogWriter::open(shared, Path::new("log"), options()).expect("the log opens");
    let start = LaneStart {
        engine: Arc::new(engine.clone()) as Arc<dyn Engine>,
        log: log.reader(),
        recovered: recovered.shards,
        lost: recovered.unexplained,
        founding: vec![Catalog::system_descriptor(&[NodeId(1), NodeId(2), NodeId(3)])],
    };
    let lane = Lane::open(config(id, upkeep), now, start).expect("the lane opens");
    let (disk, engine) = (disk.clone(), engine.clone());
    Node { id, lane, log, disk, engine, inputs: Vec::new(), is_up: true, persists: 0 }
}

impl Cluster {
    fn new(upkeep: Upkeep) -> Self {
        let now = Time::from_millis(1);
        let node = |n| {
            let (disk, engine) = (MemDisk::new(n), MemEngine::default());
            start(NodeId(n), &disk, &engine, now, &upkeep)
        };
        let nodes = (1..=3).map(node).collect();
        Self { nodes, now, answers: Vec::new(), next_call: 0, upkeep }
    }

    /// Steps every node once; true when something happened.
    fn round(&mut self) -> bool {
        let mut busy = false;
        let mut mail: BTreeMap<NodeId, Vec<Input>> = BTreeMap::new();
        for node in self.nodes.iter_mut().filter(|n| n.is_up) {
            let due = node.lane.next_deadline().is_some_and(|at| at <= self.now);
            if node.inputs.is_empty() && !due {
                continue;
            }
            busy = true;
            let mut output = Output::default();
            let wall = Timestamp(self.now.0 / 1_000_000);
            node.lane.turn(self.now, wall, &mut node.inputs, &mut output);
            self.answers.append(&mut output.answers);
            for (to, messages) in output.messages {
                mail.entry(to).or_default().push(Input::Peer { from: node.id, messages });
            }
            if let Some(write) = output.write {
                let written = node.log.write(&[write.batch]).expect("the disk has room");
                for (to, messages) in write.after {
                    mail.entry(to).or_default().push(Input::Peer { from: node.id, messages });
                }
                let (ticket, entries) = (write.ticket, written.entries);
                node.inputs.push(Input::Written { ticket, entries });
            }
            if let Some(request) = output.persist {
                node.engine.persist().expect("the engine persists");
                node.persists += 1;
                node.inputs.push(Input::Persisted { request });
            }
        }
        for node in self.nodes.iter_mut().filter(|n| n.is_up) {
            node.inputs.extend(mail.remove(&node.id).unwrap_or_default());
        }
        busy
    }

    fn run(&mut self, how_long: Duration) {
        let end = self.now.after(how_long);
        while self.now < end {
            while self.round() {}
            let up = self.nodes.iter().filter(|n| n.is_up);
            let next = up.filter_map(|n| n.lane.next_deadline()).min().unwrap_or(end);
            self.now = next.max(Time(self.now.0 + 1)).min(end);
        }
    }

    fn call(&mut self, node: usize, body: RequestBody) -> u64 {
        self.next_call += 1;
        let id = self.next_call;
        let deadline = self.now.after(Duration::from_secs(5));
        let (origin, shard, epoch) = (Origin(1), ShardId::SYSTEM, Epoch::ZERO);
        let request = Request { origin, id, shard, epoch, deadline, body };
        self.nodes[node].inputs.push(Input::Requests(vec![request]));
        id
    }

    fn answer(&mut self, id: u64) -> Answer {
        for _ in 0..200 {
            if let Some(at) = self.answers.iter().position(|a| a.id == id) {
                return self.answers.remove(at);
            }
            self.run(Duration::from_millis(10));
        }
        panic!("call {id} was not answered");
    }

    fn leader(&mut self) -> usize {
        for _ in 0..100 {
            let leads = |n: &Node| n.is_up && n.lane.leader(ShardId::SYSTEM) == Some(n.id);
            if let Some(at) = self.nodes.iter().position(leads) {
                return at;
            }
            self.run(Duration::from_millis(50));
        }
        panic!("no leader");
    }

    fn put(&mut self, key: &str, value: &str) -> Reply {
        let leader = self.leader();
        let op = Op::Put(PutOp {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            ..PutOp::default()
        });
        let id = self.call(leader, RequestBody::Command(Command::anonymous(op)));
        match self.answer(id).body {
            Ok(AnswerBody::Command(reply)) => reply,
            other => panic!("put answered {other:?}"),
        }
    }

    fn get(&mut self, key: &str) -> Option<Bytes> {
        let leader = self.leader();
        let key = Bytes::copy_from_slice(key.as_bytes());
        let consistency = Consistency::Linearizable;
        let id = self.call(leader, RequestBody::Get { key, at: None, consistency });
        match self.answer(id).body {
            Ok(AnswerBody::Get { kv, .. }) => kv.map(|kv| kv.value),
            other => panic!("get answered {other:?}"),
        }
    }

    /// Power fails: what was not synced is gone.
    fn crash(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.is_up = false;
        node.inputs.clear();
        node.disk.crash();
        node.engine.crash_to_persisted();
    }

    fn restart(&mut self, node: usize) {
        let old = &self.nodes[node];
        let made = start(old.id, &old.disk, &old.engine, self.now, &self.upkeep);
        self.nodes[node] = made;
    }
}

#[test]
fn writes_are_agreed_on_and_read_back() {
    let mut cluster = Cluster::new(Upkeep::default());
    for n in 0..50 {
        cluster.put(&format!("k{n}"), &format!("v{n}"));
    }
    assert_eq!(cluster.get("k7").as_deref(), Some(&b"v7"[..]));
    assert_eq!(cluster.get("nothing"), None);
}

#[test]
fn everything_survives_a_power_failure_of_all_nodes() {
    let mut cluster = Cluster::new(Upkeep::default());
    for n in 0..20 {
        cluster.put(&format!("k{n}"), &format!("v{n}"));
    }
    (0..3).for_each(|n| cluster.crash(n));
    (0..3).for_each(|n| cluster.restart(n));
    for n in 0..20 {
        assert_eq!(cluster.get(&format!("k{n}")), Some(Bytes::from(format!("v{n}"))));
    }
}

#[test]
fn a_new_leader_takes_over_and_the_old_one_catches_up() {
    let mut cluster = Cluster::new(Upkeep::default());
    cluster.put("a", "1");
    let old = cluster.leader();
    cluster.crash(old);
    cluster.put("a", "2");
    cluster.restart(old);
    cluster.put("a", "3");
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.get("a").as_deref(), Some(&b"3"[..]));
    let applied: Vec<_> = cluster.nodes.iter().map(|n| n.lane.applied(ShardId::SYSTEM)).collect();
    assert_eq!(applied[0], applied[1]);
    assert_eq!(applied[1], applied[2]);
}

#[test]
fn a_follower_that_was_away_too_long_gets_a_snapshot() {
    let upkeep = Upkeep {
        persist_bytes: 1,
        persist_interval: Duration::from_millis(1),
        log_keep_entries: 3,
        ..Upkeep::default()
    };
    let mut cluster = Cluster::new(upkeep);
    cluster.put("a", "1");
    let away = (cluster.leader() + 1) % 3;
    cluster.crash(away);
    for n in 0..100 {
        cluster.put(&format!("k{n}"), &format!("v{n}"));
    }
    cluster.restart(away);
    cluster.run(Duration::from_secs(3));
    let leader = cluster.leader();
    assert_eq!(
        cluster.nodes[away].lane.applied(ShardId::SYSTEM),
        cluster.nodes[leader].lane.applied(ShardId::SYSTEM)
    );
    cluster.crash(away);
    cluster.restart(away);
    cluster.put("a", "2");
    cluster.run(Duration::from_secs(1));
    assert_eq!(
        cluster.nodes[away].lane.applied(ShardId::SYSTEM),
        cluster.nodes[leader].lane.applied(ShardId::SYSTEM)
    );
}

#[test]
fn a_pause_persists_what_is_worth_it() {
    let mut cluster = Cluster::new(Upkeep::default());
    let interval = Upkeep::default().persist_interval;
    let persists = |cluster: &Cluster| cluster.nodes.iter().map(|n| n.persists).collect::<Vec<_>>();
    cluster.run(interval * 2);
    let value = "v".repeat(200 << 10);
    cluster.put("a", &value);
    cluster.run(Duration::from_secs(1));
    // That was the first for long, and begins an interval.
    let before = persists(&cluster);
    cluster.put("b", &value);
    cluster.run(Duration::from_secs(2));
    assert_eq!(persists(&cluster), before, "so little waits for the interval");
    for n in 0..6 {
        cluster.put(&format!("k{n}"), &value);
        cluster.run(Duration::from_millis(400));
        assert_eq!(persists(&cluster), before, "that was no pause");
    }
    cluster.run(Duration::from_millis(200));
    assert!(persists(&cluster).iter().zip(&before).all(|(now, before)| *now == before + 1));
}

#[test]
fn a_watch_tells_every_change_in_order() {
    let mut cluster = Cluster::new(Upkeep::default());
    cluster.put("w0", "before");
    let leader = cluster.leader();
    let spec = WatchSpec {
        start: Bytes::from_static(b"w"),
        end: KeyEnd::of_prefix(b"w"),
        from: None,
        puts: Told::Yes,
        deletes: Told::Yes,
        previous: Told::No,
        progress: Told::No,
    };
    let watch = cluster.call(leader, RequestBody::Watch(spec));
    assert!(matches!(cluster.answer(watch).body, Ok(AnswerBody::WatchStarted { .. })));
    let mut told = Vec::new();
    for n in 0..10 {
        cluster.put(&format!("w{n}"), "x");
        cluster.put(&format!("other{n}"), "x");
        let Ok(AnswerBody::Watch(batch)) = cluster.answer(watch).body else { panic!("no events") };
        told.extend(batch.events.into_iter().map(|e| e.key));
        cluster.call(leader, RequestBody::WatchCredit { watch });
    }
    let wanted: Vec<Bytes> = (0..10).map(|n| Bytes::from(format!("w{n}"))).collect();
    assert_eq!(told, wanted);
}

#[test]
fn a_follower_refuses_and_names_the_leader() {
    let mut cluster = Cluster::new(Upkeep::default());
    cluster.put("a", "1");
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let (key, consistency) = (Bytes::from_static(b"a"), Consistency::Linearizable);
    let id = cluster.call(follower, RequestBody::Get { key: key.clone(), at: None, consistency });
    let failure = cluster.answer(id).body.unwrap_err();
    assert_eq!(failure.leader, Some(cluster.nodes[leader].id));
    let consistency = Consistency::Stale { max: None };
    let id = cluster.call(follower, RequestBody::Get { key, at: None, consistency });
    assert!(matches!(cluster.answer(id).body, Ok(AnswerBody::Get { kv: Some(_), .. })));
}

#[test]
fn a_replica_without_its_log_is_rebuilt_before_it_votes_again() {
    let upkeep = Upkeep {
        persist_bytes: 1,
        persist_interval: Duration::from_millis(1),
        ..Upkeep::default()
    };
    let mut cluster = Cluster::new(upkeep);
    for n in 0..10 {
        cluster.put(&format!("k{n}"), "v");
    }
    let lost = (cluster.leader() + 1) % 3;
    cluster.crash(lost);
    cluster.nodes[lost].disk = MemDisk::new(99);
    cluster.restart(lost);
    assert_eq!(cluster.state(lost), "rebuilding");
    cluster.put("after", "v");
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.state(lost), "follower");
    let leader = cluster.leader();
    let applied = |n: usize| cluster.nodes[n].lane.applied(ShardId::SYSTEM);
    assert_eq!(applied(lost), applied(leader));
    cluster.crash(leader);
    cluster.put("again", "v");
}

#[test]
fn a_replica_told_of_damage_serves_nothing_until_it_is_rebuilt() {
    let mut cluster = Cluster::new(Upkeep::default());
    cluster.put("a", "1");
    let follower = (cluster.leader() + 1) % 3;
    let (shard, reason) = (ShardId::SYSTEM, "a bit was flipped".to_owned());
    cluster.nodes[follower].inputs.push(Input::Damaged { shard, reason });
    let (key, consistency) = (Bytes::from_static(b"a"), Consistency::Stale { max: None });
    let id = cluster.call(follower, RequestBody::Get { key, at: None, consistency });
    let failure = cluster.answer(id).body.unwrap_err();
    assert!(failure.message.contains("a bit was flipped"), "{failure}");
    cluster.put("a", "2");
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.state(follower), "follower");
}

impl Cluster {
    fn state(&mut self, node: usize) -> &'static str {
        let id = self.call(node, RequestBody::Status);
        match self.answer(id).body {
            Ok(AnswerBody::Status(status)) => status.state,
            other => panic!("status answered {other:?}"),
        }
    }
}
