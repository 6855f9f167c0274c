//! `v3lockpb.Lock`.

use std::sync::Arc;

use atoll_machine::{DeleteOp, KeyEnd, Op, Reply};
use atoll_transport::stub::v3lockpb::lock_server;
use atoll_wire::etcd::v3lockpb as pb;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::queue::Place;
use super::refusal::{self, unexpected};
use super::{Etcd, translate};

#[tonic::async_trait]
impl lock_server::Lock for Etcd {
    async fn lock(
        &self,
        request: Request<pb::LockRequest>,
    ) -> Result<Response<pb::LockResponse>, Status> {
        let call = Arc::new(self.open(&request).await?);
        let pb::LockRequest { name, lease } = request.into_inner();
        let Some(lease) = translate::lease(lease) else { return Err(refusal::lease_not_found()) };
        let (place, _) = Place::take(call.clone(), &name, lease, Bytes::new()).await?;
        let revision = self.or_stopped(place.wait(&name)).await?;
        let (key, _) = place.keep();
        Ok(Response::new(pb::LockResponse { header: call.header(revision), key }))
    }

    async fn unlock(
        &self,
        request: Request<pb::UnlockRequest>,
    ) -> Result<Response<pb::UnlockResponse>, Status> {
        let call = self.open(&request).await?;
        let key = request.into_inner().key;
        if key.is_empty() {
            return Err(refusal::empty_key());
        }
        let delete = DeleteOp { key, end: KeyEnd::Single, prev_kv: false };
        match call.apply(Op::Delete(delete)).await? {
            Reply::Delete { revision, .. } => {
                Ok(Response::new(pb::UnlockResponse { header: call.header(revision) }))
            }
            _ => Err(unexpected("a deletion")),
        }
    }
}
