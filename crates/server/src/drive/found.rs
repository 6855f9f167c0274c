//! Founding: whoever leads shard 1 while the catalog is empty writes its first records.

use std::sync::Arc;
use std::time::Duration;

use atoll_base::ShardId;
use atoll_coord::RequestBody;
use atoll_coord::plan::{BootstrapNode, bootstrap};
use atoll_machine::{Command, Op};

use super::hub::{Caller, Hub};

/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before another attempt.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until this node leads shard 1 or the cluster is founded; writes the first records in the
/// first case. They say "if there is no cluster record", so it does not matter who else tries.
pub(crate) async fn found(hub: Arc<Hub>, nodes: Vec<BootstrapNode>) {
    if nodes.is_empty() {
        return;
    }
    let mut readiness = hub.catalog.readiness();
    loop {
        let ready = match readiness.wait_for(|r| r.is_founded || r.leads_system).await {
            Ok(ready) => *ready,
            Err(_) => return,
        };
        if ready.is_founded || hub.is_stopping() {
            return;
        }
        let op = match bootstrap(hub.cluster, &nodes) {
            Ok(op) => op,
            Err(failure) => {
                tracing::error!(%failure, "the cluster can't be founded from this bootstrap list");
                return;
            }
        };
        let mut caller = Caller::new(hub.clone());
        let body = RequestBody::Command(Command::anonymous(Op::Txn(op)));
        match caller.call(ShardId::SYSTEM, body, TIMEOUT).await.body {
            Ok(_) => {
                tracing::info!(cluster = format!("{:016x}", hub.cluster), "the cluster is founded");
                return;
            }
            Err(failure) => {
                tracing::debug!(%failure, "founding the cluster is tried again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
