//! Transactions, there and back.

use atoll_base::Revision;
use atoll_machine::{Compare, CompareTarget, Relation, TxnOp, TxnResult, TxnStep};
use atoll_wire::etcd::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget as Target, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;
use tonic::{Code, Status};

use super::range::Plan;
use super::translate;

/// What is needed to read the answer: the ranges of both sides.
pub(super) struct Outline {
    then: Vec<Step>,
    otherwise: Vec<Step>,
}

enum Step {
    Range(Plan),
    Put,
    Delete,
    Txn(Outline),
}

/// A checked transaction as the machine takes it.
pub(super) fn decode(wire: pb::TxnRequest) -> (TxnOp, Outline) {
    let (then, then_outline) = decode_steps(wire.success);
    let (otherwise, otherwise_outline) = decode_steps(wire.failure);
    let compares = wire.compare.into_iter().map(decode_compare).collect();
    let op = TxnOp { compares, then, otherwise };
    (op, Outline { then: then_outline, otherwise: otherwise_outline })
}

fn decode_steps(ops: Vec<pb::RequestOp>) -> (Vec<TxnStep>, Vec<Step>) {
    let step = |op: pb::RequestOp| {
        Some(match op.request? {
            Request::RequestRange(wire) => {
                let plan = Plan::new(wire);
                (TxnStep::Range(plan.query.clone()), Step::Range(plan))
            }
            Request::RequestPut(wire) => (TxnStep::Put(translate::put(wire)), Step::Put),
            Request::RequestDeleteRange(wire) => {
                (TxnStep::Delete(translate::delete(wire)), Step::Delete)
            }
            Request::RequestTxn(wire) => {
                let (op, outline) = decode(wire);
                (TxnStep::Txn(op), Step::Txn(outline))
            }
        })
    };
    // An iterator that leaves some out does not say how many there are, and most have one.
    let (mut steps, mut outline) = (Vec::with_capacity(ops.len()), Vec::with_capacity(ops.len()));
    for (step, outlined) in ops.into_iter().filter_map(step) {
        steps.push(step);
        outline.push(outlined);
    }
    (steps, outline)
}

fn decode_compare(wire: pb::Compare) -> Compare {
    let relation = match wire.result() {
        CompareResult::Equal => Relation::Equal,
        CompareResult::Greater => Relation::Greater,
        CompareResult::Less => Relation::Less,
        CompareResult::NotEqual => Relation::NotEqual,
    };
    let number = match &wire.target_union {
        Some(
            TargetUnion::Version(n)
            | TargetUnion::CreateRevision(n)
            | TargetUnion::ModRevision(n)
            | TargetUnion::Lease(n),
        ) => *n,
        Some(TargetUnion::Value(_)) | None => 0,
    };
    let end = translate::range_end(&wire.key, wire.range_end.clone());
    let target = wire.target();
    if number < 0 && !matches!(target, Target::Value | Target::Lease) {
        // What is kept is never negative, so it is more than this, and never equal.
        let relation = match relation {
            Relation::Greater | Relation::NotEqual => Relation::NotEqual,
            Relation::Less | Relation::Equal => Relation::Equal,
        };
        return Compare { key: wire.key, end, target: CompareTarget::Version(u64::MAX), relation };
    }
    let number = number as u64;
    let target = match target {
        Target::Version => CompareTarget::Version(number),
        Target::Create => CompareTarget::Create(Revision(number)),
        Target::Mod => CompareTarget::Mod(Revision(number)),
        Target::Lease => CompareTarget::Lease(number),
        Target::Value => CompareTarget::Value(match wire.target_union {
            Some(TargetUnion::Value(value)) => value,
            _ => bytes::Bytes::new(),
        }),
    };
    Compare { key: wire.key, end, target, relation }
}

/// The answer. The headers of operations carry the revision that each of them saw: that of the
/// transaction once something before it, or it itself, has changed something.
pub(super) fn encode(
    outline: &Outline,
    succeeded: bool,
    results: Vec<TxnResult>,
    revision: Revision,
) -> Result<pb::TxnResponse, Status> {
    let before = match results.iter().any(changes) {
        true => revision.prev(),
        false => revision,
    };
    let mut seen = Seen { now: before, after: revision };
    encode_side(outline, succeeded, results, &mut seen)
}

struct Seen {
    now: Revision,
    after: Revision,
}

impl Seen {
    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { revision: self.now.0 as i64, ..Default::default() })
    }
}

fn changes(result: &TxnResult) -> bool {
    match result {
        TxnResult::Put { .. } => true,
        TxnResult::Delete { deleted, .. } => *deleted > 0,
        TxnResult::Range(_) => false,
        TxnResult::Txn { results, .. } => results.iter().any(changes),
    }
}

fn encode_side(
    outline: &Outline,
    succeeded: bool,
    results: Vec<TxnResult>,
    seen: &mut Seen,
) -> Result<pb::TxnResponse, Status> {
    let steps = if succeeded { &outline.then } else { &outline.otherwise };
    let mut responses = Vec::with_capacity(results.len());
    for (step, result) in steps.iter().zip(results) {
        if !matches!(result, TxnResult::Txn { .. }) && changes(&result) {
            seen.now = seen.after;
        }
        let response = match (step, result) {
            (Step::Put, TxnResult::Put { previous }) => Response::ResponsePut(pb::PutResponse {
                header: seen.header(),
                prev_kv: previous.map(translate::key_value),
            }),
            (Step::Delete, TxnResult::Delete { deleted, previous }) => {
                Response::ResponseDeleteRange(pb::DeleteRangeResponse {
                    header: seen.header(),
                    deleted: deleted as i64,
                    prev_kvs: previous.into_iter().map(translate::key_value).collect(),
                })
            }
            (Step::Range(plan), TxnResult::Range(page)) => {
                let Some(found) = plan.whole(page) else { return Err(too_much()) };
                let header = seen.header();
                Response::ResponseRange(pb::RangeResponse { header, ..plan.finish(found) })
            }
            (Step::Txn(inner), TxnResult::Txn { succeeded, results }) => {
                Response::ResponseTxn(pb::TxnResponse {
                    header: Some(pb::ResponseHeader::default()),
                    ..encode_side(inner, succeeded, results, seen)?
                })
            }
            _ => return Err(super::refusal::unexpected("a step of a transaction")),
        };
        responses.push(pb::ResponseOp { response: Some(response) });
    }
    Ok(pb::TxnResponse { header: None, succeeded, responses })
}

/// The transaction is done, only what it read can't be told.
fn too_much() -> Status {
    let text = "etcdserver: txn is done, but a range in it holds more than one page, give a limit";
    Status::new(Code::ResourceExhausted, text)
}
