//! `etcdserverpb.Watch`: any number of watches on one stream.
//!
//! A watch gets what happens from the [`feed`], which all watches of the node share; what happened
//! before, or while its reader was too slow, it reads by itself ([`telling`]). Either way it goes
//! through the stream's [`outbox`]. What a client asks for is done in the order in which it asks: a
//! watch stands, and that is said, before the next request is looked at, and nothing of a watch
//! follows the word that it was cancelled. How far a watch is, is known only behind its changes in
//! the same queue, so that progress is never told ahead of them (trap T41).

mod feed;
mod outbox;
mod telling;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use atoll_base::{Code, Failure, Revision};
use atoll_machine::KeyEnd;
use atoll_transport::stub::etcdserverpb::watch_server;
use atoll_wire::etcd::etcdserverpb as pb;
use bytes::Bytes;
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;
use tokio::sync::watch as signal;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

pub(super) use self::feed::Feed;
use self::feed::{Filter, Standing, Wish};
use self::outbox::{Answers, Gone, Outbox};
use self::telling::{Telling, builder, ended, keys};
use super::refusal::{self, refused};
use super::{Call, Etcd, LEADER_METADATA};

/// Watches of one stream.
const WATCHES_MAX: usize = 100_000;
/// How often a stream looks whether there is a leader, if it wants one.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Looks without a leader that end a stream that wants one.
const LEADERLESS_LOOKS_MAX: u32 = 3;
/// The id that stands for all watches of a stream.
const ALL: i64 = -1;

#[tonic::async_trait]
impl watch_server::Watch for Etcd {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let call = self.open(&request).await?;
        let wants_leader = request.metadata().get(LEADER_METADATA).is_some_and(|v| v == "true");
        let outbox = Outbox::new();
        let answers = Answers::new(outbox.clone(), call.space.clone());
        let watches = Watches {
            advanced: call.feed.advanced(),
            call: Arc::new(call),
            outbox,
            bytes_max: self.shared.limits.request_bytes_max,
            open: BTreeMap::new(),
            next_id: 0,
            asked: VecDeque::new(),
        };
        tokio::spawn(watches.serve(request.into_inner(), wants_leader));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// The first key of a watch's range, and where that ends.
type Keys = (Bytes, KeyEnd);

/// The watches of one stream.
struct Watches {
    call: Arc<Call>,
    outbox: Arc<Outbox>,
    /// A client that takes fragments gets no larger ones.
    bytes_max: usize,
    open: BTreeMap<i64, Open>,
    next_id: i64,
    /// Questions how far all are: not answered before all are this far.
    asked: VecDeque<Revision>,
    /// Some watch may have got further.
    advanced: signal::Receiver<Revision>,
}

struct Open {
    wish: Wish,
    fragment_bytes_max: Option<usize>,
    /// While it is by itself.
    task: Option<JoinHandle<()>>,
    call: Arc<Call>,
}

impl Open {
    fn telling(&self) -> Telling {
        Telling {
            call: self.call.clone(),
            wish: self.wish.clone(),
            fragment_bytes_max: self.fragment_bytes_max,
            told_at: Instant::now(),
        }
    }

    /// It said its last word.
    fn is_over(&self) -> bool {
        let is_alone = self.task.as_ref().is_some_and(|task| !task.is_finished());
        // One that fell behind is looked after soon; the note is there before its place is gone.
        !is_alone
            && !self.call.feed.has_place(&self.wish.standing)
            && !self.wish.outbox.is_noted(self.wish.watch)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        self.call.feed.leave(&self.wish.standing);
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.outbox.end();
    }
}

impl Watches {
    async fn serve(mut self, mut requests: Streaming<pb::WatchRequest>, wants_leader: bool) {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leaderless = 0;
        let outbox = self.outbox.clone();
        loop {
            let done = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(pb::WatchRequest { request_union: Some(request) })) => {
                        self.take(request).await
                    }
                    Ok(Some(pb::WatchRequest { request_union: None })) => Ok(()),
                    Ok(None) | Err(_) => return,
                },
                _ = self.advanced.changed(), if !self.asked.is_empty() => {
                    self.tell_progress().await
                }
                behind = outbox.behind() => {
                    self.catch_up(behind);
                    Ok(())
                }
                () = outbox.closed() => return,
                _ = look.tick(), if wants_leader => {
                    leaderless = if self.call.space.has_leader() { 0 } else { leaderless + 1 };
                    if leaderless >= LEADERLESS_LOOKS_MAX {
                        let _ = self.outbox.say(Err(refusal::no_leader())).await;
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
                if let Some(task) = open.task.take() {
                    task.abort();
                    // Whatever it was about to say is said, or never will be.
                    let _ = task.await;
                }
                drop(open);
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
            self.open.retain(|_, open| !open.is_over());
            let feed = &self.call.feed;
            if self.open.values().any(|open| !feed.has_told(&open.wish.standing, wanted)) {
                return Ok(());
            }
            self.asked.pop_front();
            let header = self.call.header(wanted);
            self.send(pb::WatchResponse { header, watch_id: ALL, ..Default::default() }).await?;
        }
        Ok(())
    }

    async fn send(&self, response: pb::WatchResponse) -> Result<(), Gone> {
        self.outbox.say(Ok(response)).await
    }

    /// Watches that the feed took out go on by themselves.
    fn catch_up(&mut self, behind: Vec<(i64, Revision)>) {
        for (id, next) in behind {
            if let Some(open) = self.open.get_mut(&id) {
                open.task = Some(tokio::spawn(open.telling().resume(next)));
            }
        }
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> Result<(), Gone> {
        self.open.retain(|_, open| !open.is_over());
        let (id, keys) = match self.number(&request) {
            Ok(known) => known,
            Err(reason) => return self.refuse(ALL, reason).await,
        };
        let header = self.call.header_now();
        let created =
            pb::WatchResponse { header, watch_id: id, created: true, ..Default::default() };
        let mut open = self.opened(id, keys, &request);
        let from = (request.start_revision != 0)
            .then(|| Revision(u64::try_from(request.start_revision).unwrap_or(1)));
        let space = &self.call.space;
        let is_shared = open.fragment_bytes_max.is_none()
            && (from.is_some() || Feed::ensure(&self.call).await.is_ok())
            && self.call.feed.subscribe(&open.wish, (from, space.newest()), created.clone());
        if !is_shared {
            let watch = match builder(&self.call, &open.wish, from).start().await {
                Ok(watch) => watch,
                Err(failure) => return self.not_started(id, &failure).await,
            };
            self.send(created).await?;
            let from = watch.from().values().next().copied().unwrap_or_default();
            open.wish.standing.told(from.prev());
            open.task = Some(tokio::spawn(open.telling().run(watch)));
        }
        self.open.insert(id, open);
        Ok(())
    }

    fn opened(&self, watch: i64, keys: Keys, request: &pb::WatchCreateRequest) -> Open {
        let mut filter = Filter {
            previous: request.prev_kv,
            progress: request.progress_notify,
            ..Filter::default()
        };
        for one in request.filters() {
            match one {
                FilterType::Noput => filter.no_put = true,
                FilterType::Nodelete => filter.no_delete = true,
            }
        }
        let (start, end) = keys;
        let (outbox, standing) = (self.outbox.clone(), Arc::<Standing>::default());
        Open {
            wish: Wish { watch, start, end, filter, outbox, standing },
            fragment_bytes_max: request.fragment.then_some(self.bytes_max),
            task: None,
            call: self.call.clone(),
        }
    }

    /// The number of a new watch and its keys, or why there can be none.
    fn number(&mut self, request: &pb::WatchCreateRequest) -> Result<(i64, Keys), String> {
        let keys = keys(request)?;
        if self.open.len() >= WATCHES_MAX {
            return Err(format!("the stream has {WATCHES_MAX} watches, which is the limit"));
        }
        if request.watch_id != 0 {
            return match self.open.contains_key(&request.watch_id) {
                true => Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned()),
                false => Ok((request.watch_id, keys)),
            };
        }
        while self.open.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Ok((self.next_id - 1, keys))
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
