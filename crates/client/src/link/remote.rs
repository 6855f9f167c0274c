//! A node over the network: one bidirectional stream that carries frames of calls and of answers.

use std::sync::Arc;
use std::time::Duration;

use atoll_base::{Code, Failure, Time};
use atoll_coord::{Origin, Request};
use atoll_transport::call::{decode_answer, encode_call};
use atoll_transport::limits::{MESSAGE_BYTES_MAX, WireLimits};
use atoll_transport::status::from_status;
use atoll_transport::stub::v1::admin_client::AdminClient;
use atoll_transport::stub::v1::session_client::SessionClient;
use atoll_wire::v1::{ClientFrame, ClusterStatusRequest, ServerFrame};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::{AnswerSource, BoxFuture, Call, CallSink, Connection, Link, Links, Reply};
use crate::facts::NodeFacts;

/// Frames that may wait for the stream's window. Few: what waits in the session is batched, what
/// waits here is not.
const FRAMES_QUEUED: usize = 2;
/// A frame is closed once it holds so many bytes.
const FRAME_BYTES: usize = 1 << 20;
/// Bytes of a frame around one call.
const CALL_OVERHEAD: usize = 16;

/// Knows nodes by `host:port`.
pub struct RemoteLinks {
    limits: WireLimits,
}

impl RemoteLinks {
    /// Links whose messages have at most `message_bytes_max` bytes and whose connections are given
    /// up after `connect_timeout`.
    #[must_use]
    pub fn new(message_bytes_max: usize, connect_timeout: Duration) -> Self {
        Self { limits: WireLimits { message_bytes_max, connect_timeout, ..WireLimits::default() } }
    }
}

impl Links for RemoteLinks {
    fn link(&self, address: &str) -> Result<Arc<dyn Link>, Failure> {
        let endpoint = self.limits.endpoint(address).map_err(|error| {
            let text = format!("\"{address}\" is not an address of a node (host:port): {error}");
            Failure::new(Code::InvalidArgument, text)
        })?;
        Ok(Arc::new(RemoteLink { endpoint, limits: self.limits }))
    }

    fn facts<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<NodeFacts, Failure>> {
        Box::pin(async move {
            let unreachable =
                |e: tonic::transport::Error| Failure::new(Code::Unreachable, root_cause(&e));
            let endpoint = self.limits.endpoint(address).map_err(unreachable)?;
            let channel = endpoint.connect().await.map_err(unreachable)?;
            let asked =
                AdminClient::new(channel).cluster_status(ClusterStatusRequest { all: false }).await;
            let status = asked.map_err(|status| from_status(&status))?.into_inner();
            let own = status.nodes.into_iter().next().ok_or_else(|| {
                Failure::new(Code::Internal, format!("node at {address} said nothing of itself"))
            })?;
            Ok(NodeFacts {
                version: own.version,
                uptime: Duration::from_millis(own.uptime_ms),
                disk_used_bytes: own.disk_used_bytes,
                disk_free_bytes: own.disk_free_bytes,
                memory_bytes: own.memory_bytes,
            })
        })
    }
}

/// Calls one node over the network.
pub struct RemoteLink {
    endpoint: Endpoint,
    limits: WireLimits,
}

impl Link for RemoteLink {
    fn connect(&self) -> BoxFuture<'_, Result<Connection, Failure>> {
        Box::pin(async {
            let channel = self.endpoint.connect().await.map_err(|error| {
                Failure::new(Code::Unreachable, format!("connect failed: {}", root_cause(&error)))
            })?;
            let bytes_max = self.limits.message_bytes_max;
            let mut client = SessionClient::new(channel)
                .max_decoding_message_size(bytes_max)
                .max_encoding_message_size(bytes_max);
            let (frames, receiver) = mpsc::channel(FRAMES_QUEUED);
            let opened = client.open(ReceiverStream::new(receiver)).await;
            let opened = opened.map_err(|status| from_status(&status))?;
            let theirs = opened.metadata().get(MESSAGE_BYTES_MAX).and_then(|v| v.to_str().ok());
            let theirs = theirs.and_then(|v| v.parse().ok()).unwrap_or(usize::MAX);
            let stream = opened.into_inner();
            let bytes_max = bytes_max.min(theirs);
            let calls = RemoteCalls { frames, bytes_max, started: Instant::now() };
            Ok(Connection { calls: Box::new(calls), answers: Box::new(RemoteAnswers { stream }) })
        })
    }
}

/// The innermost reason, which says more than the layers above it.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

struct RemoteCalls {
    frames: mpsc::Sender<ClientFrame>,
    bytes_max: usize,
    /// Zero of the clock on which deadlines are encoded.
    started: Instant,
}

impl RemoteCalls {
    /// The call's bytes, or why it cannot be sent.
    fn encode(&self, call: Call, now: Time) -> Result<Bytes, Failure> {
        let deadline = call.deadline.saturating_duration_since(self.started);
        let request = Request {
            origin: Origin(0),
            id: call.id,
            shard: call.shard,
            epoch: call.epoch,
            deadline: Time::ZERO.after(deadline),
            body: call.body,
        };
        let wire = encode_call(request, now)?.encode_to_vec();
        let bytes = wire.len() + CALL_OVERHEAD;
        if bytes > self.bytes_max {
            let max = self.bytes_max;
            let text = format!("the call has {bytes} bytes, the limit of a message is {max}");
            return Err(Failure::new(Code::TooLarge, text));
        }
        Ok(wire.into())
    }

    async fn send_frame(&self, calls: Vec<Bytes>) -> Result<(), Failure> {
        let closed = |_| Failure::new(Code::Indeterminate, "the stream was closed");
        self.frames.send(ClientFrame { calls }).await.map_err(closed)
    }
}

impl CallSink for RemoteCalls {
    fn send<'a>(
        &'a mut self,
        calls: &'a mut Vec<Call>,
        refused: &'a mut Vec<Reply>,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let now = Time::ZERO.after(self.started.elapsed());
            let frame_max = FRAME_BYTES.min(self.bytes_max);
            let (mut frame, mut size) = (Vec::with_capacity(calls.len()), 0);
            for call in calls.drain(..) {
                let id = call.id;
                let wire = match self.encode(call, now) {
                    Ok(wire) => wire,
                    Err(failure) => {
                        refused.push((id, Err(failure)));
                        continue;
                    }
                };
                let bytes = wire.len() + CALL_OVERHEAD;
                if size + bytes > frame_max && !frame.is_empty() {
                    self.send_frame(std::mem::take(&mut frame)).await?;
                    size = 0;
                }
                size += bytes;
                frame.push(wire);
            }
            if !frame.is_empty() {
                self.send_frame(frame).await?;
            }
            Ok(())
        })
    }
}

struct RemoteAnswers {
    stream: Streaming<ServerFrame>,
}

impl AnswerSource for RemoteAnswers {
    fn receive<'a>(&'a mut self, out: &'a mut Vec<Reply>) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let frame = self.stream.message().await.map_err(|status| from_status(&status))?;
            let closed = || Failure::new(Code::Indeterminate, "the node closed the connection");
            out.extend(frame.ok_or_else(closed)?.answers.into_iter().map(decode_answer));
            Ok(())
        })
    }
}
