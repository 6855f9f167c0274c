//! Calls of one key, range or transaction at a time, for clients in any language. Any node answers:
//! it asks itself and the others through the client library.

use std::pin::Pin;
use std::time::Duration;

use atoll_base::{Code, Failure, Revision, ShardId};
use atoll_client::{
    Bytes, Client, Guard, Keys, Keyspace, KeyspaceId, Previous, ReadOptions, Scan, Token, Watch,
    WatchBuilder,
};
use atoll_coord::{Consistency, WatchEvents};
use atoll_machine::{Command, CommandId, DeleteOp, KeyEnd, Op, RangePage, Reply, TxnOp, TxnStep};
use atoll_transport::call::{
    command_id, decode_delete, decode_put, decode_range, decode_txn, encode_page, encode_reply,
    encode_watch_events, key_value, range_end,
};
use atoll_transport::status::to_status;
use atoll_transport::stub::v1::kv_server;
use atoll_wire::v1 as pb;
use pb::answer::Body;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::flight::Flight;
use super::request_timeout;

/// Answers of a stream that wait for the network.
const STREAM_QUEUE: usize = 4;
/// The longest that a call may take, whatever its caller allows.
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Keys in a page where the caller gives no limit.
const PAGE_KEYS: u64 = 1000;

/// `atoll.v1.Kv`.
#[derive(Clone)]
pub(super) struct Kv {
    pub(super) client: Client,
    pub(super) flight: Flight,
    pub(super) stop: watch::Receiver<bool>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Kv {
    fn keyspace<T>(&self, request: &Request<T>, name: &str) -> Keyspace {
        keyspace_of(&self.client, request, name)
    }
}

/// The keyspace that a request names, with the time that its caller allows.
pub(super) fn keyspace_of<T>(client: &Client, request: &Request<T>, name: &str) -> Keyspace {
    let name = if name.is_empty() { "default" } else { name };
    let keyspace = client.keyspace(name);
    match request_timeout(request) {
        Some(timeout) => keyspace.with_timeout(timeout.min(TIMEOUT_MAX)),
        None => keyspace,
    }
}

/// The keyspace under the guards of a request, which name keyspaces by name or number.
async fn guarded(mut keyspace: Keyspace, guards: Vec<pb::Guard>) -> Result<Keyspace, Status> {
    for guard in guards {
        let id = match (guard.keyspace_id, guard.keyspace.as_str()) {
            (0, "") => keyspace.id().await.map_err(refused)?,
            (0, name) => keyspace.client().keyspace(name).id().await.map_err(refused)?,
            (id, _) => KeyspaceId(id),
        };
        let (lock, token) = (guard.lock, Token(guard.token));
        keyspace = keyspace.guarded_by(Guard { keyspace: id, lock, token });
    }
    Ok(keyspace)
}

fn refused(failure: Failure) -> Status {
    to_status(&failure)
}

fn keys_of(start: Bytes, end: KeyEnd) -> Keys {
    match end {
        KeyEnd::Single => Keys::one(start),
        KeyEnd::Until(end) => Keys::between(start, end),
        KeyEnd::ToEnd => Keys::from(start),
    }
}

/// Carries out a command that its caller named.
async fn named(keyspace: &Keyspace, key: &Bytes, id: CommandId, op: Op) -> Result<Body, Failure> {
    let reply: Reply = keyspace.carry_out(key, Command { id: Some(id), op }).await?;
    encode_reply(reply)
}

fn mismatch() -> Status {
    refused(Failure::new(
        Code::InvalidArgument,
        "the request's id belongs to an earlier request of another kind",
    ))
}

async fn delete(
    keyspace: &Keyspace,
    id: Option<CommandId>,
    op: DeleteOp,
) -> Result<pb::DeleteResponse, Status> {
    if let Some(id) = id {
        let key = op.key.clone();
        return match named(keyspace, &key, id, Op::Delete(op)).await.map_err(refused)? {
            Body::Delete(done) => Ok(done),
            _ => Err(mismatch()),
        };
    }
    let previous = if op.prev_kv { Previous::Return } else { Previous::Drop };
    let done = match op.end {
        KeyEnd::Single => keyspace.delete_with(op.key, previous).await,
        end => keyspace.delete_range(keys_of(op.key, end), previous).await,
    };
    let done = done.map_err(refused)?;
    Ok(pb::DeleteResponse {
        // With several shards there are several revisions, which nobody may compare.
        revision: if let [(_, revision)] = done.revisions[..] { revision.0 } else { 0 },
        deleted: done.count,
        prev_kvs: done.previous.into_iter().map(key_value).collect(),
    })
}

/// A key of the shard that a transaction is for.
fn first_key(op: &TxnOp) -> Option<Bytes> {
    let step = |step: &TxnStep| match step {
        TxnStep::Put(put) => Some(put.key.clone()),
        TxnStep::Delete(delete) => Some(delete.key.clone()),
        TxnStep::Range(query) => Some(query.start.clone()),
        TxnStep::Txn(inner) => first_key(inner),
    };
    let compared = op.compares.first().map(|c| c.key.clone());
    compared.or_else(|| op.then.iter().chain(&op.otherwise).find_map(step))
}

/// A scan as the request asks for it; `limit` keys in all.
fn scan_of(keyspace: Keyspace, request: pb::RangeRequest) -> Result<Scan, Failure> {
    let (query, consistency) = decode_range(request)?;
    let mut scan = keyspace.scan(keys_of(query.start, query.end)).page_keys(PAGE_KEYS);
    if query.direction == atoll_client::Direction::Backward {
        scan = scan.descending();
    }
    if let Some(limit) = query.limit {
        scan = scan.limit(limit).page_keys(limit.min(PAGE_KEYS));
    }
    if let Some(bytes) = query.bytes_max {
        scan = scan.page_bytes(bytes);
    }
    if query.keys_only {
        scan = scan.keys_only();
    }
    if let Consistency::Stale { max } = consistency {
        scan = scan.stale(max);
    }
    if let Some(revision) = query.at {
        scan = scan.at(revision);
    }
    Ok(scan)
}

/// The first page of a scan, with the number of all keys of its range as its count. The shard that
/// the page lies in is counted at the page's revision.
async fn counted_page(
    keyspace: Keyspace,
    scan: &mut Scan,
    request: pb::RangeRequest,
) -> Result<Option<pb::RangeResponse>, Failure> {
    let is_descending = request.descending;
    let counting = scan_of(keyspace, request)?;
    let Some(first) = page(scan, is_descending).await? else { return Ok(None) };
    let count = counting.in_view_of(scan).count().await?;
    Ok(Some(pb::RangeResponse { count, ..first }))
}

/// The next page of a scan, `None` behind the last one.
async fn page(scan: &mut Scan, is_descending: bool) -> Result<Option<pb::RangeResponse>, Failure> {
    let Some(page) = scan.next_page().await? else { return Ok(None) };
    let rest = scan.rest();
    let more = if is_descending { rest.and_then(Keys::end) } else { rest.map(Keys::start) };
    let whole = RangePage {
        more: more.cloned(),
        count: page.kvs.len() as u64,
        kvs: page.kvs,
        revision: page.revision,
        ..RangePage::default()
    };
    Ok(Some(encode_page(whole, page.staleness, page.shard)))
}

#[tonic::async_trait]
impl kv_server::Kv for Kv {
    type ScanStream = Answers<pb::RangeResponse>;
    type WatchStream = Answers<pb::WatchResponse>;

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let keyspace = self.keyspace(&request, &request.get_ref().keyspace);
        let mut put = request.into_inner();
        let keyspace = guarded(keyspace, std::mem::take(&mut put.guards)).await?;
        let id = put.id.take().map(command_id);
        let op = decode_put(put);
        if let Some(id) = id {
            let key = op.key.clone();
            return match named(&keyspace, &key, id, Op::Put(op)).await.map_err(refused)? {
                Body::Put(done) => Ok(Response::new(done)),
                _ => Err(mismatch()),
            };
        }
        let done = keyspace.put_with(op).await.map_err(refused)?;
        let prev_kv = done.previous.map(key_value);
        Ok(Response::new(pb::PutResponse { revision: done.revision.0, prev_kv }))
    }

    async fn get(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::GetResponse>, Status> {
        let keyspace = self.keyspace(&request, &request.get_ref().keyspace);
        let get = request.into_inner();
        let as_range = pb::RangeRequest {
            consistency: get.consistency,
            max_staleness_ms: get.max_staleness_ms,
            at_revision: get.at_revision,
            ..Default::default()
        };
        let (query, consistency) = decode_range(as_range).map_err(refused)?;
        let options = ReadOptions { consistency, at: query.at };
        let read = keyspace.get_with(get.key, options).await.map_err(refused)?;
        Ok(Response::new(pb::GetResponse {
            kv: read.kv.map(key_value),
            revision: read.revision.0,
            staleness_ms: u64::try_from(read.staleness.as_millis()).unwrap_or(u64::MAX),
        }))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let keyspace = self.keyspace(&request, &request.get_ref().keyspace);
        let mut wire = request.into_inner();
        let keyspace = guarded(keyspace, std::mem::take(&mut wire.guards)).await?;
        let id = wire.id.take().map(command_id);
        delete(&keyspace, id, decode_delete(wire)).await.map(Response::new)
    }

    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let keyspace = self.keyspace(&request, &request.get_ref().keyspace);
        let wire = request.into_inner();
        let (count_only, is_descending) = (wire.count_only, wire.descending);
        let mut scan = scan_of(keyspace.clone(), wire.clone()).map_err(refused)?;
        if count_only {
            let count = scan.count().await.map_err(refused)?;
            return Ok(Response::new(pb::RangeResponse { count, ..Default::default() }));
        }
        let page = match wire.count_total {
            true => counted_page(keyspace, &mut scan, wire).await,
            false => page(&mut scan, is_descending).await,
        };
        Ok(Response::new(page.map_err(refused)?.unwrap_or_default()))
    }

    async fn scan(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let keyspace = self.keyspace(&request, &request.get_ref().keyspace);
        let wire = request.into_inner();
        let is_descending = wire.descending;
        let mut scan = scan_of(keyspace.clone(), wire.clone()).map_err(refused)?;
        let mut first = match wire.count_total {
            true => counted_page(keyspace, &mut scan, wire).await.map_err(refused)?,
            false => None,
        };
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let flying = self.flight.begin();
        tokio::spawn(async move {
            let _flying = flying;
            loop {
                let next = match first.take() {
                    Some(first) => Ok(Some(first)),
                    None => page(&mut scan, is_descending).await,
                };
                let next = match next {
                    Ok(Some(page)) => Ok(page),
                    Ok(None) => return,
                    Err(failure) => Err(refused(failure)),
                };
                let is_over = next.is_err();
                if sender.send(next).await.is_err() || is_over {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let keyspace = self.keyspace(&request, &request.get_ref().keyspace);
        let mut wire = request.into_inner();
        let keyspace = guarded(keyspace, std::mem::take(&mut wire.guards)).await?;
        let id = wire.id.take().map(command_id);
        let op = decode_txn(wire).map_err(refused)?;
        let body = match (id, first_key(&op)) {
            (Some(id), Some(key)) => named(&keyspace, &key, id, Op::Txn(op)).await,
            _ => match keyspace.transact(op).await {
                Ok(done) => encode_reply(Reply::Txn {
                    revision: done.revision,
                    succeeded: done.succeeded,
                    results: done.results,
                }),
                Err(failure) => Err(failure),
            },
        };
        match body.map_err(refused)? {
            Body::Txn(done) => Ok(Response::new(done)),
            _ => Err(mismatch()),
        }
    }

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let keyspace = self.keyspace(&request, &request.get_ref().keyspace);
        let watch = watch_of(&keyspace, request.into_inner()).start().await.map_err(refused)?;
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(tell(watch, sender, self.stop.clone()));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

fn watch_of(keyspace: &Keyspace, wire: pb::WatchRequest) -> WatchBuilder {
    let end = range_end(&wire.start, wire.end);
    let mut watch = keyspace.watch(keys_of(wire.start, end));
    if wire.from_revision != 0 {
        watch = watch.from(Revision(wire.from_revision));
    }
    if wire.prev_kv {
        watch = watch.with_previous();
    }
    if wire.no_puts {
        watch = watch.no_puts();
    }
    if wire.no_deletes {
        watch = watch.no_deletes();
    }
    if wire.progress {
        watch = watch.with_progress();
    }
    watch
}

/// Passes a watch on: where it begins at each shard, then what happens.
async fn tell(
    mut watch: Watch,
    sender: mpsc::Sender<Result<pb::WatchResponse, Status>>,
    stop: watch::Receiver<bool>,
) {
    let stopped = super::stopped(stop);
    tokio::pin!(stopped);
    for (shard, from) in watch.from().clone() {
        let started = pb::WatchResponse {
            started: true,
            shard: shard.0,
            through_revision: from.prev().0,
            ..Default::default()
        };
        if sender.send(Ok(started)).await.is_err() {
            return;
        }
    }
    loop {
        let next = tokio::select! {
            next = watch.next() => next,
            () = sender.closed() => return,
            () = &mut stopped => {
                let text = "watch ended: this node is stopping, resume it at another one";
                let _ = sender.send(Err(refused(Failure::new(Code::ShuttingDown, text)))).await;
                return;
            }
        };
        let answer = match next {
            None => return,
            Some(Err(failure)) => Err(refused(failure)),
            Some(Ok(changes)) => {
                let ShardId(shard) = changes.shard;
                let events = WatchEvents { events: changes.events, through: changes.through };
                Ok(pb::WatchResponse { shard, ..encode_watch_events(events) })
            }
        };
        let is_over = answer.is_err();
        if sender.send(answer).await.is_err() || is_over {
            return;
        }
    }
}
