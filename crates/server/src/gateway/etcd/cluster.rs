//! `etcdserverpb.Cluster`: the members are the replicas of the store's shard.
//!
//! A node joins Atoll's cluster by itself (`atoll serve --join`); being made a member of the store
//! is what comes after. Its addresses are its own to say.

use std::time::Duration;

use atoll_base::NodeId;
use atoll_client::{Joining, NodeRecord, ReplicaMember, Role};
use atoll_transport::stub::etcdserverpb::cluster_server;
use atoll_wire::etcd::etcdserverpb as pb;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::refusal::{self, refused};
use super::{Call, Etcd};

/// How long a call waits for a change of members; the change goes on by itself.
const CHANGE_WAIT: Duration = Duration::from_secs(60);
/// How long this node may take to hear of a change that others know already, and how often it is
/// looked for.
const NEWS_WAIT: Duration = Duration::from_secs(1);
const NEWS_LOOK: Duration = Duration::from_millis(5);

fn url(address: &str) -> String {
    format!("http://{address}")
}

fn address(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/')
}

fn member(node: &NodeRecord, role: Role) -> pb::Member {
    pb::Member {
        id: node.id.0,
        name: format!("node-{}", node.id),
        peer_ur_ls: vec![url(&node.peer_address)],
        client_ur_ls: vec![url(&node.client_address)],
        is_learner: role == Role::Learner,
    }
}

impl Call {
    /// The store's replicas, as this node knows them.
    pub(super) fn replicas(&self) -> Vec<ReplicaMember> {
        let shard = self.space.shard;
        self.space.hub.catalog.with(|catalog| {
            catalog.shard(shard).map(|s| s.record.descriptor.members.clone()).unwrap_or_default()
        })
    }

    fn members(&self) -> Vec<pb::Member> {
        let replicas = self.replicas();
        self.space.hub.catalog.with(|catalog| {
            let of = |r: &ReplicaMember| Some(member(catalog.node(r.node)?, r.role));
            replicas.iter().filter_map(of).collect()
        })
    }

    fn role_of(&self, node: u64) -> Option<Role> {
        self.replicas().iter().find(|r| r.node.0 == node).map(|r| r.role)
    }

    /// The member's role as soon as it is as wanted, or as it still is a while later: a caller
    /// that changed the members through another node must not be answered by what was before.
    async fn role_once(&self, node: u64, is_wanted: impl Fn(Option<Role>) -> bool) -> Option<Role> {
        let until = Instant::now() + NEWS_WAIT;
        loop {
            let role = self.role_of(node);
            if is_wanted(role) || Instant::now() >= until {
                return role;
            }
            tokio::time::sleep(NEWS_LOOK).await;
        }
    }

    /// The node that its peers reach at one of these.
    fn node_at(&self, urls: &[String]) -> Option<NodeId> {
        self.space.hub.catalog.with(|catalog| {
            let is_it = |n: &&NodeRecord| urls.iter().any(|u| address(u) == n.peer_address);
            catalog.nodes().find(is_it).map(|n| n.id)
        })
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for Etcd {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let call = self.open(&request).await?;
        let pb::MemberAddRequest { peer_ur_ls, is_learner } = request.into_inner();
        let Some(node) = call.node_at(&peer_ur_ls) else {
            let text = format!(
                "etcdserver: no node of this cluster is reached at {}: start it with atoll serve \
                 --join first",
                peer_ur_ls.join(", ")
            );
            return Err(Status::failed_precondition(text));
        };
        if call.role_of(node.0).is_some() {
            return Err(refusal::peer_urls_exist());
        }
        let joining = if is_learner { Joining::Learner } else { Joining::Voter };
        let change = self.shared.client.change_members(node).shard(call.space.shard);
        change.wait(CHANGE_WAIT).add(joining).await.map_err(|f| refused(&f))?;
        call.role_once(node.0, |role| role.is_some()).await;
        let members = call.members();
        let member = members.iter().find(|m| m.id == node.0).cloned();
        let header = call.header_now();
        Ok(Response::new(pb::MemberAddResponse { header, member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let call = self.open(&request).await?;
        let id = request.get_ref().id;
        if call.role_once(id, |role| role.is_some()).await.is_none() {
            return Err(refusal::member_not_found());
        }
        let change = self.shared.client.change_members(NodeId(id)).shard(call.space.shard);
        change.wait(CHANGE_WAIT).remove().await.map_err(|f| refused(&f))?;
        call.role_once(id, |role| role.is_none()).await;
        let (header, members) = (call.header_now(), call.members());
        Ok(Response::new(pb::MemberRemoveResponse { header, members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let call = self.open(&request).await?;
        let pb::MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        if call.role_once(id, |role| role.is_some()).await.is_none() {
            return Err(refusal::member_not_found());
        }
        if call.node_at(&peer_ur_ls) != Some(NodeId(id)) {
            let text = "etcdserver: a node says itself where it is reached: start it with its new \
                        addresses";
            return Err(Status::failed_precondition(text));
        }
        let (header, members) = (call.header_now(), call.members());
        Ok(Response::new(pb::MemberUpdateResponse { header, members }))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let call = self.open(&request).await?;
        let (header, members) = (call.header_now(), call.members());
        Ok(Response::new(pb::MemberListResponse { header, members }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let call = self.open(&request).await?;
        let id = request.get_ref().id;
        match call.role_once(id, |role| role == Some(Role::Learner)).await {
            None => return Err(refusal::member_not_found()),
            Some(Role::Learner) => {}
            Some(_) => return Err(refusal::not_learner()),
        }
        let change = self.shared.client.change_members(NodeId(id)).shard(call.space.shard);
        change.wait(CHANGE_WAIT).promote().await.map_err(|f| refused(&f))?;
        call.role_once(id, |role| role != Some(Role::Learner)).await;
        let (header, members) = (call.header_now(), call.members());
        Ok(Response::new(pb::MemberPromoteResponse { header, members }))
    }
}
