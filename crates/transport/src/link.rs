//! Links between nodes.
//!
//! Every node opens, to each peer, one connection for consensus and, once it has a snapshot to
//! send, a second one, so that gigabytes of chunks never stand in the way of a heartbeat. A link
//! may lose messages (a full queue, a broken connection), since every protocol above it resends; it
//! never reorders within one connection and never blocks who sends.
//!
//! ```text
//!  lane, log thread --send--> Queue (bounded) --pulled by--> HTTP/2 stream ---> peer's Receiver
//!                                                  --> PeerSink ^
//!                                     owner task: connect, hello, back off, again
//! ```
//!
//! Invariants:
//! - **L1** Queues are bounded in messages and bytes. A message that finds its queue full is
//!   dropped and counted; while there is no connection only the newest few messages wait.
//! - **L2** Whatever is queued when the stream asks for more leaves in one frame, up to the frame
//!   size.
//! - **L3** Nothing from a peer is delivered before its hello was checked: same cluster, meant for
//!   this node, from a node that this one knows, in a format that this build speaks.
//! - **L4** A peer counts as alive while both directions stand: we reached it, and it reached us
//!   and is heard. Who has nothing to say sends empty frames, so that a node that stands still
//!   while its connections stay open (stopped, hung, its power gone) is known to be gone within
//!   `silence_max`.

mod founding;
mod outbound;
mod queue;
mod receiver;
mod stats;

pub use founding::{IsNew, ask_founding};
pub use outbound::{Links, Peer};
pub use receiver::Receiver;
pub use stats::{LinkStats, LinkTotals};

use std::time::Duration;

use atoll_base::NodeId;
use atoll_replica::PeerMessage;

use crate::limits::WireLimits;

/// Who this node is among its peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster; peers of another one are refused.
    pub cluster: u64,
    /// This node.
    pub node: NodeId,
}

/// Bounds and times of a node's links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkSettings {
    /// Messages that wait for one peer.
    pub queue_messages_max: usize,
    /// Bytes of messages that wait for one peer; snapshot chunks count apart, against the same
    /// bound.
    pub queue_bytes_max: usize,
    /// Bytes that one frame gathers before it leaves (a larger message leaves alone).
    pub frame_bytes: usize,
    /// The first pause after a failed connection; doubles up to `backoff_max`, with jitter.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// A peer that is not heard for so long counts as gone. A link with nothing to carry carries
    /// eight signs of life in that time.
    pub silence_max: Duration,
    /// What connections may carry.
    pub wire: WireLimits,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            queue_messages_max: 65_536,
            queue_bytes_max: 64 << 20,
            frame_bytes: 1 << 20,
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            silence_max: Duration::from_millis(400),
            wire: WireLimits { message_bytes_max: 64 << 20, ..WireLimits::default() },
        }
    }
}

/// Who hears what peers say. Called from network tasks: must not block.
pub trait PeerSink: Send + Sync + 'static {
    /// Messages of one frame, in the order of the sender.
    fn deliver(&self, from: NodeId, messages: Vec<PeerMessage>);
    /// The peer can (no longer) be talked with.
    fn liveness(&self, node: NodeId, alive: bool);
}

#[cfg(test)]
mod tests;
