//! One connection by HTTP/2, from its first frame to its last.
//!
//! One task drives the connection and, where it can, answers: reads of etcd's KV (`etcd::reads`)
//! are taken from the frames that came together, handed over together, and their answers leave
//! together. Every other call is a task of its own (`etcd::stream`).
//!
//! A connection that says nothing is asked for a sign of life, and dropped without one. Whatever is
//! heard is one, so that who reads slowly and says so is not taken for gone.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use atoll_transport::Accepted;
use atoll_transport::limits::WireLimits;
use bytes::Bytes;
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::etcd::direct::Direct;
use super::etcd::reads::Reads;
use super::etcd::stream;

/// The largest head of a request.
const HEAD_BYTES_MAX: u32 = 16 << 10;
/// Bytes of answers that a stream holds before its body is asked for no more.
const SEND_BYTES_MAX: usize = 400 << 10;
/// Streams that one peer may make us end for its mistakes before the connection ends.
const MISTAKES_MAX: usize = 1024;

/// Serves a connection until it ends; when told to stop, until what is under way is answered.
pub(super) async fn serve(
    accepted: Accepted,
    service: Direct,
    limits: &WireLimits,
    stop: watch::Receiver<bool>,
) {
    let heard = Arc::new(AtomicBool::new(true));
    let io = Heard { stream: accepted, heard: heard.clone() };
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.window_bytes)
        .initial_connection_window_size(limits.window_bytes.saturating_mul(2))
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_send_buffer_size(SEND_BYTES_MAX)
        .max_local_error_reset_streams(Some(MISTAKES_MAX));
    // Its first words were seen already.
    let Ok(mut http) = builder.handshake::<_, Bytes>(io).await else { return };
    let Some(ping) = http.ping_pong() else { return };
    let pulse = Pulse::new(ping, heard, limits);
    let mut connection = Connection { http, pulse, reads: Reads::new(&service), service };
    let mut stopped = pin!(super::stopped(stop));
    let mut is_stopping = false;
    std::future::poll_fn(|cx| {
        if !is_stopping && stopped.as_mut().poll(cx).is_ready() {
            is_stopping = true;
            connection.http.graceful_shutdown();
        }
        connection.poll(cx)
    })
    .await;
}

struct Connection {
    http: h2::server::Connection<Heard<Accepted>, Bytes>,
    pulse: Pulse,
    service: Direct,
    reads: Reads,
}

impl Connection {
    /// Ready when it has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.pulse.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            // Takes what came, and sends what is to be sent.
            loop {
                match self.http.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        let (head, body) = request.into_parts();
                        let asked = stream::Asked { head, body: body.into(), respond };
                        if let Some(asked) = self.reads.begin(asked, cx) {
                            stream::spawn(&self.service, asked);
                        }
                    }
                    // Strangers talk nonsense and hang up; that is no news.
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            if self.reads.poll(&self.service, cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// Signs of life.
struct Pulse {
    ping: PingPong,
    heard: Arc<AtomicBool>,
    next: Pin<Box<Sleep>>,
    interval: Duration,
    timeout: Duration,
    /// It was asked for a sign.
    is_asked: bool,
}

impl Pulse {
    fn new(ping: PingPong, heard: Arc<AtomicBool>, limits: &WireLimits) -> Self {
        let (interval, timeout) = (limits.keepalive_interval, limits.keepalive_timeout);
        let next = Box::pin(tokio::time::sleep(interval));
        Self { ping, heard, next, interval, timeout, is_asked: false }
    }

    /// Ready when there is no life.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_asked && self.heard.swap(false, Relaxed) {
            self.is_asked = false;
            self.next.as_mut().reset(Instant::now() + self.interval);
        }
        while self.next.as_mut().poll(cx).is_ready() {
            let pause = if self.heard.swap(false, Relaxed) {
                self.interval
            } else if self.is_asked {
                return Poll::Ready(());
            } else {
                // The answer to the one before makes room for this; without one it still stands.
                let _ = self.ping.poll_pong(cx);
                let _ = self.ping.send_ping(Ping::opaque());
                self.is_asked = true;
                self.timeout
            };
            self.next.as_mut().reset(Instant::now() + pause);
        }
        Poll::Pending
    }
}

/// A connection that says whether something was heard.
struct Heard<T> {
    stream: T,
    heard: Arc<AtomicBool>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Heard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.store(true, Relaxed);
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Heard<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        piece: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, piece)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    const SOON: Duration = Duration::from_millis(5);
    /// Types of frames, a flag, and the length of a frame's head (RFC 9113).
    const PING: u8 = 6;
    const ACK: u8 = 1;
    const FRAME_HEAD: usize = 9;

    /// The near end of a connection that is watched for life, until there is none.
    async fn watched(near: DuplexStream, timeout: Duration) {
        let heard = Arc::new(AtomicBool::new(false));
        let io = Heard { stream: near, heard: heard.clone() };
        let mut http = h2::server::handshake(io).await.unwrap();
        let limits = WireLimits {
            keepalive_interval: SOON,
            keepalive_timeout: timeout,
            ..WireLimits::default()
        };
        let mut pulse = Pulse::new(http.ping_pong().unwrap(), heard, &limits);
        std::future::poll_fn(|cx| {
            assert!(!matches!(http.poll_accept(cx), Poll::Ready(Some(Ok(_)))), "nothing is asked");
            pulse.poll(cx)
        })
        .await;
    }

    async fn greet(far: &mut DuplexStream) {
        far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    }

    #[tokio::test]
    async fn who_answers_lives_and_is_asked_again() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let watched = tokio::spawn(watched(near, LONG));
        let answered = async {
            greet(&mut far).await;
            let mut pings = 0;
            while pings < 3 {
                let mut head = [0; FRAME_HEAD];
                far.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; usize::from(head[2])];
                far.read_exact(&mut payload).await.unwrap();
                if head[3] == PING && head[4] != ACK {
                    pings += 1;
                    head[4] = ACK;
                    far.write_all(&[&head[..], &payload].concat()).await.unwrap();
                }
            }
        };
        tokio::time::timeout(LONG, answered).await.expect("three signs of life were asked for");
        assert!(!watched.is_finished());
        watched.abort();
    }

    #[tokio::test]
    async fn who_never_answers_is_gone() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        greet(&mut far).await;
        tokio::time::timeout(LONG, watched(near, SOON)).await.expect("it was given up");
    }
}
