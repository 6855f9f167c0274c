use std::sync::Arc;

use atoll_base::{Entry, EntryKind, Epoch, LogIndex, NodeId, ShardId, Term};
use atoll_raft::{Body, Message};
use atoll_replica::{ChunkEnd, PeerBody, PeerMessage};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;

enum Heard {
    Messages(Vec<PeerMessage>),
    Alive(bool),
}

struct Ear(mpsc::Sender<Heard>);

impl PeerSink for Ear {
    fn deliver(&self, _from: NodeId, messages: Vec<PeerMessage>) {
        let _ = self.0.try_send(Heard::Messages(messages));
    }
    fn liveness(&self, _node: NodeId, alive: bool) {
        let _ = self.0.try_send(Heard::Alive(alive));
    }
}

struct Node {
    links: Arc<Links>,
    heard: mpsc::Receiver<Heard>,
    address: String,
    server: JoinHandle<()>,
}

async fn node(cluster: u64, id: u64) -> Node {
    // Far more patient than a busy machine is slow.
    node_with(cluster, id, Duration::from_secs(60)).await
}

async fn node_with(cluster: u64, id: u64, silence_max: Duration) -> Node {
    let (tx, heard) = mpsc::channel(10_000);
    let identity = Identity { cluster, node: NodeId(id) };
    let settings = LinkSettings { silence_max, ..LinkSettings::default() };
    let links = Arc::new(Links::new(identity, settings, Arc::new(Ear(tx)), Handle::current()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = Receiver::new(links.clone()).service();
    let server = tokio::spawn(async move {
        let incoming = crate::accept(listener, crate::AcceptLimits::default());
        let server = WireLimits::default().server().add_service(service);
        server.serve_with_incoming(incoming).await.unwrap();
    });
    Node { links, heard, address, server }
}

impl Node {
    fn knows(&self, other: &Node) {
        let peer = Peer { node: other.links.identity().node, address: other.address.clone() };
        self.links.connect(peer);
    }

    async fn hears_alive(&mut self, wanted: bool) {
        loop {
            match self.heard.recv().await.unwrap() {
                Heard::Alive(alive) if alive == wanted => return,
                _ => {}
            }
        }
    }

    async fn hears(&mut self, count: usize) -> Vec<PeerMessage> {
        let mut all = Vec::new();
        while all.len() < count {
            if let Heard::Messages(messages) = self.heard.recv().await.unwrap() {
                all.extend(messages);
            }
        }
        all
    }
}

fn heartbeat(from: u64, to: u64, round: u64) -> PeerMessage {
    let body = Body::Heartbeat { commit: LogIndex(1), round };
    let message = Message { from: NodeId(from), to: NodeId(to), term: Term(1), body };
    PeerMessage { shard: ShardId(1), epoch: Epoch(1), body: PeerBody::Raft(message) }
}

fn append(bytes: usize) -> PeerMessage {
    let entry = Entry {
        term: Term(1),
        index: LogIndex(1),
        kind: EntryKind::Commands,
        payload: Bytes::from(vec![7; bytes]),
    };
    let body = Body::Append {
        prev_index: LogIndex(0),
        prev_term: Term(0),
        commit: LogIndex(0),
        entries: vec![entry],
    };
    let message = Message { from: NodeId(1), to: NodeId(2), term: Term(1), body };
    PeerMessage { shard: ShardId(1), epoch: Epoch(1), body: PeerBody::Raft(message) }
}

#[tokio::test]
async fn messages_arrive_in_order_and_both_sides_know_that_the_other_lives() {
    let (mut a, mut b) = (node(5, 1).await, node(5, 2).await);
    a.knows(&b);
    b.knows(&a);
    a.hears_alive(true).await;
    b.hears_alive(true).await;
    let sent: Vec<_> = (1..=500).map(|round| heartbeat(1, 2, round)).collect();
    for pair in sent.chunks(7) {
        a.links.send(NodeId(2), pair.to_vec());
    }
    assert_eq!(b.hears(500).await, sent);
    let chunk = PeerMessage {
        shard: ShardId(1),
        epoch: Epoch(1),
        body: PeerBody::SnapshotChunk {
            index: LogIndex(4),
            term: Term(1),
            chunk: 0,
            data: Bytes::from(vec![1; 3 << 20]),
            crc32c: 9,
            end: ChunkEnd::Last,
        },
    };
    a.links.send(NodeId(2), vec![chunk.clone()]);
    assert_eq!(b.hears(1).await, [chunk]);
    b.server.abort();
    b.links.stop().await;
    a.hears_alive(false).await;
    a.links.stop().await;
}

#[tokio::test]
async fn a_node_of_another_cluster_is_not_heard() {
    let (a, mut b) = (node(5, 1).await, node(6, 2).await);
    let mut c = node(6, 3).await;
    for (x, y) in [(&a, &b), (&b, &a), (&b, &c), (&c, &b)] {
        x.knows(y);
    }
    a.links.send(NodeId(2), vec![heartbeat(1, 2, 1)]);
    c.hears_alive(true).await;
    c.links.send(NodeId(2), vec![heartbeat(3, 2, 2)]);
    assert_eq!(b.hears(1).await, [heartbeat(3, 2, 2)]);
    assert_eq!(b.links.stats().totals().messages_received, 1);
}

#[tokio::test]
async fn a_sender_that_lies_about_itself_is_cut_off() {
    let (a, mut b) = (node(5, 1).await, node(5, 2).await);
    a.knows(&b);
    b.knows(&a);
    b.hears_alive(true).await;
    a.links.send(NodeId(2), vec![heartbeat(3, 2, 1)]);
    b.hears_alive(false).await;
}

#[tokio::test]
async fn a_full_queue_drops_what_comes_and_counts_it() {
    let stats = Arc::new(LinkStats::default());
    let bounds = queue::QueueBounds {
        messages_max: 100,
        bytes_max: 10_000,
        frame_bytes: 4000,
        message_bytes_max: 8000,
        sign_of_life: Duration::from_secs(60),
    };
    let queue = Arc::new(queue::Queue::new(bounds, stats.clone()));
    let _frames = queue.connected(Default::default());
    queue.push((0..150).map(|round| heartbeat(1, 2, round)));
    assert_eq!(stats.totals().dropped_full, 50);
    queue.disconnected();
    assert_eq!(stats.totals().dropped_down, 36);
    let _frames = queue.connected(Default::default());
    queue.push([append(9000), append(7000)]);
    assert_eq!(stats.totals().dropped_too_large, 1);
    assert_eq!(stats.totals().dropped_full, 51, "64 heartbeats and 7000 bytes are over 10000");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_gone_until_it_is_heard_again() {
    let mut listens = node_with(1, 1, Duration::from_millis(100)).await;
    // Its signs of life come every few minutes: its connections stand, and it is silent.
    let silent = node_with(1, 2, Duration::from_secs(3600)).await;
    listens.knows(&silent);
    silent.knows(&listens);
    for round in 0..3 {
        silent.links.send(NodeId(1), vec![heartbeat(2, 1, round)]);
        listens.hears_alive(true).await;
        listens.hears_alive(false).await;
    }
    assert_eq!(listens.links.stats().totals().connects, 1, "no connection was lost");
    // The other one is told of by the signs alone.
    assert!(listens.links.stats().totals().frames_sent == 0, "nothing but signs was sent");
    let mut silent = silent;
    silent.hears_alive(true).await;
    for node in [listens, silent] {
        node.links.stop().await;
        node.server.abort();
    }
}
