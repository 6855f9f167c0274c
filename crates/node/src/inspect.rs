//! Looks into a lane without disturbing it: for the simulator, status pages and tests.

use atoll_base::{LogIndex, Revision, ShardId};
use atoll_coord::ReplicaStatus;
use atoll_raft::Counters;

use crate::lane::Lane;
use crate::replica::Condition;

impl Lane {
    /// Every replica of this lane as the node sees it, by shard.
    #[must_use]
    pub fn statuses(&self) -> Vec<ReplicaStatus> {
        let node = self.turn.config.node;
        self.replicas.values().map(|replica| replica.status(node)).collect()
    }

    /// What the cores of this lane's replicas counted since the lane opened, those that are gone
    /// included. Looks at every replica.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut sum = self.counted;
        for replica in self.replicas.values() {
            sum += replica.group.core().counters();
        }
        sum
    }

    /// Every replica's shard and applied index, and whether it is sound: not quarantined.
    pub fn conditions(&self) -> impl Iterator<Item = (ShardId, LogIndex, bool)> {
        let all = self.replicas.iter();
        all.map(|(shard, replica)| (*shard, replica.applied, !replica.is_quarantined()))
    }

    /// The revision of the replica's state; `None` when it has none.
    #[must_use]
    pub fn revision(&self, shard: ShardId) -> Option<Revision> {
        Some(self.replicas.get(&shard)?.machine()?.revision())
    }

    /// Whether the replica here leads its group.
    #[must_use]
    pub fn leads(&self, shard: ShardId) -> bool {
        self.replicas.get(&shard).is_some_and(crate::replica::Replica::leads)
    }

    /// Why a replica does not serve, if it does not.
    #[must_use]
    pub fn trouble(&self, shard: ShardId) -> Option<String> {
        match &self.replicas.get(&shard)?.condition {
            Condition::Serving(_) | Condition::Witness => None,
            Condition::Rebuilding { reason } | Condition::Quarantined { reason } => {
                Some(reason.clone())
            }
        }
    }

    /// Checks the invariants of a replica's core and machine. The hash of its whole state, equal on
    /// all replicas that applied the same entries; `None` when there is no state to check.
    ///
    /// Reads everything that the shard holds: not for a serving node.
    ///
    /// # Errors
    /// The first invariant of the machine that does not hold.
    ///
    /// # Panics
    /// When one of the core does not.
    #[must_use]
    pub fn check(&self, shard: ShardId) -> Option<Result<u64, String>> {
        let replica = self.replicas.get(&shard)?;
        replica.group.core().validate();
        let checked = replica.machine()?.check(self.turn.engine.as_ref());
        match checked {
            Ok(()) => self.state_hash(shard),
            Err(error) => Some(Err(error.to_string())),
        }
    }

    /// The hash of a replica's whole state, equal on all replicas that applied the same entries;
    /// `None` when there is no state.
    ///
    /// Reads everything that the shard holds: not for a serving node.
    ///
    /// # Errors
    /// What the engine says when it can't be read.
    #[must_use]
    pub fn state_hash(&self, shard: ShardId) -> Option<Result<u64, String>> {
        let machine = self.replicas.get(&shard)?.machine()?;
        let hash = machine.state_hash(self.turn.engine.as_ref());
        Some(hash.map_err(|error| error.to_string()))
    }
}
