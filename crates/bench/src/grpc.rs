//! A gRPC client that costs little, for all that is driven over etcd's API.
//!
//! Load and servers share a machine, so what a client takes is missing where it is to be measured.
//! This one has no layers between a call and its stream of HTTP/2: a call is a head that was built
//! once, one piece with the message in it, and an answer that is decoded where it lies. One task
//! drives a connection; requests of all callers that were woken together leave in one packet, and
//! so do the returns of flow control. A connection that breaks, or on which nothing is heard for
//! long, ends with its calls; the next call opens another.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep};
use tonic::codegen::http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use tonic::{Code, Status};

/// How long opening a connection may take, and how long nothing may be heard on one that is used. A
/// timer for each call took some hundredths of what the call takes.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Bytes that may be on their way to us on one stream, and on all of a connection.
const WINDOW_BYTES: u32 = 2 << 20;
const WINDOW_BYTES_ALL: u32 = 16 << 20;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// The largest message that is taken.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A connection to a server on this machine. Clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    port: u16,
    open: Arc<Mutex<Open>>,
}

struct Open {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The head of all requests for one method.
#[derive(Clone)]
pub(crate) struct Call {
    head: Request<()>,
}

impl Call {
    /// The head for a method on a port: `path` is `/package.Service/Method`.
    pub(crate) fn new(port: u16, path: &'static str) -> Result<Self> {
        let uri: Uri = format!("http://127.0.0.1:{port}{path}").parse()?;
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = uri;
        let grpc = HeaderValue::from_static("application/grpc");
        head.headers_mut().insert(header::CONTENT_TYPE, grpc);
        head.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        Ok(Self { head })
    }
}

impl Connection {
    /// Opens a connection.
    pub(crate) async fn open(port: u16) -> Result<Self> {
        Ok(Self { port, open: Arc::new(Mutex::new(Open::new(port).await?)) })
    }

    /// One message there, one back. Fails with a [`Status`] where the server refuses. Cancel safe:
    /// the server is told.
    pub(crate) async fn unary<A: Message + Default>(
        &self,
        call: &Call,
        message: &impl Message,
    ) -> Result<A> {
        let (mut stream, response) = self.begin(call).await?;
        stream.send_data(framed(message), true)?;
        let mut answers = Answers::to(response, stream).await?;
        let answer = answers.next().await?.context("a call was answered with no message")?;
        ensure!(answers.next::<A>().await?.is_none(), "a call was answered twice");
        Ok(answer)
    }

    /// Sends all messages and leaves the stream open; returns what comes back as long as it does.
    pub(crate) async fn stream(
        &self,
        call: &Call,
        messages: impl Iterator<Item = impl Message>,
    ) -> Result<Answers> {
        let (mut stream, response) = self.begin(call).await?;
        for message in messages {
            stream.send_data(framed(&message), false)?;
        }
        Answers::to(response, stream).await
    }

    async fn begin(&self, call: &Call) -> Result<(SendStream<Bytes>, ResponseFuture)> {
        // A handle that asked for nothing yet need not wait for its turn.
        let mut sender = self.sender().await?;
        let (response, stream) = sender.send_request(call.head.clone(), false)?;
        Ok((stream, response))
    }

    async fn sender(&self) -> Result<SendRequest<Bytes>> {
        let mut open = self.open.lock().await;
        if open.driver.is_finished() {
            *open = Open::new(self.port).await?;
        }
        Ok(open.sender.clone())
    }
}

impl Open {
    async fn new(port: u16) -> Result<Self> {
        let opened = async {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            let builder = h2::client::Builder::new()
                .initial_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES_ALL)
                .enable_push(false)
                .handshake(Plain::new(stream, SILENCE_MAX));
            Ok::<_, anyhow::Error>(builder.await?)
        };
        let opened = tokio::time::timeout(SILENCE_MAX, opened).await;
        let (sender, connection) = opened.context("a connection took too long to open")??;
        let driver = tokio::spawn(async move {
            // The calls that were under way are told of what went wrong.
            let _ = connection.await;
        });
        Ok(Self { sender, driver })
    }
}

/// What comes back on one stream.
pub(crate) struct Answers {
    body: RecvStream,
    /// What came and was not taken yet.
    held: Bytes,
    /// Dropped before its end, it ends the stream.
    _requests: SendStream<Bytes>,
}

impl Answers {
    async fn to(response: ResponseFuture, requests: SendStream<Bytes>) -> Result<Self> {
        let (head, body) = response.await?.into_parts();
        ensure!(head.status.is_success(), "a call was answered with HTTP status {}", head.status);
        if head.headers.contains_key(Status::GRPC_STATUS) {
            succeeded(&head.headers)?;
        }
        Ok(Self { body, held: Bytes::new(), _requests: requests })
    }

    /// The next message; `None` once all came and the server says that all is well.
    pub(crate) async fn next<A: Message + Default>(&mut self) -> Result<Option<A>> {
        if !self.hold(PREFIX).await? {
            ensure!(self.held.is_empty(), "an answer breaks off after {} bytes", self.held.len());
            let trailers = self.body.trailers().await?;
            succeeded(&trailers.context("a call ended without a status")?)?;
            return Ok(None);
        }
        let is_compressed = self.held.get_u8() != 0;
        let length = self.held.get_u32() as usize;
        ensure!(!is_compressed, "an answer is compressed, which nobody asked for");
        ensure!(length <= MESSAGE_BYTES_MAX, "a message of {length} bytes: {MESSAGE_BYTES_MAX}");
        ensure!(self.hold(length).await?, "an answer of {length} bytes breaks off");
        Ok(Some(A::decode(self.held.split_to(length))?))
    }

    /// Takes from the stream until so many bytes are held; false when it ends before.
    async fn hold(&mut self, length: usize) -> Result<bool> {
        if self.held.len() >= length {
            return Ok(true);
        }
        if self.held.is_empty() {
            let Some(piece) = self.piece().await? else { return Ok(false) };
            self.held = piece;
        }
        if self.held.len() >= length {
            return Ok(true);
        }
        let mut whole = BytesMut::with_capacity(length);
        whole.extend_from_slice(&self.held);
        let mut is_enough = false;
        while !is_enough && let Some(piece) = self.piece().await? {
            whole.extend_from_slice(&piece);
            is_enough = whole.len() >= length;
        }
        self.held = whole.freeze();
        Ok(is_enough)
    }

    /// The next bytes, of which there are some.
    async fn piece(&mut self) -> Result<Option<Bytes>> {
        while let Some(piece) = self.body.data().await {
            let piece = piece?;
            if !piece.is_empty() {
                self.body.flow_control().release_capacity(piece.len())?;
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

/// Whether a call that ended so is a success.
fn succeeded(trailers: &HeaderMap) -> Result<()> {
    if trailers.get(Status::GRPC_STATUS).is_some_and(|status| status == "0") {
        return Ok(());
    }
    match Status::from_header_map(trailers) {
        Some(status) if status.code() == Code::Ok => Ok(()),
        Some(status) => Err(status.into()),
        None => bail!("a call ended without a status"),
    }
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("requests have far less than 4 GiB"));
    message.encode(&mut bytes).expect("there is room for the length that it said");
    bytes.freeze()
}

/// A stream that says of itself that it takes one piece at a time: HTTP/2 then puts frames of up to
/// a kilobyte together instead of sending each. Reading fails when for too long nothing came and
/// nothing was sent.
struct Plain {
    stream: TcpStream,
    silence_max: Duration,
    look_at: Pin<Box<Sleep>>,
    /// Something came or was sent since that was set.
    is_used: bool,
}

impl Plain {
    fn new(stream: TcpStream, silence_max: Duration) -> Self {
        Self { stream, silence_max, look_at: Box::pin(sleep(silence_max)), is_used: false }
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.is_used |= read.is_ready();
        while read.is_pending() && self.look_at.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.is_used) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let next = Instant::now() + self.silence_max;
            self.look_at.as_mut().reset(next);
        }
        read
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        piece: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Who asks now is not to pay for the silence before.
        self.is_used = true;
        Pin::new(&mut self.stream).poll_write(cx, piece)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
