//! Before a node with a new data folder takes part in founding its cluster.
//!
//! The founding list makes whoever is on it a voter of shard 1 before any log entry. A node that
//! lost its whole folder and is started with the same list looks exactly like one that was never
//! started, and must not vote as such: what it once acknowledged is gone (trap T3). So a node whose
//! folder is new asks the others on the list first, and until it knows it holds no replica, votes
//! for nothing and follows no catalog:
//!
//! - **B1** Where a majority of the list (itself counted) has nothing of the cluster, and nobody
//!   who answers has anything, there is nothing that could have been lost: the cluster is founded.
//! - **B2** Where somebody has something, the catalog of its leader decides. Every node marks its
//!   own record there once it has been part of the cluster ([`Incarnation`] 1). Marked: this node
//!   was there and lost its folder; it stops and says what to do. Not marked: it was never there;
//!   it marks itself, *then* takes part.
//! - **B3** Where neither is known (too few answer) it waits, and says so.
//!
//! What is left open: a founder that loses its folder after its first vote and before its mark is
//! in the catalog, which it writes as soon as the catalog is there.

use std::sync::Arc;
use std::time::Duration;

use atoll_base::{Code, Failure, Incarnation, NodeId, ShardId};
use atoll_client::{Bytes, Client, NodeRecord};
use atoll_coord::{AnswerBody, Catalog, RequestBody};
use atoll_transport::link::{self, IsNew, ask_founding};
use tokio::task::JoinSet;

use super::hub::{Caller, Hub};
use crate::config::{Member, NodeConfig};

/// How long one look around may wait for one peer, or for the catalog.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// How many looks in vain until it is said (again) what is waited for.
const TELL_EVERY: u32 = 25;

/// Why this node must not take part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Amnesia {
    #[error(
        "node {node} was part of cluster {cluster:016x} and its data folder is new: it would vote \
         without knowing what it acknowledged. Restore the folder, or remove the node (atoll \
         cluster remove {node}) and join with an id that was never used (atoll serve --node-id NEW \
         --join {join})"
    )]
    Lost { node: NodeId, cluster: u64, join: String },
    #[error(
        "node {node} is on the founding list of cluster {cluster:016x} and not in the cluster any \
         more: join it with an id that was never used (atoll serve --node-id NEW --join {join})"
    )]
    Removed { node: NodeId, cluster: u64, join: String },
}

/// What the others say.
enum Look {
    /// B1
    Nothing,
    /// Somebody has something.
    Something,
    /// Too few answer.
    Unknown(String),
}

/// Ready when this node may take part (B1, B2). Cancel safe: yes.
///
/// # Errors
/// [`Amnesia`]: it must never take part under this id.
pub(super) async fn prove(config: &NodeConfig, hub: &Hub) -> Result<(), Amnesia> {
    let me = config.node_id;
    let others: Vec<&Member> = config.bootstrap.members.iter().filter(|m| m.node != me).collect();
    let mut client: Option<Client> = None;
    let mut looks = 0_u32;
    loop {
        let waits_for = match look(hub, &others).await {
            Look::Nothing => return Ok(()),
            Look::Unknown(why) => why,
            Look::Something => match catalog(&mut client, &others).await {
                Ok((client, catalog)) => match judge(config, hub.cluster, &catalog)? {
                    None => return Ok(()),
                    Some(record) => match client.put_node(&record).await {
                        Ok(()) => return Ok(()),
                        Err(failure) => format!("its mark in the catalog: {failure}"),
                    },
                },
                Err(failure) => format!("the cluster's catalog: {failure}"),
            },
        };
        if looks.is_multiple_of(TELL_EVERY) {
            tracing::info!(
                "this data folder is new; before node {me} votes it waits for {waits_for}"
            );
        }
        looks = looks.wrapping_add(1);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks all others at once.
async fn look(hub: &Hub, others: &[&Member]) -> Look {
    let identity = link::Identity { cluster: hub.cluster, node: hub.node };
    let mut asks = JoinSet::new();
    for member in others {
        let (node, address) = (member.node, member.peer.clone());
        asks.spawn(async move { (node, ask_founding(&address, identity, ASK_TIMEOUT).await) });
    }
    let (mut new, mut silent) = (1, Vec::new());
    while let Some(answer) = asks.join_next().await {
        match answer {
            Ok((_, Ok(true))) => new += 1,
            Ok((_, Ok(false))) => return Look::Something,
            Ok((node, Err(status))) => silent.push(format!("node {node} ({})", status.message())),
            Err(_) => {}
        }
    }
    if new > others.len().div_ceil(2) {
        return Look::Nothing;
    }
    silent.sort();
    Look::Unknown(format!("an answer of {}", silent.join(", ")))
}

/// The newest catalog, as the others' leader has it.
async fn catalog(
    client: &mut Option<Client>,
    others: &[&Member],
) -> Result<(Client, Catalog), Failure> {
    let asking = match client {
        Some(client) => client.clone(),
        None => {
            let addresses: Vec<&String> = others.iter().map(|m| &m.client).collect();
            client.insert(Client::builder().addresses(addresses).start()?).clone()
        }
    };
    let newest = tokio::time::timeout(ASK_TIMEOUT, asking.newest_catalog());
    match newest.await {
        Ok(catalog) => Ok((asking, catalog?)),
        Err(_) => {
            let text = format!("no leader told it within {ASK_TIMEOUT:?}");
            Err(Failure::new(Code::NoLeader, text))
        }
    }
}

/// What the catalog says of this node (B2): the record with its mark, or `None` where no cluster is
/// founded yet.
fn judge(
    config: &NodeConfig,
    cluster: u64,
    catalog: &Catalog,
) -> Result<Option<NodeRecord>, Amnesia> {
    let node = config.node_id;
    let join = || {
        let others = config.bootstrap.members.iter().filter(|m| m.node != node);
        others.map(|m| m.client.clone()).collect::<Vec<_>>().join(",")
    };
    let Some(known) = catalog.node(node) else {
        return Err(Amnesia::Removed { node, cluster, join: join() });
    };
    if known.incarnation > Incarnation::ZERO {
        return Err(Amnesia::Lost { node, cluster, join: join() });
    }
    let own = config.bootstrap.member(node);
    Ok(own.map(|member| NodeRecord {
        id: node,
        incarnation: Incarnation(1),
        client_address: member.client.clone(),
        peer_address: member.peer.clone(),
        http_address: member.http.clone(),
        unknown: Bytes::new(),
    }))
}

/// How this node answers others that ask: it has nothing while it proves itself, or while its log
/// of shard 1 has no entry. Connections of peers outlive the node for a moment; they must not keep
/// its engine open.
pub(super) fn is_new(hub: &Arc<Hub>) -> IsNew {
    let hub = Arc::downgrade(hub);
    Arc::new(move || {
        let hub = hub.upgrade();
        Box::pin(async move {
            let Some(hub) = hub else { return false };
            if hub.is_on_probation() {
                return true;
            }
            let answer =
                Caller::new(hub).call(ShardId::SYSTEM, RequestBody::Status, ASK_TIMEOUT).await;
            matches!(&answer.body, Ok(AnswerBody::Status(s)) if s.last_index.0 == 0)
        })
    })
}
