//! A new node asks the cluster that it joins who it is, before it writes anything down.

use atoll_base::{Failure, NodeId};
use atoll_client::Client;

use crate::config::NodeConfig;

/// Why a node can't join.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error("the cluster to join can't be asked at {join}: {source}")]
    Unreachable { join: String, source: Failure },
    #[error(
        "node {node} is in the cluster already, at {address}, and this data folder is new: give \
         this node an id that was never used, or remove node {node} first (atoll \
         cluster remove {node})"
    )]
    Taken { node: NodeId, address: String },
}

/// The id of the cluster that the settings say to join.
pub(super) async fn cluster_to_join(config: &NodeConfig) -> Result<u64, JoinError> {
    let unreachable = |source| JoinError::Unreachable { join: config.join.join(","), source };
    let client = Client::connect(&config.join).await.map_err(unreachable)?;
    let catalog = client.newest_catalog().await.map_err(unreachable)?;
    if let Some(known) = catalog.node(config.node_id) {
        let (node, address) = (config.node_id, known.client_address.clone());
        return Err(JoinError::Taken { node, address });
    }
    let cluster = catalog.cluster().map(|c| c.cluster_id);
    Ok(cluster.expect("a client that is connected knows the cluster"))
}
