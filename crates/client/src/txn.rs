//! Transactions over the keys of one shard.

use atoll_base::{Code, Failure, Revision, ShardId};
use atoll_coord::AnswerBody;
use atoll_machine::{
    Compare, DeleteOp, KeyEnd, Op, PutOp, RangeQuery, Reply, TxnOp, TxnResult, TxnStep,
};
use bytes::Bytes;

use crate::call::{Applied, Where, unexpected};
use crate::keys::Keys;
use crate::keyspace::Keyspace;
use crate::map::ShardMap;

/// A transaction: conditions, what to do when all of them hold, and what to do otherwise. It
/// happens at once, in one revision, or not at all. Its keys must lie in one shard.
///
/// ```no_run
/// # use atoll_client::{Client, Failure, when};
/// # async fn example(client: Client) -> Result<(), Failure> {
/// let done = client
///     .keyspace("orders")
///     .txn()
///     .when(when::missing("order/18"))
///     .put("order/18", "new")
///     .otherwise()
///     .get("order/18")
///     .commit()
///     .await?;
/// println!("created: {}", done.succeeded);
/// # Ok(())
/// # }
/// ```
pub struct Txn {
    keyspace: Keyspace,
    op: TxnOp,
    branch: Branch,
}

#[derive(Clone, Copy)]
enum Branch {
    Then,
    Otherwise,
}

/// What a transaction did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TxnDone {
    /// The shard.
    pub shard: ShardId,
    /// Its revision of the change; the current one when nothing changed.
    pub revision: Revision,
    /// Whether the conditions held.
    pub succeeded: bool,
    /// One result per step that was done, in order.
    pub results: Vec<TxnResult>,
}

impl Keyspace {
    /// A transaction over keys of one shard.
    #[must_use]
    pub fn txn(&self) -> Txn {
        Txn::new(self.clone())
    }
}

impl Txn {
    fn new(keyspace: Keyspace) -> Self {
        Self { keyspace, op: TxnOp::default(), branch: Branch::Then }
    }

    /// Adds a condition; all must hold. See [`when`] for the usual ones.
    #[must_use]
    pub fn when(mut self, condition: Compare) -> Self {
        self.op.compares.push(condition);
        self
    }

    /// Steps added from now on are done when a condition does not hold.
    #[must_use]
    pub fn otherwise(mut self) -> Self {
        self.branch = Branch::Otherwise;
        self
    }

    /// Adds any step.
    #[must_use]
    pub fn step(mut self, step: TxnStep) -> Self {
        match self.branch {
            Branch::Then => self.op.then.push(step),
            Branch::Otherwise => self.op.otherwise.push(step),
        }
        self
    }

    /// Adds: set a key. A transaction sets a key at most once.
    #[must_use]
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let (key, value) = (key.into(), value.into());
        self.step(TxnStep::Put(PutOp { key, value, ..PutOp::default() }))
    }

    /// Adds: delete keys.
    #[must_use]
    pub fn delete(self, keys: Keys) -> Self {
        let (key, end) = (keys.start().clone(), keys.key_end());
        self.step(TxnStep::Delete(DeleteOp { key, end, prev_kv: false }))
    }

    /// Adds: read a key.
    #[must_use]
    pub fn get(self, key: impl Into<Bytes>) -> Self {
        self.step(TxnStep::Range(RangeQuery::new(key.into(), KeyEnd::Single)))
    }

    /// Adds: read a range.
    #[must_use]
    pub fn range(self, keys: Keys) -> Self {
        let end = keys.key_end();
        self.step(TxnStep::Range(RangeQuery::new(keys.start().clone(), end)))
    }

    /// Carries it out.
    ///
    /// # Errors
    /// `Unsupported` when its keys lie in several shards; otherwise as [`Keyspace::put`].
    /// Conditions that do not hold are no error.
    pub async fn commit(self) -> Result<TxnDone, Failure> {
        commit(&self.keyspace, self.op).await
    }
}

impl Keyspace {
    /// Carries out a transaction that was put together elsewhere.
    ///
    /// # Errors
    /// As [`Txn::commit`].
    pub async fn transact(&self, op: TxnOp) -> Result<TxnDone, Failure> {
        commit(self, op).await
    }
}

pub(crate) async fn commit(keyspace: &Keyspace, op: TxnOp) -> Result<TxnDone, Failure> {
    let mut ranges = Vec::new();
    ranges_of(&op, &mut ranges);
    let Some((first, _)) = ranges.first() else {
        return Err(Failure::new(
            Code::InvalidArgument,
            "the transaction has no conditions and no steps",
        ));
    };
    let deadline = keyspace.deadline();
    let whom = Where::Key { keyspace: &keyspace.name, key: first };
    let inner = keyspace.inner();
    inner.locate(whom, deadline).await?;
    check_one_shard(&inner.map.load(), &keyspace.name, &ranges)?;
    let first = first.clone();
    let whom = Where::Key { keyspace: &keyspace.name, key: &first };
    let Applied { shard, reply } =
        inner.command(whom, keyspace.guard(Op::Txn(op)), deadline).await?;
    match reply {
        Reply::Txn { revision, succeeded, results } => {
            Ok(TxnDone { shard, revision, succeeded, results })
        }
        other => Err(unexpected("a transaction", &AnswerBody::Command(other))),
    }
}

fn ranges_of(op: &TxnOp, ranges: &mut Vec<(Bytes, KeyEnd)>) {
    ranges.extend(op.compares.iter().map(|c| (c.key.clone(), c.end.clone())));
    for step in op.then.iter().chain(&op.otherwise) {
        match step {
            TxnStep::Put(put) => ranges.push((put.key.clone(), KeyEnd::Single)),
            TxnStep::Delete(delete) => ranges.push((delete.key.clone(), delete.end.clone())),
            TxnStep::Range(query) => ranges.push((query.start.clone(), query.end.clone())),
            TxnStep::Txn(inner) => ranges_of(inner, ranges),
        }
    }
}

fn check_one_shard(
    map: &ShardMap,
    keyspace: &str,
    ranges: &[(Bytes, KeyEnd)],
) -> Result<(), Failure> {
    let home = map.find(keyspace, &ranges[0].0)?;
    for (start, end) in ranges {
        let reaches_over = match (end, &home.end) {
            (KeyEnd::Single, _) | (_, None) => false,
            (KeyEnd::Until(until), Some(shard_end)) => until > shard_end,
            (KeyEnd::ToEnd, Some(_)) => true,
        };
        if home.contains(start) && !reaches_over {
            continue;
        }
        let other = map.find(keyspace, start)?.shard;
        let text = format!(
            "a transaction's keys must lie in one shard: \"{}\" is in shard {}, \"{}\" {} shard {}",
            ranges[0].0.escape_ascii(),
            home.shard,
            start.escape_ascii(),
            if reaches_over { "begins a range that reaches beyond" } else { "in" },
            other,
        );
        return Err(Failure::new(Code::Unsupported, text));
    }
    Ok(())
}

/// The usual conditions of transactions.
pub mod when {
    use atoll_base::Revision;
    use atoll_machine::{Compare, CompareTarget, KeyEnd, Relation};
    use bytes::Bytes;

    fn one(key: impl Into<Bytes>, relation: Relation, target: CompareTarget) -> Compare {
        Compare { key: key.into(), end: KeyEnd::Single, target, relation }
    }

    /// The key exists.
    #[must_use]
    pub fn exists(key: impl Into<Bytes>) -> Compare {
        one(key, Relation::Greater, CompareTarget::Version(0))
    }

    /// The key does not exist.
    #[must_use]
    pub fn missing(key: impl Into<Bytes>) -> Compare {
        one(key, Relation::Equal, CompareTarget::Version(0))
    }

    /// The key was last changed at this revision.
    #[must_use]
    pub fn unchanged_since(key: impl Into<Bytes>, revision: Revision) -> Compare {
        one(key, Relation::Equal, CompareTarget::Mod(revision))
    }

    /// The key exists and has this value.
    #[must_use]
    pub fn value_is(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Compare {
        one(key, Relation::Equal, CompareTarget::Value(value.into()))
    }
}
