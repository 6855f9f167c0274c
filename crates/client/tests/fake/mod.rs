//! A cluster without consensus: the real state machines and watch hubs over an engine in memory,
//! one copy of each shard, and several nodes of which one leads each shard. It can lose answers,
//! hang up, refuse and move leaders.

#![allow(dead_code, reason = "each test program uses its part of it")]
#![allow(clippy::unwrap_used, reason = "a test stops where it is surprised")]
#![allow(unreachable_pub, reason = "a module of test programs")]

mod claims;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use atoll_base::{
    Code, Entry, EntryKind, Failure, LeaseId, NodeId, Revision, ShardId, Term, Time, Timestamp,
};
use atoll_client::link::{Answers, BoxFuture, Connection, Link, Links, LocalLink, Port};
use atoll_client::{Client, ClientBuilder, Options};
use atoll_coord::plan::{BootstrapNode, bootstrap};
use atoll_coord::{
    Answer, AnswerBody, Catalog, Consistency, Descriptor, Origin, ReplicaStatus, Request,
    RequestBody, Told, WatchEvents, WatchSpec,
};
use atoll_machine::{
    Applied, BatchWriter, Command, Event, KeyRange, LockReply, MachineLimits, Op, Poll, PollLimits,
    Reply, ShardMachine, WatchEnd, WatchHub, WatchId, WatchLimits, WatchRequest,
};
use atoll_storage::{Engine, MemEngine};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Answers that an origin may leave untaken.
const ANSWERS_QUEUED: usize = 10_000;

struct Shard {
    descriptor: Descriptor,
    machine: ShardMachine,
    hub: WatchHub,
    leader: NodeId,
    watches: BTreeMap<WatchId, (NodeId, Origin, u64)>,
    claims: claims::Claims,
}

/// What goes wrong next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The next command is applied and its answer lost, and the connection with it.
    LoseAnswer,
    /// The next command is applied, and no answer comes.
    SwallowAnswer,
    /// The next command is refused.
    Refuse(Code),
}

struct State {
    engine: MemEngine,
    catalog: Catalog,
    shards: BTreeMap<ShardId, Shard>,
    origins: BTreeMap<(NodeId, Origin), mpsc::Sender<Vec<Answer>>>,
    next_origin: u64,
    next_watch: u64,
    down: Vec<NodeId>,
    faults: VecDeque<Fault>,
    applied: Vec<Command>,
    asked: BTreeMap<NodeId, u64>,
    /// Heartbeats are taken and not answered.
    is_deaf: bool,
    /// The leases that each heartbeat named.
    heartbeats: Vec<Vec<LeaseId>>,
}

/// The whole cluster.
#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    nodes: u64,
}

impl Fake {
    pub fn new(nodes: u64) -> Self {
        let state = State {
            engine: MemEngine::new(),
            catalog: Catalog::new(),
            shards: BTreeMap::new(),
            origins: BTreeMap::new(),
            next_origin: 0,
            next_watch: 0,
            down: Vec::new(),
            faults: VecDeque::new(),
            applied: Vec::new(),
            asked: BTreeMap::new(),
            is_deaf: false,
            heartbeats: Vec::new(),
        };
        let fake = Self { state: Arc::new(Mutex::new(state)), nodes };
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let mut state = fake.lock();
        state.hold(Catalog::system_descriptor(&ids));
        let node = |id: &NodeId| BootstrapNode {
            id: *id,
            client_address: address(*id),
            peer_address: format!("{id}:peer"),
            http_address: String::new(),
        };
        let txn = bootstrap(1, &ids.iter().map(node).collect::<Vec<_>>()).unwrap();
        state.apply(ShardId::SYSTEM, Command::anonymous(Op::Txn(txn)));
        drop(state);
        fake
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A builder of clients that reach this cluster through `seed`.
    pub fn builder(&self, seed: u64) -> ClientBuilder {
        Client::builder().links(Arc::new(self.clone())).addresses([address(NodeId(seed))])
    }

    pub async fn client(&self) -> Client {
        self.builder(1).connect().await.unwrap()
    }

    pub async fn client_with(&self, options: Options) -> Client {
        self.builder(1).options(options).connect().await.unwrap()
    }

    pub fn fault(&self, fault: Fault) {
        self.lock().faults.push_back(fault);
    }

    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    pub fn move_leader(&self, shard: u64, to: u64) {
        let mut state = self.lock();
        state.shards.get_mut(&ShardId(shard)).unwrap().leader = NodeId(to);
        state.leadership_lost(ShardId(shard));
    }

    /// Cuts every connection to a node and refuses new ones until [`Fake::up`].
    pub fn down(&self, node: u64) {
        let mut state = self.lock();
        state.down.push(NodeId(node));
        state.hang_up(NodeId(node));
    }

    pub fn up(&self, node: u64) {
        self.lock().down.retain(|n| n.0 != node);
    }

    /// Cuts every connection to every node, once.
    pub fn hang_up(&self) {
        let mut state = self.lock();
        for node in 1..=self.nodes {
            state.hang_up(NodeId(node));
        }
    }

    /// Commands that were applied, retries included, without those of the catalog.
    pub fn applied(&self) -> Vec<Command> {
        self.lock().applied.clone()
    }

    pub fn asked(&self, node: u64) -> u64 {
        self.lock().asked.get(&NodeId(node)).copied().unwrap_or(0)
    }

    /// Makes a change that no client asked for.
    pub fn put(&self, shard: u64, key: &str, value: &str) -> Revision {
        let op = Op::Put(atoll_machine::PutOp {
            key: Bytes::from(key.to_owned()),
            value: Bytes::from(value.to_owned()),
            ..Default::default()
        });
        let mut state = self.lock();
        let reply = state.apply(ShardId(shard), Command::anonymous(op));
        reply.revision().unwrap()
    }

    pub fn compact(&self, shard: u64, revision: Revision) {
        let op = Op::Compact { revision };
        self.lock().apply(ShardId(shard), Command::anonymous(op));
    }
}

pub fn address(node: NodeId) -> String {
    format!("node{node}:1")
}

impl Links for Fake {
    fn link(&self, wanted: &str) -> Result<Arc<dyn Link>, Failure> {
        let node = (1..=self.nodes).map(NodeId).find(|n| address(*n) == wanted);
        let node = node.unwrap_or(NodeId(99));
        let port = Arc::new(NodePort { fake: self.clone(), node });
        Ok(Arc::new(NodeLink { fake: self.clone(), node, link: LocalLink::new(port) }))
    }
}

/// Refuses connections to a node that is down.
struct NodeLink {
    fake: Fake,
    node: NodeId,
    link: LocalLink,
}

impl Link for NodeLink {
    fn connect(&self) -> BoxFuture<'_, Result<Connection, Failure>> {
        let down = self.node.0 > self.fake.nodes || self.fake.lock().down.contains(&self.node);
        if down {
            return Box::pin(async { Err(Failure::new(Code::Unreachable, "connection refused")) });
        }
        self.link.connect()
    }
}

struct NodePort {
    fake: Fake,
    node: NodeId,
}

impl Port for NodePort {
    fn attach(&self) -> (Origin, Answers) {
        let (sender, receiver) = mpsc::channel(ANSWERS_QUEUED);
        let mut state = self.fake.lock();
        state.next_origin += 1;
        let origin = Origin(state.next_origin);
        state.origins.insert((self.node, origin), sender);
        (origin, Box::pin(ReceiverStream::new(receiver)))
    }

    fn detach(&self, origin: Origin) {
        let mut state = self.fake.lock();
        state.origins.remove(&(self.node, origin));
        state.forget_watches(|node, o| (node, o) == (self.node, origin));
    }

    fn submit(&self, requests: Vec<Request>) -> Result<(), Failure> {
        let mut state = self.fake.lock();
        if state.down.contains(&self.node) {
            return Err(Failure::new(Code::Unreachable, "the node is down"));
        }
        for request in requests {
            state.ask(self.node, request);
        }
        Ok(())
    }

    fn now(&self) -> Time {
        Time::ZERO
    }
}

impl State {
    fn hang_up(&mut self, node: NodeId) {
        self.origins.retain(|(n, _), _| *n != node);
        self.forget_watches(|n, _| n == node);
    }

    fn forget_watches(&mut self, gone: impl Fn(NodeId, Origin) -> bool) {
        for shard in self.shards.values_mut() {
            shard.claims.forget(&gone);
            let (hub, watches) = (&mut shard.hub, &mut shard.watches);
            watches.retain(|id, (node, origin, _)| {
                let gone = gone(*node, *origin);
                if gone {
                    hub.cancel(*id);
                }
                !gone
            });
        }
    }

    fn hold(&mut self, descriptor: Descriptor) {
        if descriptor.dropped {
            self.shards.remove(&descriptor.shard);
            return;
        }
        if let Some(shard) = self.shards.get_mut(&descriptor.shard) {
            shard.descriptor = descriptor;
            return;
        }
        let range = KeyRange { start: descriptor.start.clone(), end: descriptor.end.clone() };
        let (shard, keyspace) = (descriptor.shard, descriptor.keyspace);
        let limits = MachineLimits::default();
        let machine = ShardMachine::open(shard, keyspace, range, limits, &self.engine).unwrap();
        let hub = WatchHub::new(
            machine.revision(),
            WatchLimits { ring_bytes_max: 300, ..WatchLimits::default() },
        );
        let leader = descriptor.members[0].node;
        let (watches, claims) = (BTreeMap::new(), claims::Claims::default());
        self.shards.insert(shard, Shard { descriptor, machine, hub, leader, watches, claims });
    }

    fn answer(&mut self, node: NodeId, origin: Origin, id: u64, body: Result<AnswerBody, Failure>) {
        if let Some(sender) = self.origins.get(&(node, origin)) {
            let _ = sender.try_send(vec![Answer { origin, id, body }]);
        }
    }

    fn ask(&mut self, node: NodeId, request: Request) {
        *self.asked.entry(node).or_default() += 1;
        let Request { origin, id, shard: shard_id, epoch, body, .. } = request;
        let Some(shard) = self.shards.get(&shard_id) else {
            let text = format!("node {node} has no replica of shard {shard_id}");
            return self.answer(node, origin, id, Err(Failure::new(Code::StaleEpoch, text)));
        };
        if epoch.0 != 0 && epoch < shard.descriptor.epoch {
            let text = format!("shard {shard_id} is at epoch {}", shard.descriptor.epoch);
            return self.answer(node, origin, id, Err(Failure::new(Code::StaleEpoch, text)));
        }
        let stale = |c: &Consistency| matches!(c, Consistency::Stale { .. });
        let anywhere = match &body {
            RequestBody::Get { consistency, .. } | RequestBody::Range { consistency, .. } => {
                stale(consistency)
            }
            RequestBody::CancelWatch { .. } | RequestBody::Status => true,
            _ => false,
        };
        if !anywhere && shard.leader != node {
            let failure =
                Failure::new(Code::NotLeader, format!("shard {shard_id} is led elsewhere"))
                    .with_leader(Some(shard.leader));
            return self.answer(node, origin, id, Err(failure));
        }
        match body {
            RequestBody::Command(command) => self.command(node, origin, id, shard_id, command),
            RequestBody::Watch(spec) => self.watch(node, origin, id, shard_id, spec),
            RequestBody::KeepAlive { .. }
            | RequestBody::Lease { .. }
            | RequestBody::Leases { .. }
            | RequestBody::Lock { .. }
            | RequestBody::Observe { .. } => self.question((node, origin, id), shard_id, body),
            other => {
                let body = self.read(node, origin, shard_id, other);
                self.answer(node, origin, id, body);
            }
        }
    }

    fn command(&mut self, node: NodeId, origin: Origin, id: u64, shard: ShardId, command: Command) {
        let fault = if shard == ShardId::SYSTEM { None } else { self.faults.pop_front() };
        if let Some(Fault::Refuse(code)) = fault {
            let failure = Failure::new(code, "refused by the test");
            return self.answer(node, origin, id, Err(failure));
        }
        let body = match self.apply(shard, command) {
            Reply::Failed(failure) => Err(failure),
            Reply::Lock(LockReply::Queued { claim }) => {
                self.wait(shard, claim, (node, origin, id));
                match fault {
                    Some(Fault::LoseAnswer) => self.hang_up(node),
                    Some(Fault::SwallowAnswer) => self.stop_waiting(node, origin, id),
                    _ => {}
                }
                return;
            }
            reply => Ok(AnswerBody::Command(reply)),
        };
        match fault {
            Some(Fault::LoseAnswer) => self.hang_up(node),
            Some(Fault::SwallowAnswer) => {}
            _ => self.answer(node, origin, id, body),
        }
    }

    fn read(
        &mut self,
        node: NodeId,
        origin: Origin,
        shard: ShardId,
        body: RequestBody,
    ) -> Result<AnswerBody, Failure> {
        let shard = self.shards.get_mut(&shard).unwrap();
        let machine = &shard.machine;
        let staleness = Duration::ZERO;
        match body {
            RequestBody::Get { key, at, .. } => {
                let kv = machine.get(&self.engine, &key, at)?;
                Ok(AnswerBody::Get { kv, revision: machine.revision(), staleness })
            }
            RequestBody::Range { query, .. } => {
                let page = machine.range(&*self.engine.view(), &query)?;
                Ok(AnswerBody::Range { page, newest: machine.revision(), staleness })
            }
            RequestBody::CancelWatch { watch } => {
                let wanted = (node, origin, watch);
                shard.watches.retain(|id, owner| {
                    if *owner == wanted {
                        shard.hub.cancel(*id);
                    }
                    *owner != wanted
                });
                Ok(AnswerBody::WatchCancelled)
            }
            RequestBody::Transfer(to) => {
                shard.leader = to;
                Ok(AnswerBody::Transferred)
            }
            RequestBody::Members(_) => Ok(AnswerBody::Members {
                epoch: shard.descriptor.epoch,
                index: atoll_base::LogIndex(1),
            }),
            RequestBody::Status => Ok(AnswerBody::Status(ReplicaStatus {
                node,
                shard: machine.shard(),
                leader: Some(shard.leader),
                revision: machine.revision(),
                state: if shard.leader == node { "leader" } else { "follower" },
                ..ReplicaStatus::default()
            })),
            other => panic!("not offered by the fake: {other:?}"),
        }
    }

    fn watch(&mut self, node: NodeId, origin: Origin, id: u64, shard: ShardId, spec: WatchSpec) {
        self.next_watch += 1;
        let watch = WatchId(self.next_watch);
        let at = self.shards.get_mut(&shard).unwrap();
        let from = spec.from.unwrap_or(at.hub.through().next());
        let request = WatchRequest {
            start: spec.start,
            end: spec.end,
            from: Some(from),
            no_put: spec.puts == Told::No,
            no_delete: spec.deletes == Told::No,
            prev_kv: spec.previous == Told::Yes,
            fragment: false,
        };
        let registered = at.hub.register(watch, request, &at.machine);
        let answer = registered.map(|()| {
            at.watches.insert(watch, (node, origin, id));
            AnswerBody::WatchStarted { from }
        });
        self.answer(node, origin, id, answer);
        self.feed_watches(shard);
    }

    fn feed_watches(&mut self, shard: ShardId) {
        loop {
            let at = self.shards.get_mut(&shard).unwrap();
            let Some(watch) = at.hub.next_ready() else { return };
            let Some(&(node, origin, id)) = at.watches.get(&watch) else { continue };
            let limits = PollLimits::default();
            let body = match at.hub.poll(watch, &at.machine, &self.engine, limits).unwrap() {
                Poll::Batch(batch) => {
                    AnswerBody::Watch(WatchEvents { events: batch.events, through: batch.through })
                }
                Poll::Ended(WatchEnd::Compacted { compact_revision }) => {
                    AnswerBody::WatchCompacted { compacted: compact_revision }
                }
                Poll::Ended(WatchEnd::Unknown) => continue,
            };
            self.answer(node, origin, id, Ok(body));
        }
    }

    fn apply(&mut self, shard: ShardId, command: Command) -> Reply {
        if shard != ShardId::SYSTEM {
            self.applied.push(command.clone());
        }
        let at = self.shards.get_mut(&shard).unwrap();
        let mut batch = BatchWriter::new(Timestamp(1));
        batch.push(&command);
        let index = at.machine.applied().next();
        let payload = batch.finish();
        let entry = Entry { term: Term(1), index, kind: EntryKind::Commands, payload };
        let mut replies = Vec::new();
        let mut apply = at.machine.begin(&self.engine);
        apply.apply(&entry, &mut replies).unwrap();
        let Applied { writes, events, effects } = apply.finish().unwrap();
        self.engine.write(writes).unwrap();
        self.tell(shard, effects);
        let at = self.shards.get_mut(&shard).unwrap();
        at.hub.feed(events.clone(), at.machine.revision());
        self.feed_watches(shard);
        if shard == ShardId::SYSTEM {
            self.learn(&events);
        }
        replies.remove(0)
    }

    fn learn(&mut self, events: &[Event]) {
        for event in events {
            for descriptor in self.catalog.apply(event).unwrap() {
                self.hold(descriptor);
            }
        }
    }
}
