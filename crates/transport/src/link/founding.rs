//! The question that a node with a new data folder asks before it helps to found a cluster.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use atoll_wire::peer_v1::FoundingRequest;
use tonic::Status;

use super::Identity;
use crate::limits::WireLimits;
use crate::stub::peer_v1::peer_client::PeerClient;

/// Whether nothing of the cluster was ever written on this node.
pub type IsNew = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// Asks the peer at `address` (`host:port`) whether nothing of the cluster was ever written there.
/// Cancel safe: yes.
///
/// # Errors
/// When it can't be reached within `timeout`, or belongs to another cluster.
pub async fn ask_founding(
    address: &str,
    identity: Identity,
    timeout: Duration,
) -> Result<bool, Status> {
    let unreachable = |e: tonic::transport::Error| Status::unavailable(e.to_string());
    let endpoint = WireLimits::default().endpoint(address).map_err(unreachable)?.timeout(timeout);
    let channel = endpoint.connect().await.map_err(unreachable)?;
    let request = FoundingRequest { cluster: identity.cluster, from: identity.node.0 };
    Ok(PeerClient::new(channel).founding(request).await?.into_inner().is_new)
}
