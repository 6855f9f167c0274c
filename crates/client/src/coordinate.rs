//! Leases and locks as single requests, each carried out to its end: what [`Lock`](crate::Lock),
//! [`Election`](crate::Election) and the others are made of, and what gateways use whose callers
//! keep their own sessions.

use std::time::Duration;

use atoll_base::{Code, Failure, KeyspaceId, LeaseId};
use atoll_coord::{AnswerBody, KeptAlive, LeaseStatus, RequestBody, Told};
use atoll_machine::{AcquireOp, LeaseOp, LeaseReply, LockInfo, LockOp, LockReply, Op, Reply, Wait};
use bytes::Bytes;
use tokio::time::Instant;

use crate::call::{Where, unexpected};
use crate::keyspace::Keyspace;

/// As good as for ever, and still a time that clocks can reach.
pub(crate) const PATIENCE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Keyspace {
    /// The keyspace's number, as [`Guard`](crate::Guard)s name it.
    ///
    /// # Errors
    /// `NotFound` when there is no such keyspace.
    pub async fn id(&self) -> Result<KeyspaceId, Failure> {
        let any = Bytes::from_static(&[0]);
        let whom = Where::Key { keyspace: &self.name, key: &any };
        self.inner().locate(whom, self.deadline()).await?;
        let map = self.inner().map.load();
        map.catalog.keyspace(&self.name).map(|known| known.record.id).ok_or_else(|| {
            let text = format!("keyspace {} does not exist", self.name);
            Failure::new(Code::NotFound, text)
        })
    }

    /// Grants or ends a lease of the shard that holds `key`.
    ///
    /// # Errors
    /// `AlreadyExists` for an id that is taken, `NotFound` for a lease that has ended, and as
    /// [`Keyspace::put`].
    pub async fn lease_command(&self, key: &Bytes, op: LeaseOp) -> Result<LeaseReply, Failure> {
        let whom = Where::Key { keyspace: &self.name, key };
        let applied = self.inner().command(whom, Op::Lease(op), self.deadline()).await?;
        match applied.reply {
            Reply::Lease(reply) => Ok(reply),
            other => Err(unexpected("a command on a lease", &AnswerBody::Command(other))),
        }
    }

    /// Keeps leases of the shard that holds `key` alive for another time to live, counted from
    /// before this was asked.
    ///
    /// # Errors
    /// As [`Keyspace::get`]. A lease that has ended is no error: its `ttl` is `None`.
    pub async fn keep_alive(
        &self,
        key: &Bytes,
        leases: Vec<LeaseId>,
    ) -> Result<Vec<KeptAlive>, Failure> {
        match self.ask_about(key, RequestBody::KeepAlive { leases }).await? {
            AnswerBody::KeptAlive(kept) => Ok(kept),
            other => Err(unexpected("a keep-alive", &other)),
        }
    }

    /// How long a lease of the shard that holds `key` still lives, and what is attached to it.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn lease_status(
        &self,
        key: &Bytes,
        id: LeaseId,
        keys: Told,
    ) -> Result<LeaseStatus, Failure> {
        match self.ask_about(key, RequestBody::Lease { id, keys }).await? {
            AnswerBody::Lease(status) => Ok(status),
            other => Err(unexpected("a question about a lease", &other)),
        }
    }

    /// A page of the leases of the shard that holds `key`, behind `after`, in the order of ids.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub async fn leases_after(
        &self,
        key: &Bytes,
        after: Option<LeaseId>,
        limit: usize,
    ) -> Result<Vec<LeaseId>, Failure> {
        match self.ask_about(key, RequestBody::Leases { after, limit }).await? {
            AnswerBody::Leases(leases) => Ok(leases),
            other => Err(unexpected("a list of leases", &other)),
        }
    }

    /// Who holds a lock or leads an election, who waits, what is left of a semaphore. `None`:
    /// nobody has anything to do with it.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub async fn lock_info(&self, lock: &Bytes) -> Result<Option<LockInfo>, Failure> {
        match self.ask_about(lock, RequestBody::Lock { lock: lock.clone() }).await? {
            AnswerBody::Lock(info) => Ok(info),
            other => Err(unexpected("a question about a lock", &other)),
        }
    }

    /// Releases, calls back, proclaims, sets permits: what is done at once.
    ///
    /// # Errors
    /// `PreconditionFailed` when the session does not hold the lock with that token, and as
    /// [`Keyspace::put`].
    pub async fn lock_command(&self, op: LockOp) -> Result<LockReply, Failure> {
        let Some(lock) = op.lock().cloned() else {
            let text = "the command is about no lock";
            return Err(Failure::new(Code::InvalidArgument, text));
        };
        let whom = Where::Key { keyspace: &self.name, key: &lock };
        let applied = self.inner().command(whom, Op::Lock(op), self.deadline()).await?;
        match applied.reply {
            Reply::Lock(reply) => Ok(reply),
            other => Err(unexpected("a command on a lock", &AnswerBody::Command(other))),
        }
    }

    /// Asks for a lock under a session and a request number of the caller's. A request may be asked
    /// again with both, here or anywhere, and keeps its place. Without an end to the wait, the call
    /// ends after `patience` with `DeadlineExceeded`; the request then still waits.
    ///
    /// # Errors
    /// `NotFound` when the session has ended; `DeadlineExceeded` that did not happen when it waited
    /// as long as it wanted to; as [`Keyspace::put`].
    pub async fn claim(&self, op: &AcquireOp, patience: Duration) -> Result<LockReply, Failure> {
        let now = Instant::now();
        let deadline = now + patience.min(PATIENCE_MAX);
        let (wait_ends, deadline) = match op.wait {
            Wait::No => (now, self.deadline().min(deadline)),
            Wait::For(ms) => {
                let ends = now + Duration::from_millis(ms).min(PATIENCE_MAX);
                (ends, deadline.min(ends))
            }
            Wait::Forever => (deadline, deadline),
        };
        let whom = Where::Key { keyspace: &self.name, key: &op.claim.lock };
        self.inner().acquire(whom, op, wait_ends, deadline).await
    }

    async fn ask_about(&self, key: &Bytes, body: RequestBody) -> Result<AnswerBody, Failure> {
        let whom = Where::Key { keyspace: &self.name, key };
        Ok(self.inner().read(whom, body, self.deadline()).await?.1)
    }
}
