//! Random operations over few keys, so that they meet.

use atoll_base::{KeyspaceId, LeaseId, Revision, Rng, Term};
use atoll_machine::{
    AcquireOp, Claim, Compare, CompareTarget, DeleteOp, Effect, Guard, GuardedOp, KeyEnd, LeaseOp,
    LockOp, Mode, Op, PutOp, RangeQuery, Relation, ShardMachine, Token, TxnOp, TxnStep, Wait,
};
use atoll_storage::Direction;
use bytes::Bytes;

const KEYS: &[&[u8]] =
    &[b"a", b"a\0", b"a\0\x01", b"ab", b"b", b"b\xff", b"b\xff\xff", b"c", b"ca", b"d"];

pub(crate) fn key(rng: &mut Rng) -> Bytes {
    Bytes::from_static(rng.pick(KEYS).unwrap())
}

pub(crate) fn end(rng: &mut Rng, start: &Bytes) -> KeyEnd {
    match rng.below(5) {
        0 | 1 => KeyEnd::Single,
        2 => KeyEnd::of_prefix(start),
        3 => KeyEnd::Until(key(rng)),
        _ => KeyEnd::ToEnd,
    }
}

fn chance(rng: &mut Rng) -> bool {
    rng.chance(1, 2)
}

pub(crate) fn put(rng: &mut Rng) -> PutOp {
    let lease = rng.chance(1, 4).then(|| LeaseId(rng.range(1, 4)));
    let ignore_value = rng.chance(1, 12);
    PutOp {
        key: if rng.chance(1, 60) { Bytes::new() } else { key(rng) },
        value: match ignore_value && rng.chance(9, 10) {
            true => Bytes::new(),
            false => Bytes::from(format!("v{}", rng.below(6))),
        },
        lease,
        prev_kv: chance(rng),
        ignore_value,
        ignore_lease: rng.chance(1, 12),
    }
}

pub(crate) fn delete(rng: &mut Rng) -> DeleteOp {
    let key = key(rng);
    let end = if chance(rng) { KeyEnd::Single } else { end(rng, &key) };
    DeleteOp { key, end, prev_kv: chance(rng) }
}

pub(crate) fn query(rng: &mut Rng, revision: Revision) -> RangeQuery {
    let start = if rng.chance(1, 5) { Bytes::new() } else { key(rng) };
    let end = end(rng, &start);
    RangeQuery {
        start,
        end,
        direction: if chance(rng) { Direction::Forward } else { Direction::Backward },
        limit: chance(rng).then(|| rng.below(5)),
        bytes_max: None,
        at: chance(rng).then(|| Revision(rng.range(1, revision.0 + 2))),
        keys_only: rng.chance(1, 4),
        count_only: rng.chance(1, 4),
        count_total: chance(rng),
    }
}

fn compare(rng: &mut Rng, revision: Revision) -> Compare {
    let key = key(rng);
    let revisions = Revision(if chance(rng) { 0 } else { rng.below(revision.0 + 2) });
    Compare {
        end: if rng.chance(2, 3) { KeyEnd::Single } else { end(rng, &key) },
        key,
        target: match rng.below(5) {
            0 => CompareTarget::Version(rng.below(4)),
            1 => CompareTarget::Create(revisions),
            2 => CompareTarget::Mod(revisions),
            3 => CompareTarget::Value(Bytes::from(format!("v{}", rng.below(6)))),
            _ => CompareTarget::Lease(rng.below(4)),
        },
        relation: *rng
            .pick(&[Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater])
            .unwrap(),
    }
}

fn steps(rng: &mut Rng, revision: Revision, depth: u32) -> Vec<TxnStep> {
    let count = rng.below(4);
    let step = |rng: &mut Rng| match rng.below(8) {
        0..=2 => TxnStep::Put(put(rng)),
        3 | 4 => TxnStep::Delete(delete(rng)),
        5 if depth > 0 => TxnStep::Txn(txn(rng, revision, depth - 1)),
        _ => TxnStep::Range(query(rng, revision)),
    };
    (0..count).map(|_| step(rng)).collect()
}

pub(crate) fn txn(rng: &mut Rng, revision: Revision, depth: u32) -> TxnOp {
    let count = rng.below(3);
    TxnOp {
        compares: (0..count).map(|_| compare(rng, revision)).collect(),
        then: steps(rng, revision, depth),
        otherwise: steps(rng, revision, depth),
    }
}

fn lease(rng: &mut Rng) -> LeaseOp {
    let id = LeaseId(rng.range(1, 4));
    match rng.below(8) {
        0..=4 => {
            let (ttl_ms, lock_delay_ms) = (rng.range(1, 5000), rng.below(2) * 15_000);
            LeaseOp::Grant { id: Some(id), ttl_ms, lock_delay_ms }
        }
        5 => LeaseOp::Revoke { id },
        _ => LeaseOp::Expire { id, birth: rng.range(1, 60), term: term(rng) },
    }
}

fn term(rng: &mut Rng) -> Term {
    Term(if rng.chance(1, 5) { 2 } else { 1 })
}

fn lock_name(rng: &mut Rng) -> Bytes {
    Bytes::from_static(rng.pick(&[&b"m"[..], b"m\0", b"sem"]).unwrap())
}

fn claim(rng: &mut Rng) -> Claim {
    let (session, request) = (LeaseId(rng.range(1, 4)), rng.range(1, 5));
    Claim { lock: lock_name(rng), session, request }
}

fn lock(rng: &mut Rng) -> LockOp {
    let (lock, session) = (lock_name(rng), LeaseId(rng.range(1, 4)));
    let (token, value) = (Token(rng.range(1, 25)), Bytes::from(format!("at {}", rng.below(4))));
    match rng.below(24) {
        0..=8 => {
            let claim = claim(rng);
            let wait = *rng.pick(&[Wait::No, Wait::For(10), Wait::For(0), Wait::Forever]).unwrap();
            let mode = match claim.lock == "sem" || rng.chance(1, 20) {
                true => Mode::Permits(rng.below(4)),
                false => *rng.pick(&[Mode::Exclusive, Mode::Shared]).unwrap(),
            };
            LockOp::Acquire(AcquireOp { claim, mode, wait, value })
        }
        9..=14 => LockOp::Release { lock, session, token },
        15 => LockOp::Cancel(claim(rng)),
        16 | 17 => LockOp::ExpireWait { lock, place: rng.range(1, 60), term: term(rng) },
        18 | 19 => LockOp::EndDelay { lock, number: rng.range(1, 60), term: term(rng) },
        20 => LockOp::SetSemaphore { lock, limit: rng.below(4) },
        21 => LockOp::SetSemaphore { lock: Bytes::from_static(b"sem"), limit: rng.range(1, 4) },
        22 => LockOp::Proclaim { lock, session, token, value },
        _ => LockOp::RaiseFence { floor: Token(rng.below(12)) },
    }
}

/// What a leader may find run out: one of the things that are counted, mostly in the right term.
pub(crate) fn expiry(rng: &mut Rng, machine: &ShardMachine) -> Option<Op> {
    let timed = machine.timed();
    let term = term(rng);
    Some(match rng.pick(&timed)?.clone() {
        Effect::LeaseGranted { id, birth, .. } => {
            // Leases live longer than waits and delays do.
            if rng.chance(2, 3) {
                return None;
            }
            Op::Lease(LeaseOp::Expire { id, birth, term })
        }
        Effect::Waits { claim, place, .. } => {
            Op::Lock(LockOp::ExpireWait { lock: claim.lock, place, term })
        }
        Effect::Delayed { lock, number, .. } => Op::Lock(LockOp::EndDelay { lock, number, term }),
        other => panic!("{other:?} is not counted"),
    })
}

/// An operation on locks that fits what there is: those drawn blindly seldom name a token that
/// is held, a request that waits or a session that lives.
fn fitting(rng: &mut Rng, machine: &ShardMachine) -> Option<Op> {
    let name = lock_name(rng);
    let op = match rng.below(5) {
        0 => {
            let holders = machine.lock(&name)?.busy.holders;
            let holder = rng.pick(&holders)?;
            LockOp::Release { lock: name, session: holder.session, token: holder.token }
        }
        1 => {
            let waits = machine.timed().into_iter().filter_map(|effect| match effect {
                Effect::Waits { claim, .. } => Some(claim),
                _ => None,
            });
            let waits: Vec<Claim> = waits.collect();
            LockOp::Cancel(rng.pick(&waits)?.clone())
        }
        _ => {
            let sessions: Vec<LeaseId> = machine.leases_after(None, 8).map(|(id, _)| id).collect();
            let claim =
                Claim { lock: name, session: *rng.pick(&sessions)?, request: rng.range(1, 5) };
            let mode = match claim.lock == "sem" {
                true => Mode::Permits(rng.range(1, 3)),
                false => *rng.pick(&[Mode::Exclusive, Mode::Exclusive, Mode::Shared]).unwrap(),
            };
            let wait = *rng.pick(&[Wait::For(10), Wait::For(20), Wait::Forever]).unwrap();
            LockOp::Acquire(AcquireOp { claim, mode, wait, value: Bytes::new() })
        }
    };
    Some(Op::Lock(op))
}

/// Any operation; one in six is an expiry, one in four fits the locks, if there is what to do.
pub(crate) fn op_on(rng: &mut Rng, revision: Revision, machine: &ShardMachine) -> Op {
    let chosen = match rng.below(12) {
        0 | 1 => expiry(rng, machine),
        2..=4 => fitting(rng, machine),
        _ => None,
    };
    chosen.unwrap_or_else(|| op(rng, revision))
}

fn guarded(rng: &mut Rng, revision: Revision) -> GuardedOp {
    let (keyspace, lock) = (KeyspaceId::DEFAULT, lock_name(rng));
    let guards = vec![Guard { keyspace, lock, token: Token(rng.range(1, 25)) }];
    let op = match rng.below(3) {
        0 => Op::Put(put(rng)),
        1 => Op::Delete(delete(rng)),
        _ => Op::Txn(txn(rng, revision, 1)),
    };
    GuardedOp { guards, op: Box::new(op) }
}

pub(crate) fn op(rng: &mut Rng, revision: Revision) -> Op {
    match rng.below(40) {
        0..=10 => Op::Put(put(rng)),
        11..=14 => Op::Delete(delete(rng)),
        15..=21 => Op::Txn(txn(rng, revision, 2)),
        22 => Op::Compact { revision: Revision(rng.below(revision.0 + 2)) },
        23..=26 => Op::Lease(lease(rng)),
        27 => Op::Guarded(guarded(rng, revision)),
        _ => Op::Lock(lock(rng)),
    }
}
