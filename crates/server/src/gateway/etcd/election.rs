//! `v3electionpb.Election`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use atoll_base::Revision;
use atoll_client::Keys;
use atoll_machine::{
    DeleteOp, Event, EventKind, KeyEnd, KeyValue, Op, PutOp, Reply, TxnOp, TxnStep,
};
use atoll_transport::stub::v3electionpb::election_server;
use atoll_wire::etcd::v3electionpb as pb;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::queue::{Place, created_at, prefix};
use super::refusal::{self, refused, unexpected};
use super::{Call, Etcd, translate};

/// Answers of a stream that wait for the network.
const STREAM_QUEUE: usize = 16;

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

fn no_leader() -> Status {
    Status::unknown("election: no leader")
}

fn leader_key(leader: Option<pb::LeaderKey>) -> Result<pb::LeaderKey, Status> {
    leader.ok_or_else(|| Status::invalid_argument("\"leader\" field must be provided"))
}

/// The one whose key was created first.
fn first(queue: impl IntoIterator<Item = KeyValue>) -> Option<KeyValue> {
    queue.into_iter().min_by_key(|kv| kv.create_revision)
}

impl Call {
    /// Does `step` if the leader is still the one that is meant.
    async fn as_leader(&self, leader: &pb::LeaderKey, step: TxnStep) -> Result<Revision, Status> {
        let created = u64::try_from(leader.rev).unwrap_or(0);
        let compares = vec![created_at(&leader.key, Revision(created))];
        let txn = TxnOp { compares, then: vec![step], otherwise: Vec::new() };
        match self.apply(Op::Txn(txn)).await? {
            Reply::Txn { revision, succeeded: true, .. } if created != 0 => Ok(revision),
            Reply::Txn { .. } => Err(not_leader()),
            _ => Err(unexpected("a transaction")),
        }
    }
}

fn set(key: Bytes, value: Bytes, lease: i64) -> TxnStep {
    let lease = translate::lease(lease);
    TxnStep::Put(PutOp { key, value, lease, ..PutOp::default() })
}

#[tonic::async_trait]
impl election_server::Election for Etcd {
    type ObserveStream = Pin<Box<dyn Stream<Item = Result<pb::LeaderResponse, Status>> + Send>>;

    async fn campaign(
        &self,
        request: Request<pb::CampaignRequest>,
    ) -> Result<Response<pb::CampaignResponse>, Status> {
        let call = Arc::new(self.open(&request).await?);
        let pb::CampaignRequest { name, lease: lease_id, value } = request.into_inner();
        let Some(lease) = translate::lease(lease_id) else {
            return Err(refusal::lease_not_found());
        };
        let (place, held) = Place::take(call.clone(), &name, lease, value.clone()).await?;
        let leader = pb::LeaderKey {
            name: name.clone(),
            key: place.key.clone(),
            rev: place.created.0 as i64,
            lease: lease_id,
        };
        if held != value {
            // It was in the queue already, with something else to say.
            call.as_leader(&leader, set(leader.key.clone(), value, lease_id)).await?;
        }
        let revision = self.or_stopped(place.wait(&name)).await?;
        place.keep();
        let header = call.header(revision);
        Ok(Response::new(pb::CampaignResponse { header, leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<pb::ProclaimRequest>,
    ) -> Result<Response<pb::ProclaimResponse>, Status> {
        let call = self.open(&request).await?;
        let pb::ProclaimRequest { leader, value } = request.into_inner();
        let leader = leader_key(leader)?;
        let step = set(leader.key.clone(), value, leader.lease);
        let revision = call.as_leader(&leader, step).await?;
        Ok(Response::new(pb::ProclaimResponse { header: call.header(revision) }))
    }

    async fn leader(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<pb::LeaderResponse>, Status> {
        let call = self.open(&request).await?;
        let (revision, queue) = call.queue(&request.get_ref().name).await?;
        let kv = first(queue).ok_or_else(no_leader)?;
        let kv = Some(translate::key_value(kv));
        Ok(Response::new(pb::LeaderResponse { header: call.header(revision), kv }))
    }

    async fn observe(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let call = self.open(&request).await?;
        let name = request.into_inner().name;
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(async move {
            if let Err(status) = observe(&call, &name, &sender).await {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn resign(
        &self,
        request: Request<pb::ResignRequest>,
    ) -> Result<Response<pb::ResignResponse>, Status> {
        let call = self.open(&request).await?;
        let leader = leader_key(request.into_inner().leader)?;
        let delete = DeleteOp { key: leader.key.clone(), end: KeyEnd::Single, prev_kv: false };
        match call.as_leader(&leader, TxnStep::Delete(delete)).await {
            Ok(revision) => Ok(Response::new(pb::ResignResponse { header: call.header(revision) })),
            // Who does not lead any more has nothing to give up.
            Err(status) if status.message() == not_leader().message() => {
                Ok(Response::new(pb::ResignResponse { header: call.header_now() }))
            }
            Err(status) => Err(status),
        }
    }
}

/// Tells who leads, and each who leads after, and each time that they say something else.
async fn observe(
    call: &Call,
    name: &[u8],
    sender: &mpsc::Sender<Result<pb::LeaderResponse, Status>>,
) -> Result<(), Status> {
    let (revision, queue) = call.queue(name).await?;
    let watch = call.keyspace.watch(Keys::prefix(prefix(name))).from(revision.next());
    let mut watch = watch.start().await.map_err(|f| refused(&f))?;
    let mut queue: BTreeMap<Bytes, KeyValue> =
        queue.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
    let mut told: Option<(Bytes, Revision)> = None;
    let mut through = revision;
    loop {
        let leader = first(queue.values().cloned());
        let news = leader.filter(|kv| told.as_ref() != Some(&(kv.key.clone(), kv.mod_revision)));
        if let Some(kv) = news {
            told = Some((kv.key.clone(), kv.mod_revision));
            let kv = Some(translate::key_value(kv));
            let answer = pb::LeaderResponse { header: call.header(through), kv };
            if sender.send(Ok(answer)).await.is_err() {
                return Ok(());
            }
        }
        let next = tokio::select! {
            next = watch.next() => next,
            () = sender.closed() => return Ok(()),
        };
        let Some(changes) = next else { return Ok(()) };
        let changes = changes.map_err(|f| refused(&f))?;
        through = changes.through;
        for Event { key, kind, .. } in changes.events {
            match kind {
                EventKind::Put(record) => {
                    queue.insert(key.clone(), record.with_key(key));
                }
                EventKind::Delete => {
                    queue.remove(&key);
                }
            }
        }
    }
}
