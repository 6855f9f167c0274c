//! Whom to ask about a shard: what the catalog says of its members and what answers have taught
//! about its leader.
//!
//! A hint is only a guess; a wrong one costs a redirection, never a wrong answer, because the node
//! that is asked checks for itself whether it leads.

use atoll_base::{Epoch, NodeId};
use atoll_raft::Role;

use crate::descriptor::Descriptor;

/// A node to ask, and the epoch to ask under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The node.
    pub node: NodeId,
    /// The shard's epoch as the catalog knows it.
    pub epoch: Epoch,
}

/// Whom to ask about a shard: the leader last heard of (`hint`), else the preferred one. A hint
/// counts even when the descriptor doesn't name the node: the catalog may be behind the group.
#[must_use]
pub fn route(descriptor: &Descriptor, hint: Option<NodeId>) -> Option<Route> {
    let node = hint.or_else(|| first_voter(descriptor))?;
    Some(Route { node, epoch: descriptor.epoch })
}

/// The preferred leader: the first member that votes and holds data.
#[must_use]
pub fn first_voter(descriptor: &Descriptor) -> Option<NodeId> {
    descriptor.members.iter().find(|m| m.role == Role::Voter).map(|m| m.node)
}

/// The member after `node` in the shard's list of voters, round and round; the first one when
/// `node` is none of them.
#[must_use]
pub fn next_member(descriptor: &Descriptor, node: NodeId) -> Option<NodeId> {
    let voters: Vec<NodeId> =
        descriptor.members.iter().filter(|m| m.role == Role::Voter).map(|m| m.node).collect();
    let place = voters.iter().position(|v| *v == node).map_or(0, |p| p + 1);
    voters.get(place % voters.len().max(1)).copied()
}
