//! What nodes and clients share: time, the network between them, and the trace.
//!
//! A client's connection to a node is a stream: what arrives, arrives once and in order, and when a
//! packet is lost the connection is broken for good, which both ends learn some time later. Links
//! between nodes promise less (see [`crate::network`]).

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_base::{LaneId, NodeId, Revision, Rng, Time};
use atoll_coord::{Answer, Catalog, Origin, Request};
use atoll_replica::PeerMessage;

use crate::network::{Network, Place};
use crate::queue::EventQueue;
use crate::trace::Trace;

/// One life of a node, from boot to crash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Life(pub(crate) u32);

/// What happens next somewhere.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "events live in one queue and are moved once")]
pub(crate) enum Event {
    /// A packet reaches its place.
    Arrive { from: Place, to: Place, packet: Packet },
    /// The log thread's write is on disk, or finds no room.
    LogDone { node: NodeId, life: Life },
    /// The persist thread is done with a lane's request and all batches up to this one.
    Persisted { node: NodeId, life: Life, lane: LaneId, request: u64, batch: u64 },
    /// A node tells its peers that it lives, and notices who does not.
    Heartbeat { node: NodeId, life: Life },
    /// A node notices that a client's connection is gone.
    Gone { node: NodeId, origin: Origin },
    /// A client does something; stale tokens are ignored.
    Client { client: u32, token: Token },
    /// A client notices that its connection is gone.
    Broken { client: u32, node: NodeId, origin: Origin },
    /// A fault of the schedule strikes.
    Strike(usize),
    /// A fault of the schedule is mended.
    Mend(usize),
    /// A node boots.
    Boot { node: NodeId, life: Life },
    /// Faults stop.
    Heal,
    /// The world looks at itself.
    Inspect,
}

/// What a client meant to do when it set a timer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Token {
    pub(crate) slot: usize,
    pub(crate) number: u64,
}

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    /// Between nodes.
    Peer(Vec<PeerMessage>),
    /// Between nodes: I live, for the so-manieth time.
    Alive(u64),
    /// From a client; its deadline is relative.
    Request { request: Box<Request>, within: Duration },
    /// To a client.
    Answer(Box<Answer>),
    /// Between nodes: is there a newer catalog than this one?
    AskCatalog(Revision),
    /// Between nodes: there is.
    Catalog(Box<Catalog>),
}

impl Packet {
    fn weight(&self) -> u64 {
        match self {
            Self::Peer(messages) => messages.len() as u64,
            Self::Alive(life) => (1 << 32) + life,
            Self::Request { request, .. } => (2 << 32) + request.id,
            Self::Answer(answer) => (3 << 32) + answer.id,
            Self::AskCatalog(revision) => (4 << 32) + revision.0,
            Self::Catalog(catalog) => (5 << 32) + catalog.revision().0,
        }
    }
}

/// Time, network and trace.
pub(crate) struct Fabric {
    pub(crate) queue: EventQueue<Event>,
    pub(crate) network: Network,
    pub(crate) trace: Trace,
    broken: BTreeSet<Origin>,
    last_origin: u64,
    rng: Rng,
}

impl Fabric {
    pub(crate) fn new(network: Network, trace: Trace, rng: Rng) -> Self {
        Self {
            queue: EventQueue::default(),
            network,
            trace,
            broken: BTreeSet::new(),
            last_origin: 0,
            rng,
        }
    }

    pub(crate) fn now(&self) -> Time {
        self.queue.now()
    }

    /// Sends between nodes.
    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        let now = self.now();
        self.trace.fold(&[1, now.0, from.0, to.0, packet.weight()]);
        let (from, to) = (Place::Node(from), Place::Node(to));
        let [first, again] = self.network.send(now, from, to);
        if let Some(at) = again {
            self.queue.at(at, Event::Arrive { from, to, packet: packet.clone() });
        }
        if let Some(at) = first {
            self.queue.at(at, Event::Arrive { from, to, packet });
        }
    }

    /// Sends on the stream between a client and a node.
    pub(crate) fn stream(&mut self, from: Place, to: Place, origin: Origin, packet: Packet) {
        if self.broken.contains(&origin) {
            return;
        }
        let now = self.now();
        match self.network.stream(now, from, to) {
            Some(at) => self.queue.at(at, Event::Arrive { from, to, packet }),
            None => self.break_stream(from, to, origin),
        }
    }

    /// Breaks a connection; both ends learn of it after a while.
    pub(crate) fn break_stream(&mut self, a: Place, b: Place, origin: Origin) {
        if !self.broken.insert(origin) {
            return;
        }
        let (client, node) = match (a, b) {
            (Place::Client(client), Place::Node(node))
            | (Place::Node(node), Place::Client(client)) => (client, node),
            _ => return,
        };
        let mut delay = || Duration::from_micros(self.rng.range(100, 1_000_000));
        let (client_learns, node_learns) = (delay(), delay());
        self.queue.after(client_learns, Event::Broken { client, node, origin });
        self.queue.after(node_learns, Event::Gone { node, origin });
    }

    /// A lane takes its turn at `at`, and not when it was to take it before.
    pub(crate) fn plan_turn(&mut self, node: NodeId, lane: LaneId, at: Time) {
        self.queue.set_alarm(alarm_of(node, lane), at);
    }

    /// A lane takes no turn.
    pub(crate) fn plan_no_turn(&mut self, node: NodeId, lane: LaneId) {
        self.queue.clear_alarm(alarm_of(node, lane));
    }

    /// A name for a new connection.
    pub(crate) fn connect(&mut self) -> Origin {
        self.last_origin += 1;
        Origin(self.last_origin)
    }

    /// Keeps a line for people.
    pub(crate) fn say(&mut self, text: std::fmt::Arguments<'_>) {
        let now = self.now();
        self.trace.line(now, text);
    }
}

/// Lanes that a node may have.
const LANES_MAX: usize = 4;

/// The alarm that is a lane's turn.
fn alarm_of(node: NodeId, lane: LaneId) -> usize {
    assert!(usize::from(lane.0) < LANES_MAX, "lane {lane} of {LANES_MAX}");
    node.0 as usize * LANES_MAX + usize::from(lane.0)
}

/// The lane whose turn an alarm is.
pub(crate) fn lane_of_alarm(place: usize) -> (NodeId, LaneId) {
    (NodeId((place / LANES_MAX) as u64), LaneId((place % LANES_MAX) as u16))
}
