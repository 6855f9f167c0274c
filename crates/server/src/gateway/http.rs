//! `/health`, `/ready`, `/metrics`, `/version`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::VERSION;
use crate::drive::Hub;

struct Site {
    hub: Arc<Hub>,
    registry: Registry,
}

/// Serves until told to stop.
pub(super) async fn serve(
    hub: Arc<Hub>,
    registry: Registry,
    listener: TcpListener,
    stop: watch::Receiver<bool>,
) {
    let site = Arc::new(Site { hub, registry });
    let router = Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .with_state(site);
    let server = axum::serve(listener, router).with_graceful_shutdown(super::stopped(stop));
    if let Err(error) = server.await {
        tracing::error!(%error, "the http surface ended");
    }
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
    if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &site.registry) {
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn version() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "version": VERSION }))
}
