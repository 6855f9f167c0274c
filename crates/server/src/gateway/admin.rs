//! Keyspaces and the cluster, for clients in any language.

use std::sync::Arc;
use std::time::Duration;

use atoll_base::{Code, Failure, NodeId, ShardId, Time};
use atoll_client::{
    Client, Descriptor, Joining, KeyspaceInfo, KeyspaceSpec, NodeFacts, NodeStatus, Protocol,
    ShardOptions,
};
use atoll_transport::call::{encode_member, encode_status};
use atoll_transport::status::to_status;
use atoll_transport::stub::v1::admin_server;
use atoll_wire::v1 as pb;
use tonic::{Request, Response, Status};

use super::{VERSION, resident_bytes};
use crate::drive::Hub;

/// How long a call waits for one shard's members to change; repeating it waits on.
const MEMBERS_WAIT: Duration = Duration::from_secs(60);

/// `atoll.v1.Admin`.
#[derive(Clone)]
pub(super) struct Admin {
    pub(super) hub: Arc<Hub>,
    pub(super) client: Client,
}

fn refused(failure: Failure) -> Status {
    to_status(&failure)
}

fn decode_spec(wire: pb::KeyspaceSpec) -> Result<KeyspaceSpec, Failure> {
    let protocol = match wire.protocol.as_str() {
        "" | "raft" => Protocol::Raft,
        other => {
            let text = format!(
                "keyspace {} refused: protocol {other:?} is not offered, give raft",
                wire.name
            );
            return Err(Failure::new(Code::Unsupported, text));
        }
    };
    Ok(KeyspaceSpec {
        protocol,
        replicas: (wire.replicas != 0).then_some(wire.replicas),
        shards: (wire.shards != 0).then_some(wire.shards),
        split_keys: wire.split_keys,
        options: ShardOptions {
            lease_reads: wire.lease_reads,
            history_revisions: wire.history_revisions,
        },
        ..KeyspaceSpec::new(wire.name)
    })
}

fn encode_keyspace(info: KeyspaceInfo) -> pb::Keyspace {
    let record = info.keyspace;
    let protocol = match record.protocol {
        Protocol::Raft => "raft",
    };
    let splits = info.shards.iter().skip(1).map(|s| s.start.clone()).collect();
    pb::Keyspace {
        id: record.id.0,
        spec: Some(pb::KeyspaceSpec {
            name: record.name,
            protocol: protocol.to_owned(),
            replicas: record.replicas,
            shards: info.shards.len() as u32,
            split_keys: splits,
            lease_reads: record.options.lease_reads,
            history_revisions: record.options.history_revisions,
        }),
        shards: info.shards.into_iter().map(encode_shard).collect(),
    }
}

fn encode_shard(shard: Descriptor) -> pb::Shard {
    let member = |m: atoll_client::ReplicaMember| atoll_raft::Member { node: m.node, role: m.role };
    pb::Shard {
        id: shard.shard.0,
        start: shard.start,
        end: shard.end,
        epoch: shard.epoch.0,
        members: shard.members.into_iter().map(|m| encode_member(member(m))).collect(),
    }
}

fn encode_node(status: NodeStatus) -> pb::NodeStatus {
    let mut wire = pb::NodeStatus {
        id: status.node.id.0,
        client_address: status.node.client_address,
        peer_address: status.node.peer_address,
        http_address: status.node.http_address,
        ..Default::default()
    };
    if let Ok(facts) = status.facts {
        wire.version = facts.version;
        wire.uptime_ms = u64::try_from(facts.uptime.as_millis()).unwrap_or(u64::MAX);
        wire.disk_used_bytes = facts.disk_used_bytes;
        wire.disk_free_bytes = facts.disk_free_bytes;
        wire.memory_bytes = facts.memory_bytes;
    }
    match status.replicas {
        Ok(replicas) => wire.shards = replicas.into_iter().map(encode_status).collect(),
        Err(failure) => wire.error = failure.to_string(),
    }
    wire
}

impl Admin {
    /// What this node knows about itself.
    async fn own_status(&self) -> Result<NodeStatus, Failure> {
        let hub = &self.hub;
        let known = hub.catalog.with(|c| c.node(hub.node).cloned());
        let node = known.ok_or_else(|| {
            let text = format!("node {} is not in the catalog that it knows", hub.node);
            Failure::new(Code::NotFound, text)
        })?;
        let facts = NodeFacts {
            version: VERSION.to_owned(),
            uptime: hub.now().since(Time::ZERO),
            disk_used_bytes: hub.disk_used_bytes(),
            disk_free_bytes: hub.metrics.disk_free.get(),
            memory_bytes: resident_bytes(),
        };
        Ok(NodeStatus { node, replicas: self.client.replicas_of(hub.node).await, facts: Ok(facts) })
    }
}

#[tonic::async_trait]
impl admin_server::Admin for Admin {
    async fn create_keyspace(
        &self,
        request: Request<pb::CreateKeyspaceRequest>,
    ) -> Result<Response<pb::CreateKeyspaceResponse>, Status> {
        let spec = decode_spec(request.into_inner().spec.unwrap_or_default()).map_err(refused)?;
        let created = self.client.create_keyspace(&spec).await.map_err(refused)?;
        let keyspace = Some(encode_keyspace(created));
        Ok(Response::new(pb::CreateKeyspaceResponse { keyspace }))
    }

    async fn list_keyspaces(
        &self,
        _: Request<pb::ListKeyspacesRequest>,
    ) -> Result<Response<pb::ListKeyspacesResponse>, Status> {
        let keyspaces = self.client.keyspaces().await.map_err(refused)?;
        let keyspaces = keyspaces.into_iter().map(encode_keyspace).collect();
        Ok(Response::new(pb::ListKeyspacesResponse { keyspaces }))
    }

    async fn describe_keyspace(
        &self,
        request: Request<pb::DescribeKeyspaceRequest>,
    ) -> Result<Response<pb::DescribeKeyspaceResponse>, Status> {
        let name = request.into_inner().name;
        let info = self.client.describe_keyspace(&name).await.map_err(refused)?;
        let keyspace = Some(encode_keyspace(info));
        Ok(Response::new(pb::DescribeKeyspaceResponse { keyspace }))
    }

    async fn drop_keyspace(
        &self,
        request: Request<pb::DropKeyspaceRequest>,
    ) -> Result<Response<pb::DropKeyspaceResponse>, Status> {
        let name = request.into_inner().name;
        self.client.drop_keyspace(&name).await.map_err(refused)?;
        Ok(Response::new(pb::DropKeyspaceResponse {}))
    }

    async fn cluster_status(
        &self,
        request: Request<pb::ClusterStatusRequest>,
    ) -> Result<Response<pb::ClusterStatusResponse>, Status> {
        let (nodes, cluster_id) = match request.into_inner().all {
            true => {
                let status = self.client.cluster_status().await.map_err(refused)?;
                (status.nodes, status.cluster_id)
            }
            false => (vec![self.own_status().await.map_err(refused)?], self.hub.cluster),
        };
        let nodes = nodes.into_iter().map(encode_node).collect();
        Ok(Response::new(pb::ClusterStatusResponse { nodes, cluster_id }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let pb::TransferLeaderRequest { shard, to } = request.into_inner();
        self.client.transfer_leader(ShardId(shard), NodeId(to)).await.map_err(refused)?;
        Ok(Response::new(pb::TransferLeaderResponse {}))
    }

    async fn change_members(
        &self,
        request: Request<pb::ChangeMembersRequest>,
    ) -> Result<Response<pb::ChangeMembersResponse>, Status> {
        use pb::change_members_request::Change;
        let request = request.into_inner();
        let mut change = self.client.change_members(NodeId(request.node)).wait(MEMBERS_WAIT);
        if request.shard != 0 {
            change = change.shard(ShardId(request.shard));
        }
        let changed = match Change::try_from(request.change) {
            Ok(Change::AddLearner) => change.add(Joining::Learner).await,
            Ok(Change::AddWitness) => change.add(Joining::Witness).await,
            Ok(Change::Promote) => change.promote().await,
            Ok(Change::Remove) => change.remove().await,
            Err(_) => {
                let text = format!("change {} of members is not known", request.change);
                Err(Failure::new(Code::InvalidArgument, text))
            }
        };
        let shards = changed.map_err(refused)?.into_iter().map(encode_shard).collect();
        Ok(Response::new(pb::ChangeMembersResponse { shards }))
    }
}
