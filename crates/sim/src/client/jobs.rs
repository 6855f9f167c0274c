//! What the workload asks for: registers, counters, a bank, scans, operators' calls.

use std::time::Duration;

use atoll_base::{NodeId, Revision, Rng, ShardId};
use atoll_coord::{Consistency, RequestBody};
use atoll_machine::{
    Command, Compare, CompareTarget, DeleteOp, KeyEnd, Op, PutOp, RangeQuery, Relation, TxnOp,
    TxnStep,
};
use bytes::Bytes;

use super::record::Pair;
use crate::check::bank::Bank;
use crate::history::{Call, KeyNumber, OperationNumber, Stamp, Value};
use crate::shape::Shape;
use crate::value::{
    ACCOUNTS_FROM, COUNTERS_FROM, LISTED, encode_key, encode_list, encode_value, shard_start,
};

/// Money of one account at the start.
const START_AMOUNT: u64 = 100;

/// What a slot of a client is busy with.
#[derive(Debug)]
pub(crate) enum Job {
    /// One operation on one key.
    Operation(OperationNumber),
    /// A read that may be old, or of the past.
    OldRead(KeyNumber),
    /// A scan in pages; what follows it.
    Scan(Scan),
    /// The bank is founded, or money moves.
    Transfer(OperationNumber),
    /// History is forgotten, or leadership handed over.
    Operator,
}

/// A scan under way.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) called: Stamp,
    pub(crate) revision: Option<Revision>,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) then: Then,
}

/// What follows a scan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    /// Nothing.
    Rest,
    /// Move money between two of the accounts seen.
    Transfer,
    /// It was the run's last look.
    Close,
}

/// The bank that every shard holds.
pub(crate) fn bank(shape: &Shape) -> Bank {
    Bank { accounts: shape.accounts, total: START_AMOUNT * u64::from(shape.accounts) }
}

fn put(shard: ShardId, key: KeyNumber, value: Bytes) -> PutOp {
    PutOp { key: encode_key(shard, key), value, ..PutOp::default() }
}

fn compare(shard: ShardId, key: KeyNumber, target: CompareTarget) -> Compare {
    let key = encode_key(shard, key);
    Compare { key, end: KeyEnd::Single, target, relation: Relation::Equal }
}

fn command(op: Op) -> RequestBody {
    RequestBody::Command(Command::anonymous(op))
}

/// The request that makes `call`.
pub(crate) fn request(shard: ShardId, key: KeyNumber, call: Call, padding_max: u64) -> RequestBody {
    match call {
        Call::Put(value) => command(Op::Put(put(shard, key, encode_value(value, 0, padding_max)))),
        Call::Delete(_) => {
            let key = encode_key(shard, key);
            command(Op::Delete(DeleteOp { key, end: KeyEnd::Single, prev_kv: false }))
        }
        Call::Swap { expect, value } => {
            let target = match expect {
                Some(number) => CompareTarget::Value(encode_value(number, 0, padding_max)),
                None => CompareTarget::Version(0),
            };
            let new = put(shard, key, encode_value(value, 0, padding_max));
            command(Op::Txn(TxnOp {
                compares: vec![compare(shard, key, target)],
                then: vec![TxnStep::Put(new)],
                otherwise: Vec::new(),
            }))
        }
        Call::Get => get(shard, key, None, Consistency::Linearizable),
    }
}

/// Stores a record that is imported; where that is in doubt, only if it is not there.
pub(crate) fn store(
    shard: ShardId,
    key: KeyNumber,
    value: Value,
    is_doubtful: bool,
    padding_max: u64,
) -> RequestBody {
    let value = encode_value(value, 0, padding_max);
    let record = put(shard, key, value.clone());
    if !is_doubtful {
        return command(Op::Put(record));
    }
    let same = compare(shard, key, CompareTarget::Value(value));
    let otherwise = vec![TxnStep::Put(record)];
    command(Op::Txn(TxnOp { compares: vec![same], then: Vec::new(), otherwise }))
}

/// Writes a list that is longer by one, if it is still as it was at `revision`.
pub(crate) fn append(shard: ShardId, list: &[Value], revision: Option<Revision>) -> RequestBody {
    let same = |revision| compare(shard, KeyNumber(LISTED), CompareTarget::Mod(revision));
    let compares = revision.map(same).into_iter().collect();
    let longer = TxnStep::Put(put(shard, KeyNumber(LISTED), encode_list(list)));
    command(Op::Txn(TxnOp { compares, then: vec![longer], otherwise: Vec::new() }))
}

/// A read of one key.
pub(crate) fn get(
    shard: ShardId,
    key: KeyNumber,
    at: Option<Revision>,
    consistency: Consistency,
) -> RequestBody {
    RequestBody::Get { key: encode_key(shard, key), at, consistency }
}

/// Makes a linearizable read one that any replica answers and that may not be old at all.
pub(crate) fn allow_no_age(body: &mut RequestBody) {
    if let RequestBody::Get { consistency, .. } | RequestBody::Range { consistency, .. } = body
        && *consistency == Consistency::Linearizable
    {
        *consistency = Consistency::Stale { max: Some(Duration::ZERO) };
    }
}

/// A page of a scan of a whole shard.
pub(crate) fn page(
    shard: ShardId,
    from: Option<Bytes>,
    at: Option<Revision>,
    limit: u64,
) -> RequestBody {
    let start = from.unwrap_or_else(|| shard_start(shard));
    let end = KeyEnd::Until(shard_start(ShardId(shard.0 + 1)));
    let mut query = RangeQuery::new(start, end);
    query.at = at;
    query.limit = Some(limit);
    RequestBody::Range { query, consistency: Consistency::Linearizable }
}

/// Makes all accounts at once, unless they are there.
pub(crate) fn found_bank(
    shard: ShardId,
    shape: &Shape,
    mut value: impl FnMut() -> Value,
) -> (Call, RequestBody) {
    let first = value();
    let mut then = Vec::new();
    for n in 0..shape.accounts {
        let number = if n == 0 { first } else { value() };
        let bytes = encode_value(number, START_AMOUNT, shape.padding_max);
        then.push(TxnStep::Put(put(shard, KeyNumber(ACCOUNTS_FROM + n), bytes)));
    }
    let account = compare(shard, KeyNumber(ACCOUNTS_FROM), CompareTarget::Version(0));
    let txn = TxnOp { compares: vec![account], then, otherwise: Vec::new() };
    (Call::Swap { expect: None, value: first }, command(Op::Txn(txn)))
}

/// Moves money between two accounts as they were seen.
pub(crate) fn transfer(
    shard: ShardId,
    shape: &Shape,
    (from, to): (Pair, Pair),
    value: Value,
    rng: &mut Rng,
) -> (Call, RequestBody) {
    let amount = rng.below(from.amount + 1);
    let step = |pair: Pair, number: Value, amount: u64| {
        TxnStep::Put(put(shard, pair.key, encode_value(number, amount, shape.padding_max)))
    };
    let seen = |pair: Pair| compare(shard, pair.key, CompareTarget::Mod(pair.revision));
    let txn = TxnOp {
        compares: vec![seen(from), seen(to)],
        then: vec![
            step(from, value, from.amount - amount),
            step(to, value + 1, to.amount + amount),
        ],
        otherwise: Vec::new(),
    };
    (Call::Swap { expect: Some(from.value), value }, command(Op::Txn(txn)))
}

/// Forgets history below `revision`.
pub(crate) fn compact(revision: Revision) -> RequestBody {
    command(Op::Compact { revision })
}

/// Hands leadership over.
pub(crate) fn hand_over(to: NodeId) -> RequestBody {
    RequestBody::Transfer(to)
}

/// The key of a counter.
pub(crate) fn counter(client: u32) -> KeyNumber {
    KeyNumber(COUNTERS_FROM + client)
}
