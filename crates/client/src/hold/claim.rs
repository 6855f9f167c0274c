//! A request on its way through a lock's queue.

use std::sync::Arc;
use std::time::Duration;

use atoll_base::{Code, Failure, Happened, LeaseId};
use atoll_machine::{AcquireOp, Busy, Claim, LockOp, LockReply, Mode, Token, Wait};
use bytes::Bytes;
use tokio::time::Instant;

use super::pulse::Standing;
use super::tenure::{Tenure, tenure};
use crate::coordinate::PATIENCE_MAX;
use crate::keyspace::Keyspace;

/// The time to live of sessions whose caller does not say.
pub(crate) const TTL: Duration = Duration::from_secs(15);
/// How long a request that nobody wants any more is called back.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) keyspace: Keyspace,
    pub(crate) name: Bytes,
    pub(crate) mode: Mode,
    /// How long it may wait; `None`: for ever.
    pub(crate) wait: Option<Duration>,
    pub(crate) value: Bytes,
    pub(crate) ttl: Duration,
    pub(crate) lock_delay: Duration,
}

/// What came of it.
pub(crate) enum Outcome {
    Granted { tenure: Arc<Tenure>, token: Token },
    Busy(Busy),
}

impl Wish {
    /// Gives up after so long; the wire counts in milliseconds, and none would mean not to wait.
    pub(crate) fn wait_at_most(&mut self, at_most: Duration) {
        self.wait = Some(at_most.max(Duration::from_millis(1)));
    }

    pub(crate) fn new(keyspace: &Keyspace, name: Bytes, mode: Mode) -> Self {
        Self {
            keyspace: keyspace.clone(),
            name,
            mode,
            wait: None,
            value: Bytes::new(),
            ttl: TTL,
            lock_delay: Duration::ZERO,
        }
    }

    /// Asks until it is granted, or until the time to wait is over. A session that ends meanwhile
    /// is followed by another one, with a place at the end of the queue.
    pub(crate) async fn acquire(&self) -> Result<Outcome, Failure> {
        let deadline = self.wait.map(|wait| Instant::now() + wait.min(PATIENCE_MAX));
        loop {
            let soon = self.keyspace.deadline();
            let until = match deadline {
                Some(deadline) if !self.is_attempt() => deadline.min(soon),
                _ => soon,
            };
            let terms = (self.ttl, self.lock_delay);
            let tenure = tenure(&self.keyspace, &self.name, terms, until).await?;
            let claim = Claim {
                lock: self.name.clone(),
                session: tenure.session(),
                request: tenure.next_request(),
            };
            let patience = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let failure = match self.ask(claim, patience).await {
                Ok(LockReply::Acquired { token }) => {
                    if tenure.pulse.standing() != Standing::Lost {
                        return Ok(Outcome::Granted { tenure, token });
                    }
                    self.session_ended(tenure.session())
                }
                Ok(LockReply::Busy(busy)) => return Ok(Outcome::Busy(busy)),
                Ok(other) => {
                    let text = format!("a request for a lock was answered with {other:?}");
                    return Err(Failure::new(Code::Internal, text));
                }
                Err(failure) => failure,
            };
            if failure.code != Code::NotFound && tenure.pulse.standing() != Standing::Lost {
                return Err(failure);
            }
            // What was not found: the session, or the semaphore, or the keyspace?
            if self.lives(&tenure).await? {
                return Err(failure);
            }
            tracing::debug!(session = %tenure.session(), %failure, "asks again in a new session");
            tenure.pulse.lose();
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(self.session_ended(tenure.session()));
            }
        }
    }

    /// Whether it does not wait at all.
    fn is_attempt(&self) -> bool {
        self.wait == Some(Duration::ZERO)
    }

    fn session_ended(&self, session: LeaseId) -> Failure {
        let lock = self.name.escape_ascii();
        let text = format!("session {session} ended while its request for lock {lock} waited");
        Failure::new(Code::DeadlineExceeded, text).with_happened(Happened::No)
    }

    async fn ask(&self, claim: Claim, patience: Option<Duration>) -> Result<LockReply, Failure> {
        let wait = match patience {
            _ if self.is_attempt() => Wait::No,
            Some(left) => Wait::For(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1)),
            None => Wait::Forever,
        };
        let op =
            AcquireOp { claim: claim.clone(), mode: self.mode, wait, value: self.value.clone() };
        let patience = match wait {
            Wait::No => self.keyspace.deadline().saturating_duration_since(Instant::now()),
            Wait::For(ms) => Duration::from_millis(ms),
            Wait::Forever => PATIENCE_MAX,
        };
        let pending = Pending { keyspace: &self.keyspace, claim: Some(claim) };
        let answer = self.keyspace.claim(&op, patience).await;
        match &answer {
            Ok(_) => pending.disarm(),
            // It left the queue, or never was in it.
            Err(failure) if failure.happened == Happened::No => pending.disarm(),
            Err(_) => drop(pending),
        }
        answer
    }

    /// Whether the session lives, as the shard sees it.
    async fn lives(&self, tenure: &Tenure) -> Result<bool, Failure> {
        if tenure.pulse.standing() == Standing::Lost {
            return Ok(false);
        }
        let kept = self.keyspace.keep_alive(&self.name, vec![tenure.session()]).await?;
        Ok(kept.iter().all(|kept| kept.ttl.is_some()))
    }
}

/// A request that may be in the queue. Called back when nobody waits for it any more (H3).
struct Pending<'a> {
    keyspace: &'a Keyspace,
    claim: Option<Claim>,
}

impl Pending<'_> {
    fn disarm(mut self) {
        self.claim = None;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // The client may be dropped before this is done; the session then ends by itself.
        let keyspace = self.keyspace.clone().with_timeout(CANCEL_TIMEOUT);
        runtime.spawn(async move {
            let (lock, session) = (claim.lock.clone(), claim.session);
            let answer = match keyspace.lock_command(LockOp::Cancel(claim)).await {
                Ok(LockReply::Acquired { token }) => {
                    keyspace.lock_command(LockOp::Release { lock, session, token }).await
                }
                other => other,
            };
            if let Err(failure) = answer {
                tracing::debug!(%session, %failure, "a request for a lock was not called back");
            }
        });
    }
}

/// Lets go of what is held; from then on it must not be believed in, whatever the answer.
pub(crate) async fn release(
    keyspace: &Keyspace,
    lock: &Bytes,
    session: LeaseId,
    token: Token,
) -> Result<(), Failure> {
    let op = LockOp::Release { lock: lock.clone(), session, token };
    keyspace.lock_command(op).await.map(drop)
}
