//! A whole node: listeners, the driven lanes, and the ways in for clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::config::NodeConfig;
use crate::drive::{Hub, Node, StartError};
use crate::gateway::{self, Gateways};
use crate::outside;

/// Why a node can't run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstanceError {
    #[error("can't listen on {address} (setting {name}): {source}")]
    Listen { name: &'static str, address: String, source: std::io::Error },
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Where a node listens.
pub(crate) struct Listeners {
    pub(crate) client: TcpListener,
    pub(crate) peer: TcpListener,
    pub(crate) http: TcpListener,
}

impl Listeners {
    /// Binds the three addresses of the settings.
    pub(crate) async fn bind(config: &NodeConfig) -> Result<Self, InstanceError> {
        let bind = async |name, address: &String| {
            TcpListener::bind(address).await.map_err(|source| InstanceError::Listen {
                name,
                address: address.clone(),
                source,
            })
        };
        Ok(Self {
            client: bind("listen", &config.listen).await?,
            peer: bind("peer_listen", &config.peer_listen).await?,
            http: bind("http_listen", &config.http_listen).await?,
        })
    }
}

/// Where a running node can be reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) client: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) http: SocketAddr,
}

/// A node that runs and serves. Dropping it without `stop` leaves its threads running.
pub(crate) struct Instance {
    node: Node,
    addresses: Addresses,
    gateways: Gateways,
    /// Follows the catalog while no replica here does.
    following: JoinHandle<()>,
    shutdown_timeout: Duration,
}

impl Instance {
    /// Starts a node, in the order of `drive`'s essay.
    pub(crate) async fn start(
        config: &NodeConfig,
        listeners: Listeners,
    ) -> Result<Self, InstanceError> {
        let address = |l: &TcpListener| l.local_addr().expect("a bound listener has an address");
        let addresses = Addresses {
            client: address(&listeners.client),
            peer: address(&listeners.peer),
            http: address(&listeners.http),
        };
        let (node, mut registry) = Node::start(config, listeners.peer).await?;
        gateway::register(&mut registry, node.hub());
        let hub = node.hub().clone();
        let gateways = Gateways::start(config, hub, registry, listeners.client, listeners.http);
        let following = tokio::spawn(outside::follow(config.clone(), node.hub().clone()));
        let shutdown_timeout = config.shutdown_timeout;
        Ok(Self { node, addresses, gateways, following, shutdown_timeout })
    }

    /// Where the node can be reached.
    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What its threads share.
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        self.node.hub()
    }

    /// Ready with the reason when the node can't go on and must be stopped.
    pub(crate) async fn is_doomed(&self) -> String {
        self.node.hub().is_doomed().await
    }

    /// Stops the node, in the order of `drive`'s essay.
    pub(crate) async fn stop(self) {
        self.following.abort();
        self.node.withdraw().await;
        self.gateways.stop(self.shutdown_timeout).await;
        self.node.stop().await;
    }
}
