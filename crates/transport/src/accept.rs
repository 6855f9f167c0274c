//! Accepting connections so that idle, slow and foreign ones stay cheap and harmless.
//!
//! A connection is counted from its first moment to its last; beyond the limit it is closed at
//! once. It is handed to the server only when its first bytes look like HTTP/2, or, where that is
//! served, like a GET of HTTP/1: who connects and says nothing, or something else, is hung up on
//! after a while and costs a socket until then.
//!
//! What a connection writes in small pieces leaves when it is flushed, or with the next large one:
//! an answer of HTTP/2 is several frames, and those of many answers make one packet.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How every HTTP/2 connection begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a question of HTTP/1 begins.
const GET: &[u8] = b"GET ";
/// How long a connection by HTTP/1 may live: who asks for longer connects again.
const GET_LIFE_MAX: Duration = Duration::from_secs(60);
/// When first words that came in part are looked at again.
const PEEK_AGAIN: Duration = Duration::from_millis(20);

/// A piece that is written by itself.
const LARGE: usize = 4 << 10;
/// Bytes that wait for a flush at most.
const HELD_MAX: usize = 16 << 10;

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

/// What a connection said first.
enum Begun {
    /// HTTP/2: from here on keep-alive sees who is silent.
    Http2,
    /// GET by HTTP/1.
    Get,
    /// Too little to tell.
    Something,
}

impl Spoken {
    /// What these first bytes begin; `None` for what is not spoken.
    fn begun_by(self, bytes: &[u8]) -> Option<Begun> {
        let gets = self == Self::Http2AndGet;
        if PREFACE == bytes {
            return Some(Begun::Http2);
        }
        if gets && bytes.starts_with(GET) {
            return Some(Begun::Get);
        }
        let may_be = PREFACE.starts_with(bytes) || (gets && GET.starts_with(bytes));
        (may_be && !bytes.is_empty()).then_some(Begun::Something)
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
    /// What was written and not yet sent.
    held: BytesMut,
    /// When a connection that no keep-alive watches is hung up on.
    ends: Option<Pin<Box<Sleep>>>,
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
            let greeted = tokio::time::timeout(limits.greeting_timeout, greeting).await;
            if let Ok(Ok(is_get)) = greeted {
                let ends = is_get.then(|| Box::pin(tokio::time::sleep(GET_LIFE_MAX)));
                let _ = tx.send(Ok(Accepted::new(stream, ends, permit))).await;
            }
        });
    }
}

/// Ready when the first words have come whole and are those of a protocol that is spoken; they stay
/// unread. True for a GET by HTTP/1.
async fn greeting(stream: &TcpStream, spoken: Spoken) -> io::Result<bool> {
    stream.set_nodelay(true)?;
    let mut first = [0; PREFACE.len()];
    loop {
        let n = stream.peek(&mut first).await?;
        match spoken.begun_by(&first[..n]) {
            Some(Begun::Http2) => return Ok(false),
            Some(Begun::Get) => return Ok(true),
            // A socket with unread bytes is always ready: there is nothing else to wait for.
            Some(Begun::Something) => tokio::time::sleep(PEEK_AGAIN).await,
            None => {
                let text = "not an HTTP/2 connection";
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
    }
}

impl Accepted {
    fn new(stream: TcpStream, ends: Option<Pin<Box<Sleep>>>, permit: OwnedSemaphorePermit) -> Self {
        Self { stream, held: BytesMut::new(), ends, _permit: permit }
    }

    /// Whether it began with a GET by HTTP/1; else it began as HTTP/2 does.
    #[must_use]
    pub fn began_with_get(&self) -> bool {
        self.ends.is_some()
    }

    /// Sends what is held.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held))?;
            self.sent(sent)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Forgets what was sent of what is held.
    fn sent(&mut self, sent: usize) -> io::Result<()> {
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.held.advance(sent);
        Ok(())
    }
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
        if let Some(ends) = &mut self.ends
            && ends.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        piece: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if piece.len() < LARGE && this.held.len() + piece.len() <= HELD_MAX {
            this.held.extend_from_slice(piece);
            return Poll::Ready(Ok(piece.len()));
        }
        while !this.held.is_empty() {
            let both = [io::IoSlice::new(&this.held), io::IoSlice::new(piece)];
            let sent = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, &both))?;
            if let Some(of_piece) = sent.checked_sub(this.held.len())
                && of_piece > 0
            {
                this.held.clear();
                return Poll::Ready(Ok(of_piece));
            }
            this.sent(sent)?;
        }
        Pin::new(&mut this.stream).poll_write(cx, piece)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// HTTP/2 then puts small frames together itself instead of sending each.
    fn is_write_vectored(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::StreamExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn only_whole_first_words_are_handed_on_and_the_rest_is_hung_up_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let greeting_timeout = Duration::from_millis(200);
        let spoken = Spoken::Http2AndGet;
        let limits = AcceptLimits { greeting_timeout, spoken, ..AcceptLimits::default() };
        let mut incoming = std::pin::pin!(accept(listener, limits));
        let mut strangers = Vec::new();
        for says in [&b""[..], &PREFACE[..10], b"GE", b"POST / HTTP/1.1\r\n"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(says).await.unwrap();
            strangers.push(stream);
        }
        // Words that come in two parts are words.
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(&PREFACE[..10]).await.unwrap();
        slow.flush().await.unwrap();
        slow.write_all(&PREFACE[10..]).await.unwrap();
        let first = tokio::time::timeout(LONG, incoming.next()).await.unwrap().unwrap().unwrap();
        assert!(!first.began_with_get());
        assert!(first.ends.is_none(), "HTTP/2 has its keep-alive");
        let mut getter = TcpStream::connect(address).await.unwrap();
        getter.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
        let second = tokio::time::timeout(LONG, incoming.next()).await.unwrap().unwrap().unwrap();
        assert!(second.began_with_get());
        assert!(second.ends.is_some(), "HTTP/1 has an end");
        for mut stranger in strangers {
            let read = tokio::time::timeout(LONG, stranger.read(&mut [0; 8])).await;
            // A reset is as good as an end.
            assert!(matches!(read.unwrap(), Ok(0) | Err(_)), "it was hung up on");
        }
    }

    async fn pair() -> (Accepted, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        (Accepted::new(near, None, permit), far)
    }

    #[tokio::test]
    async fn small_pieces_leave_together_when_they_are_flushed_or_with_a_large_one() {
        let (mut near, mut far) = pair().await;
        near.write_all(b"one ").await.unwrap();
        near.write_all(b"two").await.unwrap();
        let none = far.try_read(&mut [0; 8]).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock, "nothing was flushed");
        near.flush().await.unwrap();
        let mut heard = [0; 7];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"one two");
        near.write_all(b"head").await.unwrap();
        near.write_all(&[7; LARGE]).await.unwrap();
        let mut heard = [0; LARGE + 4];
        tokio::time::timeout(LONG, far.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!((&heard[..4], &heard[4..]), (&b"head"[..], &[7; LARGE][..]));
    }

    #[tokio::test]
    async fn whatever_the_sizes_and_however_slow_the_reader_all_arrives_in_order() {
        let (mut near, mut far) = pair().await;
        let mut rng = atoll_base::Rng::new(7);
        let sizes: Vec<usize> = (0..400)
            .map(|_| match rng.below(3) {
                0 => rng.below(40),
                1 => rng.below(2 * LARGE as u64),
                _ => rng.below(200_000),
            })
            .map(|size| size as usize + 1)
            .collect();
        let all: usize = sizes.iter().sum();
        let bytes = |at: usize| (at % 251) as u8;
        let write = async {
            let mut at = 0;
            for (turn, size) in sizes.iter().enumerate() {
                let piece: Vec<u8> = (at..at + size).map(bytes).collect();
                near.write_all(&piece).await.unwrap();
                at += size;
                if turn % 7 == 0 {
                    near.flush().await.unwrap();
                }
            }
            near.shutdown().await.unwrap();
        };
        let read = async {
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let ((), heard) =
            tokio::time::timeout(LONG, async { tokio::join!(write, read) }).await.unwrap();
        assert_eq!(heard.len(), all);
        assert!(heard.iter().enumerate().all(|(at, byte)| *byte == bytes(at)));
    }
}
