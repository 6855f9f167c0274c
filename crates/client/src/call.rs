//! One call from beginning to end: find the shard, ask, follow refusals, within the deadline.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use atoll_base::{Code, Epoch, Failure, Happened, NodeId, Retry, Rng, ShardId};
use atoll_coord::retry::{Attempts, Decision, Repeatable, RetryBudget, Target};
use atoll_coord::{AnswerBody, Descriptor, RequestBody, routing};
use atoll_machine::{AcquireOp, Command, CommandId, LockOp, LockReply, Op, Reply, Wait};
use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::ids::{CommandIds, random};
use crate::link::Links;
use crate::map::{Outcome, Place, ShardMap, ShardState};
use crate::options::Options;
use crate::session::Ask;

/// The pause before a map that did not help is fetched again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long one attempt stands in the queue of a lock before it asks again, for whom to ask may
/// have changed unheard.
const WAIT_AT_ONCE: Duration = Duration::from_secs(20);

/// What all handles of a client share.
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) links: Arc<dyn Links>,
    pub(crate) map: ArcSwap<ShardMap>,
    /// Asks the follower to look at the catalog now.
    pub(crate) refresh: Notify,
    /// What came of its last look.
    pub(crate) outcome: watch::Receiver<Outcome>,
    asked: AtomicU64,
    calls: AtomicU64,
    retries: Mutex<Retries>,
}

struct Retries {
    budget: RetryBudget,
    rng: Rng,
}

/// Which shard a call is for.
#[derive(Clone, Copy)]
pub(crate) enum Where<'a> {
    /// The one that holds this key.
    Key { keyspace: &'a str, key: &'a Bytes },
    /// This one.
    Shard(ShardId),
}

/// A command's answer and the shard that gave it.
pub(crate) struct Applied {
    pub(crate) shard: ShardId,
    pub(crate) reply: Reply,
}

impl Inner {
    pub(crate) fn new(
        options: Options,
        links: Arc<dyn Links>,
        outcome: watch::Receiver<Outcome>,
    ) -> Self {
        Self {
            options,
            links,
            map: ArcSwap::default(),
            refresh: Notify::new(),
            outcome,
            asked: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            retries: Mutex::new(Retries { budget: RetryBudget::new(), rng: Rng::new(random()) }),
        }
    }

    /// Asks for something that changes nothing.
    pub(crate) async fn read(
        &self,
        whom: Where<'_>,
        body: RequestBody,
        deadline: Instant,
    ) -> Result<(ShardId, AnswerBody), Failure> {
        let mut attempts = Attempts::NONE;
        loop {
            let place = self.locate(whom, deadline).await?;
            match self.attempt(&place, body.clone(), deadline).await {
                Ok(answer) => return Ok((place.shard, answer)),
                Err(failure) => {
                    self.after(failure, &mut attempts, &place, deadline).await?;
                }
            }
        }
    }

    /// Carries a change out exactly once.
    pub(crate) async fn command(
        &self,
        whom: Where<'_>,
        op: Op,
        deadline: Instant,
    ) -> Result<Applied, Failure> {
        let mut attempts = Attempts::NONE;
        let mut named: Option<Named> = None;
        loop {
            let place = self.locate(whom, deadline).await?;
            let id = match &named {
                Some(named) => named.id,
                None => named.insert(Named::new(&place)?).id,
            };
            let body = RequestBody::Command(Command { id: Some(id), op: op.clone() });
            let failure = match self.attempt(&place, body, deadline).await {
                Ok(AnswerBody::Command(Reply::Failed(failure))) => failure,
                Ok(AnswerBody::Command(reply)) => {
                    return Ok(Applied { shard: place.shard, reply });
                }
                Ok(other) => return Err(unexpected("a command", &other)),
                Err(failure) => failure,
            };
            if failure.code == Code::SessionExpired {
                let name = named.take().expect("an id was sent");
                name.state.ids.retire(name.id);
                if attempts == Attempts::NONE {
                    // It was sent once and refused unseen: under a new name it is a new request.
                    attempts.failed += 1;
                    continue;
                }
                return Err(failure);
            }
            self.after(failure, &mut attempts, &place, deadline).await?;
        }
    }

    /// Asks for a lock, for as long as it may take: every attempt names the same request, which
    /// keeps its place in the queue over whatever node and connection. Ends when the request holds
    /// the lock, cannot have it, or at the deadline; then it may still be in the queue.
    pub(crate) async fn acquire(
        &self,
        whom: Where<'_>,
        op: &AcquireOp,
        wait_ends: Instant,
        deadline: Instant,
    ) -> Result<LockReply, Failure> {
        let mut attempts = Attempts::NONE;
        let mut named: Option<Named> = None;
        loop {
            let place = self.locate(whom, deadline).await?;
            let id = match &named {
                Some(named) => named.id,
                None => named.insert(Named::for_wait(&place)?).id,
            };
            let mut op = op.clone();
            if let Wait::For(_) = op.wait {
                let left = wait_ends.saturating_duration_since(Instant::now()).as_millis();
                op.wait = Wait::For(u64::try_from(left).unwrap_or(u64::MAX).max(1));
            }
            let body =
                RequestBody::Command(Command { id: Some(id), op: Op::Lock(LockOp::Acquire(op)) });
            let until = deadline.min(Instant::now() + WAIT_AT_ONCE);
            let failure = match self.attempt(&place, body, until).await {
                Ok(AnswerBody::Command(Reply::Lock(reply))) => return Ok(reply),
                Ok(other) => return Err(unexpected("a request for a lock", &other)),
                Err(failure) => failure,
            };
            match failure.code {
                // The claim is known by its session and request; the name may be another.
                Code::SessionExpired => {
                    let name = named.take().expect("an id was sent");
                    name.state.wait_ids.retire(name.id);
                    self.after(again(failure), &mut attempts, &place, deadline).await?;
                }
                // It waits on; the place is kept.
                Code::DeadlineExceeded if until <= Instant::now() && until < deadline => {
                    attempts = Attempts::NONE;
                }
                Code::DeadlineExceeded if failure.happened == Happened::No => return Err(failure),
                _ => self.after(failure, &mut attempts, &place, deadline).await?,
            }
        }
    }

    async fn attempt(
        &self,
        place: &Place,
        body: RequestBody,
        deadline: Instant,
    ) -> Result<AnswerBody, Failure> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let map = self.map.load();
        let sessions = Arc::clone(map.node(place.node)?);
        drop(map);
        let ask = Ask { shard: place.shard, epoch: place.epoch, deadline, body };
        sessions.session().call(ask).await
    }

    /// Asks one node about one shard, without retries.
    pub(crate) async fn ask_once(
        &self,
        shard: ShardId,
        node: NodeId,
        body: RequestBody,
        deadline: Instant,
    ) -> Result<AnswerBody, Failure> {
        let sessions = Arc::clone(self.map.load().node(node)?);
        sessions.session().call(Ask { shard, epoch: Epoch::ZERO, deadline, body }).await
    }

    /// Finds the shard and whom to ask. What the map doesn't know is looked up in the catalog
    /// itself.
    pub(crate) async fn locate(
        &self,
        whom: Where<'_>,
        deadline: Instant,
    ) -> Result<Place, Failure> {
        let mut asked = 0_u32;
        loop {
            let failure = match self.look_up(whom) {
                Ok(place) => return Ok(place),
                Err(failure) => failure,
            };
            let patient = failure.code != Code::NotFound;
            if asked > 0 && !patient {
                return Err(failure);
            }
            match self.refresh_map(deadline).await {
                Err(failure) if failure.code == Code::DeadlineExceeded => return Err(failure),
                // The catalog can't be read at this moment; the follower keeps trying.
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Ok(()) if asked > 0 => tokio::time::sleep(LOOK_AGAIN).await,
                Ok(()) => asked += 1,
            }
        }
    }

    fn look_up(&self, whom: Where<'_>) -> Result<Place, Failure> {
        let map = self.map.load();
        match whom {
            Where::Key { keyspace, key } => map.place(map.find(keyspace, key)?),
            Where::Shard(shard) => map.place(map.shard(shard)?),
        }
    }

    /// How many times a refresh was asked for.
    pub(crate) fn refreshes_asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// Waits until the follower has read the catalog's newest state, at most until the deadline.
    pub(crate) async fn refresh_map(&self, deadline: Instant) -> Result<(), Failure> {
        let ticket = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.refresh.notify_one();
        let mut outcome = self.outcome.clone();
        let served = outcome.wait_for(|o| o.served >= ticket);
        let late = || {
            let text = "deadline passed while the shard map was fetched";
            Failure::new(Code::DeadlineExceeded, text).with_happened(Happened::No)
        };
        let served = tokio::time::timeout_at(deadline, served).await.map_err(|_| late())?;
        match served {
            Ok(outcome) => outcome.failure.clone().map_or(Ok(()), Err),
            Err(_) => Err(Failure::new(Code::ShuttingDown, "the client was closed")),
        }
    }

    /// Decides what follows a refusal, and waits if it is to be tried again.
    pub(crate) async fn after(
        &self,
        failure: Failure,
        attempts: &mut Attempts,
        place: &Place,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let decision = {
            let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
            let Retries { budget, rng } = &mut *retries;
            budget.observe(self.calls.load(Ordering::Relaxed));
            let policy = self.options.retry;
            policy.decide(failure.clone(), attempts, Repeatable::Always, remaining, budget, rng)
        };
        let (wait, target) = match decision {
            Decision::GiveUp(failure) => return Err(failure),
            Decision::Retry { wait, target } => (wait, target),
        };
        let (shard, node) = (place.shard, place.node);
        tracing::trace!(%shard, %node, ?wait, ?target, %failure, "retry");
        match target {
            Target::Same => {}
            Target::Node(node) => place.state.learn_leader(Some(node)),
            Target::Another => place.state.learn_leader(self.another(place)),
            Target::Refreshed => {
                place.state.learn_leader(None);
                let soon = deadline.min(Instant::now() + Duration::from_secs(1));
                // A map that cannot be fetched now is no reason to fail: the retry will tell.
                let _ = self.refresh_map(soon).await;
            }
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// A replica other than the one that was asked; if another caller has moved on already, its
    /// choice.
    fn another(&self, place: &Place) -> Option<NodeId> {
        let current = place.state.leader();
        if current.is_some_and(|leader| leader != place.node) {
            return current;
        }
        let map = self.map.load();
        let descriptor: &Descriptor = map.shard(place.shard).ok()?;
        routing::next_member(descriptor, place.node)
    }
}

/// A refusal that may be tried again under another name.
fn again(failure: Failure) -> Failure {
    Failure { retry: Retry::Now, ..failure }
}

/// An id in use. Given back when the call is over, also when its caller drops it.
struct Named {
    id: CommandId,
    state: Arc<ShardState>,
    ids: fn(&ShardState) -> &CommandIds,
}

impl Named {
    fn new(place: &Place) -> Result<Self, Failure> {
        Self::from(place, |state| &state.ids)
    }

    fn for_wait(place: &Place) -> Result<Self, Failure> {
        Self::from(place, |state| &state.wait_ids)
    }

    fn from(place: &Place, ids: fn(&ShardState) -> &CommandIds) -> Result<Self, Failure> {
        let id = ids(&place.state).take()?;
        Ok(Self { id, state: Arc::clone(&place.state), ids })
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        (self.ids)(&self.state).acknowledge(self.id);
    }
}

/// An answer of another kind than was asked for.
pub(crate) fn unexpected(asked: &str, answer: &AnswerBody) -> Failure {
    Failure::new(Code::Internal, format!("{asked} was answered with {answer:?}"))
}
