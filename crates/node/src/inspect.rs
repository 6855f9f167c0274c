//! Looks into a lane without disturbing it: for the simulator, status pages and tests.

use atoll_base::ShardId;
use atoll_coord::ReplicaStatus;

use crate::lane::Lane;
use crate::replica::Condition;

impl Lane {
    /// Every replica of this lane as the node sees it, by shard.
    #[must_use]
    pub fn statuses(&self) -> Vec<ReplicaStatus> {
        let node = self.turn.config.node;
        self.replicas.values().map(|replica| replica.status(node)).collect()
    }

    /// Why a replica does not serve, if it does not.
    #[must_use]
    pub fn trouble(&self, shard: ShardId) -> Option<String> {
        match &self.replicas.get(&shard)?.condition {
            Condition::Serving(_) => None,
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
        let machine = replica.machine()?;
        let engine = self.turn.engine.as_ref();
        let checked = machine.check(engine).and_then(|()| machine.state_hash(engine));
        Some(checked.map_err(|error| error.to_string()))
    }
}
