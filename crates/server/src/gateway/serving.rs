//! The connections of the gRPC port, from the first byte of each to its last.

use std::io;
use std::sync::Arc;

use atoll_transport::Accepted;
use atoll_transport::limits::WireLimits;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt};

use super::connection;
use super::etcd::direct::Direct;

/// Serves connections until told to stop, then until all have ended: those that are open are told
/// that no more calls are taken.
pub(super) async fn serve(
    limits: WireLimits,
    incoming: impl Stream<Item = io::Result<Accepted>>,
    service: Direct,
    stop: watch::Receiver<bool>,
) {
    let limits = Arc::new(limits);
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
        let Ok(accepted) = accepted else { continue };
        let (service, limits, stop) = (service.clone(), limits.clone(), stop.clone());
        connections.spawn(async move {
            match accepted.began_with_get() {
                true => answer_gets(accepted, service, stop).await,
                false => connection::serve(accepted, service, &limits, stop).await,
            }
        });
    }
    while connections.join_next().await.is_some() {}
}

/// A connection by HTTP/1.
async fn answer_gets(accepted: Accepted, service: Direct, stop: watch::Receiver<bool>) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    let connection = builder.serve_connection(TokioIo::new(accepted), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // Strangers talk nonsense and hang up; that is no news.
        _ = connection.as_mut() => return,
        () = super::stopped(stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
