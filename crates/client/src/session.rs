//! One connection to one node, shared by every task of the client.
//!
//! ```text
//!  caller: slot + queue (one short lock) ──wake──> writer: takes the whole queue ──> link
//!  caller <──oneshot── reader: takes the slots of a whole batch of answers (one lock) <── link
//! ```
//!
//! Batching needs no timer: while the writer is busy with one batch, the next one gathers. Writer
//! and reader are one task, so that a connection occupies one thread at a time.
//!
//! A call's deadline is watched by a sweep over the open calls, not by a timer each. A call that
//! ends by its deadline or with the connection says whether it was ever handed over: if not, it did
//! not happen.
//!
//! Invariants:
//! - S1 Every registered call ends exactly once: by its answer, its deadline, the end of the
//!   connection or because its caller is gone.
//! - S2 A number is not given out again before the slot's generation has gone round (2^32 calls),
//!   so a late answer finds no slot and is dropped.
//! - S3 Calls wait for the first connection attempt and then fail at once while the node is away.

mod slots;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_base::{Code, Epoch, Failure, Happened, Rng, ShardId};
use atoll_coord::{AnswerBody, RequestBody};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::slots::{Slot, Slots};
pub(crate) use self::watch::{WatchItem, WatchStream};
use crate::ids::random;
use crate::link::{Call, CallSink, Connection, Link, Reply};

/// How often deadlines are looked at, and so how late a call may learn of its own.
const SWEEP: Duration = Duration::from_millis(10);
/// Calls in one hand-over to the link.
const BATCH_MAX: usize = 1024;

/// Limits of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionLimits {
    /// Calls open at once; more wait.
    pub(crate) in_flight_max: usize,
    /// Requests that stand in the queues of locks at once, beside them; more wait.
    pub(crate) waiting_max: usize,
    /// Bytes of undelivered events that a watch may hold.
    pub(crate) watch_bytes_max: usize,
    /// How long a connection attempt may take.
    pub(crate) connect_timeout: Duration,
    /// The longest pause between connection attempts.
    pub(crate) reconnect_max: Duration,
}

/// One connection to a node, made again when it breaks and is needed.
pub(crate) struct Session {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    address: String,
    limits: SessionLimits,
    state: Mutex<State>,
    /// The writer has something to do.
    wake: Notify,
    /// There are deadlines to watch.
    busy: Notify,
    in_flight: Semaphore,
    /// For calls that wait for locks: they must not keep others from being sent.
    waiting: Semaphore,
}

struct State {
    slots: Slots,
    queue: Vec<Call>,
    status: Status,
}

enum Status {
    /// Calls gather until the attempt ends.
    Connecting,
    Up,
    Down {
        failure: Failure,
        until: Instant,
    },
}

/// What a call asks and of whom.
pub(crate) struct Ask {
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
    pub(crate) deadline: Instant,
    pub(crate) body: RequestBody,
}

impl Session {
    /// A session that connects at once. Must be called within a tokio runtime.
    pub(crate) fn start(address: &str, link: Arc<dyn Link>, limits: SessionLimits) -> Self {
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            limits,
            state: Mutex::new(State {
                slots: Slots::default(),
                queue: Vec::new(),
                status: Status::Connecting,
            }),
            wake: Notify::new(),
            busy: Notify::new(),
            in_flight: Semaphore::new(limits.in_flight_max),
            waiting: Semaphore::new(limits.waiting_max),
        });
        let task = tokio::spawn(run(Arc::clone(&shared), link));
        Self { shared, task }
    }

    /// Asks and waits for the answer, at most until the deadline.
    ///
    /// Cancel safe: no answer is lost to another caller; whether the call happened stays open.
    pub(crate) async fn call(&self, ask: Ask) -> Result<AnswerBody, Failure> {
        let _permit = self.admit(&ask).await?;
        let (tx, rx) = oneshot::channel();
        let deadline = ask.deadline;
        let id = self.shared.enqueue(ask, Slot::Call { deadline, sent: false, tx })?;
        let abandon = Abandon { shared: &self.shared, id };
        let answer = rx.await;
        std::mem::forget(abandon); // the slot is free already
        answer.unwrap_or_else(|_| Err(self.shared.gone(Happened::Maybe)))
    }

    /// Starts a watch, or observes an election. Its first item says from where, or why not.
    pub(crate) fn watch(&self, ask: Ask) -> Result<WatchStream, Failure> {
        let (feed, buffer) = watch::pair(self.shared.limits.watch_bytes_max);
        let shard = ask.shard;
        let id = self.shared.enqueue(ask, Slot::Watch { feed, shard })?;
        Ok(WatchStream::new(buffer, WatchHandle { shared: Arc::clone(&self.shared), id, shard }))
    }

    async fn admit(&self, ask: &Ask) -> Result<SemaphorePermit<'_>, Failure> {
        let limits = &self.shared.limits;
        let (room, max) = match ask.body.may_wait() {
            true => (&self.shared.waiting, limits.waiting_max),
            false => (&self.shared.in_flight, limits.in_flight_max),
        };
        if let Ok(permit) = room.try_acquire() {
            return Ok(permit);
        }
        let full = || {
            let address = &self.shared.address;
            Failure::new(
                Code::DeadlineExceeded,
                format!(
                    "deadline passed before the call to {address} was sent: {max} others are open"
                ),
            )
            .with_happened(Happened::No)
        };
        let permit = tokio::time::timeout_at(ask.deadline, room.acquire()).await;
        permit.map_err(|_| full())?.map_err(|_| self.shared.gone(Happened::No))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
        let gone = self.shared.gone(Happened::No);
        self.shared.fail_all(&gone);
    }
}

/// Frees a call's slot when its caller stops waiting.
struct Abandon<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.shared.lock().slots.remove(self.id);
    }
}

/// Ends a watch when its consumer is gone.
pub(crate) struct WatchHandle {
    shared: Arc<Shared>,
    id: u64,
    shard: ShardId,
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.slots.remove(self.id).is_some() {
            state.cancel_watch(self.id, self.shard);
            drop(state);
            self.shared.wake.notify_one();
        }
    }
}

impl State {
    /// Tells the node; the answer finds no slot.
    fn cancel_watch(&mut self, watch: u64, shard: ShardId) {
        let id = self.slots.unattended();
        let deadline = Instant::now() + Duration::from_secs(10);
        let body = RequestBody::CancelWatch { watch };
        self.queue.push(Call { id, shard, epoch: Epoch::ZERO, deadline, body });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, ask: Ask, slot: Slot) -> Result<u64, Failure> {
        let mut state = self.lock();
        if let Status::Down { failure, until } = &state.status {
            if Instant::now() < *until {
                return Err(failure.clone());
            }
            state.status = Status::Connecting;
        }
        let id = state.slots.insert(slot);
        let wake = state.queue.is_empty();
        let first = state.slots.calls() == 1;
        let Ask { shard, epoch, deadline, body } = ask;
        state.queue.push(Call { id, shard, epoch, deadline, body });
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        if first {
            self.busy.notify_one();
        }
        Ok(id)
    }

    /// Moves queued calls to `batch` and marks them as sent.
    fn take_queue(&self, batch: &mut Vec<Call>) {
        let mut state = self.lock();
        let count = state.queue.len().min(BATCH_MAX);
        if count == state.queue.len() && batch.is_empty() {
            std::mem::swap(&mut state.queue, batch);
        } else {
            batch.extend(state.queue.drain(..count));
        }
        // A call whose caller is gone, or whose deadline has passed, has no slot: it needn't be
        // sent.
        batch.retain(|call| state.slots.mark_sent(call.id));
    }

    fn deliver(&self, replies: &mut Vec<Reply>) {
        let mut done = Vec::with_capacity(replies.len());
        let mut cancelled = false;
        let mut state = self.lock();
        for (id, body) in replies.drain(..) {
            match state.slots.get_mut(id) {
                None => {}
                Some(Slot::Watch { feed, shard }) => {
                    let shard = *shard;
                    if feed.push(body).is_full() {
                        state.slots.remove(id);
                        state.cancel_watch(id, shard);
                        cancelled = true;
                    }
                }
                Some(Slot::Call { .. }) => done.extend(state.slots.remove(id).map(|s| (s, body))),
            }
        }
        drop(state);
        for (slot, body) in done {
            slot.finish(body);
        }
        if cancelled {
            self.wake.notify_one();
        }
    }

    /// Ends the calls whose deadline has passed.
    fn sweep(&self, now: Instant) {
        let ended = self.lock().slots.take_overdue(now);
        for slot in ended {
            let happened = slot.happened();
            let address = &self.address;
            let text = match happened {
                Happened::No => format!("deadline passed before the call to {address} was sent"),
                _ => format!("deadline passed while waiting for the answer of {address}"),
            };
            slot.finish(Err(Failure::new(Code::DeadlineExceeded, text).with_happened(happened)));
        }
    }

    /// Ends every call and watch. What was not sent fails with `failure`; for what was, the outcome
    /// is open.
    fn fail_all(&self, failure: &Failure) {
        let mut state = self.lock();
        state.queue.clear();
        let ended = state.slots.take_all();
        drop(state);
        for slot in ended {
            let failure = match slot.happened() {
                Happened::No => failure.clone(),
                happened => {
                    Failure::new(Code::Indeterminate, &*failure.message).with_happened(happened)
                }
            };
            slot.finish(Err(failure));
        }
    }

    fn gone(&self, happened: Happened) -> Failure {
        let text = format!("the connection to {} is closed", self.address);
        Failure::new(Code::Unreachable, text).with_happened(happened)
    }

    fn go_down(&self, failure: Failure, pause: Duration) {
        let message = format!("node at {} is unreachable: {}", self.address, failure.message);
        let failure = Failure::new(Code::Unreachable, message);
        let until = Instant::now() + pause;
        self.lock().status = Status::Down { failure: failure.clone(), until };
        self.fail_all(&failure);
    }

    /// Waits until a call needs the connection again.
    async fn needed(&self) {
        while matches!(self.lock().status, Status::Down { .. }) {
            self.wake.notified().await;
        }
    }
}

async fn run(shared: Arc<Shared>, link: Arc<dyn Link>) {
    let mut rng = Rng::new(random());
    let mut failures = 0_u32;
    loop {
        let failure = match connect(&shared, &*link).await {
            Ok(connection) => {
                failures = 0;
                shared.lock().status = Status::Up;
                tracing::debug!(address = %shared.address, "connected");
                serve(&shared, connection).await
            }
            Err(failure) => failure,
        };
        tracing::debug!(address = %shared.address, %failure, "disconnected");
        failures += 1;
        let full = Duration::from_millis(10) * (1 << failures.min(10));
        let pause = full.min(shared.limits.reconnect_max).as_millis() as u64;
        let jittered = Duration::from_millis(pause / 2 + rng.below(pause / 2 + 1));
        shared.go_down(failure, jittered);
        shared.needed().await;
    }
}

async fn connect(shared: &Shared, link: &dyn Link) -> Result<Connection, Failure> {
    let limit = shared.limits.connect_timeout;
    tokio::select! {
        connected = tokio::time::timeout(limit, link.connect()) => connected.unwrap_or_else(|_| {
            Err(Failure::new(Code::Unreachable, format!("no connection within {limit:?}")))
        }),
        never = sweep_while_busy(shared) => Err(never),
    }
}

/// Writes and reads until one of the two fails.
async fn serve(shared: &Shared, connection: Connection) -> Failure {
    let Connection { mut calls, mut answers } = connection;
    let read = async {
        let mut replies = Vec::new();
        loop {
            match answers.receive(&mut replies).await {
                Ok(()) => shared.deliver(&mut replies),
                Err(failure) => return failure,
            }
        }
    };
    tokio::select! {
        failure = read => failure,
        failure = write(shared, &mut *calls) => failure,
        never = sweep_while_busy(shared) => never,
    }
}

async fn write(shared: &Shared, calls: &mut dyn CallSink) -> Failure {
    let (mut batch, mut refused) = (Vec::new(), Vec::new());
    loop {
        shared.take_queue(&mut batch);
        if batch.is_empty() {
            shared.wake.notified().await;
            // Lets callers that are ready to run add to the batch.
            tokio::task::yield_now().await;
            continue;
        }
        if let Err(failure) = calls.send(&mut batch, &mut refused).await {
            return failure;
        }
        batch.clear();
        if !refused.is_empty() {
            shared.deliver(&mut refused);
        }
    }
}

/// Watches deadlines while there are calls; never ends.
async fn sweep_while_busy(shared: &Shared) -> Failure {
    loop {
        if shared.lock().slots.calls() == 0 {
            shared.busy.notified().await;
        }
        tokio::time::sleep(SWEEP).await;
        shared.sweep(Instant::now());
    }
}
