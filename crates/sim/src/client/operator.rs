//! The operator: founds the catalog, creates and drops keyspaces, and moves replicas between nodes,
//! one step at a time, while everything else goes on.
//!
//! It does what `atoll cluster` and `atoll keyspace` do: reads the catalog from shard 1, plans with
//! the planner that ships, commits the plan by compare-and-set, waits until the group has the
//! members that its description names, and orders a node that was left out to delete its replica.
//! Orders to retire are kept and given again later too, when they may be stale: a node must obey
//! only those that still hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use atoll_base::{
    Code, Epoch, Failure, Incarnation, KeyspaceId, LogIndex, NodeId, Rng, ShardId, Time,
};
use atoll_coord::catalog::{NextRecord, NodeRecord, Record, ShardRecord};
use atoll_coord::plan::{self, BootstrapNode, KeyspaceSpec};
use atoll_coord::{AnswerBody, Catalog, Consistency, Descriptor, RequestBody};
use atoll_machine::{Command, KeyEnd, Op, PutOp, RangeQuery, Reply, TxnOp, TxnStep};
use atoll_raft::{Member, Role};
use bytes::Bytes;

use super::Around;
use super::agent::Caller;
use super::desk::{Desk, Fate};
use super::pursuit::{End, Pursuit};
use crate::script::{Change, Operating, Script};

/// Time given to one step.
const STEP: Duration = Duration::from_secs(4);
/// Longest rest between two steps.
const REST_MS: u64 = 600;
/// The keyspaces that come and go.
pub(super) const SCRATCH: &str = "scratch";
/// Orders to retire that are remembered, to be given again.
const ORDERS_MAX: usize = 16;
/// What a scratch shard is asked to hold.
const SCRATCH_KEY: &[u8] = b"it works";

/// What the operator's one slot is busy with.
#[derive(Debug)]
pub(crate) enum Step {
    /// The catalog's first records.
    Found,
    /// One page of the catalog.
    Read(Box<Catalog>),
    /// A change of it; what comes next when it was made.
    Commit(Next),
    /// Until the group has the described members.
    Settle(Box<Descriptor>),
    /// An order to delete a replica.
    Retire(Order),
    /// A write to a shard that was just made, then a read of it.
    Write,
    Look,
}

/// What follows a change of the catalog.
#[derive(Clone, Debug)]
pub(crate) enum Next {
    /// Nothing.
    Rest,
    /// The group is to follow.
    Settle(Box<Descriptor>),
    /// New shards are tried.
    Try(ShardId),
    /// The members of a new shard are changed at once.
    Change(ShardId),
}

/// An order to retire, as it held when it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    shard: ShardId,
    node: NodeId,
    epoch: Epoch,
    index: LogIndex,
}

/// The operator.
pub(crate) struct Operator {
    desk: Desk<Step>,
    rng: Rng,
    is_founded: bool,
    /// Replicas that must still be deleted.
    owed: BTreeMap<(ShardId, NodeId), Order>,
    /// Orders that were given, obeyed or not.
    given: Vec<Order>,
    /// Shards whose group may not be as described, and who is to be gone when it is.
    unsettled: BTreeMap<ShardId, BTreeSet<NodeId>>,
    /// The shard to change next.
    hurry: Option<ShardId>,
    /// The changes that a script lists, in their order; none without a list.
    pub(super) listed: Option<VecDeque<(Time, Change)>>,
    /// Nobody is ordered away before the end.
    is_late: bool,
    /// Shards dropped for good.
    pub(crate) dropped: Vec<ShardId>,
    /// Steps that were made.
    pub(crate) steps: u64,
    is_closing: bool,
}

impl Operator {
    pub(crate) fn new(number: u32, script: Option<&Script>, mut rng: Rng) -> Self {
        let random = Operating::Random;
        let operating = script.map_or(&random, |script| &script.operating);
        let listed = match operating {
            Operating::Listed(changes) => Some(changes.iter().copied().collect()),
            Operating::Absent | Operating::Random => None,
        };
        Self {
            desk: Desk::new(number, 1, rng.fork()),
            rng,
            is_founded: false,
            owed: BTreeMap::new(),
            given: Vec::new(),
            unsettled: BTreeMap::new(),
            hurry: None,
            listed,
            is_late: script.is_some_and(|script| script.is_late),
            dropped: Vec::new(),
            steps: 0,
            is_closing: false,
        }
    }

    pub(crate) fn start(&mut self, around: &mut Around<'_>) {
        self.desk.set_timer(0, Duration::from_millis(1), around);
    }

    /// Only what is owed from now on.
    pub(crate) fn close(&mut self) {
        self.is_closing = true;
    }

    /// A replica that was ordered away is there again: damage took its log's news of that.
    pub(crate) fn order_again(&mut self, shard: ShardId, node: NodeId) {
        let given = self.given.iter().rev();
        if let Some(order) = given.copied().find(|o| (o.shard, o.node) == (shard, node)) {
            self.owed.entry((shard, node)).or_insert(order);
        }
    }

    /// What is still to be done, once closed.
    pub(crate) fn debt(&self) -> Option<String> {
        let owed = self.owed.keys().next().map(|(shard, node)| {
            format!("node {node} did not give up its replica of shard {shard}")
        });
        let unsettled = self
            .unsettled
            .keys()
            .next()
            .map(|s| format!("shard {s} has not the members described"));
        let busy = (!self.desk.is_idle()).then(|| "the operator is not done".to_owned());
        let founded = (!self.is_founded).then(|| "the catalog is not founded".to_owned());
        founded.or(owed).or(unsettled).or(busy)
    }

    fn ask(&mut self, step: Step, pursuit: Pursuit, around: &mut Around<'_>) {
        self.steps += 1;
        self.desk.pursue(0, step, pursuit.anonymous(), around);
    }

    fn pursuit(shard: ShardId, body: RequestBody, around: &Around<'_>) -> Pursuit {
        Pursuit::new(shard, body, around.fabric.now().after(STEP))
    }

    /// Decides what to do now.
    fn next(&mut self, around: &mut Around<'_>) {
        if !self.is_founded {
            let body = RequestBody::Command(Command::anonymous(Op::Txn(founding(around))));
            return self.ask(Step::Found, Self::pursuit(ShardId::SYSTEM, body, around), around);
        }
        let owed = self.owed.values().next().copied();
        if let Some(order) =
            owed.filter(|_| self.is_closing || !self.is_late && self.rng.chance(1, 2))
        {
            return self.retire(order, around);
        }
        let stale = self.rng.pick(&self.given).copied();
        if let Some(order) = stale.filter(|_| !self.is_closing && self.rng.chance(1, 6)) {
            return self.retire(order, around);
        }
        if self.is_closing && self.unsettled.is_empty() {
            return;
        }
        self.read(Box::default(), None, around);
    }

    fn read(&mut self, catalog: Box<Catalog>, from: Option<Bytes>, around: &mut Around<'_>) {
        let mut query = RangeQuery::new(from.unwrap_or_default(), KeyEnd::ToEnd);
        query.limit = Some(self.rng.range(3, 40));
        let body = RequestBody::Range { query, consistency: Consistency::Linearizable };
        self.ask(Step::Read(catalog), Self::pursuit(ShardId::SYSTEM, body, around), around);
    }

    fn retire(&mut self, order: Order, around: &mut Around<'_>) {
        let Order { shard, node, epoch, index } = order;
        if self.given.len() == ORDERS_MAX {
            self.given.remove(0);
        }
        self.given.push(order);
        around.fabric.say(format_args!("operator: {order:?}"));
        let pursuit = Self::pursuit(shard, RequestBody::Retire { epoch, index }, around);
        self.ask(Step::Retire(order), pursuit.to(node), around);
    }

    fn ended(&mut self, step: Step, shard: ShardId, end: End, around: &mut Around<'_>) {
        let body = match end {
            End::Answered(body) => *body,
            End::Refused(failure) => {
                around.fabric.say(format_args!("operator: {step:?} is refused: {failure}"));
                if let Step::Retire(order) = step
                    && failure.code == Code::PreconditionFailed
                    && self.owed.remove(&(order.shard, order.node)).is_some()
                {
                    // A leader that knew an older description has taken it in again: what the group
                    // agreed on since is needed.
                    self.unsettled.entry(order.shard).or_default().insert(order.node);
                }
                return;
            }
            End::Unknown => return,
        };
        match (step, body) {
            (Step::Found, AnswerBody::Command(Reply::Txn { .. })) => {
                self.is_founded = true;
                around.fabric.say(format_args!("the catalog is founded"));
            }
            (Step::Read(mut catalog), AnswerBody::Range { page, .. }) => {
                for kv in &page.kvs {
                    if let Err(error) = catalog.put(&kv.key, &kv.value, kv.mod_revision) {
                        around.record.report("catalog", error.to_string());
                    }
                }
                match page.more {
                    // Pages may be of different revisions: what is planned from them is compared.
                    Some(next) => self.read(catalog, Some(next), around),
                    None => self.plan(&catalog, around),
                }
            }
            (Step::Commit(next), AnswerBody::Command(Reply::Txn { succeeded: true, .. })) => {
                self.committed(next, around);
            }
            (Step::Settle(descriptor), AnswerBody::Members { epoch, index }) => {
                self.settled(&descriptor, (epoch, index), around);
            }
            (Step::Retire(order), AnswerBody::Retired) => {
                around.fabric.say(format_args!("operator: {order:?} was obeyed"));
                self.owed.remove(&(order.shard, order.node));
            }
            (Step::Write, AnswerBody::Command(Reply::Put { .. })) => {
                let (key, consistency) = (scratch_key(), Consistency::Linearizable);
                let body = RequestBody::Get { key, at: None, consistency };
                self.ask(Step::Look, Self::pursuit(shard, body, around), around);
            }
            (Step::Look, AnswerBody::Get { kv: None, .. }) => {
                let what = format!("shard {shard} lost what was written after it was made");
                around.record.report("durability", what);
            }
            _ => {}
        }
    }

    fn committed(&mut self, next: Next, around: &mut Around<'_>) {
        match next {
            Next::Rest => {}
            Next::Settle(descriptor) => self.wait_for(descriptor, around),
            Next::Change(shard) => {
                self.hurry = Some(shard);
                self.read(Box::default(), None, around);
            }
            Next::Try(shard) => {
                let put = PutOp { key: scratch_key(), value: scratch_key(), ..PutOp::default() };
                let body = RequestBody::Command(Command::anonymous(Op::Put(put)));
                self.ask(Step::Write, Self::pursuit(shard, body, around), around);
            }
        }
    }

    fn wait_for(&mut self, descriptor: Box<Descriptor>, around: &mut Around<'_>) {
        let shard = descriptor.shard;
        let members = descriptor.members.iter();
        let members = members.map(|m| Member { node: m.node, role: m.role }).collect();
        let pursuit = Self::pursuit(shard, RequestBody::Members(members), around);
        self.ask(Step::Settle(descriptor), pursuit, around);
    }

    fn settled(
        &mut self,
        descriptor: &Descriptor,
        (epoch, index): (Epoch, LogIndex),
        around: &mut Around<'_>,
    ) {
        let shard = descriptor.shard;
        around.fabric.say(format_args!("shard {shard} is as epoch {epoch} describes it"));
        let gone = self.unsettled.remove(&shard).unwrap_or_default();
        // Members that are back must not be ordered away by an order of before.
        self.owed.retain(|(s, node), _| {
            *s != shard || !descriptor.members.iter().any(|m| m.node == *node)
        });
        let is_out = |node: &NodeId| descriptor.members.iter().all(|m| m.node != *node);
        let mut first = None;
        for node in gone.into_iter().filter(is_out) {
            let order = Order { shard, node, epoch, index };
            self.owed.insert((shard, node), order);
            first = first.or(Some(order));
        }
        // Else it is taken in again, perhaps, before it is ordered away.
        if let Some(order) = first.filter(|_| !self.is_late && self.rng.chance(2, 3)) {
            self.retire(order, around);
        }
    }

    fn commit(&mut self, txn: TxnOp, next: Next, around: &mut Around<'_>) {
        let body = RequestBody::Command(Command::anonymous(Op::Txn(txn)));
        self.ask(Step::Commit(next), Self::pursuit(ShardId::SYSTEM, body, around), around);
    }

    /// Chooses a change of the catalog as it was read.
    fn plan(&mut self, catalog: &Catalog, around: &mut Around<'_>) {
        self.note_dropped(catalog);
        if let Some(shard) = self.hurry.take().filter(|_| !self.is_closing) {
            return self.plan_members_of(shard, catalog, around);
        }
        if let Some(shard) = self.unsettled.keys().next().copied() {
            let is_scratch = !around.shell.workload_and_system().contains(&shard);
            match catalog.shard(shard).map(|at| &at.record.descriptor) {
                // Of a scratch shard nobody promised that it survives.
                Some(descriptor) if !descriptor.dropped && is_scratch && self.is_closing => {
                    return self.plan_keyspace(catalog, around);
                }
                Some(descriptor) if !descriptor.dropped => {
                    return self.wait_for(Box::new(descriptor.clone()), around);
                }
                _ => drop(self.unsettled.remove(&shard)),
            }
        }
        if self.is_closing {
            return;
        }
        if self.listed.is_some() {
            return self.plan_listed(catalog, around);
        }
        match self.rng.below(10) {
            0..2 => self.plan_keyspace(catalog, around),
            2..4 => self.plan_node(catalog, around),
            _ => self.plan_members(catalog, around),
        }
    }

    fn note_dropped(&mut self, catalog: &Catalog) {
        self.dropped = catalog.descriptors().filter(|d| d.dropped).map(|d| d.shard).collect();
        let dropped = &self.dropped;
        self.owed.retain(|(shard, _), _| !dropped.contains(shard));
    }

    pub(super) fn plan_keyspace(&mut self, catalog: &Catalog, around: &mut Around<'_>) {
        if catalog.keyspace(SCRATCH).is_some() {
            if let Ok(txn) = plan::drop_keyspace(catalog, SCRATCH) {
                self.commit(txn, Next::Rest, around);
            }
            return;
        }
        let mut spec = KeyspaceSpec::new(SCRATCH);
        spec.replicas = Some(if self.rng.chance(1, 3) { 1 } else { 3 });
        spec.shards = Some(self.rng.range(1, 4) as u32);
        if let Ok(planned) = plan::create_keyspace(catalog, &spec) {
            // The first shard holds the scratch key or the next one does: either is tried.
            let holds = |d: &&Descriptor| d.contains(SCRATCH_KEY);
            let shard = planned.shards.iter().find(holds).map(|d| d.shard);
            let hurry = self.rng.chance(1, 3);
            let next = if hurry { Next::Change } else { Next::Try };
            let next = shard.map_or(Next::Rest, next);
            self.commit(planned.txn, next, around);
        }
    }

    /// A node writes down that it is there.
    fn plan_node(&mut self, catalog: &Catalog, around: &mut Around<'_>) {
        let missing = (1..=around.shell.shape.all_nodes() as u64)
            .map(NodeId)
            .find(|id| catalog.node(*id).is_none());
        let Some(id) = missing else { return self.plan_members(catalog, around) };
        let record = NodeRecord {
            id,
            incarnation: Incarnation(1),
            client_address: format!("{id}:1"),
            peer_address: format!("{id}:2"),
            http_address: String::new(),
            unknown: Bytes::new(),
        };
        if let Ok(Some(txn)) = plan::members::put_node(catalog, &record) {
            self.commit(txn, Next::Rest, around);
        }
    }

    fn plan_members(&mut self, catalog: &Catalog, around: &mut Around<'_>) {
        let mut shards = around.shell.workload_and_system();
        if self.rng.chance(1, 4) {
            let scratch =
                catalog.descriptors().filter(|d| !d.dropped && !shards.contains(&d.shard));
            let scratch: Vec<ShardId> = scratch.map(|d| d.shard).collect();
            shards = if scratch.is_empty() { shards } else { scratch };
        }
        let Some(shard) = self.rng.pick(&shards).copied() else { return };
        self.plan_members_of(shard, catalog, around);
    }

    /// One step with the members of one shard. No group gets smaller than it was founded: the
    /// schedule of faults counts on its size.
    fn plan_members_of(&mut self, shard: ShardId, catalog: &Catalog, around: &mut Around<'_>) {
        let Some(at) = catalog.shard(shard).filter(|at| !at.record.descriptor.dropped) else {
            return;
        };
        let members = &at.record.descriptor.members;
        let scratch = catalog.keyspace(SCRATCH).map(|at| &at.record);
        let scratch = scratch.filter(|keyspace| keyspace.id == at.record.descriptor.keyspace);
        let founded = scratch.map_or(around.shell.shape.replicas, |k| k.replicas as usize);
        let of = |role: Role| -> Vec<NodeId> {
            members.iter().filter(|m| m.role == role).map(|m| m.node).collect()
        };
        let (voters, learners, witnesses) = (of(Role::Voter), of(Role::Learner), of(Role::Witness));
        let strangers: Vec<NodeId> = catalog
            .nodes()
            .map(|n| n.id)
            .filter(|id| members.iter().all(|m| m.node != *id))
            .collect();
        let may_shrink = voters.len() > founded;
        let learner = self.rng.pick(&learners).copied();
        let witness = self.rng.pick(&witnesses).copied();
        let (planned, gone) = match (learner, self.rng.below(8)) {
            (Some(node), 0..4) => (plan::members::promote(catalog, shard, node), None),
            (Some(node), _) => (plan::members::remove(catalog, shard, node), Some(node)),
            (None, 0..3) if may_shrink => {
                let Some(node) = self.rng.pick(&voters).copied() else { return };
                (plan::members::remove(catalog, shard, node), Some(node))
            }
            (None, 5) => {
                let Some(node) = self.rng.pick(&voters).copied() else { return };
                (plan::members::prefer(catalog, shard, node), None)
            }
            _ => {
                let may_be = !around.shell.shape.spoils && scratch.is_none();
                let is_witness = self.rng.chance(1, 3) && may_be;
                if let Some(node) = witness.filter(|_| is_witness) {
                    let planned = plan::members::remove(catalog, shard, node);
                    return self.change(planned, Some(node), around);
                }
                let role = if is_witness { Role::Witness } else { Role::Learner };
                let Some(node) = self.rng.pick(&strangers).copied() else { return };
                (plan::members::add(catalog, shard, node, role), None)
            }
        };
        self.change(planned, gone, around);
    }

    /// Commits a change of members; `gone` is ordered away when the group has followed.
    pub(super) fn change(
        &mut self,
        planned: Result<Option<TxnOp>, Failure>,
        gone: Option<NodeId>,
        around: &mut Around<'_>,
    ) {
        let Ok(Some(txn)) = planned else { return };
        let Some(descriptor) = described(&txn) else { return };
        let shard = descriptor.shard;
        around.fabric.say(format_args!("operator: shard {shard} to {:?}", descriptor.members));
        // Whatever becomes of the transaction: the group must follow what the catalog says then.
        self.unsettled.entry(shard).or_default().extend(gone);
        self.commit(txn, Next::Settle(Box::new(descriptor)), around);
    }
}

impl Caller for Operator {
    type Job = Step;

    fn desk(&mut self) -> &mut Desk<Step> {
        &mut self.desk
    }

    fn settle(&mut self, fate: Fate<Step>, around: &mut Around<'_>) {
        match fate {
            Fate::Open => return,
            Fate::Free(_) => self.next(around),
            Fate::Ended { job, shard, end, .. } => self.ended(job, shard, end, around),
        }
        if self.desk.is_free(0) {
            let most = if self.is_closing { 50 } else { REST_MS };
            let rest = Duration::from_millis(self.rng.range(1, most));
            self.desk.set_timer(0, rest, around);
        }
    }
}

fn scratch_key() -> Bytes {
    Bytes::from_static(SCRATCH_KEY)
}

/// The description that a transaction writes.
fn described(txn: &TxnOp) -> Option<Descriptor> {
    txn.then.iter().find_map(|step| match step {
        TxnStep::Put(put) => match Record::decode(&put.key, &put.value) {
            Ok(Some(Record::Shard(record))) => Some(record.descriptor),
            _ => None,
        },
        _ => None,
    })
}

/// The catalog's first records: what a new cluster writes, with the workload's shards in place of
/// the default keyspace.
fn founding(around: &Around<'_>) -> TxnOp {
    let shell = around.shell;
    let node = |n: u64| BootstrapNode {
        id: NodeId(n),
        client_address: format!("{n}:1"),
        peer_address: format!("{n}:2"),
        http_address: String::new(),
    };
    let nodes: Vec<BootstrapNode> = (1..=shell.shape.nodes as u64).map(node).collect();
    let mut txn = plan::bootstrap(7, &nodes).expect("the nodes have ids and addresses");
    // The descriptions are those that the nodes were founded with.
    txn.then.retain(|step| match step {
        TxnStep::Put(put) => !matches!(
            Record::decode(&put.key, &put.value),
            Ok(Some(Record::Shard(_) | Record::Next(_)))
        ),
        _ => true,
    });
    let mut records: Vec<Record> = Vec::new();
    for descriptor in &shell.founding {
        let (descriptor, unknown) = (descriptor.clone(), Bytes::new());
        records.push(Record::Shard(ShardRecord { descriptor, unknown }));
    }
    let keyspace = shell.founding.iter().map(|d| d.keyspace).max().unwrap_or_default();
    let shard = shell.founding.iter().map(|d| d.shard).max().unwrap_or_default();
    records.push(Record::Next(NextRecord {
        keyspace: KeyspaceId(keyspace.0.max(KeyspaceId::DEFAULT.0) + 1),
        shard: ShardId(shard.0 + 1),
        unknown: Bytes::new(),
    }));
    txn.then.extend(records.iter().map(|record| {
        let (key, value) = (record.key().to_bytes(), record.encode());
        TxnStep::Put(PutOp { key, value, ..PutOp::default() })
    }));
    txn
}
