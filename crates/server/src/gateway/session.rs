//! The fast path: one stream each way, carrying batches of calls and answers.
//!
//! A frame's calls are split by lane and pushed once per lane; whatever answers wait when the
//! network asks for more leave in one frame. The session's in-flight limit is the setting
//! `calls_in_flight_max`; beyond it calls are refused as overloaded, each by itself.
//!
//! Whoever knows this node alone begins by reading the catalog here. A node without a replica of
//! shard 1 asks the group's leader for it, so that any node will do as the first one.
//!
//! A session ends when the client hangs up, or, after the client closed its side or the node stops,
//! when its calls in flight are answered. Its watches end with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use atoll_base::{Code, Epoch, Failure, Happened, ShardId};
use atoll_client::Client;
use atoll_coord::{Answer, AnswerBody, Origin, Request as ShardRequest, RequestBody};
use atoll_machine::{Event, EventKind, KeyValue, LockReply, Record, Reply, TxnResult};
use atoll_transport::call::{decode_call, encode_answer};
use atoll_transport::limits::MESSAGE_BYTES_MAX;
use atoll_transport::status::to_status;
use atoll_transport::stub::v1::session_server;
use atoll_wire::v1::{Call, ClientFrame, ServerFrame};
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use super::flight::{Flight, Flying};
use crate::drive::{Batch, Hub, observe};

/// Batches of answers that one frame gathers at most.
const GATHER_MAX: usize = 256;

/// Opens sessions.
#[derive(Clone)]
pub(super) struct Sessions {
    pub(super) hub: Arc<Hub>,
    /// How this node asks others.
    pub(super) client: Client,
    pub(super) calls_in_flight_max: usize,
    pub(super) message_bytes_max: usize,
    pub(super) flight: Flight,
    pub(super) stop: watch::Receiver<bool>,
}

/// What the two directions of a session share.
struct Session {
    hub: Arc<Hub>,
    client: Client,
    origin: Origin,
    in_flight: AtomicUsize,
    in_flight_max: usize,
    /// No more calls will come.
    is_closing: AtomicBool,
    /// What is not answered once and soon.
    long: Mutex<Long>,
}

/// Calls of a session that take long or are answered many times.
#[derive(Default)]
struct Long {
    watches: BTreeMap<u64, Watched>,
    /// The watches that calls in flight are to end.
    cancels: BTreeMap<u64, u64>,
    /// Calls that may stand in the queue of a lock. They have room of their own, so that they don't
    /// keep others from being made, and nothing waits for them when the session closes.
    waits: BTreeSet<u64>,
}

/// A watch or observation of the session. Its call is answered when it stands; what comes later
/// answers nothing.
#[derive(Clone, Copy)]
struct Watched {
    shard: ShardId,
    stands: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hub.detach(self.origin);
    }
}

#[tonic::async_trait]
impl session_server::Session for Sessions {
    type OpenStream = ServerFrames;

    async fn open(
        &self,
        request: Request<Streaming<ClientFrame>>,
    ) -> Result<Response<ServerFrames>, Status> {
        if self.hub.is_stopping() {
            let text = format!("session refused: node {} is stopping", self.hub.node);
            return Err(to_status(&Failure::new(Code::ShuttingDown, text)));
        }
        let attached = self.hub.attach();
        let session = Arc::new(Session {
            hub: self.hub.clone(),
            client: self.client.clone(),
            origin: attached.origin,
            in_flight: AtomicUsize::new(0),
            in_flight_max: self.calls_in_flight_max,
            is_closing: AtomicBool::new(false),
            long: Mutex::default(),
        });
        let frames = request.into_inner();
        tokio::spawn(hear(session.clone(), frames, attached.sender, self.stop.clone()));
        let mut opened = Response::new(ServerFrames {
            session,
            _flying: self.flight.begin(),
            answers: attached.answers,
            batches: Vec::new(),
            waiting: VecDeque::new(),
            frame_bytes_max: self.message_bytes_max - self.message_bytes_max / 8,
        });
        opened
            .metadata_mut()
            .insert(MESSAGE_BYTES_MAX, MetadataValue::from(self.message_bytes_max));
        Ok(opened)
    }
}

/// Takes calls in until the client or the node has enough.
async fn hear(
    session: Arc<Session>,
    mut frames: Streaming<ClientFrame>,
    refusals: mpsc::Sender<Batch>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let frame = tokio::select! {
            frame = frames.message() => frame,
            _ = stop.wait_for(|stop| *stop) => break,
            () = refusals.closed() => return,
        };
        let Ok(Some(frame)) = frame else { break };
        let calls = frame.calls.into_iter().map(Call::decode);
        let Ok(calls) = calls.collect::<Result<Vec<_>, _>>() else { break };
        let Taken { refused, for_others } = session.take(calls);
        for request in for_others {
            tokio::spawn(pass_on(session.clone(), request, refusals.clone()));
        }
        if !refused.is_empty() && refusals.send(Batch::now(refused)).await.is_err() {
            return;
        }
    }
    session.is_closing.store(true, Ordering::SeqCst);
    if session.in_flight.load(Ordering::SeqCst) == 0 {
        // Nobody else would end the stream of answers.
        session.hub.detach(session.origin);
    }
}

/// Asks the leader of the request's shard.
async fn pass_on(session: Arc<Session>, request: ShardRequest, answers: mpsc::Sender<Batch>) {
    let ShardRequest { origin, id, shard, deadline, body, .. } = request;
    let left = deadline.since(session.hub.now());
    let asked = tokio::time::timeout(left, session.client.ask_leader(shard, body)).await;
    let body = asked.unwrap_or_else(|_| {
        let text = format!("shard {shard} was asked through this node and gave no answer in time");
        Err(Failure::new(Code::DeadlineExceeded, text).with_happened(Happened::No))
    });
    // A session that has ended wants no answer.
    let _ = answers.send(Batch::now(vec![Answer { origin, id, body }])).await;
}

/// What became of a frame's calls that did not go to a lane.
struct Taken {
    refused: Vec<Answer>,
    for_others: Vec<ShardRequest>,
}

impl Session {
    /// Hands a frame's calls to their lanes, or back where others must be asked. Answers those that
    /// are refused here.
    fn take(&self, calls: Vec<Call>) -> Taken {
        let mut refused = Vec::new();
        let mut for_others = Vec::new();
        let refuse = |id, failure| Answer { origin: self.origin, id, body: Err(failure) };
        let now = self.hub.now();
        let mut requests = Vec::with_capacity(calls.len());
        for call in calls {
            let id = call.id;
            let admitted = decode_call(call, self.origin, now).and_then(|request| {
                self.admit(&request)?;
                Ok(request)
            });
            match admitted {
                Ok(request) if self.is_for_others(&request) => for_others.push(request),
                Ok(request) => requests.push(request),
                Err(failure) => {
                    // Counted as all answers are, when it leaves.
                    self.in_flight.fetch_add(1, Ordering::SeqCst);
                    refused.push(refuse(id, failure));
                }
            }
        }
        if requests.is_empty() {
            return Taken { refused, for_others };
        }
        let ids: Vec<u64> = requests.iter().map(|r| r.id).collect();
        if let Err(failure) = self.hub.submit(requests) {
            refused.extend(ids.into_iter().map(|id| refuse(id, failure.clone())));
        }
        Taken { refused, for_others }
    }

    /// A read of the catalog where there is no replica of it.
    fn is_for_others(&self, request: &ShardRequest) -> bool {
        request.shard == ShardId::SYSTEM
            && matches!(request.body, RequestBody::Range { .. } | RequestBody::Get { .. })
            && !self.hub.catalog.is_member()
    }

    /// Makes room for a call, or refuses it.
    fn admit(&self, request: &ShardRequest) -> Result<(), Failure> {
        let id = request.id;
        if request.body.may_wait() {
            let mut long = self.long();
            if long.waits.len() >= self.in_flight_max {
                return Err(self.too_many("calls waiting for locks"));
            }
            long.waits.insert(id);
            return Ok(());
        }
        if self.in_flight.load(Ordering::SeqCst) >= self.in_flight_max {
            return Err(self.too_many("calls in flight"));
        }
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        if request.body.keeps_coming() {
            let watched = Watched { shard: request.shard, stands: false };
            self.long().watches.insert(id, watched);
        }
        if let RequestBody::CancelWatch { watch } = request.body {
            self.long().cancels.insert(id, watch);
        }
        Ok(())
    }

    fn long(&self) -> MutexGuard<'_, Long> {
        self.long.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps track of watches by the answers that leave: events handed on make room for others, so
    /// a slow reader holds back its own watch only. True when the answer ends a call in flight.
    fn on_leaving(&self, answer: &Answer, credits: &mut Vec<ShardRequest>) -> bool {
        match &answer.body {
            Ok(AnswerBody::Watch(_)) => {
                let watched = self.long().watches.get(&answer.id).copied();
                credits.extend(watched.map(|w| self.credit(w.shard, answer.id)));
                false
            }
            Ok(AnswerBody::WatchStarted { .. }) => {
                if let Some(watched) = self.long().watches.get_mut(&answer.id) {
                    watched.stands = true;
                }
                true
            }
            // The first one is news too, and says that the observation stands.
            Ok(AnswerBody::Observed(_)) => {
                let mut long = self.long();
                let Some(watched) = long.watches.get_mut(&answer.id) else { return false };
                credits.push(self.credit(watched.shard, answer.id));
                !std::mem::replace(&mut watched.stands, true)
            }
            // Only now: what ends a watch by itself may leave before the order to end it arrives.
            Ok(AnswerBody::WatchCancelled) => {
                let mut long = self.long();
                if let Some(watch) = long.cancels.remove(&answer.id) {
                    long.watches.remove(&watch);
                }
                true
            }
            Ok(AnswerBody::Command(Reply::Lock(_))) => !self.long().waits.remove(&answer.id),
            Ok(AnswerBody::WatchCompacted { .. }) | Err(_) => {
                let mut long = self.long();
                long.cancels.remove(&answer.id);
                let waited = long.waits.remove(&answer.id);
                !waited && !long.watches.remove(&answer.id).is_some_and(|w| w.stands)
            }
            Ok(_) => true,
        }
    }

    fn credit(&self, shard: ShardId, watch: u64) -> ShardRequest {
        ShardRequest {
            origin: self.origin,
            id: watch,
            shard,
            epoch: Epoch::ZERO,
            deadline: self.hub.now(),
            body: RequestBody::WatchCredit { watch },
        }
    }

    fn too_many(&self, what: &str) -> Failure {
        let limit = self.in_flight_max;
        let text =
            format!("call refused: the session has {limit} {what}, the limit calls_in_flight_max");
        Failure::new(Code::Overloaded, text)
    }
}

/// The answers of a session.
pub(super) struct ServerFrames {
    session: Arc<Session>,
    _flying: Flying,
    answers: mpsc::Receiver<Batch>,
    batches: Vec<Batch>,
    /// What did not fit into the frame before.
    waiting: VecDeque<Answer>,
    frame_bytes_max: usize,
}

impl Stream for ServerFrames {
    type Item = Result<ServerFrame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.waiting.is_empty() {
            let is_closing = this.session.is_closing.load(Ordering::SeqCst);
            if is_closing && this.session.in_flight.load(Ordering::SeqCst) == 0 {
                return Poll::Ready(None);
            }
            let got = ready!(this.answers.poll_recv_many(cx, &mut this.batches, GATHER_MAX));
            if got == 0 {
                return Poll::Ready(None);
            }
            // The first one has waited longest.
            if let Some(first) = this.batches.first() {
                observe(&this.session.hub.metrics.reply, first.left_at.elapsed());
            }
            this.waiting.extend(this.batches.drain(..).flat_map(|batch| batch.answers));
        }
        Poll::Ready(Some(Ok(this.next_frame())))
    }
}

impl ServerFrames {
    /// As many waiting answers as one message may hold.
    fn next_frame(&mut self) -> ServerFrame {
        let mut answers = Vec::with_capacity(self.waiting.len());
        let (mut bytes, mut done) = (0, 0);
        let mut credits = Vec::new();
        while let Some(answer) = self.waiting.front() {
            let size = answer_bytes(answer);
            if bytes + size > self.frame_bytes_max && !answers.is_empty() {
                break;
            }
            let Some(mut answer) = self.waiting.pop_front() else { break };
            if size > self.frame_bytes_max {
                answer.body = Err(self.too_large(&answer, size));
            }
            bytes += size;
            done += usize::from(self.session.on_leaving(&answer, &mut credits));
            answers.push(encode_answer(answer));
        }
        self.session.in_flight.fetch_sub(done, Ordering::SeqCst);
        if !credits.is_empty() {
            self.session.hub.credit(credits);
        }
        ServerFrame { answers }
    }

    fn too_large(&self, answer: &Answer, size: usize) -> Failure {
        let happened = match answer.body {
            Ok(AnswerBody::Command(_)) => Happened::Yes,
            _ => Happened::No,
        };
        let limit = self.frame_bytes_max;
        let text =
            format!("the answer takes {size} bytes, a message holds {limit} (message_bytes_max)");
        Failure::new(Code::TooLarge, text).with_happened(happened)
    }
}

/// About how many bytes the answer takes on the wire, a little too much.
fn answer_bytes(answer: &Answer) -> usize {
    let one = |kv: &KeyValue| kv.key.len() + kv.value.len() + 64;
    let some = |kv: &Option<KeyValue>| kv.as_ref().map_or(0, one);
    let many = |kvs: &[KeyValue]| kvs.iter().map(one).sum::<usize>();
    64 + match &answer.body {
        Ok(AnswerBody::Command(reply)) => match reply {
            Reply::Put { previous, .. } => some(previous),
            Reply::Delete { previous, .. } => many(previous),
            Reply::Txn { results, .. } => results.iter().map(result_bytes).sum(),
            Reply::Compact { .. } | Reply::SessionsExpired { .. } | Reply::Failed(_) => 256,
            Reply::Lock(LockReply::Busy(busy)) => 256 + busy.holders.len() * 64,
            Reply::Lease(_) | Reply::Lock(_) => 256,
        },
        Ok(AnswerBody::KeptAlive(kept)) => kept.len() * 24,
        Ok(AnswerBody::Leases(leases)) => leases.len() * 10,
        Ok(AnswerBody::Lease(status)) => {
            status.keys.iter().map(|key| key.len() + 16).sum::<usize>() + 64
        }
        Ok(AnswerBody::Lock(Some(info))) => {
            let value = info.leadership.as_ref().map_or(0, |leader| leader.value.len());
            256 + value + info.busy.holders.len() * 64
        }
        Ok(AnswerBody::Observed(Some(leader))) => leader.value.len() + 128,

        Ok(AnswerBody::Get { kv, .. }) => some(kv),
        Ok(AnswerBody::Range { page, .. }) => many(&page.kvs) + 1024,
        Ok(AnswerBody::Watch(batch)) => batch.events.iter().map(event_bytes).sum(),
        Ok(_) => 1024,
        Err(failure) => failure.message.len() + 64,
    }
}

fn result_bytes(result: &TxnResult) -> usize {
    let one = |kv: &KeyValue| kv.key.len() + kv.value.len() + 64;
    32 + match result {
        TxnResult::Put { previous } => previous.as_ref().map_or(0, one),
        TxnResult::Delete { previous, .. } => previous.iter().map(one).sum(),
        TxnResult::Range(page) => page.kvs.iter().map(one).sum::<usize>() + 1024,
        TxnResult::Txn { results, .. } => results.iter().map(result_bytes).sum(),
    }
}

/// One revision may hold very many small changes, which go in one message or not at all: so this is
/// counted more closely.
fn event_bytes(event: &Event) -> usize {
    const FRAME: usize = 16;
    let number = |n: u64| 1 + (64 - (n | 1).leading_zeros() as usize).div_ceil(7);
    let pair = |record: &Record| {
        let Record { mod_revision, create_revision, version, lease, value } = record;
        let lease = lease.unwrap_or_default().0;
        let numbers = [mod_revision.0, create_revision.0, *version, lease].map(number);
        FRAME + event.key.len() + value.len() + numbers.iter().sum::<usize>()
    };
    let now = match &event.kind {
        EventKind::Put(record) => pair(record),
        EventKind::Delete => FRAME + event.key.len() + number(event.revision.0),
    };
    8 + now + event.previous.as_ref().map_or(0, pair)
}

#[cfg(test)]
mod tests {
    use atoll_base::{LeaseId, Revision};
    use atoll_coord::WatchEvents;
    use bytes::Bytes;
    use prost::Message as _;

    use super::*;

    fn told(event: Event) -> Answer {
        let through = event.revision;
        let events = vec![event; 1000];
        let body = Ok(AnswerBody::Watch(WatchEvents { events, through }));
        Answer { origin: Origin(1), id: 7, body }
    }

    #[test]
    fn changes_are_weighed_a_little_too_heavy_and_not_twice() {
        for (length, number) in [(1, 1), (10, 100_000), (300, u64::MAX >> 1), (70_000, 1 << 40)] {
            let revision = Revision(number);
            let record = Record {
                mod_revision: revision,
                create_revision: revision,
                version: number,
                lease: Some(LeaseId(number)),
                value: vec![7; length].into(),
            };
            let key = Bytes::from(vec![b'k'; length.min(16 << 10)]);
            for kind in [EventKind::Delete, EventKind::Put(record.clone())] {
                let previous = Some(record.clone());
                let answer = told(Event { revision, key: key.clone(), kind, previous });
                let (weight, bytes) = (answer_bytes(&answer), encode_answer(answer).encoded_len());
                assert!(bytes <= weight, "{weight} for {bytes}");
                assert!(weight <= bytes * 3 + 64, "{weight} for {bytes}");
            }
        }
    }
}
