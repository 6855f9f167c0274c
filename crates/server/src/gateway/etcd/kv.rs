//! `etcdserverpb.KV`.

use atoll_base::Revision;
use atoll_coord::{AnswerBody, Consistency, RequestBody};
use atoll_machine::{Op, Reply};
use atoll_transport::stub::etcdserverpb::kv_server;
use atoll_wire::etcd::etcdserverpb as pb;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::range::Plan;
use super::refusal::{self, refused, unexpected};
use super::{Call, Etcd, check, translate, txn};

/// Any key will do where only the answer's revision is of interest.
const ANY_KEY: Bytes = Bytes::from_static(&[0]);

impl Call {
    /// The store's revision now.
    pub(super) async fn revision_now(&self) -> Result<Revision, Status> {
        let consistency = Consistency::Linearizable;
        let body = RequestBody::Get { key: ANY_KEY, at: None, consistency };
        match self.ask(body).await.map_err(|f| refused(&f))? {
            AnswerBody::Get { revision, .. } => Ok(revision),
            _ => Err(unexpected("a get")),
        }
    }

    pub(super) async fn apply(&self, op: Op) -> Result<Reply, Status> {
        self.keyspace.apply(op).await.map_err(|f| refused(&f))
    }
}

#[tonic::async_trait]
impl kv_server::Kv for Etcd {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        check::range(request.get_ref())?;
        let call = self.open(&request).await?;
        let plan = Plan::new(request.into_inner());
        let (newest, answer) = plan.read(&call).await.map_err(|f| refused(&f))?;
        Ok(Response::new(pb::RangeResponse { header: call.header(newest), ..answer }))
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        check::put(request.get_ref())?;
        self.shared.limits.size(request.get_ref())?;
        let call = self.open(&request).await?;
        match call.apply(Op::Put(translate::put(request.into_inner()))).await? {
            Reply::Put { revision, previous } => Ok(Response::new(pb::PutResponse {
                header: call.header(revision),
                prev_kv: previous.map(translate::key_value),
            })),
            _ => Err(unexpected("a put")),
        }
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        check::delete(request.get_ref())?;
        self.shared.limits.size(request.get_ref())?;
        let call = self.open(&request).await?;
        match call.apply(Op::Delete(translate::delete(request.into_inner()))).await? {
            Reply::Delete { revision, deleted, previous } => {
                Ok(Response::new(pb::DeleteRangeResponse {
                    header: call.header(revision),
                    deleted: deleted as i64,
                    prev_kvs: previous.into_iter().map(translate::key_value).collect(),
                }))
            }
            _ => Err(unexpected("a deletion")),
        }
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        check::txn(request.get_ref(), self.shared.limits.txn_ops_max)?;
        self.shared.limits.size(request.get_ref())?;
        let call = self.open(&request).await?;
        let wire = request.into_inner();
        if wire.compare.is_empty() && wire.success.is_empty() && wire.failure.is_empty() {
            // Nothing to look at and nothing to do.
            let header = call.header(call.revision_now().await?);
            let answer = pb::TxnResponse { header, succeeded: true, responses: Vec::new() };
            return Ok(Response::new(answer));
        }
        let (op, outline) = txn::decode(wire);
        match call.apply(Op::Txn(op)).await? {
            Reply::Txn { revision, succeeded, results } => {
                let answer = txn::encode(&outline, succeeded, results, revision)?;
                Ok(Response::new(pb::TxnResponse { header: call.header(revision), ..answer }))
            }
            _ => Err(unexpected("a transaction")),
        }
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let call = self.open(&request).await?;
        let Ok(revision) = u64::try_from(request.get_ref().revision) else {
            return Err(refusal::compacted());
        };
        match call.apply(Op::Compact { revision: Revision(revision) }).await? {
            Reply::Compact { revision, .. } => {
                Ok(Response::new(pb::CompactionResponse { header: call.header(revision) }))
            }
            _ => Err(unexpected("a compaction")),
        }
    }
}
