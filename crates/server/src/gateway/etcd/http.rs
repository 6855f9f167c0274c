//! `/version` and `/health` on the port of clients, where those of etcd look for them.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;

use super::VERSION;
use crate::drive::Hub;

/// The routes, to be served beside those of gRPC.
pub(in crate::gateway) fn routes(hub: Arc<Hub>) -> Router {
    Router::new().route("/version", get(version)).route("/health", get(health)).with_state(hub)
}

async fn version() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "etcdserver": VERSION, "etcdcluster": VERSION }))
}

async fn health(State(hub): State<Arc<Hub>>) -> Response {
    let is_ready = hub.catalog.readiness().borrow().is_ready();
    let reason = match (hub.is_stopping(), is_ready, hub.pressure.is_full()) {
        (true, ..) => "STOPPING",
        (_, false, _) => "RAFT NO LEADER",
        (_, _, true) => "ALARM NOSPACE",
        _ => "",
    };
    let (status, health) = match reason {
        "" => (StatusCode::OK, "true"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "false"),
    };
    (status, Json(serde_json::json!({ "health": health, "reason": reason }))).into_response()
}
