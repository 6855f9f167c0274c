//! On a disk that was not damaged no log begins after what the engine keeps.
//!
//! Source: Raft thesis 5.1 (entries are discarded once a durable snapshot holds what they did). A
//! replica that was on its way out is the exception: its data may be gone from the engine before
//! the log's news of its end is durable. It comes back with nothing but its log, takes part in
//! nothing, and is ordered away again.

use std::collections::BTreeSet;

use atoll_base::{NodeId, ShardId};

use super::Violation;

/// Who was on its way out.
#[derive(Default, Debug)]
pub struct Cuts {
    leaving: BTreeSet<(NodeId, ShardId)>,
}

impl Cuts {
    /// `node` hands its log the news that it gave its replica of `shard` up.
    pub fn leaves(&mut self, node: NodeId, shard: ShardId) {
        self.leaving.insert((node, shard));
    }

    /// It is durable that the replica went, or a snapshot has made it whole again.
    pub fn is_settled(&mut self, node: NodeId, shard: ShardId) {
        self.leaving.remove(&(node, shard));
    }

    /// `node` started, and says `trouble` of its replica of `shard`.
    ///
    /// # Errors
    /// When its log was cut above what its engine keeps.
    pub fn check(&self, node: NodeId, shard: ShardId, trouble: &str) -> Result<(), Violation> {
        if self.leaving.contains(&(node, shard)) || !trouble.contains("its log begins after") {
            return Ok(());
        }
        Err(Violation::new("log cut", format!("shard {shard} node {node}: {trouble}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: &str = "its engine ends at entry 0, its log begins after 12";

    #[test]
    fn a_log_that_begins_after_its_engine_ends_is_caught() {
        let cuts = Cuts::default();
        assert_eq!(cuts.check(NodeId(1), ShardId(2), "its disk is full"), Ok(()));
        assert!(cuts.check(NodeId(1), ShardId(2), GAP).is_err());
    }

    #[test]
    fn only_who_is_on_its_way_out_may_have_lost_its_data_first() {
        let mut cuts = Cuts::default();
        cuts.leaves(NodeId(1), ShardId(2));
        assert_eq!(cuts.check(NodeId(1), ShardId(2), GAP), Ok(()));
        assert!(cuts.check(NodeId(2), ShardId(2), GAP).is_err());
        assert!(cuts.check(NodeId(1), ShardId(3), GAP).is_err());
        cuts.is_settled(NodeId(1), ShardId(2));
        assert!(cuts.check(NodeId(1), ShardId(2), GAP).is_err());
    }
}
