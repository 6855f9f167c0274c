//! A keyspace: reading and writing single keys, and the way to everything else.

use std::sync::Arc;
use std::time::Duration;

use atoll_base::{Code, Failure, Revision, ShardId};
use atoll_coord::{AnswerBody, Consistency, Descriptor, RequestBody};
use atoll_machine::{Command, DeleteOp, Guard, GuardedOp, KeyEnd, KeyValue, Op, PutOp, Reply};
use bytes::Bytes;
use tokio::time::Instant;

use crate::call::{Applied, Inner, Where, unexpected};
use crate::client::Client;
use crate::keys::Keys;

/// A keyspace by name. Cloning is cheap.
///
/// Every call is exactly-once within its timeout: retries carry one idempotency key, over whatever
/// node and connection. When a call fails, [`Failure::happened`] says whether it took effect.
///
/// Cancel safe: dropping a call's future leaves open whether it happens; nothing else is affected.
#[derive(Clone)]
pub struct Keyspace {
    pub(crate) client: Client,
    pub(crate) name: Arc<str>,
    timeout: Option<Duration>,
    guards: Arc<[Guard]>,
}

/// The answer to a put.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Put {
    /// The shard that took it.
    pub shard: ShardId,
    /// The shard's revision of the change.
    pub revision: Revision,
    /// What was there before, if asked for.
    pub previous: Option<KeyValue>,
}

/// The answer to a delete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deleted {
    /// How many keys went.
    pub count: u64,
    /// What was there before, if asked for, in key order.
    pub previous: Vec<KeyValue>,
    /// The revision at each shard concerned.
    pub revisions: Vec<(ShardId, Revision)>,
}

/// The answer to a read of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    /// The key's version, if it exists.
    pub kv: Option<KeyValue>,
    /// The shard that was read.
    pub shard: ShardId,
    /// Its revision.
    pub revision: Revision,
    /// At most so old, counted to when the answer was made; zero for linearizable reads. Centuries
    /// where the replica has not yet heard how old its state is.
    pub staleness: Duration,
}

/// How to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadOptions {
    /// How fresh.
    pub consistency: Consistency,
    /// At which revision of the shard; `None`: the newest.
    pub at: Option<Revision>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { consistency: Consistency::Linearizable, at: None }
    }
}

impl Client {
    /// A handle to the keyspace of this name. Nothing is asked yet: whether it exists shows when it
    /// is used.
    #[must_use]
    pub fn keyspace(&self, name: &str) -> Keyspace {
        Keyspace::new(self.clone(), name)
    }
}

impl Keyspace {
    pub(crate) fn new(client: Client, name: &str) -> Self {
        Self { client, name: Arc::from(name), timeout: None, guards: Arc::new([]) }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The client that it is a handle of.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The same keyspace; calls through this handle take at most `timeout`, retries included.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The same keyspace; every put, delete, transaction and batch through this handle happens only
    /// while the lock is held with this token, which the store checks itself. Guards add up.
    ///
    /// A refusal is `PreconditionFailed` and names the lock, the token given and what is known
    /// instead. Locks with several holders at once should guard keys in their own shard only:
    /// elsewhere the largest token shuts out its fellow holders.
    #[must_use]
    pub fn guarded_by(mut self, guard: Guard) -> Self {
        self.guards = self.guards.iter().cloned().chain([guard]).collect();
        self
    }

    /// The write under the handle's guards.
    pub(crate) fn guard(&self, op: Op) -> Op {
        if self.guards.is_empty() {
            return op;
        }
        Op::Guarded(GuardedOp { guards: self.guards.to_vec(), op: Box::new(op) })
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        self.client.inner()
    }

    pub(crate) fn deadline(&self) -> Instant {
        match self.timeout {
            Some(timeout) => Instant::now() + timeout,
            None => self.client.default_deadline(),
        }
    }

    /// Sets a key. Costs one round to a majority of the shard's replicas.
    ///
    /// # Errors
    /// Refusals of the shard; `DeadlineExceeded` or `Indeterminate` when the outcome is not known.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(client: atoll_client::Client) -> Result<(), atoll_client::Failure> {
    /// let orders = client.keyspace("orders");
    /// let put = orders.put("order/17", "paid").await?;
    /// println!("revision {}", put.revision);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Put, Failure> {
        let (key, value) = (key.into(), value.into());
        self.put_with(PutOp { key, value, ..PutOp::default() }).await
    }

    /// Sets a key, with everything that can be said about it.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub async fn put_with(&self, op: PutOp) -> Result<Put, Failure> {
        let key = op.key.clone();
        let Applied { shard, reply } = self.command(&key, Op::Put(op)).await?;
        match reply {
            Reply::Put { revision, previous } => Ok(Put { shard, revision, previous }),
            other => Err(unexpected("a put", &AnswerBody::Command(other))),
        }
    }

    /// Reads a key as it is now: sees every write acknowledged before.
    ///
    /// # Errors
    /// `NotFound` when there is no such keyspace; a missing key is `None`, not an error.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(client: atoll_client::Client) -> Result<(), atoll_client::Failure> {
    /// if let Some(order) = client.keyspace("orders").get("order/17").await? {
    ///     println!("{:?} at revision {}", order.value, order.mod_revision);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<KeyValue>, Failure> {
        Ok(self.get_with(key, ReadOptions::default()).await?.kv)
    }

    /// Reads a key from any replica, if it is sure to be at most `age` old; without `age`, however
    /// old it is. The answer says how old it may be. A replica that is not sure asks its leader
    /// once more before it refuses.
    ///
    /// # Errors
    /// As [`Keyspace::get`], and a retryable refusal while no replica is fresh enough.
    pub async fn get_stale(
        &self,
        key: impl Into<Bytes>,
        age: Option<Duration>,
    ) -> Result<Read, Failure> {
        let consistency = Consistency::Stale { max: age };
        self.get_with(key, ReadOptions { consistency, at: None }).await
    }

    /// Reads a key.
    ///
    /// # Errors
    /// As [`Keyspace::get`]; `Compacted` and `FutureRevision` for a revision that cannot be read.
    pub async fn get_with(
        &self,
        key: impl Into<Bytes>,
        options: ReadOptions,
    ) -> Result<Read, Failure> {
        let key = key.into();
        let whom = Where::Key { keyspace: &self.name, key: &key };
        let ReadOptions { at, consistency } = options;
        let body = RequestBody::Get { key: key.clone(), at, consistency };
        match self.inner().read(whom, body, self.deadline()).await? {
            (shard, AnswerBody::Get { kv, revision, staleness }) => {
                Ok(Read { kv, shard, revision, staleness })
            }
            (_, other) => Err(unexpected("a get", &other)),
        }
    }

    /// Deletes a key; true when it existed.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool, Failure> {
        Ok(self.delete_with(key, Previous::Drop).await?.count > 0)
    }

    /// Deletes a key, and gives back what was there if asked to.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub async fn delete_with(
        &self,
        key: impl Into<Bytes>,
        previous: Previous,
    ) -> Result<Deleted, Failure> {
        let key = key.into();
        let op = DeleteOp { key: key.clone(), end: KeyEnd::Single, prev_kv: previous.wanted() };
        deleted(self.command(&key, Op::Delete(op)).await?)
    }

    /// Deletes a range of keys. Each shard does its part at once; the shards one after the other,
    /// in key order, so a failure may leave the later ones undone.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub async fn delete_range(&self, keys: Keys, previous: Previous) -> Result<Deleted, Failure> {
        let mut all = Deleted { count: 0, previous: Vec::new(), revisions: Vec::new() };
        let deadline = self.deadline();
        for shard in self.shards(&keys, deadline).await? {
            let part = keys.clip(&shard.start, shard.end.as_ref());
            let (key, end) = (part.start().clone(), part.key_end());
            let op = self.guard(Op::Delete(DeleteOp { key, end, prev_kv: previous.wanted() }));
            let applied = self.inner().command(Where::Shard(shard.shard), op, deadline).await?;
            let part = deleted(applied)?;
            all.count += part.count;
            all.previous.extend(part.previous);
            all.revisions.extend(part.revisions);
        }
        Ok(all)
    }

    /// Forgets history in every shard except the last `keep` revisions, and returns the oldest
    /// revision that each can still read.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub async fn compact(&self, keep: u64) -> Result<Vec<(ShardId, Revision)>, Failure> {
        let deadline = self.deadline();
        let mut done = Vec::new();
        for shard in self.shards(&Keys::all(), deadline).await? {
            let revision = self.shard_revision(&shard, deadline).await?;
            let revision = Revision(revision.0.saturating_sub(keep));
            if revision == Revision::ZERO {
                done.push((shard.shard, revision));
                continue;
            }
            let whom = Where::Shard(shard.shard);
            match self.inner().command(whom, Op::Compact { revision }, deadline).await {
                Ok(Applied { reply: Reply::Compact { compacted, .. }, .. }) => {
                    done.push((shard.shard, compacted));
                }
                Ok(other) => {
                    return Err(unexpected("a compaction", &AnswerBody::Command(other.reply)));
                }
                // Somebody else has compacted further.
                Err(failure) if failure.code == Code::Compacted => {
                    done.push((shard.shard, revision));
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(done)
    }

    async fn shard_revision(
        &self,
        shard: &Descriptor,
        deadline: Instant,
    ) -> Result<Revision, Failure> {
        let consistency = Consistency::Linearizable;
        // Any key will do: the answer names the shard's revision.
        let key =
            if shard.start.is_empty() { Bytes::from_static(&[0]) } else { shard.start.clone() };
        let body = RequestBody::Get { key, at: None, consistency };
        match self.inner().read(Where::Shard(shard.shard), body, deadline).await? {
            (_, AnswerBody::Get { revision, .. }) => Ok(revision),
            (_, other) => Err(unexpected("a get", &other)),
        }
    }

    /// The shards that hold a range, in key order.
    pub(crate) async fn shards(
        &self,
        keys: &Keys,
        deadline: Instant,
    ) -> Result<Vec<Descriptor>, Failure> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        // Finding the first key's shard makes sure that the map knows the keyspace.
        let whom = Where::Key { keyspace: &self.name, key: keys.start() };
        self.inner().locate(whom, deadline).await?;
        let map = self.inner().map.load();
        map.find_range(&self.name, keys.start(), keys.end().map(|e| &e[..]))
    }

    /// Carries out a command of the shard that holds `key` under the name that the caller gave it,
    /// for gateways whose callers name their own requests. Retries keep the name.
    ///
    /// # Errors
    /// As [`Keyspace::put`]; `SessionExpired` when the shard no longer remembers the name.
    pub async fn carry_out(&self, key: &Bytes, command: Command) -> Result<Reply, Failure> {
        let whom = Where::Key { keyspace: &self.name, key };
        let Command { id, op } = command;
        let op = match op {
            op @ (Op::Put(_) | Op::Delete(_) | Op::Txn(_)) => self.guard(op),
            op => op,
        };
        let body = RequestBody::Command(Command { id, op });
        match self.inner().read(whom, body, self.deadline()).await? {
            (_, AnswerBody::Command(Reply::Failed(failure))) => Err(failure),
            (_, AnswerBody::Command(reply)) => Ok(reply),
            (_, other) => Err(unexpected("a command", &other)),
        }
    }

    async fn command(&self, key: &Bytes, op: Op) -> Result<Applied, Failure> {
        let whom = Where::Key { keyspace: &self.name, key };
        self.inner().command(whom, self.guard(op), self.deadline()).await
    }
}

/// Whether a change gives back what was there before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Previous {
    /// It does.
    Return,
    /// It does not.
    Drop,
}

impl Previous {
    fn wanted(self) -> bool {
        self == Self::Return
    }
}

fn deleted(applied: Applied) -> Result<Deleted, Failure> {
    let Applied { shard, reply } = applied;
    match reply {
        Reply::Delete { revision, deleted, previous } => {
            Ok(Deleted { count: deleted, previous, revisions: vec![(shard, revision)] })
        }
        other => Err(unexpected("a delete", &AnswerBody::Command(other))),
    }
}
