//! The hearing side: the service that peers call.

use std::sync::Arc;

use atoll_base::NodeId;
use atoll_replica::{PeerBody, PeerMessage};
use atoll_wire::peer::{FORMAT, decode};
use atoll_wire::peer_v1::{Delivered, FoundingReply, FoundingRequest, Hello, PeerFrame};
use tonic::{Request, Response, Status, Streaming};

use super::founding::IsNew;
use super::outbound::{Links, Liveness};
use super::stats::add;
use crate::stub::peer_v1::peer_server;

/// Hears what peers say and hands it to the node's [`PeerSink`](super::PeerSink).
#[derive(Clone)]
pub struct Receiver {
    links: Arc<Links>,
    is_new: Option<IsNew>,
}

impl Receiver {
    /// Hears for the node of these links.
    #[must_use]
    pub fn new(links: Arc<Links>) -> Self {
        Self { links, is_new: None }
    }

    /// Tells founders that ask whether this node has anything of the cluster.
    #[must_use]
    pub fn telling(mut self, is_new: IsNew) -> Self {
        self.is_new = Some(is_new);
        self
    }

    /// The gRPC service, with the links' size limits.
    #[must_use]
    pub fn service(self) -> peer_server::PeerServer<Self> {
        let bytes_max = self.links.settings().wire.message_bytes_max;
        peer_server::PeerServer::new(self).max_decoding_message_size(bytes_max)
    }

    /// Hears a stream of consensus, which is never silent for long while the peer lives.
    async fn hear_alive(
        &self,
        frames: &mut Streaming<PeerFrame>,
        from: NodeId,
    ) -> Result<(), Status> {
        let mut opened = Opened::new(self.links.liveness().clone(), from);
        let silence_max = self.links.settings().silence_max;
        loop {
            let waits = tokio::time::timeout(silence_max, frames.message());
            let frame = match waits.await {
                Ok(frame) => frame?,
                Err(_) => {
                    opened.is_silent();
                    frames.message().await?
                }
            };
            let Some(frame) = frame else { return Ok(()) };
            opened.is_heard();
            self.take(frame, from)?;
        }
    }

    async fn hear(&self, frames: &mut Streaming<PeerFrame>, from: NodeId) -> Result<(), Status> {
        while let Some(frame) = frames.message().await? {
            self.take(frame, from)?;
        }
        Ok(())
    }

    fn take(&self, frame: PeerFrame, from: NodeId) -> Result<(), Status> {
        let stats = self.links.stats();
        add(&stats.frames_received, 1);
        add(&stats.messages_received, frame.messages.len());
        let mut messages = Vec::with_capacity(frame.messages.len());
        for message in frame.messages {
            match decode(message) {
                Ok(message) => messages.push(checked(message, from)?),
                Err(error) => {
                    // A newer peer's message: the rest of the frame is still good.
                    add(&stats.unreadable, 1);
                    tracing::debug!(peer = %from, %error, "a message from a peer was skipped");
                }
            }
        }
        if !messages.is_empty() {
            self.links.liveness().sink().deliver(from, messages);
        }
        Ok(())
    }

    async fn greet(&self, frames: &mut Streaming<PeerFrame>) -> Result<NodeId, Status> {
        let first = frames.message().await?;
        let hello = first
            .and_then(|frame| frame.hello)
            .ok_or_else(|| Status::invalid_argument("the first frame of a peer has no hello"))?;
        self.check(hello)
    }

    /// L3: who may speak.
    fn check(&self, hello: Hello) -> Result<NodeId, Status> {
        let us = self.links.identity();
        if hello.format != FORMAT {
            return Err(Status::failed_precondition(format!(
                "peer link refused: node {} speaks format {}, node {} speaks format {FORMAT}",
                hello.from, hello.format, us.node
            )));
        }
        if hello.cluster != us.cluster {
            return Err(Status::failed_precondition(format!(
                "peer link refused: node {} belongs to cluster {:016x}, node {} to cluster {:016x} \
                 (the bootstrap lists differ, or a data folder of another cluster is in use)",
                hello.from, hello.cluster, us.node, us.cluster
            )));
        }
        if hello.to != us.node.0 {
            return Err(Status::failed_precondition(format!(
                "peer link refused: node {} looked for node {} at the address of node {}",
                hello.from, hello.to, us.node
            )));
        }
        let from = NodeId(hello.from);
        if !self.links.knows(from) {
            return Err(Status::failed_precondition(format!(
                "peer link refused: node {from} is not a member that node {} knows",
                us.node
            )));
        }
        Ok(from)
    }
}

/// A consensus message names its sender itself; it must be the node that said hello.
fn checked(message: PeerMessage, from: NodeId) -> Result<PeerMessage, Status> {
    if let PeerBody::Raft(raft) = &message.body
        && raft.from != from
    {
        return Err(Status::invalid_argument(format!(
            "message for shard {} came from node {from} but names node {} as its sender",
            message.shard, raft.from
        )));
    }
    Ok(message)
}

/// Counts an open stream of a peer for as long as it exists and is not silent.
struct Opened {
    alive: Arc<Liveness>,
    node: NodeId,
    counts: bool,
}

impl Opened {
    fn new(alive: Arc<Liveness>, node: NodeId) -> Self {
        alive.inbound_opened(node);
        Self { alive, node, counts: true }
    }

    fn is_silent(&mut self) {
        if std::mem::replace(&mut self.counts, false) {
            self.alive.inbound_closed(self.node);
        }
    }

    fn is_heard(&mut self) {
        if !std::mem::replace(&mut self.counts, true) {
            self.alive.inbound_opened(self.node);
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.is_silent();
    }
}

#[tonic::async_trait]
impl peer_server::Peer for Receiver {
    async fn deliver(
        &self,
        request: Request<Streaming<PeerFrame>>,
    ) -> Result<Response<Delivered>, Status> {
        let mut frames = request.into_inner();
        let from = self.greet(&mut frames).await?;
        self.hear_alive(&mut frames, from).await?;
        Ok(Response::new(Delivered {}))
    }

    async fn deliver_bulk(
        &self,
        request: Request<Streaming<PeerFrame>>,
    ) -> Result<Response<Delivered>, Status> {
        let mut frames = request.into_inner();
        let from = self.greet(&mut frames).await?;
        self.hear(&mut frames, from).await?;
        Ok(Response::new(Delivered {}))
    }

    async fn founding(
        &self,
        request: Request<FoundingRequest>,
    ) -> Result<Response<FoundingReply>, Status> {
        let us = self.links.identity();
        let FoundingRequest { cluster, from } = request.into_inner();
        if cluster != us.cluster {
            return Err(Status::failed_precondition(format!(
                "node {from} belongs to cluster {cluster:016x}, node {} to cluster {:016x}",
                us.node, us.cluster
            )));
        }
        let Some(is_new) = &self.is_new else {
            return Err(Status::unimplemented("this node founds nothing"));
        };
        Ok(Response::new(FoundingReply { cluster, is_new: is_new().await }))
    }
}
