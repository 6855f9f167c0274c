//! Mutating operations and their replies.

use std::time::Duration;

use atoll_base::{Code, Failure, Revision, ShardId};
use atoll_coord::Consistency;
use atoll_machine::{
    Compare, CompareTarget, DeleteOp, PutOp, Relation, Reply, TxnOp, TxnResult, TxnStep,
};
use atoll_wire::v1 as pb;

use super::lease::encode_lease_reply;
use super::lock::encode_lock_reply;
use super::malformed;
use super::read::{
    decode_key_value, decode_page, decode_range, encode_end, encode_page, encode_range, key_value,
    lease, range_end,
};

/// Transactions inside transactions, at most so deep; the decoder recurses.
const TXN_DEPTH_MAX: usize = 8;

/// What a put asks for.
#[must_use]
pub fn decode_put(wire: pb::PutRequest) -> PutOp {
    PutOp {
        key: wire.key,
        value: wire.value,
        lease: lease(wire.lease),
        prev_kv: wire.prev_kv,
        ignore_value: wire.ignore_value,
        ignore_lease: wire.ignore_lease,
    }
}

pub(super) fn encode_put(op: PutOp) -> pb::PutRequest {
    pb::PutRequest {
        keyspace: String::new(),
        key: op.key,
        value: op.value,
        lease: op.lease.unwrap_or_default().0,
        prev_kv: op.prev_kv,
        ignore_value: op.ignore_value,
        ignore_lease: op.ignore_lease,
        id: None,
        guards: Vec::new(),
    }
}

/// What a delete asks for.
#[must_use]
pub fn decode_delete(wire: pb::DeleteRequest) -> DeleteOp {
    DeleteOp { end: range_end(&wire.start, wire.end), key: wire.start, prev_kv: wire.prev_kv }
}

pub(super) fn encode_delete(op: DeleteOp) -> pb::DeleteRequest {
    pb::DeleteRequest {
        keyspace: String::new(),
        start: op.key,
        end: encode_end(op.end),
        prev_kv: op.prev_kv,
        id: None,
        guards: Vec::new(),
    }
}

/// What a transaction asks for.
///
/// # Errors
/// [`Code::InvalidArgument`] for a compare or step that names nothing known, and for transactions
/// nested too deep.
pub fn decode_txn(wire: pb::TxnRequest) -> Result<TxnOp, Failure> {
    decode_nested(wire, 1)
}

fn decode_nested(wire: pb::TxnRequest, depth: usize) -> Result<TxnOp, Failure> {
    if depth > TXN_DEPTH_MAX {
        return Err(malformed(format!(
            "transaction refused: it is nested deeper than {TXN_DEPTH_MAX} levels"
        )));
    }
    let steps = |steps: Vec<pb::TxnStep>| -> Result<Vec<TxnStep>, Failure> {
        steps.into_iter().map(|step| decode_step(step, depth)).collect()
    };
    Ok(TxnOp {
        compares: wire.compare.into_iter().map(decode_compare).collect::<Result<_, _>>()?,
        then: steps(wire.then)?,
        otherwise: steps(wire.otherwise)?,
    })
}

fn decode_step(wire: pb::TxnStep, depth: usize) -> Result<TxnStep, Failure> {
    use pb::txn_step::Step;
    let guards = match &wire.step {
        Some(Step::Put(put)) => &put.guards[..],
        Some(Step::Delete(delete)) => &delete.guards,
        Some(Step::Txn(txn)) => &txn.guards,
        Some(Step::Range(_)) | None => &[],
    };
    // To pass over a guard would be to let through what it is there to stop.
    if !guards.is_empty() {
        return Err(malformed("transaction refused: a step has guards of its own"));
    }
    match wire.step {
        Some(Step::Put(put)) => Ok(TxnStep::Put(decode_put(put))),
        Some(Step::Delete(delete)) => Ok(TxnStep::Delete(decode_delete(delete))),
        Some(Step::Range(range)) => Ok(TxnStep::Range(decode_range(range)?.0)),
        Some(Step::Txn(txn)) => Ok(TxnStep::Txn(decode_nested(txn, depth + 1)?)),
        None => Err(malformed("transaction refused: a step has nothing in it that is known")),
    }
}

fn decode_compare(wire: pb::Compare) -> Result<Compare, Failure> {
    use pb::compare::{Relation as WireRelation, Target};
    let target = match Target::try_from(wire.target) {
        Ok(Target::Version) => CompareTarget::Version(wire.number),
        Ok(Target::CreateRevision) => CompareTarget::Create(Revision(wire.number)),
        Ok(Target::ModRevision) => CompareTarget::Mod(Revision(wire.number)),
        Ok(Target::Value) => CompareTarget::Value(wire.value),
        Ok(Target::Lease) => CompareTarget::Lease(wire.number),
        Err(_) => {
            let target = wire.target;
            return Err(malformed(format!(
                "transaction refused: compare target {target} is not known"
            )));
        }
    };
    let relation = match WireRelation::try_from(wire.relation) {
        Ok(WireRelation::Equal) => Relation::Equal,
        Ok(WireRelation::NotEqual) => Relation::NotEqual,
        Ok(WireRelation::Less) => Relation::Less,
        Ok(WireRelation::Greater) => Relation::Greater,
        Err(_) => {
            let relation = wire.relation;
            return Err(malformed(format!(
                "transaction refused: compare relation {relation} is not known"
            )));
        }
    };
    Ok(Compare { end: range_end(&wire.key, wire.end), key: wire.key, target, relation })
}

pub(super) fn encode_txn(op: TxnOp) -> pb::TxnRequest {
    pb::TxnRequest {
        keyspace: String::new(),
        compare: op.compares.into_iter().map(encode_compare).collect(),
        then: op.then.into_iter().map(encode_step).collect(),
        otherwise: op.otherwise.into_iter().map(encode_step).collect(),
        id: None,
        guards: Vec::new(),
    }
}

fn encode_step(step: TxnStep) -> pb::TxnStep {
    use pb::txn_step::Step;
    let step = match step {
        TxnStep::Put(put) => Step::Put(encode_put(put)),
        TxnStep::Delete(delete) => Step::Delete(encode_delete(delete)),
        TxnStep::Range(query) => Step::Range(encode_range(query, Consistency::Linearizable)),
        TxnStep::Txn(txn) => Step::Txn(encode_txn(txn)),
    };
    pb::TxnStep { step: Some(step) }
}

fn encode_compare(compare: Compare) -> pb::Compare {
    use pb::compare::{Relation as WireRelation, Target};
    let mut wire =
        pb::Compare { key: compare.key, end: encode_end(compare.end), ..Default::default() };
    let target = match compare.target {
        CompareTarget::Version(n) => (Target::Version, n),
        CompareTarget::Create(r) => (Target::CreateRevision, r.0),
        CompareTarget::Mod(r) => (Target::ModRevision, r.0),
        CompareTarget::Lease(n) => (Target::Lease, n),
        CompareTarget::Value(value) => {
            wire.value = value;
            (Target::Value, 0)
        }
    };
    (wire.target, wire.number) = (target.0 as i32, target.1);
    wire.relation = match compare.relation {
        Relation::Equal => WireRelation::Equal,
        Relation::NotEqual => WireRelation::NotEqual,
        Relation::Less => WireRelation::Less,
        Relation::Greater => WireRelation::Greater,
    } as i32;
    wire
}

/// The wire form of a reply.
///
/// # Errors
/// The failure that the reply is, if it is one.
pub fn encode_reply(reply: Reply) -> Result<pb::answer::Body, Failure> {
    use pb::answer::Body;
    Ok(match reply {
        Reply::Put { revision, previous } => {
            Body::Put(pb::PutResponse { revision: revision.0, prev_kv: previous.map(key_value) })
        }
        Reply::Delete { revision, deleted, previous } => Body::Delete(pb::DeleteResponse {
            revision: revision.0,
            deleted,
            prev_kvs: previous.into_iter().map(key_value).collect(),
        }),
        Reply::Txn { revision, succeeded, results } => Body::Txn(encode_results(
            revision,
            pb::TxnResponse { succeeded, ..Default::default() },
            results,
        )),
        Reply::Compact { revision, compacted } => {
            Body::Compact(pb::CompactResponse { revision: revision.0, compacted: compacted.0 })
        }
        Reply::SessionsExpired { count } => {
            return Err(Failure::new(
                Code::Internal,
                format!("the expiry of {count} sessions was answered to a client"),
            ));
        }
        Reply::Lease(reply) => encode_lease_reply(reply),
        Reply::Lock(reply) => encode_lock_reply(reply)?,
        Reply::Failed(failure) => return Err(failure),
    })
}

fn encode_results(
    revision: Revision,
    mut txn: pb::TxnResponse,
    results: Vec<TxnResult>,
) -> pb::TxnResponse {
    use pb::txn_step_result::Result as Step;
    let encode = |result| match result {
        TxnResult::Put { previous } => {
            Step::Put(pb::PutResponse { revision: revision.0, prev_kv: previous.map(key_value) })
        }
        TxnResult::Delete { deleted, previous } => Step::Delete(pb::DeleteResponse {
            revision: revision.0,
            deleted,
            prev_kvs: previous.into_iter().map(key_value).collect(),
        }),
        TxnResult::Range(page) => Step::Range(encode_page(page, Duration::ZERO, ShardId(0))),
        TxnResult::Txn { succeeded, results } => Step::Txn(encode_results(
            revision,
            pb::TxnResponse { succeeded, ..Default::default() },
            results,
        )),
    };
    txn.revision = revision.0;
    txn.results = results
        .into_iter()
        .map(|result| pb::TxnStepResult { result: Some(encode(result)) })
        .collect();
    txn
}

pub(super) fn decode_put_reply(wire: pb::PutResponse) -> Reply {
    Reply::Put { revision: Revision(wire.revision), previous: wire.prev_kv.map(decode_key_value) }
}

pub(super) fn decode_delete_reply(wire: pb::DeleteResponse) -> Reply {
    Reply::Delete {
        revision: Revision(wire.revision),
        deleted: wire.deleted,
        previous: wire.prev_kvs.into_iter().map(decode_key_value).collect(),
    }
}

pub(super) fn decode_txn_reply(wire: pb::TxnResponse) -> Result<Reply, Failure> {
    Ok(Reply::Txn {
        revision: Revision(wire.revision),
        succeeded: wire.succeeded,
        results: wire.results.into_iter().map(decode_result).collect::<Result<_, _>>()?,
    })
}

fn decode_result(wire: pb::TxnStepResult) -> Result<TxnResult, Failure> {
    use pb::txn_step_result::Result as Step;
    Ok(match wire.result {
        Some(Step::Put(put)) => TxnResult::Put { previous: put.prev_kv.map(decode_key_value) },
        Some(Step::Delete(delete)) => TxnResult::Delete {
            deleted: delete.deleted,
            previous: delete.prev_kvs.into_iter().map(decode_key_value).collect(),
        },
        Some(Step::Range(range)) => TxnResult::Range(decode_page(range)),
        Some(Step::Txn(txn)) => TxnResult::Txn {
            succeeded: txn.succeeded,
            results: txn.results.into_iter().map(decode_result).collect::<Result<_, _>>()?,
        },
        None => {
            return Err(Failure::new(
                Code::Internal,
                "a transaction's answer has a result that this build does not know",
            ));
        }
    })
}
