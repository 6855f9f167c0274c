//! `etcdserverpb.Lease`.

use std::pin::Pin;
use std::time::Duration;

use atoll_base::{Code, LeaseId};
use atoll_coord::{AnswerBody, RequestBody, Told};
use atoll_machine::{LeaseOp, LeaseReply, Op, Reply};
use atoll_transport::stub::etcdserverpb::lease_server;
use atoll_wire::etcd::etcdserverpb as pb;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::refusal::{self, refused, unexpected};
use super::{Call, Etcd, translate};

/// The longest that a lease may live, seconds.
const TTL_MAX: i64 = 9_000_000_000;
/// Leases asked for at once.
const LEASES_PER_PAGE: usize = 10_000;
/// Answers of a stream that wait for the network.
const STREAM_QUEUE: usize = 16;

fn seconds(d: Duration) -> i64 {
    i64::try_from(d.as_secs()).unwrap_or(i64::MAX)
}

impl Call {
    /// A header of an answer that speaks of no revision.
    pub(super) fn header_now(&self) -> Option<pb::ResponseHeader> {
        Some(self.space.header(self.space.newest()))
    }

    async fn keep_alive(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
        let leases = vec![LeaseId(id as u64)];
        match self.keyspace.ask(RequestBody::KeepAlive { leases }).await {
            Ok(AnswerBody::KeptAlive(kept)) => {
                let ttl = kept.first().and_then(|kept| kept.ttl);
                let ttl = ttl.map_or(0, seconds);
                Ok(pb::LeaseKeepAliveResponse { header: self.header_now(), id, ttl })
            }
            Ok(_) => Err(unexpected("a keep-alive")),
            Err(failure) => Err(refused(&failure)),
        }
    }
}

#[tonic::async_trait]
impl lease_server::Lease for Etcd {
    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let call = self.open(&request).await?;
        let pb::LeaseGrantRequest { ttl, id } = request.into_inner();
        if ttl > TTL_MAX {
            return Err(refusal::lease_ttl_too_large());
        }
        // Too short a wish is raised to the least that there is, and so is none at all.
        let ttl_ms = ttl.max(1) as u64 * 1000;
        let grant = LeaseOp::Grant { id: translate::lease(id), ttl_ms, lock_delay_ms: 0 };
        match call.apply(Op::Lease(grant)).await? {
            Reply::Lease(LeaseReply::Granted { id, ttl_ms }) => {
                Ok(Response::new(pb::LeaseGrantResponse {
                    header: call.header_now(),
                    id: id.0 as i64,
                    ttl: (ttl_ms / 1000) as i64,
                    error: String::new(),
                }))
            }
            _ => Err(unexpected("a grant")),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let call = self.open(&request).await?;
        let Some(id) = translate::lease(request.get_ref().id) else {
            return Err(refusal::lease_not_found());
        };
        match call.apply(Op::Lease(LeaseOp::Revoke { id })).await? {
            Reply::Lease(LeaseReply::Ended { revision, .. }) => {
                Ok(Response::new(pb::LeaseRevokeResponse { header: call.header(revision) }))
            }
            _ => Err(unexpected("a revocation")),
        }
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let call = self.open(&request).await?;
        let mut asked = request.into_inner();
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(async move {
            while let Ok(Some(pb::LeaseKeepAliveRequest { id })) = asked.message().await {
                let answer = call.keep_alive(id).await;
                let is_over = answer.is_err();
                if sender.send(answer).await.is_err() || is_over {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let call = self.open(&request).await?;
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let keys = if keys { Told::Yes } else { Told::No };
        let asked = RequestBody::Lease { id: LeaseId(id as u64), keys };
        let answer = match call.keyspace.ask(asked).await {
            Ok(AnswerBody::Lease(status)) => pb::LeaseTimeToLiveResponse {
                header: call.header_now(),
                id,
                ttl: seconds(status.left),
                granted_ttl: seconds(status.ttl),
                keys: status.keys,
            },
            Ok(_) => return Err(unexpected("a lease")),
            Err(failure) if failure.code == Code::NotFound => pb::LeaseTimeToLiveResponse {
                header: call.header_now(),
                id,
                ttl: -1,
                ..Default::default()
            },
            Err(failure) => return Err(refused(&failure)),
        };
        Ok(Response::new(answer))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let call = self.open(&request).await?;
        let mut leases: Vec<LeaseId> = Vec::new();
        loop {
            let after = leases.last().copied();
            let page = RequestBody::Leases { after, limit: LEASES_PER_PAGE };
            match call.keyspace.ask(page).await.map_err(|f| refused(&f))? {
                AnswerBody::Leases(page) => {
                    let is_last = page.len() < LEASES_PER_PAGE;
                    leases.extend(page);
                    if is_last {
                        break;
                    }
                }
                _ => return Err(unexpected("a list of leases")),
            }
        }
        let leases = leases.into_iter().map(|id| pb::LeaseStatus { id: id.0 as i64 }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: call.header_now(), leases }))
    }
}
