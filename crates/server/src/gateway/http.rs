//! `/health`, `/ready`, `/metrics`, `/version`.
//!
//! Bounded like the other ports: more connections than `http_connections_max` are closed at once,
//! and one that is slow to ask, or stays without asking, is closed after a while.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::VERSION;
use crate::drive::Hub;

/// How long a connection may take for the head of a request, the first or the next one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may live: who asks for longer connects again.
const LIFE_MAX: Duration = Duration::from_secs(300);
/// How long a connection that is to end may take for the answer under way.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest head of a request that is read.
const HEAD_BYTES_MAX: usize = 16 << 10;

struct Site {
    hub: Arc<Hub>,
    registry: Registry,
}

/// Serves until told to stop.
pub(super) async fn serve(
    hub: Arc<Hub>,
    registry: Registry,
    listener: TcpListener,
    connections_max: usize,
    stop: watch::Receiver<bool>,
) {
    let site = Arc::new(Site { hub, registry });
    let router = Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .with_state(site);
    let places = Arc::new(Semaphore::new(connections_max));
    let mut connections = tokio::task::JoinSet::new();
    let stopped = super::stopped(stop.clone());
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(permit) = places.clone().try_acquire_owned() else {
                    tracing::debug!(connections_max, "an http connection is refused");
                    continue;
                };
                connections.spawn(converse(stream, permit, router.clone(), stop.clone()));
            }
            Err(error) => {
                // Out of descriptors, or the connection is gone already: others may still come.
                tracing::warn!(%error, "an http connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// One connection, until it ends, has lived long enough, or the node stops.
async fn converse(
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        // Strangers talk nonsense and hang up; that is no news.
        _ = connection.as_mut() => return,
        () = super::stopped(stop) => {}
        () = tokio::time::sleep(LIFE_MAX) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(END_TIMEOUT, connection).await;
}

/// The process lives and its threads run: a dead one takes the process along.
async fn health(State(site): State<Arc<Site>>) -> Json<serde_json::Value> {
    let node = site.hub.node.0;
    Json(serde_json::json!({ "status": "ok", "node": node, "stopping": site.hub.is_stopping() }))
}

/// Clients may be sent here: the catalog is there and shard 1 has a leader.
async fn ready(State(site): State<Arc<Site>>) -> Response {
    let ready = *site.hub.catalog.readiness().borrow();
    let missing = if site.hub.is_stopping() {
        Some("this node is stopping")
    } else if !ready.is_founded {
        Some("the cluster is not founded here yet: a majority of the bootstrap nodes must be up")
    } else if !ready.is_ready() {
        Some("shard 1 has no leader that this node knows of")
    } else {
        None
    };
    let status = if missing.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = serde_json::json!({ "ready": missing.is_none(), "missing": missing });
    (status, Json(body)).into_response()
}

async fn metrics(State(site): State<Arc<Site>>) -> Response {
    let mut text = String::new();
    site.hub.raft_counts.gather(&site.hub.lanes).await;
    if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &site.registry) {
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn version() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "version": VERSION }))
}
