//! `etcdserverpb.Auth`: there are no users yet, and clients that ask are told so.

use atoll_transport::stub::etcdserverpb::auth_server;
use atoll_wire::etcd::etcdserverpb as pb;
use tonic::{Request, Response, Status};

use super::{Etcd, refusal};

#[tonic::async_trait]
impl auth_server::Auth for Etcd {
    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let call = self.open(&request).await?;
        let header = call.header_now();
        Ok(Response::new(pb::AuthStatusResponse { header, enabled: false, auth_revision: 1 }))
    }

    async fn authenticate(
        &self,
        _: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        Err(refusal::auth_not_enabled())
    }
}
