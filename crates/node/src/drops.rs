//! Keyspaces that the catalog dropped go in an order that holds whenever power fails.
//!
//! 1. The replica stops, and a gravestone keeps every older description out.
//! 2. When the engine keeps the gravestone, the log forgets the shard.
//! 3. When the log keeps that, what the engine holds of the shard goes; and when no lane holds
//!    anything of the keyspace, its trees.
//!
//! In another order a node could wake with a replica whose applied index stands and whose keys are
//! gone, and serve and hand on a state that nobody agreed on; or as a founding voter that has
//! forgotten what it acknowledged. A node that wakes in the middle has the replica as it was, or
//! nothing of it but what nobody reads; the catalog says `dropped` again and it goes on there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use atoll_base::{KeyspaceId, ShardId, Ticket, planted};
use atoll_coord::Descriptor;
use atoll_storage::LogRecord;

use crate::catalog::erase_shard_records;
use crate::lane::Lane;
use crate::output::Output;
use crate::{records, spool};

/// A shard of a dropped keyspace.
#[derive(Clone, Copy)]
pub(crate) struct Dropped {
    shard: ShardId,
    keyspace: KeyspaceId,
}

/// The keyspaces that are going, on one lane.
#[derive(Default)]
pub(crate) struct Drops {
    /// They wait for a request to persist the engine.
    begun: Vec<Dropped>,
    /// The log has been told to forget them, by this write.
    logged: VecDeque<(Ticket, Dropped)>,
    under_way: BTreeMap<KeyspaceId, BTreeSet<ShardId>>,
}

impl Drops {
    /// True while this lane may still hold something of the keyspace.
    pub(crate) fn is_under_way(&self, keyspace: KeyspaceId) -> bool {
        self.under_way.contains_key(&keyspace)
    }

    /// Whose gravestones survive power loss after the persist that is asked for now.
    pub(crate) fn take_begun(&mut self) -> Vec<Dropped> {
        std::mem::take(&mut self.begun)
    }

    /// Notes that nothing of the shard is left; true when it was the keyspace's last one here.
    fn end(&mut self, Dropped { shard, keyspace }: Dropped) -> bool {
        let Some(shards) = self.under_way.get_mut(&keyspace) else { return false };
        shards.remove(&shard);
        let is_last = shards.is_empty();
        if is_last {
            self.under_way.remove(&keyspace);
        }
        is_last
    }
}

impl Lane {
    /// The one order that deletes data. Nothing happens where nothing of the shard is here.
    pub(crate) fn destroy(&mut self, descriptor: &Descriptor) {
        let (shard, keyspace) = (descriptor.shard, descriptor.keyspace);
        if self.drops.under_way.get(&keyspace).is_some_and(|shards| shards.contains(&shard)) {
            return;
        }
        if self.undescribed.remove(&shard).is_some() {
            atoll_base::reached!("a log that nothing described was dropped");
        } else if self.replicas.contains_key(&shard) {
            atoll_base::reached!("a replica went with its keyspace");
            self.take_out(shard, "keyspace was dropped");
        } else if !self.founders.cancel(shard) && !self.keeps_records(shard) {
            return;
        }
        if planted!(DroppedAtOnce) {
            erase_shard_records(shard, &mut self.turn.applied);
        } else {
            records::put_gravestone(&mut self.turn.applied, shard, descriptor.epoch);
        }
        self.drops.begun.push(Dropped { shard, keyspace });
        self.drops.under_way.entry(keyspace).or_default().insert(shard);
        self.upkeep.persist_soon();
    }

    /// Power failed when the log had forgotten the shard and the engine had not.
    fn keeps_records(&self, shard: ShardId) -> bool {
        match records::is_described(self.turn.engine.as_ref(), shard) {
            Ok(is_described) => is_described,
            Err(failure) => {
                tracing::error!(shard = shard.0, %failure, "dropped replica can't be looked for");
                false
            }
        }
    }

    /// The engine keeps these shards' gravestones: the log forgets them.
    pub(crate) fn forget_logs(&mut self, dropped: Vec<Dropped>) {
        let ticket = self.next_ticket();
        for it in dropped {
            self.turn.sink.batch.records.push(LogRecord::ShardRemoved { shard: it.shard });
            self.drops.logged.push_back((ticket, it));
        }
    }

    /// The log write `ticket` is durable: what it forgot goes from the engine.
    pub(crate) fn finish_drops(&mut self, ticket: Ticket, output: &mut Output) {
        while let Some((_, it)) = self.drops.logged.pop_front_if(|(logged, _)| *logged <= ticket) {
            records::remove(&mut self.turn.applied, it.shard);
            spool::forget(self.turn.engine.as_ref(), &mut self.turn.applied, it.shard);
            erase_shard_records(it.shard, &mut self.turn.applied);
            if self.drops.end(it) {
                output.dropped.push(it.keyspace);
            }
        }
    }
}
