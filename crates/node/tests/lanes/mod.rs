//! Any number of nodes' lanes in one thread: logs and engines in memory, a network that loses
//! nothing but what is cut, and each node's view of the catalog, from its own replica of shard 1
//! or, where it has none, from outside.

#![allow(dead_code, reason = "each test program uses its part of it")]
#![allow(clippy::unwrap_used, reason = "a test stops where it is surprised")]
#![allow(unreachable_pub, reason = "a module of test programs")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atoll_base::{Code, Epoch, Failure, LaneId, NodeId, Revision, ShardId, Time, Timestamp};
use atoll_coord::catalog::NodeRecord;
use atoll_coord::plan::{self, BootstrapNode};
use atoll_coord::{
    Answer, AnswerBody, Catalog, Consistency, Descriptor, Origin, ReplicaStatus, Request,
    RequestBody,
};
use atoll_machine::{Command, Op, PutOp, Reply, TxnOp};
use atoll_node::{Input, Lane, LaneConfig, LaneStart, Limits, Output, RaftSettings, Upkeep};
use atoll_raft::Role;
use atoll_storage::log::{LogOptions, LogWriter};
use atoll_storage::{Disk, Engine, MemDisk, MemEngine};
use bytes::Bytes;

pub const DATA: ShardId = ShardId(2);
pub const SECOND: Duration = Duration::from_secs(1);

pub struct Node {
    pub id: NodeId,
    pub lane: Lane,
    log: LogWriter,
    pub disk: MemDisk,
    engine: MemEngine,
    pub inputs: Vec<Input>,
    pub is_up: bool,
    view: Catalog,
}

/// Whether a message from one node to another gets lost.
pub type Loses = Box<dyn Fn(NodeId, NodeId, &atoll_replica::PeerMessage) -> bool>;

pub struct Cluster {
    pub nodes: BTreeMap<NodeId, Node>,
    pub now: Time,
    /// Nodes that hear nobody and nobody hears.
    pub cut: BTreeSet<NodeId>,
    /// Whose log writes never end.
    pub stalled: BTreeSet<NodeId>,
    pub loses: Loses,
    answers: Vec<Answer>,
    next_call: u64,
    upkeep: Upkeep,
    founders: Vec<NodeId>,
    /// The newest catalog that any node has seen.
    pub newest: Catalog,
}

impl Cluster {
    /// A founded cluster of `count` nodes.
    pub fn new(count: u64, upkeep: Upkeep) -> Self {
        let founders: Vec<NodeId> = (1..=count).map(NodeId).collect();
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            now: Time::from_millis(1),
            cut: BTreeSet::new(),
            stalled: BTreeSet::new(),
            loses: Box::new(|_, _, _| false),
            answers: Vec::new(),
            next_call: 0,
            upkeep,
            founders: founders.clone(),
            newest: Catalog::new(),
        };
        for id in &founders {
            cluster.start(*id);
        }
        let at = |id: &NodeId| BootstrapNode {
            id: *id,
            client_address: format!("{id}:1"),
            peer_address: format!("{id}:2"),
            http_address: String::new(),
        };
        let txn = plan::bootstrap(7, &founders.iter().map(at).collect::<Vec<_>>()).unwrap();
        assert!(cluster.txn(txn));
        cluster.leader(DATA);
        cluster
    }

    /// Starts a node, with what its disk and engine kept.
    pub fn start(&mut self, id: NodeId) {
        let old = self.nodes.remove(&id);
        let (disk, engine) = match old {
            Some(node) => (node.disk, node.engine),
            None => (MemDisk::new(id.0), MemEngine::default()),
        };
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let options = LogOptions {
            segment_bytes: 1 << 20,
            record_bytes_max: 512 << 10,
            ..LogOptions::default()
        };
        let (log, recovered) = LogWriter::open(shared, Path::new("log"), options).unwrap();
        let founding = match self.founders.contains(&id) {
            true => vec![Catalog::system_descriptor(&self.founders)],
            false => Vec::new(),
        };
        let start = LaneStart {
            engine: Arc::new(engine.clone()) as Arc<dyn Engine>,
            log: log.reader(),
            recovered: recovered.shards,
            lost: recovered.unexplained,
            founding,
        };
        let config = LaneConfig {
            node: id,
            lane: LaneId(0),
            lanes: 1,
            seed: id.0,
            raft: RaftSettings::default(),
            limits: Limits::default(),
            upkeep: self.upkeep.clone(),
        };
        let lane = Lane::open(config, self.now, start).unwrap();
        let (inputs, view) = (Vec::new(), Catalog::new());
        self.nodes.insert(id, Node { id, lane, log, disk, engine, inputs, is_up: true, view });
    }

    /// Starts a node that joins: it writes its record down.
    pub fn join(&mut self, id: u64) {
        self.start(NodeId(id));
        let record = NodeRecord {
            id: NodeId(id),
            incarnation: atoll_base::Incarnation(1),
            client_address: format!("{id}:1"),
            peer_address: format!("{id}:2"),
            http_address: String::new(),
            unknown: Bytes::new(),
        };
        self.change(|catalog| plan::members::put_node(catalog, &record));
    }

    /// The engine's background makes durable what it has.
    pub fn persist(&mut self, id: NodeId) {
        self.nodes[&id].engine.persist().unwrap();
    }

    /// Power fails: what was not synced is gone.
    pub fn crash(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.is_up = false;
        node.inputs.clear();
        node.disk.crash();
        node.engine.crash_to_persisted();
    }

    /// Steps every node once; true when something happened.
    pub fn round(&mut self) -> bool {
        let mut busy = false;
        let mut mail: Vec<(NodeId, NodeId, Vec<atoll_replica::PeerMessage>)> = Vec::new();
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let node = self.nodes.get_mut(&id).unwrap();
            let due = node.lane.next_deadline().is_some_and(|at| at <= self.now);
            if !node.is_up || (node.inputs.is_empty() && !due) {
                continue;
            }
            busy = true;
            let mut output = Output::default();
            let wall = Timestamp(self.now.0 / 1_000_000);
            node.lane.turn(self.now, wall, &mut node.inputs, &mut output);
            self.answers.append(&mut output.answers);
            mail.extend(output.messages.into_iter().map(|(to, m)| (id, to, m)));
            if let Some(write) = output.write.filter(|_| !self.stalled.contains(&id)) {
                let written = node.log.write(&[write.batch]).unwrap();
                mail.extend(write.after.into_iter().map(|(to, m)| (id, to, m)));
                let (ticket, entries) = (write.ticket, written.entries);
                node.inputs.push(Input::Written { ticket, entries });
            }
            if let Some(request) = output.persist {
                node.engine.persist().unwrap();
                node.inputs.push(Input::Persisted { request });
            }
            for keyspace in output.dropped {
                node.engine.drop_keyspace(keyspace).unwrap();
            }
            let mut changed: Vec<Descriptor> = Vec::new();
            for event in output.catalog {
                changed.extend(node.view.apply(&event).unwrap());
            }
            if !changed.is_empty() {
                node.inputs.push(Input::Catalog(changed));
            }
            if node.view.revision() > self.newest.revision() {
                self.newest = node.view.clone();
            }
        }
        self.tell_outsiders();
        for (from, to, mut messages) in mail {
            messages.retain(|m| !(self.loses)(from, to, m));
            let lost = self.cut.contains(&from) || self.cut.contains(&to);
            if let Some(node) = self.nodes.get_mut(&to).filter(|n| n.is_up && !lost) {
                node.inputs.push(Input::Peer { from, messages });
            }
        }
        busy
    }

    /// Nodes that hear no leader of the catalog's own group follow it as clients do.
    fn tell_outsiders(&mut self) {
        let Some(system) = self.newest.shard(ShardId::SYSTEM) else { return };
        let members = system.record.descriptor.members.iter();
        let members: Vec<NodeId> =
            members.filter(|m| m.role != Role::Witness).map(|m| m.node).collect();
        for node in self.nodes.values_mut() {
            let hears = members.contains(&node.id) && node.lane.leader(ShardId::SYSTEM).is_some();
            let is_outside = !hears && !self.cut.contains(&node.id);
            if node.is_up && is_outside && node.view.revision() < self.newest.revision() {
                node.view = self.newest.clone();
                node.inputs.push(Input::Catalog(node.view.descriptors().cloned().collect()));
            }
        }
    }

    pub fn run(&mut self, how_long: Duration) {
        let end = self.now.after(how_long);
        while self.now < end {
            while self.round() {}
            let up = self.nodes.values().filter(|n| n.is_up);
            let next = up.filter_map(|n| n.lane.next_deadline()).min().unwrap_or(end);
            self.now = next.max(Time(self.now.0 + 1)).min(end);
        }
    }

    pub fn call(&mut self, node: NodeId, shard: ShardId, body: RequestBody) -> u64 {
        self.next_call += 1;
        let id = self.next_call;
        let deadline = self.now.after(5 * SECOND);
        let request = Request { origin: Origin(1), id, shard, epoch: Epoch::ZERO, deadline, body };
        self.nodes.get_mut(&node).unwrap().inputs.push(Input::Requests(vec![request]));
        id
    }

    /// Hands many requests over at once; each keeps the number and origin that it has.
    pub fn send(&mut self, node: NodeId, requests: Vec<Request>) {
        self.nodes.get_mut(&node).unwrap().inputs.push(Input::Requests(requests));
    }

    /// Tells a node what the catalog says.
    pub fn tell(&mut self, node: NodeId, descriptors: Vec<Descriptor>) {
        self.nodes.get_mut(&node).unwrap().inputs.push(Input::Catalog(descriptors));
    }

    /// Takes all answers that nobody waits for.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    pub fn answer(&mut self, id: u64) -> Result<AnswerBody, Failure> {
        for _ in 0..1000 {
            if let Some(at) = self.answers.iter().position(|a| a.id == id) {
                return self.answers.remove(at).body;
            }
            self.run(Duration::from_millis(10));
        }
        panic!("call {id} was not answered");
    }

    pub fn ask(
        &mut self,
        node: NodeId,
        shard: ShardId,
        body: RequestBody,
    ) -> Result<AnswerBody, Failure> {
        let id = self.call(node, shard, body);
        self.answer(id)
    }

    /// Asks whoever leads, until it is done or refused for good.
    pub fn ask_leader(
        &mut self,
        shard: ShardId,
        body: &RequestBody,
    ) -> Result<AnswerBody, Failure> {
        for _ in 0..50 {
            let leader = self.leader(shard);
            match self.ask(leader, shard, body.clone()) {
                Err(f) if matches!(f.code, Code::NotLeader | Code::NoLeader | Code::StaleEpoch) => {
                    self.run(Duration::from_millis(50));
                }
                other => return other,
            }
        }
        panic!("no leader of {shard} takes {body:?}");
    }

    /// Who leads; of several that say so, the one of the latest term.
    pub fn leader(&mut self, shard: ShardId) -> NodeId {
        for _ in 0..200 {
            let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
            let mut best = None;
            for id in ids {
                let node = &self.nodes[&id];
                if node.is_up && !self.cut.contains(&id) && node.lane.leader(shard) == Some(id) {
                    best = best.max(Some((self.status(id, shard).term, id)));
                }
            }
            if let Some((_, id)) = best {
                return id;
            }
            self.run(Duration::from_millis(50));
        }
        panic!("nobody leads shard {shard}");
    }

    pub fn status(&mut self, node: NodeId, shard: ShardId) -> ReplicaStatus {
        match self.ask(node, shard, RequestBody::Status) {
            Ok(AnswerBody::Status(status)) => status,
            other => panic!("status answered {other:?}"),
        }
    }

    pub fn has_replica(&mut self, node: NodeId, shard: ShardId) -> bool {
        self.ask(node, shard, RequestBody::Status).is_ok()
    }

    pub fn put(&mut self, shard: ShardId, key: &str, value: &str) -> Revision {
        let op = Op::Put(PutOp {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            ..PutOp::default()
        });
        let body = RequestBody::Command(Command::anonymous(op));
        match self.ask_leader(shard, &body).unwrap() {
            AnswerBody::Command(Reply::Put { revision, .. }) => revision,
            other => panic!("put answered {other:?}"),
        }
    }

    pub fn get(&mut self, shard: ShardId, key: &str) -> Option<Bytes> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let consistency = Consistency::Linearizable;
        match self.ask_leader(shard, &RequestBody::Get { key, at: None, consistency }).unwrap() {
            AnswerBody::Get { kv, .. } => kv.map(|kv| kv.value),
            other => panic!("get answered {other:?}"),
        }
    }

    fn txn(&mut self, txn: TxnOp) -> bool {
        let body = RequestBody::Command(Command::anonymous(Op::Txn(txn)));
        match self.ask_leader(ShardId::SYSTEM, &body).unwrap() {
            AnswerBody::Command(Reply::Txn { succeeded, .. }) => succeeded,
            other => panic!("txn answered {other:?}"),
        }
    }

    /// Carries out what is planned from the newest catalog.
    pub fn change(&mut self, plan: impl Fn(&Catalog) -> Result<Option<TxnOp>, Failure>) {
        for _ in 0..20 {
            self.run(Duration::from_millis(20));
            match plan(&self.newest).unwrap() {
                None => return,
                Some(txn) if self.txn(txn.clone()) => {
                    self.run(Duration::from_millis(50));
                    return;
                }
                Some(_) => {}
            }
        }
        panic!("the catalog changes all the time");
    }

    pub fn descriptor(&self, shard: ShardId) -> Descriptor {
        self.newest.shard(shard).unwrap().record.descriptor.clone()
    }

    /// Waits until the group is as described.
    pub fn settle(&mut self, shard: ShardId) -> (Epoch, atoll_base::LogIndex) {
        match self.ask_leader(shard, &RequestBody::Members(Vec::new())).unwrap() {
            AnswerBody::Members { epoch, index } => (epoch, index),
            other => panic!("members answered {other:?}"),
        }
    }

    /// Why the group is not as described, once the leader gave up waiting.
    pub fn stuck(&mut self, shard: ShardId) -> String {
        match self.ask_leader(shard, &RequestBody::Members(Vec::new())) {
            Err(failure) => failure.message,
            Ok(other) => panic!("members answered {other:?}"),
        }
    }

    /// Every node of the description has applied all that the leader has.
    pub fn assert_equal(&mut self, shard: ShardId) {
        self.run(SECOND);
        let leader = self.leader(shard);
        let wanted = self.nodes[&leader].lane.applied(shard);
        for member in self.descriptor(shard).members {
            let node = &self.nodes[&member.node];
            if node.is_up {
                assert_eq!(node.lane.applied(shard), wanted, "node {}", node.id);
            }
        }
    }
}
