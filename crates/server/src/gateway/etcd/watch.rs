//! `etcdserverpb.Watch`: any number of watches on one stream.
//!
//! Each watch is one of the client library, which survives leaders and connections; a task passes
//! its changes on into the stream's one queue. What a client asks for is done in the order in which
//! it asks: a watch stands, and that is said, before the next request is looked at, and nothing of
//! a watch follows the word that it was cancelled. How far a watch is, is noted behind its changes
//! in the same queue, so that progress is never told ahead of them.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atoll_base::{Code, Failure, Revision};
use atoll_client::{Changes, Keys, Watch, WatchBuilder};
use atoll_machine::{Event, EventKind, KeyEnd};
use atoll_transport::stub::etcdserverpb::watch_server;
use atoll_wire::etcd::{etcdserverpb as pb, mvccpb};
use bytes::Bytes;
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;
use prost::Message;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::refusal::{self, refused};
use super::{Call, Etcd, LEADER_METADATA, translate};

/// Answers of a stream that wait for the network.
const STREAM_QUEUE: usize = 16;
/// Watches of one stream.
const WATCHES_MAX: usize = 100_000;
/// How long an idle watch that wants to hear how far it is waits for it, at most.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How often a stream looks whether there is a leader, if it wants one.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Looks without a leader that end a stream that wants one.
const LEADERLESS_LOOKS_MAX: u32 = 3;
/// The id that stands for all watches of a stream.
const ALL: i64 = -1;

type Answers = mpsc::Sender<Result<pb::WatchResponse, Status>>;

/// The receiver of a stream is gone.
struct Gone;

#[tonic::async_trait]
impl watch_server::Watch for Etcd {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let call = self.open(&request).await?;
        let wants_leader = request.metadata().get(LEADER_METADATA).is_some_and(|v| v == "true");
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let watches = Watches {
            call: Arc::new(call),
            sender,
            bytes_max: self.shared.limits.request_bytes_max,
            open: BTreeMap::new(),
            next_id: 0,
            asked: VecDeque::new(),
            moved: Arc::default(),
        };
        tokio::spawn(watches.serve(request.into_inner(), wants_leader));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// The watches of one stream.
struct Watches {
    call: Arc<Call>,
    sender: Answers,
    /// A client that takes fragments gets no larger ones.
    bytes_max: usize,
    open: BTreeMap<i64, Open>,
    next_id: i64,
    /// Questions how far all are: not answered before all are this far.
    asked: VecDeque<Revision>,
    /// Some watch got further.
    moved: Arc<Notify>,
}

struct Open {
    task: JoinHandle<()>,
    /// Everything up to here is in the stream's queue.
    through: Arc<AtomicU64>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watches {
    async fn serve(mut self, mut requests: Streaming<pb::WatchRequest>, wants_leader: bool) {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let moved = self.moved.clone();
        let mut leaderless = 0;
        loop {
            let done = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(pb::WatchRequest { request_union: Some(request) })) => {
                        self.take(request).await
                    }
                    Ok(Some(pb::WatchRequest { request_union: None })) => Ok(()),
                    Ok(None) | Err(_) => return,
                },
                () = moved.notified(), if !self.asked.is_empty() => self.tell_progress().await,
                () = self.sender.closed() => return,
                _ = look.tick(), if wants_leader => {
                    leaderless = if self.call.space.has_leader() { 0 } else { leaderless + 1 };
                    if leaderless >= LEADERLESS_LOOKS_MAX {
                        let _ = self.sender.send(Err(refusal::no_leader())).await;
                        return;
                    }
                    Ok(())
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, request: RequestUnion) -> Result<(), Gone> {
        match request {
            RequestUnion::CreateRequest(request) => self.create(request).await,
            RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }) => {
                let Some(mut open) = self.open.remove(&watch_id) else { return Ok(()) };
                open.task.abort();
                // Whatever it was about to say is said, or never will be.
                let _ = (&mut open.task).await;
                let header = self.call.header_now();
                self.send(pb::WatchResponse {
                    header,
                    watch_id,
                    canceled: true,
                    ..Default::default()
                })
                .await?;
                self.tell_progress().await
            }
            RequestUnion::ProgressRequest(pb::WatchProgressRequest {}) => {
                // A store that can't be asked now says nothing; the client asks again.
                if let Ok(now) = self.call.revision_now().await {
                    self.call.space.saw(now);
                    self.asked.push_back(now);
                }
                self.tell_progress().await
            }
        }
    }

    /// Says how far all watches are, once they are as far as the question wanted.
    async fn tell_progress(&mut self) -> Result<(), Gone> {
        while let Some(wanted) = self.asked.front().copied() {
            self.open.retain(|_, open| !open.task.is_finished());
            let is_behind = |open: &Open| open.through.load(Ordering::Acquire) < wanted.0;
            if self.open.values().any(is_behind) {
                return Ok(());
            }
            self.asked.pop_front();
            let header = self.call.header(wanted);
            self.send(pb::WatchResponse { header, watch_id: ALL, ..Default::default() }).await?;
        }
        Ok(())
    }

    async fn send(&self, response: pb::WatchResponse) -> Result<(), Gone> {
        self.sender.send(Ok(response)).await.map_err(|_| Gone)
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> Result<(), Gone> {
        self.open.retain(|_, open| !open.task.is_finished());
        let id = match self.number(&request) {
            Ok(id) => id,
            Err(reason) => return self.refuse(ALL, reason).await,
        };
        let watch = match builder(&self.call, &request).start().await {
            Ok(watch) => watch,
            Err(failure) => return self.not_started(id, &failure).await,
        };
        let header = self.call.header_now();
        self.send(pb::WatchResponse { header, watch_id: id, created: true, ..Default::default() })
            .await?;
        let before = watch.from().values().next().map_or(Revision::ZERO, |from| from.prev());
        let through = Arc::new(AtomicU64::new(before.0));
        let telling = Telling {
            id,
            call: self.call.clone(),
            sender: self.sender.clone(),
            through: through.clone(),
            moved: self.moved.clone(),
            is_told_progress: request.progress_notify,
            fragment_bytes_max: request.fragment.then_some(self.bytes_max),
            told_at: Instant::now(),
        };
        self.open.insert(id, Open { task: tokio::spawn(telling.run(watch)), through });
        Ok(())
    }

    /// The number of a new watch, or why there can be none.
    fn number(&mut self, request: &pb::WatchCreateRequest) -> Result<i64, String> {
        let key = if request.key.is_empty() { &[0][..] } else { &request.key[..] };
        let end = &request.range_end[..];
        if !end.is_empty() && end != [0] && key >= end {
            return Err("mvcc: watcher range is empty".to_owned());
        }
        if self.open.len() >= WATCHES_MAX {
            return Err(format!("the stream has {WATCHES_MAX} watches, which is the limit"));
        }
        if request.watch_id != 0 {
            return match self.open.contains_key(&request.watch_id) {
                true => Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned()),
                false => Ok(request.watch_id),
            };
        }
        while self.open.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Ok(self.next_id - 1)
    }

    async fn refuse(&self, watch_id: i64, cancel_reason: String) -> Result<(), Gone> {
        let header = self.call.header_now();
        self.send(pb::WatchResponse {
            header,
            watch_id,
            created: true,
            canceled: true,
            cancel_reason,
            ..Default::default()
        })
        .await
    }

    /// A watch that wants what is gone is created and cancelled, as with etcd.
    async fn not_started(&self, watch_id: i64, failure: &Failure) -> Result<(), Gone> {
        if failure.code != Code::Compacted {
            return self.refuse(watch_id, refused(failure).message().to_owned()).await;
        }
        let header = self.call.header_now();
        self.send(pb::WatchResponse { header, watch_id, created: true, ..Default::default() })
            .await?;
        self.send(ended(&self.call, watch_id, failure).await).await
    }
}

fn builder(call: &Call, request: &pb::WatchCreateRequest) -> WatchBuilder {
    let start = match request.key.is_empty() {
        true => Bytes::from_static(&[0]),
        false => request.key.clone(),
    };
    let keys = match translate::range_end(&start, request.range_end.clone()) {
        KeyEnd::Single => Keys::one(start),
        KeyEnd::Until(end) => Keys::between(start, end),
        KeyEnd::ToEnd => Keys::from(start),
    };
    let mut watch = call.keyspace.watch(keys).with_progress();
    if request.start_revision != 0 {
        let from = u64::try_from(request.start_revision).unwrap_or(1);
        watch = watch.from(Revision(from));
    }
    if request.prev_kv {
        watch = watch.with_previous();
    }
    for filter in request.filters() {
        watch = match filter {
            FilterType::Noput => watch.no_puts(),
            FilterType::Nodelete => watch.no_deletes(),
        };
    }
    watch
}

/// A watch ends: because its history is gone, or for good.
async fn ended(call: &Call, watch_id: i64, failure: &Failure) -> pb::WatchResponse {
    let compact_revision = match failure.code {
        Code::Compacted => call.compacted().await.0 as i64,
        _ => 0,
    };
    pb::WatchResponse {
        header: call.header_now(),
        watch_id,
        canceled: true,
        compact_revision,
        cancel_reason: refused(failure).message().to_owned(),
        ..Default::default()
    }
}

/// Passes one watch on.
struct Telling {
    id: i64,
    call: Arc<Call>,
    sender: Answers,
    through: Arc<AtomicU64>,
    moved: Arc<Notify>,
    is_told_progress: bool,
    fragment_bytes_max: Option<usize>,
    told_at: Instant,
}

impl Telling {
    async fn run(mut self, mut watch: Watch) {
        while let Some(next) = watch.next().await {
            let told = match next {
                Ok(changes) => self.tell(changes).await,
                Err(failure) => {
                    let end = ended(&self.call, self.id, &failure).await;
                    let _ = self.sender.send(Ok(end)).await;
                    Err(Gone)
                }
            };
            if told.is_err() {
                break;
            }
        }
        // Nobody need wait for this one any more.
        self.through.store(u64::MAX, Ordering::Release);
        self.moved.notify_one();
    }

    async fn tell(&mut self, changes: Changes) -> Result<(), Gone> {
        let Changes { events, through, .. } = changes;
        self.call.space.saw(through);
        let header = Some(self.call.space.header(through));
        if !events.is_empty() {
            self.told_at = Instant::now();
            let events: Vec<mvccpb::Event> = events.into_iter().map(event).collect();
            let mut parts = fragments(events, self.fragment_bytes_max).into_iter().peekable();
            while let Some(events) = parts.next() {
                let fragment = parts.peek().is_some();
                self.send(pb::WatchResponse { header, fragment, events, ..self.blank() }).await?;
            }
        } else if self.is_told_progress && self.told_at.elapsed() >= PROGRESS_INTERVAL {
            self.told_at = Instant::now();
            self.send(pb::WatchResponse { header, ..self.blank() }).await?;
        }
        self.through.fetch_max(through.0, Ordering::AcqRel);
        self.moved.notify_one();
        Ok(())
    }

    fn blank(&self) -> pb::WatchResponse {
        pb::WatchResponse { watch_id: self.id, ..Default::default() }
    }

    async fn send(&self, response: pb::WatchResponse) -> Result<(), Gone> {
        self.sender.send(Ok(response)).await.map_err(|_| Gone)
    }
}

/// Cuts events into parts of at most so many bytes, one event at least.
fn fragments(events: Vec<mvccpb::Event>, bytes_max: Option<usize>) -> Vec<Vec<mvccpb::Event>> {
    let Some(bytes_max) = bytes_max else { return vec![events] };
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for event in events {
        let size = event.encoded_len() + 8;
        let part = parts.last_mut().expect("there is one from the start");
        if bytes + size > bytes_max && !part.is_empty() {
            parts.push(vec![event]);
            bytes = size;
        } else {
            part.push(event);
            bytes += size;
        }
    }
    parts
}

fn event(event: Event) -> mvccpb::Event {
    let Event { revision, key, kind, previous } = event;
    let prev_kv = previous.map(|record| translate::key_value(record.with_key(key.clone())));
    let (r#type, kv) = match kind {
        EventKind::Put(record) => {
            (mvccpb::event::EventType::Put, translate::key_value(record.with_key(key)))
        }
        EventKind::Delete => {
            let mod_revision = revision.0 as i64;
            let kv = mvccpb::KeyValue { key, mod_revision, ..Default::default() };
            (mvccpb::event::EventType::Delete, kv)
        }
    };
    mvccpb::Event { r#type: r#type as i32, kv: Some(kv), prev_kv }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static [u8], bytes: usize) -> mvccpb::Event {
        let value = Bytes::from(vec![7; bytes]);
        let kv = mvccpb::KeyValue { key: key.into(), value, ..Default::default() };
        mvccpb::Event { kv: Some(kv), ..Default::default() }
    }

    #[test]
    fn fragments_keep_order_and_size_and_hold_at_least_one_event() {
        let all = vec![put(b"a", 40), put(b"b", 40), put(b"c", 500), put(b"d", 40), put(b"e", 40)];
        assert_eq!(fragments(all.clone(), None), std::slice::from_ref(&all));
        let parts = fragments(all.clone(), Some(160));
        let sizes: Vec<usize> = parts.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1, 2]);
        assert_eq!(parts.concat(), all);
    }
}
