//! A founding replica takes part only when the engine keeps what it was founded with.
//!
//! The founding configuration stands in no log entry: until one records a configuration
//! ([`crate::members`], M4), a replica that restarts knows it from what the engine kept beside the
//! description. Were a founder to vote before that survives power loss, a group that loses power as
//! a whole could come back without anybody who knows who votes, once its description has moved on.
//!
//! It follows that a node took part in no group of which its engine knows nothing. So when a
//! stretch of its log is lost that may have held all records of a shard, those of which the engine
//! knows, and the log nothing, are the ones that may have lost something (trap T14).

use std::collections::BTreeMap;

use atoll_base::{Epoch, ShardId};
use atoll_coord::Descriptor;

use crate::lane::Lane;
use crate::members::wished;
use crate::records;

/// The epoch of a shard's first description.
pub(crate) const FOUNDING: Epoch = Epoch(1);

/// Replicas of this lane that are being founded.
#[derive(Default)]
pub(crate) struct Founders {
    waiting: BTreeMap<ShardId, Descriptor>,
    /// Those that no request to persist covers yet.
    unasked: Vec<ShardId>,
}

impl Founders {
    pub(crate) fn is_waiting(&self, shard: ShardId) -> bool {
        self.waiting.contains_key(&shard)
    }

    /// The replica is not to be. True when it was waiting.
    pub(crate) fn cancel(&mut self, shard: ShardId) -> bool {
        self.waiting.remove(&shard).is_some()
    }

    /// Whose founding survives power loss after the persist that is asked for now.
    pub(crate) fn take_unasked(&mut self) -> Vec<ShardId> {
        std::mem::take(&mut self.unasked)
    }
}

impl Lane {
    /// Writes down that this node founds the group of `descriptor`; the replica comes when the
    /// engine keeps that.
    pub(crate) fn begin_founding(&mut self, descriptor: Descriptor) {
        let shard = descriptor.shard;
        records::put_descriptor(&mut self.turn.applied, &descriptor);
        records::put_founding(&mut self.turn.applied, shard, &wished(&descriptor));
        self.founders.waiting.insert(shard, descriptor);
        self.founders.unasked.push(shard);
        self.upkeep.persist_soon();
    }

    /// A later description of a shard that is being founded here.
    pub(crate) fn describe_founder(&mut self, descriptor: Descriptor) {
        let Some(known) = self.founders.waiting.get_mut(&descriptor.shard) else { return };
        if known.epoch < descriptor.epoch {
            atoll_base::reached!("a founder was described again before it took part");
            records::put_descriptor(&mut self.turn.applied, &descriptor);
            *known = descriptor;
        }
    }

    /// The engine keeps what these were founded with: they take part.
    pub(crate) fn end_founding(&mut self, shards: Vec<ShardId>) {
        for shard in shards {
            let Some(descriptor) = self.founders.waiting.remove(&shard) else { continue };
            if let Err(e) = self.create(descriptor) {
                tracing::error!(shard = shard.0, error = %e, "replica can't be made");
            }
        }
    }
}
