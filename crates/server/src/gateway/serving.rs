//! The connections of the gRPC port, from the first byte of each to its last.

use std::convert::Infallible;
use std::io;

use atoll_transport::Accepted;
use atoll_transport::limits::WireLimits;
use hyper::body::{Body as HttpBody, Incoming};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt};
use tonic::codegen::{Bytes, http};

/// The largest head of a request.
const HEAD_BYTES_MAX: u32 = 16 << 10;

/// Serves connections until told to stop, then until all have ended: those that are open are told
/// that no more calls are taken.
pub(super) async fn serve<S, B>(
    limits: WireLimits,
    incoming: impl Stream<Item = io::Result<Accepted>>,
    service: S,
    stop: watch::Receiver<bool>,
) where
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + 'static,
{
    let builder = builder(&limits);
    let mut connections = JoinSet::new();
    let mut incoming = std::pin::pin!(incoming);
    let mut stopped = std::pin::pin!(super::stopped(stop.clone()));
    loop {
        let accepted = tokio::select! {
            accepted = incoming.next() => accepted,
            () = &mut stopped => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let Some(accepted) = accepted else { break };
        // What can't be accepted was told where it was tried.
        let Ok(stream) = accepted else { continue };
        let (builder, service, stop) = (builder.clone(), service.clone(), stop.clone());
        connections.spawn(async move {
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                // Strangers talk nonsense and hang up; that is no news.
                _ = connection.as_mut() => return,
                () = super::stopped(stop) => {}
            }
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        });
    }
    while connections.join_next().await.is_some() {}
}

fn builder(limits: &WireLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.window_bytes)
        .initial_connection_window_size(limits.window_bytes.saturating_mul(2))
        .max_concurrent_streams(limits.streams_max)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .max_header_list_size(HEAD_BYTES_MAX);
    builder.http1().timer(TokioTimer::new());
    builder
}
