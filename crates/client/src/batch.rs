//! Many changes at once.

use std::collections::BTreeMap;

use atoll_base::{Code, Failure, Happened, ShardId};
use atoll_machine::{DeleteOp, KeyEnd, Op, PutOp, Reply, TxnOp, TxnStep};
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::call::Where;
use crate::keyspace::Keyspace;

/// Changes in one transaction of a shard.
const STEPS_MAX: usize = 512;
/// Bytes of keys and values in one transaction of a shard.
const BYTES_MAX: usize = 1 << 20;

/// Changes of any keys, carried out with few messages: per shard one transaction, or several when
/// there are more than 512 changes or 1 MiB. Each such part happens at once or not at all; the
/// parts are independent. Of several changes of one key the last one counts.
///
/// ```no_run
/// # async fn example(client: atoll_client::Client) -> Result<(), atoll_client::Failure> {
/// let orders = client.keyspace("orders");
/// let done = orders.batch().put("a", "1").put("b", "2").delete("c").commit().await?;
/// println!("{} changes", done.changes);
/// # Ok(())
/// # }
/// ```
pub struct Batch {
    keyspace: Keyspace,
    steps: BTreeMap<Bytes, Option<Bytes>>,
}

/// What a batch did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchDone {
    /// Keys set, and keys deleted whether or not they were there.
    pub changes: u64,
    /// Transactions that it took.
    pub parts: u64,
}

impl Keyspace {
    /// Many changes at once, of any keys; atomic within each shard only.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }
}

impl Batch {
    fn new(keyspace: Keyspace) -> Self {
        Self { keyspace, steps: BTreeMap::new() }
    }

    /// Adds: set a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.steps.insert(key.into(), Some(value.into()));
        self
    }

    /// Adds: delete a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.steps.insert(key.into(), None);
        self
    }

    /// Keys that it changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// True before anything was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Carries it out, all parts at the same time.
    ///
    /// # Errors
    /// The first failure; when other parts may have happened, it says `Maybe`. Whoever repeats the
    /// same batch makes the same changes.
    pub async fn commit(self) -> Result<BatchDone, Failure> {
        let deadline = self.keyspace.deadline();
        let changes = self.steps.len() as u64;
        let parts = self.parts(deadline).await?;
        let count = parts.len() as u64;
        let mut running = JoinSet::new();
        for (shard, then) in parts {
            let inner = std::sync::Arc::clone(self.keyspace.inner());
            let op = self.keyspace.guard(Op::Txn(TxnOp { then, ..TxnOp::default() }));
            running.spawn(async move { inner.command(Where::Shard(shard), op, deadline).await });
        }
        let (mut done, mut failed) = (0, None);
        while let Some(part) = running.join_next().await {
            match part {
                Ok(Ok(applied)) => {
                    debug_assert!(
                        matches!(applied.reply, Reply::Txn { .. }),
                        "{:?}",
                        applied.reply
                    );
                    done += 1;
                }
                Ok(Err(failure)) => failed = failed.or(Some(failure)),
                Err(panic) => {
                    let text = format!("a part of the batch failed: {panic}");
                    failed = failed.or(Some(Failure::new(Code::Internal, text)));
                }
            }
        }
        match failed {
            None => Ok(BatchDone { changes, parts: count }),
            Some(failure) if done == 0 => Err(failure),
            Some(failure) => Err(failure.with_happened(Happened::Maybe)),
        }
    }

    /// The transactions, in key order.
    async fn parts(&self, deadline: Instant) -> Result<Vec<(ShardId, Vec<TxnStep>)>, Failure> {
        let mut parts: Vec<(ShardId, Vec<TxnStep>)> = Vec::new();
        let mut bytes = 0;
        for (key, value) in &self.steps {
            let whom = Where::Key { keyspace: &self.keyspace.name, key };
            let shard = self.keyspace.inner().locate(whom, deadline).await?.shard;
            let cost = key.len() + value.as_ref().map_or(0, Bytes::len);
            let fits = parts.last().is_some_and(|(last, steps)| {
                *last == shard && steps.len() < STEPS_MAX && bytes + cost <= BYTES_MAX
            });
            if !fits {
                parts.push((shard, Vec::new()));
                bytes = 0;
            }
            bytes += cost;
            let (_, steps) = parts.last_mut().expect("one was pushed if there was none");
            steps.push(step(key, value.as_ref()));
        }
        Ok(parts)
    }
}

fn step(key: &Bytes, value: Option<&Bytes>) -> TxnStep {
    let key = key.clone();
    match value {
        Some(value) => TxnStep::Put(PutOp { key, value: value.clone(), ..PutOp::default() }),
        None => TxnStep::Delete(DeleteOp { key, end: KeyEnd::Single, prev_kv: false }),
    }
}
