//! Who holds a shard: changes of a descriptor's members, one step at a time, and nodes that come
//! and go.
//!
//! A descriptor is a wish. The leader of the shard's group brings its members in line with it;
//! whoever plans the next step waits until that is done (`RequestBody::Members`), so that a group
//! is at most one step behind the catalog. Each function answers `None` where its step was made
//! already: a command that is repeated goes on where it ended.

use atoll_base::{Code, Failure, NodeId, ShardId};
use atoll_machine::TxnOp;
use atoll_raft::Role;
use atoll_raft::membership::VOTERS_MAX;

use super::{delete, put, unchanged};
use crate::catalog::{At, Catalog, NodeRecord, Record, RecordKey, ShardRecord};
use crate::descriptor::{Descriptor, ReplicaMember};

/// Plans to give `node` a replica: a learner, which becomes a voter by [`promote`], or a witness,
/// which votes and holds no data. A node that has a replica already keeps its role.
///
/// # Errors
/// `NotFound` for a shard or node that is not there, `InvalidArgument` for a voter, with which
/// nobody starts, `PreconditionFailed` where the node is a witness and is to hold data or the other
/// way round, and where there would be too many votes or witnesses.
pub fn add(
    catalog: &Catalog,
    shard: ShardId,
    node: NodeId,
    role: Role,
) -> Result<Option<TxnOp>, Failure> {
    if role == Role::Voter {
        let text =
            format!("node {node} can't begin as a voter of shard {shard}: add it, then promote it");
        return Err(Failure::new(Code::InvalidArgument, text));
    }
    let at = shard_of(catalog, shard)?;
    let record = node_of(catalog, node)?;
    if let Some(member) = at.record.descriptor.members.iter().find(|m| m.node == node) {
        let (is, becomes) = (member.role == Role::Witness, role == Role::Witness);
        let what = match (is, becomes) {
            (true, false) => "is a witness of",
            (false, true) => "holds data of",
            _ => return Ok(None),
        };
        let text = format!("node {node} {what} shard {shard}: remove it first");
        return Err(Failure::new(Code::PreconditionFailed, text));
    }
    let mut descriptor = at.record.descriptor.clone();
    let incarnation = record.record.incarnation;
    descriptor.members.push(ReplicaMember { node, incarnation, role });
    check_votes(&descriptor)?;
    // The node must still be there: its removal and this step exclude each other.
    let node_key = RecordKey::Node(node);
    let mut txn = change(at, descriptor);
    txn.compares.push(unchanged(&node_key, Some(record.revision)));
    Ok(Some(txn))
}

/// Plans to let a learner vote. The group makes it a voter once it has caught up.
///
/// # Errors
/// `NotFound` for a shard that is not there, `PreconditionFailed` where the node is no learner of
/// it or there would be too many votes.
pub fn promote(catalog: &Catalog, shard: ShardId, node: NodeId) -> Result<Option<TxnOp>, Failure> {
    let at = shard_of(catalog, shard)?;
    let mut descriptor = at.record.descriptor.clone();
    let found = descriptor.members.iter_mut().find(|m| m.node == node);
    let refuse = |text: String| Err(Failure::new(Code::PreconditionFailed, text));
    match found {
        Some(member) if member.role == Role::Voter => return Ok(None),
        Some(member) if member.role == Role::Learner => member.role = Role::Voter,
        Some(_) => {
            return refuse(format!(
                "node {node} is a witness of shard {shard}: it votes already and has no data"
            ));
        }
        None => {
            return refuse(format!("node {node} has no replica of shard {shard}: add it first"));
        }
    }
    check_votes(&descriptor)?;
    Ok(Some(change(at, descriptor)))
}

/// Plans to take `node` out of the group.
///
/// # Errors
/// `NotFound` for a shard that is not there, `PreconditionFailed` where nobody with data and a vote
/// would be left, or no more of them than witnesses.
pub fn remove(catalog: &Catalog, shard: ShardId, node: NodeId) -> Result<Option<TxnOp>, Failure> {
    let at = shard_of(catalog, shard)?;
    let mut descriptor = at.record.descriptor.clone();
    let before = descriptor.members.len();
    descriptor.members.retain(|m| m.node != node);
    if descriptor.members.len() == before {
        return Ok(None);
    }
    if !descriptor.members.iter().any(|m| m.role == Role::Voter) {
        let text = format!(
            "node {node} can't leave shard {shard}: it holds the last vote with data, \
             add another first"
        );
        return Err(Failure::new(Code::PreconditionFailed, text));
    }
    check_witnesses(&descriptor)?;
    Ok(Some(change(at, descriptor)))
}

/// Plans to prefer `node` as the leader: it becomes the first member.
///
/// # Errors
/// `NotFound` for a shard that is not there, `PreconditionFailed` where the node is no voter of it.
pub fn prefer(catalog: &Catalog, shard: ShardId, node: NodeId) -> Result<Option<TxnOp>, Failure> {
    let at = shard_of(catalog, shard)?;
    let mut descriptor = at.record.descriptor.clone();
    let place = descriptor.members.iter().position(|m| m.node == node);
    let role = place.map(|place| descriptor.members[place].role);
    let (Some(place), Some(Role::Voter)) = (place, role) else {
        let why = match role {
            Some(Role::Witness) => "is a witness",
            Some(_) => "is a learner",
            None => "is no member",
        };
        let text = format!("node {node} can't lead shard {shard}: it {why}");
        return Err(Failure::new(Code::PreconditionFailed, text));
    };
    if place == 0 {
        return Ok(None);
    }
    descriptor.members[..=place].rotate_right(1);
    Ok(Some(change(at, descriptor)))
}

/// Plans to forget a node that holds nothing any more. Nothing may be placed on it meanwhile: what
/// places shards takes ids from `meta/next`, which is compared here.
///
/// # Errors
/// `PreconditionFailed` while it is a member of a shard.
pub fn forget_node(catalog: &Catalog, node: NodeId) -> Result<Option<TxnOp>, Failure> {
    let Ok(at) = node_of(catalog, node) else { return Ok(None) };
    let holds = |d: &&Descriptor| !d.dropped && d.members.iter().any(|m| m.node == node);
    if let Some(held) = catalog.descriptors().find(holds) {
        let text =
            format!("node {node} can't be forgotten: it is a member of shard {}", held.shard);
        return Err(Failure::new(Code::PreconditionFailed, text));
    }
    let key = RecordKey::Node(node);
    let next = catalog.next_ids().map(|n| n.revision);
    let compares = vec![unchanged(&key, Some(at.revision)), unchanged(&RecordKey::Next, next)];
    Ok(Some(TxnOp { compares, then: vec![delete(&key)], otherwise: Vec::new() }))
}

/// Plans to write down where a node is reached: a new node, or one that moved.
///
/// # Errors
/// `InvalidArgument` for node 0, `AlreadyExists` where another node has one of its addresses.
pub fn put_node(catalog: &Catalog, record: &NodeRecord) -> Result<Option<TxnOp>, Failure> {
    if record.id.0 == 0 {
        return Err(Failure::new(Code::InvalidArgument, "node ids begin at 1, this is node 0"));
    }
    for other in catalog.nodes().filter(|n| n.id != record.id) {
        for address in [&record.client_address, &record.peer_address] {
            if [&other.client_address, &other.peer_address].contains(&address) {
                let text = format!("node {} refused: node {} is at {address}", record.id, other.id);
                return Err(Failure::new(Code::AlreadyExists, text));
            }
        }
    }
    let known = node_of(catalog, record.id).ok();
    let mut new = record.clone();
    if let Some(at) = known {
        new.incarnation = new.incarnation.max(at.record.incarnation);
        new.unknown.clone_from(&at.record.unknown);
        if new == at.record {
            return Ok(None);
        }
    }
    let record = Record::Node(new);
    let compares = vec![unchanged(&record.key(), known.map(|at| at.revision))];
    Ok(Some(TxnOp { compares, then: vec![put(&record)], otherwise: Vec::new() }))
}

fn shard_of(catalog: &Catalog, shard: ShardId) -> Result<&At<ShardRecord>, Failure> {
    let found = catalog.shard(shard).filter(|at| !at.record.descriptor.dropped);
    found.ok_or_else(|| Failure::new(Code::NotFound, format!("shard {shard} does not exist")))
}

fn node_of(catalog: &Catalog, node: NodeId) -> Result<&At<NodeRecord>, Failure> {
    catalog.node_at(node).ok_or_else(|| {
        let text = format!("node {node} is not known to the cluster: start it with --join first");
        Failure::new(Code::NotFound, text)
    })
}

fn change(at: &At<ShardRecord>, mut descriptor: Descriptor) -> TxnOp {
    descriptor.epoch = descriptor.epoch.next();
    let record = Record::Shard(ShardRecord { descriptor, unknown: at.record.unknown.clone() });
    let compares = vec![unchanged(&record.key(), Some(at.revision))];
    TxnOp { compares, then: vec![put(&record)], otherwise: Vec::new() }
}

fn check_votes(descriptor: &Descriptor) -> Result<(), Failure> {
    let votes = descriptor.members.iter().filter(|m| m.role.votes()).count();
    if votes <= VOTERS_MAX {
        return check_witnesses(descriptor);
    }
    let shard = descriptor.shard;
    let text = format!("shard {shard} would have {votes} votes, limit {VOTERS_MAX}");
    Err(Failure::new(Code::PreconditionFailed, text))
}

/// Fewer witnesses than voters with data: else a majority could do without all but one copy of the
/// data, and a group of one of each would need both where one alone needs nobody.
fn check_witnesses(descriptor: &Descriptor) -> Result<(), Failure> {
    let count = |role| descriptor.members.iter().filter(|m| m.role == role).count();
    let (witnesses, voters) = (count(Role::Witness), count(Role::Voter));
    if witnesses == 0 || witnesses < voters {
        return Ok(());
    }
    let shard = descriptor.shard;
    let text = format!(
        "shard {shard} would have witnesses: {witnesses}, voters with data: {voters}; \
         there must be more voters than witnesses"
    );
    Err(Failure::new(Code::PreconditionFailed, text))
}
