//! Leases, locks, semaphores and elections, one request at a time, for clients in any language that
//! keep their own sessions. Any node answers: it asks whoever leads the shard.

use std::pin::Pin;

use atoll_base::{Code, Failure, Happened};
use atoll_client::{
    Bytes, Client, Keyspace, LeaseId, LeaseOp, LeaseReply, LockOp, LockReply, Told,
};
use atoll_coord::KeptAlive;
use atoll_machine::{Command, CommandId, Op, Reply};
use atoll_transport::call::{
    command_id, decode_acquire, decode_cancel, decode_keep_alive, decode_lease_grant,
    decode_lease_revoke, decode_proclaim, decode_release, decode_set_semaphore, encode_kept_alive,
    encode_lease_status, encode_lock_info, encode_observed, encode_reply,
};
use atoll_transport::status::to_status;
use atoll_transport::stub::v1::coordination_server;
use atoll_wire::v1 as pb;
use pb::answer::Body;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::kv::{TIMEOUT_MAX, keyspace_of};
use super::request_timeout;

/// Answers of a stream that wait for the network.
const STREAM_QUEUE: usize = 4;

/// `atoll.v1.Coordination`.
#[derive(Clone)]
pub(super) struct Coordination {
    pub(super) client: Client,
    pub(super) stop: watch::Receiver<bool>,
}

/// Why a long call ends early.
fn stopping() -> Failure {
    let text = "this node is stopping, ask another one; a request that waits keeps its place";
    Failure::new(Code::ShuttingDown, text).with_happened(Happened::Maybe)
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn refused(failure: Failure) -> Status {
    to_status(&failure)
}

/// Where leases are that are for nothing in particular: in the first shard.
fn key_of(key: Bytes) -> Bytes {
    if key.is_empty() { Bytes::from_static(&[0]) } else { key }
}

/// An answer to another kind of request, which had the same id.
fn mismatch() -> Status {
    refused(Failure::new(
        Code::InvalidArgument,
        "the request's id belongs to an earlier request of another kind",
    ))
}

/// Carries out a command on a lease, under the name that its caller gave it if there is one.
async fn lease(
    keyspace: &Keyspace,
    key: &Bytes,
    id: Option<CommandId>,
    op: LeaseOp,
) -> Result<LeaseReply, Status> {
    let Some(id) = id else { return keyspace.lease_command(key, op).await.map_err(refused) };
    let command = Command { id: Some(id), op: Op::Lease(op) };
    match keyspace.carry_out(key, command).await.map_err(refused)? {
        Reply::Lease(reply) => Ok(reply),
        _ => Err(mismatch()),
    }
}

/// Carries out a command on a lock that is done at once.
async fn lock(keyspace: &Keyspace, id: Option<CommandId>, op: LockOp) -> Result<LockReply, Status> {
    let (Some(id), Some(name)) = (id, op.lock().cloned()) else {
        return keyspace.lock_command(op).await.map_err(refused);
    };
    let command = Command { id: Some(id), op: Op::Lock(op) };
    match keyspace.carry_out(&name, command).await.map_err(refused)? {
        Reply::Lock(reply) => Ok(reply),
        _ => Err(mismatch()),
    }
}

/// Follows a keep-alive stream; each message is answered before the next one is taken.
async fn keep(
    client: Client,
    mut requests: Streaming<pb::KeepAliveRequest>,
    sender: mpsc::Sender<Result<pb::KeepAliveResponse, Status>>,
    stop: watch::Receiver<bool>,
) {
    let stopped = super::stopped(stop);
    tokio::pin!(stopped);
    loop {
        let request = tokio::select! {
            request = requests.message() => request,
            () = sender.closed() => return,
            () = &mut stopped => {
                let _ = sender.send(Err(refused(stopping()))).await;
                return;
            }
        };
        let Ok(Some(mut wire)) = request else { return };
        let name = std::mem::take(&mut wire.keyspace);
        let keyspace = keyspace_of(&client, &Request::new(()), &name);
        let key = key_of(std::mem::take(&mut wire.key));
        let answer = match decode_keep_alive(wire) {
            Ok(leases) => keyspace.keep_alive(&key, leases).await,
            Err(failure) => Err(failure),
        };
        let answer = answer.map(|kept: Vec<KeptAlive>| encode_kept_alive(kept)).map_err(refused);
        let is_over = answer.is_err();
        if sender.send(answer).await.is_err() || is_over {
            return;
        }
    }
}

#[tonic::async_trait]
impl coordination_server::Coordination for Coordination {
    type KeepAliveStream = Answers<pb::KeepAliveResponse>;
    type ObserveStream = Answers<pb::ObserveResponse>;

    async fn grant_lease(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let keyspace = keyspace_of(&self.client, &request, &request.get_ref().keyspace);
        let mut wire = request.into_inner();
        let (id, key) = (wire.id.take().map(command_id), key_of(std::mem::take(&mut wire.key)));
        match lease(&keyspace, &key, id, decode_lease_grant(&wire)).await? {
            LeaseReply::Granted { id, ttl_ms } => {
                Ok(Response::new(pb::LeaseGrantResponse { lease: id.0, ttl_ms }))
            }
            LeaseReply::Ended { .. } => Err(mismatch()),
        }
    }

    async fn revoke_lease(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let keyspace = keyspace_of(&self.client, &request, &request.get_ref().keyspace);
        let mut wire = request.into_inner();
        let (id, key) = (wire.id.take().map(command_id), key_of(std::mem::take(&mut wire.key)));
        let op = decode_lease_revoke(&wire).map_err(refused)?;
        match lease(&keyspace, &key, id, op).await? {
            LeaseReply::Ended { revision, deleted } => {
                Ok(Response::new(pb::LeaseRevokeResponse { revision: revision.0, deleted }))
            }
            LeaseReply::Granted { .. } => Err(mismatch()),
        }
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<pb::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let stop = self.stop.clone();
        tokio::spawn(keep(self.client.clone(), request.into_inner(), sender, stop));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn show_lease(
        &self,
        request: Request<pb::LeaseShowRequest>,
    ) -> Result<Response<pb::LeaseShowResponse>, Status> {
        let keyspace = keyspace_of(&self.client, &request, &request.get_ref().keyspace);
        let wire = request.into_inner();
        let keys = if wire.keys { Told::Yes } else { Told::No };
        let status = keyspace.lease_status(&key_of(wire.key), LeaseId(wire.lease), keys).await;
        Ok(Response::new(encode_lease_status(status.map_err(refused)?)))
    }

    async fn list_leases(
        &self,
        request: Request<pb::LeaseListRequest>,
    ) -> Result<Response<pb::LeaseListResponse>, Status> {
        let keyspace = keyspace_of(&self.client, &request, &request.get_ref().keyspace);
        let wire = request.into_inner();
        let limit = match wire.limit {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let after = (wire.after != 0).then_some(LeaseId(wire.after));
        let leases = keyspace.leases_after(&key_of(wire.key), after, limit).await;
        let leases = leases.map_err(refused)?.into_iter().map(|id| id.0).collect();
        Ok(Response::new(pb::LeaseListResponse { leases }))
    }

    async fn acquire(
        &self,
        request: Request<pb::AcquireRequest>,
    ) -> Result<Response<pb::AcquireResponse>, Status> {
        let keyspace = keyspace_of(&self.client, &request, &request.get_ref().keyspace);
        let patience = request_timeout(&request).unwrap_or(TIMEOUT_MAX).min(TIMEOUT_MAX);
        let mut wire = request.into_inner();
        let id = wire.id.take().map(command_id);
        let op = decode_acquire(wire).map_err(refused)?;
        let asked = async {
            match id {
                Some(_) => lock(&keyspace.with_timeout(patience), id, LockOp::Acquire(op)).await,
                None => keyspace.claim(&op, patience).await.map_err(refused),
            }
        };
        let reply = tokio::select! {
            reply = asked => reply?,
            () = super::stopped(self.stop.clone()) => return Err(refused(stopping())),
        };
        match encode_reply(Reply::Lock(reply)).map_err(refused)? {
            Body::Acquire(acquired) => Ok(Response::new(acquired)),
            _ => Err(mismatch()),
        }
    }

    async fn release(
        &self,
        request: Request<pb::ReleaseRequest>,
    ) -> Result<Response<pb::ReleaseResponse>, Status> {
        let keyspace = keyspace_of(&self.client, &request, &request.get_ref().keyspace);
        let mut wire = request.into_inner();
        let id = wire.id.take().map(command_id);
        lock(&keyspace, id, decode_release(wire).map_err(refused)?).await?;
        Ok(Response::new(pb::ReleaseResponse {}))
    }

    async fn cancel_acquire(
        &self,
        request: Request<pb::CancelAcquireRequest>,
    ) -> Result<Response<pb::CancelAcquireResponse>, Status> {
        let keyspace = keyspace_of(&self.client, &request, &request.get_ref().keyspace);
        let mut wire = request.into_inner();
        let id = wire.id.take().map(command_id);
        match lock(&keyspace, id, decode_cancel(wire).map_err(refused)?).await? {
            LockReply::Acquired { token } => {
                Ok(Response::new(pb::CancelAcquireResponse { token: token.0 }))
            }
            _ => Ok(Response::new(pb::CancelAcquireResponse { token: 0 })),
        }
    }

    async fn show_lock(
        &self,
        request: Request<pb::LockRequest>,
    ) -> Result<Response<pb::LockResponse>, Status> {
        let keyspace = keyspace_of(&self.client, &request, &request.get_ref().keyspace);
        let info = keyspace.lock_info(&request.into_inner().lock).await.map_err(refused)?;
        Ok(Response::new(encode_lock_info(info)))
    }

    async fn set_semaphore(
        &self,
        request: Request<pb::SetSemaphoreRequest>,
    ) -> Result<Response<pb::SetSemaphoreResponse>, Status> {
        let keyspace = keyspace_of(&self.client, &request, &request.get_ref().keyspace);
        let mut wire = request.into_inner();
        let id = wire.id.take().map(command_id);
        lock(&keyspace, id, decode_set_semaphore(wire)).await?;
        Ok(Response::new(pb::SetSemaphoreResponse {}))
    }

    async fn proclaim(
        &self,
        request: Request<pb::ProclaimRequest>,
    ) -> Result<Response<pb::ProclaimResponse>, Status> {
        let keyspace = keyspace_of(&self.client, &request, &request.get_ref().keyspace);
        let mut wire = request.into_inner();
        let id = wire.id.take().map(command_id);
        lock(&keyspace, id, decode_proclaim(wire).map_err(refused)?).await?;
        Ok(Response::new(pb::ProclaimResponse {}))
    }

    async fn observe(
        &self,
        request: Request<pb::ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let keyspace = keyspace_of(&self.client, &request, &request.get_ref().keyspace);
        let mut observation = keyspace.election(request.into_inner().lock).observe();
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let stopped = super::stopped(stop);
            tokio::pin!(stopped);
            loop {
                let next = tokio::select! {
                    next = observation.next() => next,
                    () = sender.closed() => return,
                    () = &mut stopped => Err(stopping()),
                };
                let answer = next.map(encode_observed).map_err(refused);
                let is_over = answer.is_err();
                if sender.send(answer).await.is_err() || is_over {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}
