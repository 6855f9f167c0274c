//! What happens to a lane.

use atoll_base::{Failure, NodeId, ShardId, Ticket};
use atoll_coord::{Descriptor, Origin, Request};
use atoll_replica::PeerMessage;
use atoll_storage::Location;

/// One input of a lane's turn.
#[derive(Debug)]
pub enum Input {
    /// Messages from a peer node, in the order it sent them.
    Peer {
        /// The sender.
        from: NodeId,
        /// For replicas of this lane.
        messages: Vec<PeerMessage>,
    },
    /// Calls from one origin, in order.
    Requests(Vec<Request>),
    /// An origin went away: forget its watches, answer it no more.
    OriginGone(Origin),
    /// The log write with this ticket is durable; its entries stand there, in the order of the write.
    Written {
        /// The write.
        ticket: Ticket,
        /// A place for each `LogRecord::Entry` of the write.
        locations: Vec<Location>,
    },
    /// The log write with this ticket failed without effect (the disk is full).
    WriteRefused {
        /// The write.
        ticket: Ticket,
        /// Why.
        failure: Failure,
    },
    /// The catalog says that this shard is as described; create, change or (when dropped) delete it.
    Catalog(Vec<Descriptor>),
    /// Everything that this lane had given to the engine when it asked (see `Output::persist`) now
    /// survives power loss.
    Persisted {
        /// The number of the lane's request.
        request: u64,
    },
    /// A peer's node is (not) reachable.
    PeerLiveness {
        /// The peer.
        node: NodeId,
        /// Whether it answers.
        alive: bool,
    },
    /// Somebody found damage in what a replica of this lane stores.
    Damaged {
        /// The replica's shard.
        shard: ShardId,
        /// What was found and where.
        reason: String,
    },
}
