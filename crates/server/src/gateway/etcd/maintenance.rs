//! `etcdserverpb.Maintenance`: about the node that is asked, and its replica.

use std::pin::Pin;
use std::time::Duration;

use atoll_base::checksum::crc32c_append;
use atoll_base::{Code, Failure, NodeId, Revision};
use atoll_client::Role;
use atoll_coord::{AnswerBody, Consistency, ReplicaStatus, RequestBody};
use atoll_machine::{KeyEnd, RangePage, RangeQuery};
use atoll_transport::stub::etcdserverpb::maintenance_server;
use atoll_wire::etcd::etcdserverpb as pb;
use bytes::{Bytes, BytesMut};
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::refusal::{self, refused};
use super::{Call, Etcd, VERSION, translate};

/// How long one question to a replica may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(7);
/// Answers of a stream that wait for the network.
const STREAM_QUEUE: usize = 4;
/// A snapshot without its sum is a multiple of this; by that etcd's tools know that there is a sum.
const BLOCK_BYTES: usize = 512;
/// The first bytes of a snapshot.
const MAGIC: &[u8] = b"atoll-etcd-snapshot 1\n";

impl Call {
    /// How the store's replica on this node is, or, where there is none, the leader's.
    pub(super) async fn status(&self) -> Result<ReplicaStatus, Status> {
        if let Some(status) = self.space.look().await {
            return Ok(status);
        }
        match self.ask_replica(RequestBody::Status).await.map_err(|f| refused(&f))? {
            AnswerBody::Status(status) => Ok(status),
            _ => Err(refusal::unexpected("a status")),
        }
    }

    /// The oldest revision that can be read.
    pub(super) async fn compacted(&self) -> Revision {
        // With a read, this node's replica has come as far as others were when this was asked.
        let _ = self.revision_now().await;
        self.status().await.map_or(Revision::ZERO, |status| status.compacted)
    }

    /// Asks this node's replica, or another one where there is none.
    async fn ask_replica(&self, body: RequestBody) -> Result<AnswerBody, Failure> {
        let (node, shard) = (self.space.hub.node, self.space.shard);
        let is_here = self.replicas().iter().any(|r| r.node == node && r.role != Role::Witness);
        match is_here {
            true => self.client.ask_node(node, shard, body, ASK_TIMEOUT).await,
            false => self.keyspace.ask(body).await,
        }
    }

    /// The next page of what a replica holds; the first one fixes the revision of all.
    async fn next_page(&self, rest: &mut Option<RangeQuery>) -> Result<Option<RangePage>, Status> {
        let Some(query) = rest.take() else { return Ok(None) };
        let consistency = Consistency::Stale { max: None };
        let body = RequestBody::Range { query: query.clone(), consistency };
        let answer = self.ask_replica(body).await.map_err(|f| refused(&f))?;
        let AnswerBody::Range { mut page, .. } = answer else {
            return Err(refusal::unexpected("a range"));
        };
        let at = Some(page.revision);
        *rest = page.more.take().map(|start| RangeQuery { start, at, ..query });
        Ok(Some(page))
    }

    /// A hash over every pair at a revision, 0 for the newest, the same on every replica.
    async fn hash_at(&self, at: u64) -> Result<(Revision, u32), Status> {
        let (mut hash, mut revision) = (0, Revision::ZERO);
        let mut rest = Some(everything(at));
        while let Some(page) = self.next_page(&mut rest).await? {
            revision = page.revision;
            for kv in page.kvs {
                let bytes = translate::key_value(kv).encode_length_delimited_to_vec();
                hash = crc32c_append(hash, &bytes);
            }
        }
        Ok((revision, hash))
    }

    /// Sends the store as it is at one revision of this node's replica.
    async fn send_snapshot(
        &self,
        sender: &mpsc::Sender<Result<pb::SnapshotResponse, Status>>,
    ) -> Result<(), Status> {
        let gone = |_| Status::cancelled("the receiver of the snapshot is gone");
        let part = |blob: Bytes, header| pb::SnapshotResponse {
            header,
            blob,
            version: VERSION.to_owned(),
            remaining_bytes: 0,
        };
        let (mut sum, mut bytes, mut is_first) = (Sha256::new(), 0, true);
        let mut rest = Some(everything(0));
        while let Some(page) = self.next_page(&mut rest).await? {
            let mut blob = BytesMut::new();
            let header = self.space.header(page.revision);
            if std::mem::take(&mut is_first) {
                blob.extend_from_slice(MAGIC);
                blob.extend_from_slice(&header.encode_length_delimited_to_vec());
            }
            for kv in page.kvs {
                blob.extend_from_slice(&translate::key_value(kv).encode_length_delimited_to_vec());
            }
            sum.update(&blob);
            bytes += blob.len();
            sender.send(Ok(part(blob.freeze(), Some(header)))).await.map_err(gone)?;
        }
        // Zeros, which no pair begins with, up to a whole block, and then the sum of all before it.
        let mut end = vec![0; BLOCK_BYTES - bytes % BLOCK_BYTES];
        sum.update(&end);
        end.extend_from_slice(&sum.finalize());
        sender.send(Ok(part(end.into(), self.header_now()))).await.map_err(gone)
    }
}

/// A whole store at a revision, 0 for the newest.
fn everything(at: u64) -> RangeQuery {
    let at = (at != 0).then_some(Revision(at));
    RangeQuery { at, ..RangeQuery::new(Bytes::new(), KeyEnd::ToEnd) }
}

#[tonic::async_trait]
impl maintenance_server::Maintenance for Etcd {
    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        let call = self.open(&request).await?;
        let asked = request.into_inner();
        if asked.action() == pb::alarm_request::AlarmAction::Activate {
            let text = "etcdserver: alarms are raised and cleared by the nodes themselves";
            return Err(Status::unimplemented(text));
        }
        let own = self.shared.hub.node.0;
        let is_asked = (asked.member_id == 0 || asked.member_id == own)
            && matches!(asked.alarm(), pb::AlarmType::None | pb::AlarmType::Nospace);
        let alarm = pb::AlarmType::Nospace as i32;
        let alarms = match is_asked && self.shared.hub.pressure.is_full() {
            true => vec![pb::AlarmMember { member_id: own, alarm }],
            false => Vec::new(),
        };
        Ok(Response::new(pb::AlarmResponse { header: call.header_now(), alarms }))
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let call = self.open(&request).await?;
        let status = call.status().await?;
        let hub = &self.shared.hub;
        let db_size = i64::try_from(hub.engine.disk_bytes().unwrap_or(0)).unwrap_or(i64::MAX);
        let own = call.replicas().into_iter().find(|r| r.node == hub.node);
        let mut errors = Vec::new();
        if status.leader.is_none() {
            errors.push(refusal::no_leader().message().to_owned());
        }
        if hub.pressure.is_full() {
            errors.push(format!("memberID:{} alarm:NOSPACE ", hub.node));
        }
        Ok(Response::new(pb::StatusResponse {
            header: call.header(status.revision),
            version: VERSION.to_owned(),
            db_size,
            db_size_in_use: db_size,
            leader: status.leader.unwrap_or_default().0,
            raft_index: status.commit_index.0,
            raft_term: status.term.0,
            raft_applied_index: status.applied_index.0,
            errors,
            is_learner: own.is_some_and(|r| r.role == Role::Learner),
        }))
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        // The engine gives space back as it goes.
        let call = self.open(&request).await?;
        Ok(Response::new(pb::DefragmentResponse { header: call.header_now() }))
    }

    async fn hash(
        &self,
        request: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        let call = self.open(&request).await?;
        let (revision, hash) = call.hash_at(0).await?;
        Ok(Response::new(pb::HashResponse { header: call.header(revision), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let call = self.open(&request).await?;
        let at = u64::try_from(request.get_ref().revision).unwrap_or(0);
        let status = call.status().await?;
        let (revision, hash) = call.hash_at(at).await?;
        Ok(Response::new(pb::HashKvResponse {
            header: call.header(status.revision.max(revision)),
            hash,
            compact_revision: status.compacted.0 as i64,
            hash_revision: revision.0 as i64,
        }))
    }

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let call = self.open(&request).await?;
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(async move {
            if let Err(status) = call.send_snapshot(&sender).await {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let call = self.open(&request).await?;
        let target = NodeId(request.get_ref().target_id);
        if call.status().await?.leader != Some(self.shared.hub.node) {
            return Err(refusal::not_leader());
        }
        match call.replicas().iter().find(|r| r.node == target).map(|r| r.role) {
            Some(Role::Voter) => {}
            _ => return Err(refusal::bad_transferee()),
        }
        let moved = self.shared.client.transfer_leader(call.space.shard, target).await;
        match moved {
            Err(failure) if failure.code == Code::PreconditionFailed => {
                Err(refusal::bad_transferee())
            }
            Err(failure) => Err(refused(&failure)),
            Ok(()) => {
                call.space.look().await;
                Ok(Response::new(pb::MoveLeaderResponse { header: call.header_now() }))
            }
        }
    }
}
