//! The bytes of commands: see `docs/formats/commands.md`. Decoding takes input from the log and
//! from the network, so nothing here panics, recurses without bound or reserves what it is told to.

use atoll_base::codec::{DecodeError, Reader, Writer};
use atoll_base::{ClientId, LeaseId, Revision, Sequence, Timestamp};
use atoll_storage::Direction;
use bytes::Bytes;

use crate::command::{
    Command, CommandId, Compare, CompareTarget, DeleteOp, GuardedOp, Op, PutOp, Relation, TxnOp,
    TxnStep,
};
use crate::lease_op::LeaseOp;
use crate::lock_op::{Guard, LockOp};
use crate::query::{KeyEnd, RangeQuery};

/// Transactions inside transactions, at most.
const DEPTH_MAX: u32 = 8;

const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;
const OP_TXN: u8 = 3;
const OP_COMPACT: u8 = 4;
const OP_EXPIRE_SESSIONS: u8 = 5;
// 6 to 9 are about leases, 10 to 17 about locks.
const OP_GUARDED: u8 = 18;

const STEP_RANGE: u8 = 4;

const WITH_ID: u8 = 1;

const PUT_LEASE: u8 = 1;
const PUT_PREV: u8 = 2;
const PUT_IGNORE_VALUE: u8 = 4;
const PUT_IGNORE_LEASE: u8 = 8;

const RANGE_BACKWARD: u8 = 1;
const RANGE_LIMIT: u8 = 2;
const RANGE_BYTES: u8 = 4;
const RANGE_AT: u8 = 8;
const RANGE_KEYS_ONLY: u8 = 16;
const RANGE_COUNT_ONLY: u8 = 32;
const RANGE_COUNT_TOTAL: u8 = 64;

fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

/// Reads a byte of flags of which only `known` may be set.
fn flags(r: &mut Reader, known: u8, what: &'static str) -> Result<u8, DecodeError> {
    let value = r.u8(what)?;
    if value & !known != 0 {
        return Err(unknown(what, u64::from(value)));
    }
    Ok(value)
}

fn unknown(what: &'static str, value: u64) -> DecodeError {
    DecodeError::Unknown { what, offset: 0, value }
}

impl Command {
    /// Appends the command's bytes.
    pub fn encode(&self, w: &mut Writer) {
        w.u8(number(&self.op));
        w.u8(flag(self.id.is_some(), WITH_ID));
        if let Some(id) = &self.id {
            w.u64_fixed(id.client.0).varint(id.sequence.0);
            w.varint(id.sequence.0.saturating_sub(id.first_unacknowledged.0));
        }
        encode_op(&self.op, w);
    }

    /// Takes one command off the front of `r`; its byte strings share the reader's input.
    ///
    /// # Errors
    /// When the bytes are no command that this build knows.
    pub fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let op = r.u8("command")?;
        let id = match flags(r, WITH_ID, "command flags")? {
            0 => None,
            _ => Some(decode_id(r)?),
        };
        Ok(Self { id, op: decode_op(op, r)? })
    }
}

fn number(op: &Op) -> u8 {
    match op {
        Op::Put(_) => OP_PUT,
        Op::Delete(_) => OP_DELETE,
        Op::Txn(_) => OP_TXN,
        Op::Compact { .. } => OP_COMPACT,
        Op::ExpireSessions { .. } => OP_EXPIRE_SESSIONS,
        Op::Lease(op) => op.number(),
        Op::Lock(op) => op.number(),
        Op::Guarded(_) => OP_GUARDED,
    }
}

/// Appends what stands behind the number.
fn encode_op(op: &Op, w: &mut Writer) {
    match op {
        Op::Put(put) => encode_put(put, w),
        Op::Delete(delete) => encode_delete(delete, w),
        Op::Txn(txn) => encode_txn(txn, w),
        Op::Compact { revision } => drop(w.varint(revision.0)),
        Op::ExpireSessions { unused_since } => drop(w.varint(unused_since.0)),
        Op::Lease(op) => op.encode(w),
        Op::Lock(op) => op.encode(w),
        Op::Guarded(GuardedOp { guards, op }) => {
            w.varint(guards.len() as u64);
            guards.iter().for_each(|guard| guard.encode(w));
            encode_op(op, w.u8(number(op)));
        }
    }
}

fn decode_op(number: u8, r: &mut Reader) -> Result<Op, DecodeError> {
    if let Some(op) = LeaseOp::decode(number, r) {
        return op.map(Op::Lease);
    }
    if let Some(op) = LockOp::decode(number, r) {
        return op.map(Op::Lock);
    }
    Ok(match number {
        OP_PUT => Op::Put(decode_put(r)?),
        OP_DELETE => Op::Delete(decode_delete(r)?),
        OP_TXN => Op::Txn(decode_txn(r, DEPTH_MAX)?),
        OP_COMPACT => Op::Compact { revision: Revision(r.varint("compact revision")?) },
        OP_EXPIRE_SESSIONS => {
            Op::ExpireSessions { unused_since: Timestamp(r.varint("unused since")?) }
        }
        OP_GUARDED => {
            let guards = decode_list(r, "guards", Guard::decode)?;
            let op = match r.u8("guarded command")? {
                number @ (OP_PUT | OP_DELETE | OP_TXN) => Box::new(decode_op(number, r)?),
                other => return Err(unknown("guarded command", u64::from(other))),
            };
            Op::Guarded(GuardedOp { guards, op })
        }
        other => return Err(unknown("command", u64::from(other))),
    })
}

fn decode_id(r: &mut Reader) -> Result<CommandId, DecodeError> {
    let client = ClientId(r.u64_fixed("client")?);
    let sequence = r.varint("sequence")?;
    let behind = r.varint("first unacknowledged")?;
    let first = sequence
        .checked_sub(behind)
        .filter(|first| *first > 0)
        .ok_or(unknown("first unacknowledged", behind))?;
    Ok(CommandId { client, sequence: Sequence(sequence), first_unacknowledged: Sequence(first) })
}

fn encode_put(put: &PutOp, w: &mut Writer) {
    w.u8(flag(put.lease.is_some(), PUT_LEASE)
        | flag(put.prev_kv, PUT_PREV)
        | flag(put.ignore_value, PUT_IGNORE_VALUE)
        | flag(put.ignore_lease, PUT_IGNORE_LEASE));
    w.bytes(&put.key).bytes(&put.value);
    if let Some(lease) = put.lease {
        w.varint(lease.0);
    }
}

fn decode_put(r: &mut Reader) -> Result<PutOp, DecodeError> {
    let known = PUT_LEASE | PUT_PREV | PUT_IGNORE_VALUE | PUT_IGNORE_LEASE;
    let flags = flags(r, known, "put flags")?;
    Ok(PutOp {
        key: r.bytes("put key")?,
        value: r.bytes("put value")?,
        lease: match flags & PUT_LEASE {
            0 => None,
            _ => Some(LeaseId(r.varint("put lease")?)),
        },
        prev_kv: flags & PUT_PREV != 0,
        ignore_value: flags & PUT_IGNORE_VALUE != 0,
        ignore_lease: flags & PUT_IGNORE_LEASE != 0,
    })
}

fn encode_end(end: &KeyEnd, w: &mut Writer) {
    match end {
        KeyEnd::Single => drop(w.u8(0)),
        KeyEnd::Until(until) => drop(w.u8(1).bytes(until)),
        KeyEnd::ToEnd => drop(w.u8(2)),
    }
}

fn decode_end(r: &mut Reader) -> Result<KeyEnd, DecodeError> {
    match r.u8("range end")? {
        0 => Ok(KeyEnd::Single),
        1 => Ok(KeyEnd::Until(r.bytes("range end")?)),
        2 => Ok(KeyEnd::ToEnd),
        other => Err(unknown("range end", u64::from(other))),
    }
}

fn encode_delete(delete: &DeleteOp, w: &mut Writer) {
    w.u8(flag(delete.prev_kv, 1)).bytes(&delete.key);
    encode_end(&delete.end, w);
}

fn decode_delete(r: &mut Reader) -> Result<DeleteOp, DecodeError> {
    let prev_kv = flags(r, 1, "delete flags")? != 0;
    Ok(DeleteOp { key: r.bytes("delete key")?, end: decode_end(r)?, prev_kv })
}

fn encode_txn(txn: &TxnOp, w: &mut Writer) {
    w.varint(txn.compares.len() as u64);
    for compare in &txn.compares {
        encode_compare(compare, w);
    }
    for steps in [&txn.then, &txn.otherwise] {
        w.varint(steps.len() as u64);
        for step in steps {
            encode_step(step, w);
        }
    }
}

fn decode_txn(r: &mut Reader, depth: u32) -> Result<TxnOp, DecodeError> {
    let depth = depth.checked_sub(1).ok_or(unknown("txn depth", u64::from(DEPTH_MAX) + 1))?;
    let compares = decode_list(r, "compares", decode_compare)?;
    let then = decode_list(r, "steps", |r| decode_step(r, depth))?;
    let otherwise = decode_list(r, "steps", |r| decode_step(r, depth))?;
    Ok(TxnOp { compares, then, otherwise })
}

/// A count and that many items. An item has at least one byte, so the count can't ask for more room
/// than a constant times the input.
fn decode_list<T>(
    r: &mut Reader,
    what: &'static str,
    mut item: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = r.varint(what)?;
    if count > r.remaining() as u64 {
        return Err(unknown(what, count));
    }
    // Most lists have one item, and are short.
    let mut list = Vec::with_capacity(count.min(16) as usize);
    for _ in 0..count {
        list.push(item(r)?);
    }
    Ok(list)
}

fn encode_compare(compare: &Compare, w: &mut Writer) {
    let target = match &compare.target {
        CompareTarget::Version(_) => 0,
        CompareTarget::Create(_) => 1,
        CompareTarget::Mod(_) => 2,
        CompareTarget::Value(_) => 3,
        CompareTarget::Lease(_) => 4,
    };
    let relation = match compare.relation {
        Relation::Equal => 0,
        Relation::NotEqual => 1,
        Relation::Less => 2,
        Relation::Greater => 3,
    };
    w.u8(target << 4 | relation).bytes(&compare.key);
    encode_end(&compare.end, w);
    match &compare.target {
        CompareTarget::Version(n) | CompareTarget::Lease(n) => drop(w.varint(*n)),
        CompareTarget::Create(r) | CompareTarget::Mod(r) => drop(w.varint(r.0)),
        CompareTarget::Value(v) => drop(w.bytes(v)),
    }
}

fn decode_compare(r: &mut Reader) -> Result<Compare, DecodeError> {
    let head = r.u8("compare")?;
    let relation = match head & 0xf {
        0 => Relation::Equal,
        1 => Relation::NotEqual,
        2 => Relation::Less,
        3 => Relation::Greater,
        other => return Err(unknown("compare relation", u64::from(other))),
    };
    let key = r.bytes("compare key")?;
    let end = decode_end(r)?;
    let target = match head >> 4 {
        0 => CompareTarget::Version(r.varint("compare version")?),
        1 => CompareTarget::Create(Revision(r.varint("compare create")?)),
        2 => CompareTarget::Mod(Revision(r.varint("compare mod")?)),
        3 => CompareTarget::Value(r.bytes("compare value")?),
        4 => CompareTarget::Lease(r.varint("compare lease")?),
        other => return Err(unknown("compare target", u64::from(other))),
    };
    Ok(Compare { key, end, target, relation })
}

fn encode_step(step: &TxnStep, w: &mut Writer) {
    match step {
        TxnStep::Put(put) => encode_put(put, w.u8(OP_PUT)),
        TxnStep::Delete(delete) => encode_delete(delete, w.u8(OP_DELETE)),
        TxnStep::Txn(txn) => encode_txn(txn, w.u8(OP_TXN)),
        TxnStep::Range(query) => query.encode(w.u8(STEP_RANGE)),
    }
}

fn decode_step(r: &mut Reader, depth: u32) -> Result<TxnStep, DecodeError> {
    match r.u8("step")? {
        OP_PUT => decode_put(r).map(TxnStep::Put),
        OP_DELETE => decode_delete(r).map(TxnStep::Delete),
        OP_TXN => decode_txn(r, depth).map(TxnStep::Txn),
        STEP_RANGE => RangeQuery::decode(r).map(TxnStep::Range),
        other => Err(unknown("step", u64::from(other))),
    }
}

impl RangeQuery {
    /// Appends the query's bytes.
    pub fn encode(&self, w: &mut Writer) {
        w.u8(flag(self.direction == Direction::Backward, RANGE_BACKWARD)
            | flag(self.limit.is_some(), RANGE_LIMIT)
            | flag(self.bytes_max.is_some(), RANGE_BYTES)
            | flag(self.at.is_some(), RANGE_AT)
            | flag(self.keys_only, RANGE_KEYS_ONLY)
            | flag(self.count_only, RANGE_COUNT_ONLY)
            | flag(self.count_total, RANGE_COUNT_TOTAL));
        w.bytes(&self.start);
        encode_end(&self.end, w);
        for number in [self.limit, self.bytes_max, self.at.map(|at| at.0)].into_iter().flatten() {
            w.varint(number);
        }
    }

    /// Takes one query off the front of `r`.
    ///
    /// # Errors
    /// When the bytes are no query that this build knows.
    pub fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let flags = flags(r, 0x7f, "range flags")?;
        let start: Bytes = r.bytes("range start")?;
        let end = decode_end(r)?;
        let mut number = |bit: u8, what| (flags & bit != 0).then(|| r.varint(what)).transpose();
        Ok(Self {
            start,
            end,
            limit: number(RANGE_LIMIT, "range limit")?,
            bytes_max: number(RANGE_BYTES, "range bytes")?,
            at: number(RANGE_AT, "range revision")?.map(Revision),
            direction: match flags & RANGE_BACKWARD {
                0 => Direction::Forward,
                _ => Direction::Backward,
            },
            keys_only: flags & RANGE_KEYS_ONLY != 0,
            count_only: flags & RANGE_COUNT_ONLY != 0,
            count_total: flags & RANGE_COUNT_TOTAL != 0,
        })
    }
}
