//! Accepting connections so that idle, slow and foreign ones stay cheap and harmless.
//!
//! A connection is counted from its first moment to its last; beyond the limit it is closed at
//! once. It is handed to the server only when its first bytes look like HTTP/2, or, where that is
//! served, like a GET of HTTP/1: who connects and says nothing, or something else, is hung up on
//! after a while and costs a socket until then.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How every HTTP/2 connection begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a question of HTTP/1 begins.
const GET: &[u8] = b"GET ";

/// Bounds of one listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcceptLimits {
    /// Connections at a time.
    pub connections_max: usize,
    /// How long a connection may take to say its first words.
    pub greeting_timeout: Duration,
    /// What those may be.
    pub spoken: Spoken,
}

/// The protocols that a listener takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spoken {
    /// HTTP/2 alone.
    Http2,
    /// HTTP/2, and GET by HTTP/1.
    Http2AndGet,
}

impl Spoken {
    fn may_begin(self, bytes: &[u8]) -> bool {
        PREFACE.starts_with(bytes) || (self == Self::Http2AndGet && GET.starts_with(bytes))
    }
}

impl Default for AcceptLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            greeting_timeout: Duration::from_secs(10),
            spoken: Spoken::Http2,
        }
    }
}

/// A connection that counts until it is dropped.
#[derive(Debug)]
pub struct Accepted {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

/// Connections of a listener, for `serve_with_incoming`. Ends when dropped.
pub fn accept(
    listener: TcpListener,
    limits: AcceptLimits,
) -> impl Stream<Item = io::Result<Accepted>> + Send + 'static {
    let (tx, rx) = mpsc::channel(64);
    tokio::spawn(accept_all(listener, limits, tx));
    ReceiverStream::new(rx)
}

async fn accept_all(
    listener: TcpListener,
    limits: AcceptLimits,
    tx: mpsc::Sender<io::Result<Accepted>>,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let mut is_full = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tx.closed() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or the connection is gone already: others may still come.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Ok(permit) = places.clone().try_acquire_owned() else {
            if !is_full {
                let limit = limits.connections_max;
                tracing::warn!(limit, "connections are refused: the limit is reached");
            }
            is_full = true;
            continue;
        };
        is_full = false;
        let tx = tx.clone();
        tokio::spawn(async move {
            let greeting = greeting(&stream, limits.spoken);
            if let Ok(Ok(())) = tokio::time::timeout(limits.greeting_timeout, greeting).await {
                let _ = tx.send(Ok(Accepted { stream, _permit: permit })).await;
            }
        });
    }
}

/// Ready when the first bytes have come and are those of a protocol that is spoken; they stay
/// unread.
async fn greeting(stream: &TcpStream, spoken: Spoken) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0; 4];
    let n = stream.peek(&mut first).await?;
    if n == 0 || !spoken.may_begin(&first[..n]) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not an HTTP/2 connection"));
    }
    Ok(())
}

impl Connected for Accepted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
