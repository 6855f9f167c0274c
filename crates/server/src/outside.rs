//! Following the catalog from outside: as a client, while no replica of shard 1 here tells about
//! it.
//!
//! A node that joins has no replica at all, one that left shard 1 hears no more of it, a learner is
//! not told that it left, and one that is cut off from the group for long would rather ask around.
//! What comes in either way goes into the one view, which only ever gets newer, and from there to
//! the lanes.

use std::sync::Arc;
use std::time::Duration;

use atoll_client::Client;

use crate::config::NodeConfig;
use crate::drive::{Hub, Readiness};

/// How long a replica of shard 1 may be without a leader before others are asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the newest catalog is asked of shard 1's leader. The node that is watched may itself
/// be behind without knowing.
const LOOK: Duration = Duration::from_secs(5);

/// Runs until it is aborted.
pub(crate) async fn follow(config: NodeConfig, hub: Arc<Hub>) {
    // Whoever must not vote must not have replicas, so it must not hear where they belong either.
    hub.may_take_part().await;
    let mut readiness = hub.catalog.readiness();
    loop {
        if readiness.wait_for(|r| !hears(r)).await.is_err() {
            return;
        }
        let knows_nothing = !readiness.borrow().is_founded && config.is_joining();
        if !knows_nothing {
            let hears_again = readiness.wait_for(hears);
            if tokio::time::timeout(PATIENCE, hears_again).await.is_ok() {
                continue;
            }
        }
        let Some(client) = others(&config, &hub) else {
            tokio::time::sleep(PATIENCE).await;
            continue;
        };
        tracing::info!("the catalog is followed from outside");
        tokio::select! {
            () = feed(&client, &hub) => {}
            heard = readiness.wait_for(hears) => {
                if heard.is_err() {
                    return;
                }
            }
        }
        hub.catalog.stop_following();
    }
}

/// A replica of shard 1 here tells about the catalog, and would notice if it no longer did.
fn hears(readiness: &Readiness) -> bool {
    readiness.has_leader && readiness.is_member
}

/// A client of the other nodes, if any are known.
fn others(config: &NodeConfig, hub: &Hub) -> Option<Client> {
    let own = config.bootstrap.member(config.node_id);
    let founders = config.bootstrap.members.iter().map(|m| m.client.clone());
    let mut addresses: Vec<String> = config.join.iter().cloned().chain(founders).collect();
    addresses.extend(hub.catalog.with(|c| {
        let others = c.nodes().filter(|n| n.id != config.node_id);
        others.map(|n| n.client_address.clone()).collect::<Vec<_>>()
    }));
    addresses.retain(|a| own.is_none_or(|own| own.client != *a));
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return None;
    }
    match Client::builder().addresses(&addresses).start() {
        Ok(client) => Some(client),
        Err(failure) => {
            tracing::error!(%failure, ?addresses, "the other nodes can't be asked");
            None
        }
    }
}

/// Hands every newer catalog to the node.
async fn feed(client: &Client, hub: &Hub) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        let known = hub.catalog.with(|c| c.revision());
        tokio::select! {
            catalog = client.newer_catalog(known) => hub.adopt(catalog),
            _ = look.tick() => {
                if let Err(failure) = client.newest_catalog().await {
                    tracing::debug!(%failure, "the catalog's leader can't be asked");
                }
            }
        }
    }
}
