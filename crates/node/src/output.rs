//! What a lane wants done after a turn. The lists are carried out in the order of the fields; a
//! later list never waits for an earlier one except where said.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_base::{KeyspaceId, LogIndex, NodeId, ShardId, Ticket};
use atoll_coord::Answer;
use atoll_machine::Event;
use atoll_replica::PeerMessage;
use atoll_storage::LogBatch;

/// What one turn of a lane produced. Reused between turns: drain it.
#[derive(Default, Debug)]
pub struct Output {
    /// May leave at once, per peer in this order.
    pub messages: BTreeMap<NodeId, Vec<PeerMessage>>,
    /// One write for the log thread. `Written` comes back with its ticket when it is durable.
    /// Tickets complete in order.
    pub write: Option<LogWrite>,
    /// Answers for clients; everything that they depend on is durable and applied already.
    pub answers: Vec<Answer>,
    /// For each entry that this node proposed and applied in the turn, the time from its proposal
    /// to the turn that saw it committed. For whoever measures; it obliges to nothing.
    pub replicated: Vec<Duration>,
    /// Changes of the catalog's keyspace applied on this node, in order (only from shard 1's lane).
    pub catalog: Vec<Event>,
    /// Keyspaces of which this lane holds no replica any more. When every lane of the node has said
    /// so,
    /// `Engine::drop_keyspace` may delete their data.
    pub dropped: Vec<KeyspaceId>,
    /// Replicas that began or ceased to lead, or learned of another leader (a routing hint).
    pub leaders: Vec<(ShardId, Option<NodeId>)>,
    /// The engine should be persisted; answer with `Persisted` and this number.
    pub persist: Option<u64>,
    /// The log may forget entries of these shards below the index.
    pub release: Vec<(ShardId, LogIndex)>,
}

/// One write to the node's log.
#[derive(Default, Debug)]
pub struct LogWrite {
    /// Its number in this lane.
    pub ticket: Ticket,
    /// All shards' records of the turn.
    pub batch: LogBatch,
    /// Messages that leave when the write is durable, before `Written` is given to the lane: votes
    /// and acknowledgements that promise what the write holds.
    pub after: BTreeMap<NodeId, Vec<PeerMessage>>,
}
