//! State machine safety: replicas that have applied the same entries hold the same bytes.
//!
//! Source: Raft paper, figure 3 "State Machine Safety"; Schneider 1990 (replicas that start alike
//! and apply alike stay alike). Compared by a hash over a replica's whole persisted state,
//! sessions included, at equal applied index.

use std::collections::BTreeMap;

use atoll_base::{LogIndex, NodeId, Revision, ShardId};

use super::Violation;

/// A replica's state at an applied index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Entries applied.
    pub applied: LogIndex,
    /// The shard's revision then.
    pub revision: Revision,
    /// A hash of everything that the replica persists.
    pub hash: u64,
}

/// States seen so far, newest indexes only.
#[derive(Default, Debug)]
pub struct Machines {
    seen: BTreeMap<(ShardId, LogIndex), (NodeId, Revision, u64)>,
    applied: BTreeMap<(ShardId, NodeId), LogIndex>,
    compared: u64,
}

impl Machines {
    /// `node`'s replica of `shard` looks like this.
    ///
    /// # Errors
    /// When another replica looked otherwise at the same applied index, or this one went back.
    pub fn sample(&mut self, shard: ShardId, node: NodeId, now: Sample) -> Result<(), Violation> {
        let Sample { applied, revision, hash } = now;
        let before = self.applied.insert((shard, node), applied).unwrap_or_default();
        if applied < before {
            let what = format!(
                "shard {shard} node {node}: applied {applied} after it had applied {before}"
            );
            return Err(Violation::new("state machine safety", what));
        }
        let Some(&(peer, peer_revision, peer_hash)) = self.seen.get(&(shard, applied)) else {
            self.seen.insert((shard, applied), (node, revision, hash));
            return Ok(());
        };
        self.compared += u64::from(peer != node);
        if (peer_revision, peer_hash) == (revision, hash) {
            return Ok(());
        }
        let what = format!(
            "shard {shard} at applied {applied}: node {node} has revision {revision} state \
            {hash:016x}, \
             node {peer} had revision {peer_revision} state {peer_hash:016x}"
        );
        Err(Violation::new("state machine safety", what))
    }

    /// `node` crashed: what it had applied without persisting it is applied again.
    pub fn crashed(&mut self, node: NodeId) {
        self.applied.retain(|(_, n), _| *n != node);
    }

    /// `node` gave its replica of `shard` up: another one there begins anew.
    pub fn removed(&mut self, shard: ShardId, node: NodeId) {
        self.applied.remove(&(shard, node));
    }

    /// Comparisons between different nodes made so far.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.compared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: ShardId = ShardId(2);

    fn sample(applied: u64, hash: u64) -> Sample {
        Sample { applied: LogIndex(applied), revision: Revision(applied), hash }
    }

    #[test]
    fn equal_replicas_are_fine_at_different_paces() {
        let mut machines = Machines::default();
        for (node, applied, hash) in [(1, 1, 10), (1, 3, 30), (2, 1, 10), (2, 2, 20), (2, 3, 30)] {
            machines.sample(S, NodeId(node), sample(applied, hash)).unwrap();
        }
        assert_eq!(machines.compared(), 2);
        machines.crashed(NodeId(1));
        machines.sample(S, NodeId(1), sample(2, 20)).unwrap();
    }

    #[test]
    fn different_bytes_at_one_index_are_caught() {
        let mut machines = Machines::default();
        machines.sample(S, NodeId(1), sample(5, 50)).unwrap();
        assert!(machines.sample(S, NodeId(2), sample(5, 51)).is_err());
    }

    #[test]
    fn a_replica_that_unapplies_is_caught() {
        let mut machines = Machines::default();
        machines.sample(S, NodeId(1), sample(5, 50)).unwrap();
        assert!(machines.sample(S, NodeId(1), sample(4, 40)).is_err());
    }
}
