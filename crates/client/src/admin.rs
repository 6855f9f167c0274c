//! Keyspaces and the cluster itself. What changes is planned by `coord` and carried out as a
//! transaction on the catalog, so that any client can do it and two cannot overwrite each other.

use std::time::Duration;

use atoll_base::{Code, Failure, Happened, NodeId, Revision, ShardId};
use atoll_coord::catalog::{Catalog, KeyspaceRecord, NodeRecord};
use atoll_coord::plan::{self, KeyspaceSpec};
use atoll_coord::{AnswerBody, Descriptor, ReplicaStatus, RequestBody};
use atoll_machine::{Op, Reply, TxnOp};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::call::{Applied, Where, unexpected};
use crate::client::Client;
use crate::facts::NodeFacts;
use crate::follow::wait_for_revision;

/// Plans that are made before giving up against other changes of the catalog.
pub(crate) const PLANS_MAX: usize = 20;
/// How long one node may take to say how it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// A keyspace and its shards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyspaceInfo {
    /// The keyspace.
    pub keyspace: KeyspaceRecord,
    /// Its shards, in key order. The first member of each is its preferred leader.
    pub shards: Vec<Descriptor>,
}

/// The cluster as its nodes see it at this moment.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// Which cluster.
    pub cluster_id: u64,
    /// Its nodes, by id.
    pub nodes: Vec<NodeStatus>,
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Who and where it is.
    pub node: NodeRecord,
    /// Its replicas, by shard; or why it could not be asked.
    pub replicas: Result<Vec<ReplicaStatus>, Failure>,
    /// What it says of itself, or why it could not be asked.
    pub facts: Result<NodeFacts, Failure>,
}

impl ClusterStatus {
    /// How many committed entries a replica has not applied, as far as the leader of its shard
    /// tells; `None` where nobody says that it leads.
    #[must_use]
    pub fn lag(&self, replica: &ReplicaStatus) -> Option<u64> {
        let all = self.nodes.iter().filter_map(|n| n.replicas.as_ref().ok()).flatten();
        let leads = all.filter(|r| r.shard == replica.shard && r.state == "leader");
        let leader = leads.max_by_key(|r| r.term)?;
        Some(leader.commit_index.0.saturating_sub(replica.applied_index.0))
    }
}

impl Client {
    /// Creates a keyspace.
    ///
    /// # Errors
    /// `InvalidArgument` naming what cannot be met, `AlreadyExists`; otherwise as a put.
    ///
    /// # Examples
    /// ```no_run
    /// # use atoll_client::{Client, Failure, KeyspaceSpec};
    /// # async fn example(client: Client) -> Result<(), Failure> {
    /// let mut spec = KeyspaceSpec::new("orders");
    /// spec.shards = Some(4);
    /// let created = client.create_keyspace(&spec).await?;
    /// println!("{} shards", created.shards.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_keyspace(&self, spec: &KeyspaceSpec) -> Result<KeyspaceInfo, Failure> {
        let plan = |catalog: &Catalog| {
            let plan = plan::create_keyspace(catalog, spec)?;
            Ok((plan.txn, KeyspaceInfo { keyspace: plan.keyspace, shards: plan.shards }))
        };
        self.change_catalog(plan).await
    }

    /// Drops a keyspace and all its data.
    ///
    /// # Errors
    /// `NotFound`, `PreconditionFailed` for the cluster's own keyspaces; otherwise as a put.
    pub async fn drop_keyspace(&self, name: &str) -> Result<(), Failure> {
        self.change_catalog(|catalog| Ok((plan::drop_keyspace(catalog, name)?, ()))).await
    }

    /// Every keyspace, by name.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn keyspaces(&self) -> Result<Vec<KeyspaceInfo>, Failure> {
        self.inner().refresh_map(self.default_deadline()).await?;
        let map = self.inner().map.load();
        Ok(map.catalog.keyspaces().map(|k| info(&map.catalog, k)).collect())
    }

    /// One keyspace.
    ///
    /// # Errors
    /// `NotFound`, and when the catalog cannot be read.
    pub async fn describe_keyspace(&self, name: &str) -> Result<KeyspaceInfo, Failure> {
        self.inner().refresh_map(self.default_deadline()).await?;
        let map = self.inner().map.load();
        let known = map.catalog.keyspace(name).ok_or_else(|| {
            Failure::new(Code::NotFound, format!("keyspace {name} does not exist"))
        })?;
        Ok(info(&map.catalog, &known.record))
    }

    /// Asks every node how its replicas are. Nodes that don't answer within two seconds are listed
    /// with the reason.
    ///
    /// # Errors
    /// When not even the list of nodes is known.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, Failure> {
        self.ready().await?;
        let map = self.inner().map.load_full();
        let catalog = &map.catalog;
        let cluster_id = catalog.cluster().map_or(0, |c| c.cluster_id);
        let mut asking = JoinSet::new();
        for node in catalog.nodes() {
            let (client, node) = (self.clone(), node.clone());
            let shards = shards_of(catalog, node.id);
            asking.spawn(async move {
                let links = client.inner().links.clone();
                let facts = links.facts(&node.client_address);
                let facts = tokio::time::timeout(STATUS_TIMEOUT, facts);
                let (replicas, facts) = tokio::join!(client.node_status(node.id, shards), facts);
                let facts = facts.unwrap_or_else(|_| {
                    let text = format!("node {} said nothing within {STATUS_TIMEOUT:?}", node.id);
                    Err(Failure::new(Code::DeadlineExceeded, text).with_happened(Happened::No))
                });
                NodeStatus { node, replicas, facts }
            });
        }
        let mut nodes: Vec<NodeStatus> = Vec::new();
        while let Some(status) = asking.join_next().await {
            nodes.push(status.map_err(|panic| Failure::new(Code::Internal, panic.to_string()))?);
        }
        nodes.sort_by_key(|n| n.node.id);
        Ok(ClusterStatus { cluster_id, nodes })
    }

    /// How one node's replicas are, by shard.
    ///
    /// # Errors
    /// When it could not be asked within two seconds.
    pub async fn replicas_of(&self, node: NodeId) -> Result<Vec<ReplicaStatus>, Failure> {
        self.ready().await?;
        let shards = shards_of(&self.inner().map.load().catalog, node);
        self.node_status(node, shards).await
    }

    async fn node_status(
        &self,
        node: NodeId,
        shards: Vec<ShardId>,
    ) -> Result<Vec<ReplicaStatus>, Failure> {
        let deadline = Instant::now() + STATUS_TIMEOUT;
        let mut replicas = Vec::new();
        for shard in shards {
            match self.inner().ask_once(shard, node, RequestBody::Status, deadline).await {
                Ok(AnswerBody::Status(status)) => replicas.push(status),
                Ok(other) => return Err(unexpected("a status request", &other)),
                // The replica is not there (yet, or any more); the node itself answers.
                Err(f) if matches!(f.code, Code::NotLeader | Code::NotFound) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(replicas)
    }

    /// Carries out what `plan` makes of the newest catalog; plans again when somebody was faster.
    async fn change_catalog<T>(
        &self,
        plan: impl Fn(&Catalog) -> Result<(TxnOp, T), Failure>,
    ) -> Result<T, Failure> {
        let deadline = self.default_deadline();
        let inner = self.inner();
        for _ in 0..PLANS_MAX {
            inner.refresh_map(deadline).await?;
            let (txn, result) = plan(&inner.map.load().catalog)?;
            if self.carry_out(txn, deadline).await? {
                return Ok(result);
            }
        }
        Err(too_many_plans())
    }

    /// Carries a plan out; false when the catalog is not as it was planned from.
    pub(crate) async fn carry_out(&self, txn: TxnOp, deadline: Instant) -> Result<bool, Failure> {
        let whom = Where::Shard(ShardId::SYSTEM);
        let Applied { reply, .. } = self.inner().command(whom, Op::Txn(txn), deadline).await?;
        match reply {
            Reply::Txn { succeeded: true, revision, .. } => {
                self.wait_for_catalog(revision, deadline).await;
                Ok(true)
            }
            Reply::Txn { succeeded: false, .. } => Ok(false),
            other => Err(unexpected("a transaction", &AnswerBody::Command(other))),
        }
    }

    async fn wait_for_catalog(&self, revision: Revision, deadline: Instant) {
        wait_for_revision(self.inner(), self.inner().outcome.clone(), revision, deadline).await;
    }
}

/// The shards of which `node` is to have a replica.
fn shards_of(catalog: &Catalog, node: NodeId) -> Vec<ShardId> {
    let has = |d: &&Descriptor| !d.dropped && d.members.iter().any(|m| m.node == node);
    catalog.descriptors().filter(has).map(|d| d.shard).collect()
}

pub(crate) fn too_many_plans() -> Failure {
    let text = format!("the catalog was changed by others during each of {PLANS_MAX} attempts");
    Failure::new(Code::Overloaded, text)
}

fn info(catalog: &Catalog, keyspace: &KeyspaceRecord) -> KeyspaceInfo {
    let shards = catalog.shards_in(keyspace.id, b"", None).cloned().collect();
    KeyspaceInfo { keyspace: keyspace.clone(), shards }
}
