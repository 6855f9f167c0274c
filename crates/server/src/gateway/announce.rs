//! Telling the catalog that this node is there, and where it is reached, when that is not what it
//! says.
//!
//! The founding list gives every node's first addresses. A node that is started with others later
//! (they changed in its entry of the list) writes them down itself, and so does a node that joins;
//! the others follow the catalog.

use std::sync::Arc;
use std::time::Duration;

use atoll_base::{Failure, Incarnation, NodeId};
use atoll_client::{Bytes, Client, NodeRecord, when};
use atoll_coord::catalog::{Record, RecordKey};

use crate::config::{Member, NodeConfig};
use crate::drive::Hub;

/// The pause before another attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// Waits for the catalog and corrects this node's record, if that is needed.
pub(super) async fn announce(config: NodeConfig, hub: Arc<Hub>, client: Client) {
    let Some(member) = config.bootstrap.member(config.node_id) else { return };
    if config.is_joining() {
        return join(config.node_id, member, &hub, &client).await;
    }
    let mut readiness = hub.catalog.readiness();
    if readiness.wait_for(|r| r.is_founded).await.is_err() {
        return;
    }
    while !hub.is_stopping() {
        // What this node has applied may be old; the comparison in the transaction decides.
        let Some(known) = hub.catalog.with(|c| c.node(config.node_id).cloned()) else { return };
        if is_current(&known, member) {
            return;
        }
        match correct(&client, known, member).await {
            Ok(()) => {
                let at = &member.client;
                tracing::info!(client = %at, peer = %member.peer, "the catalog has this node");
                return;
            }
            Err(failure) => {
                tracing::warn!(%failure, "the catalog could not be told this node's address yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A node that joins writes its record itself, and corrects it whenever it is started elsewhere.
async fn join(id: NodeId, member: &Member, hub: &Hub, client: &Client) {
    let record = NodeRecord {
        id,
        incarnation: Incarnation(1),
        client_address: member.client.clone(),
        peer_address: member.peer.clone(),
        http_address: member.http.clone(),
        unknown: Bytes::new(),
    };
    while !hub.is_stopping() {
        match client.put_node(&record).await {
            Ok(()) => {
                tracing::info!("the catalog has this node: atoll cluster add {id} gives it shards");
                return;
            }
            Err(failure) => {
                tracing::warn!(%failure, "the cluster can't be joined yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_current(known: &NodeRecord, member: &Member) -> bool {
    known.incarnation > Incarnation::ZERO
        && known.client_address == member.client
        && known.peer_address == member.peer
        && known.http_address == member.http
}

async fn correct(client: &Client, known: NodeRecord, member: &Member) -> Result<(), Failure> {
    let key = RecordKey::Node(known.id).to_bytes();
    let before = Record::Node(known.clone()).encode();
    let after = Record::Node(NodeRecord {
        incarnation: known.incarnation.max(Incarnation(1)),
        client_address: member.client.clone(),
        peer_address: member.peer.clone(),
        http_address: member.http.clone(),
        ..known
    });
    let system = client.keyspace("system");
    let txn = system.txn().when(when::value_is(key.clone(), before)).put(key, after.encode());
    // When the record is another one by now, the next look shows it.
    txn.commit().await.map(|_| ())
}
