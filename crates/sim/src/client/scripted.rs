//! The operator of a script: makes the changes that are listed, one after another, each when its
//! time has come and the one before it was made.

use atoll_coord::Catalog;
use atoll_coord::plan::members;
use atoll_raft::Role;

use super::Around;
use super::operator::{Operator, SCRATCH};
use crate::script::Change;

impl Operator {
    /// Makes the next change of the list, unless it is too early for it.
    pub(super) fn plan_listed(&mut self, catalog: &Catalog, around: &mut Around<'_>) {
        let Some(listed) = &mut self.listed else { return };
        // What became of a change is read from the catalog: an answer may be lost.
        while listed.front().is_some_and(|(_, change)| is_made(*change, catalog)) {
            listed.pop_front();
        }
        let now = around.fabric.now();
        let Some((_, change)) = listed.front().filter(|(at, _)| now >= *at) else { return };
        let (planned, gone) = match *change {
            Change::Add(node, shard, role) => (members::add(catalog, shard, node, role), None),
            Change::Promote(node, shard) => (members::promote(catalog, shard, node), None),
            Change::Prefer(node, shard) => (members::prefer(catalog, shard, node), None),
            Change::Remove(node, shard) => (members::remove(catalog, shard, node), Some(node)),
            Change::Create | Change::Drop => return self.plan_keyspace(catalog, around),
        };
        if let Err(failure) = &planned {
            around.fabric.say(format_args!("operator: {change:?} is not possible: {failure}"));
        }
        self.change(planned, gone, around);
    }
}

/// The catalog is as the change makes it.
fn is_made(change: Change, catalog: &Catalog) -> bool {
    let members = |shard| {
        let at = catalog.shard(shard);
        at.map(|at| at.record.descriptor.members.as_slice()).unwrap_or_default()
    };
    match change {
        Change::Add(node, shard, _) => members(shard).iter().any(|m| m.node == node),
        Change::Promote(node, shard) => {
            members(shard).iter().any(|m| m.node == node && m.role == Role::Voter)
        }
        Change::Remove(node, shard) => members(shard).iter().all(|m| m.node != node),
        Change::Prefer(node, shard) => members(shard).first().is_some_and(|m| m.node == node),
        Change::Create => catalog.keyspace(SCRATCH).is_some(),
        Change::Drop => catalog.keyspace(SCRATCH).is_none(),
    }
}
