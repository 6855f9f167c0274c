//! What happens to a lane.

use atoll_base::{Failure, NodeId, ShardId, Ticket};
use atoll_coord::{Descriptor, Origin, Request};
use atoll_replica::PeerMessage;
use atoll_storage::WrittenEntry;

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
    /// The log write with this ticket is durable. Tickets complete in order.
    Written {
        /// The write.
        ticket: Ticket,
        /// Where its entries stand.
        entries: Vec<WrittenEntry>,
    },
    /// New data is refused with this failure while the disk is (nearly) full; `None`: there is room
    /// again. A log write that finds no room is tried again by the log thread until it succeeds.
    DiskFull(Option<Failure>),
    /// The catalog says that this shard is as described; create, change or (when dropped) delete
    /// it.
    Catalog(Vec<Descriptor>),
    /// Everything that this lane had given to the engine when it asked (see `Output::persist`) now
    /// survives power loss.
    Persisted {
        /// The number of the lane's request.
        request: u64,
    },
    /// The log's oldest segment can't be recycled because of entries of these shards: cut their
    /// logs as far as is safe.
    LogPinned(Vec<ShardId>),
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
