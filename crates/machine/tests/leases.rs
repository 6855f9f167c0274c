//! Leases, locks and guards: named corners of their rules. The rules themselves are compared with a
//! model in `kv.rs`, batches, restarts and snapshots in `replicas.rs`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use atoll_base::{Code, KeyspaceId, LeaseId, Revision, Rng, Term};
use atoll_machine::{
    AcquireOp, Claim, Command, DeleteOp, Effect, EventKind, Guard, GuardedOp, KeyEnd, KeyRange,
    LeaseOp, LeaseReply, Left, LockOp, LockReply, MachineLimits, Mode, Op, Place, PutOp, Reply,
    ShardMachine, Token, TxnOp, TxnStep, Wait,
};
use atoll_storage::{Engine, MemEngine, Tree, WriteBatch};
use bytes::Bytes;
use support::{Replica, SHARD, random};

const A: LeaseId = LeaseId(1);
const B: LeaseId = LeaseId(2);

fn run(replica: &mut Replica, op: Op) -> Reply {
    let reply = replica.run(0, Command::anonymous(op));
    replica.machine.check(&replica.engine).unwrap();
    reply
}

fn lease(replica: &mut Replica, op: LeaseOp) -> Reply {
    run(replica, Op::Lease(op))
}

fn lock(replica: &mut Replica, op: LockOp) -> Reply {
    run(replica, Op::Lock(op))
}

fn code(reply: &Reply) -> Code {
    match reply {
        Reply::Failed(failure) => failure.code,
        other => panic!("{other:?} is no failure"),
    }
}

fn grant(id: LeaseId) -> LeaseOp {
    LeaseOp::Grant { id: Some(id), ttl_ms: 15_000, lock_delay_ms: 0 }
}

fn acquire(session: LeaseId, request: u64, mode: Mode) -> LockOp {
    let claim = Claim { lock: Bytes::from("m"), session, request };
    LockOp::Acquire(AcquireOp { claim, mode, wait: Wait::Forever, value: Bytes::new() })
}

fn put(key: &str) -> PutOp {
    PutOp { key: Bytes::from(key.to_owned()), value: Bytes::from("v"), ..PutOp::default() }
}

fn with_leases(limits: MachineLimits) -> Replica {
    let mut replica = Replica::new(limits);
    lease(&mut replica, grant(A));
    lease(&mut replica, grant(B));
    replica
}

fn birth(replica: &Replica, id: LeaseId) -> u64 {
    replica.machine.lease(id).unwrap().birth
}

/// The random operations of the other tests reach what they are for.
#[test]
fn random_operations_reach_every_effect() {
    let mut seen = [0; 8];
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut replica = Replica::new(MachineLimits::default());
        for stamp in 0..400 {
            let machine = &replica.machine;
            let op = random::op_on(&mut rng, machine.revision(), machine);
            replica.run(stamp, Command::anonymous(op));
        }
        replica.machine.check(&replica.engine).unwrap();
        for effect in &replica.effects {
            seen[match effect {
                Effect::LeaseGranted { .. } | Effect::LeaseEnded { .. } => 0,
                Effect::Waits { .. } => 1,
                Effect::Granted { .. } => 2,
                Effect::LeftQueue { why: Left::WaitOver, .. } => 3,
                Effect::LeftQueue { why: Left::SessionEnded, .. } => 4,
                Effect::LeftQueue { why: Left::Cancelled | Left::LimitShrunk, .. } => 5,
                Effect::Delayed { .. } | Effect::DelayEnded { .. } => 6,
                Effect::Leads { .. } => 7,
            }] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count >= 20), "{seen:?}");
}

/// E2, trap T28: another term, or another lease of the same id.
#[test]
fn an_expiry_fits_only_its_term_and_its_lease() {
    let mut replica = with_leases(MachineLimits::default());
    let old = birth(&replica, A);
    let expire = |birth, term| LeaseOp::Expire { id: A, birth, term };
    let reply = lease(&mut replica, expire(old, Term(2)));
    assert_eq!(code(&reply), Code::PreconditionFailed);
    lease(&mut replica, LeaseOp::Revoke { id: A });
    assert_eq!(code(&lease(&mut replica, expire(old, Term(1)))), Code::NotFound);
    lease(&mut replica, grant(A));
    let reply = lease(&mut replica, expire(old, Term(1)));
    assert_eq!(code(&reply), Code::PreconditionFailed);
    let young = birth(&replica, A);
    let reply = lease(&mut replica, expire(young, Term(1)));
    assert!(matches!(reply, Reply::Lease(LeaseReply::Ended { .. })));
}

#[allow(clippy::disallowed_methods, reason = "a test is told how large to be")]
fn sized(quick: u64, full: u64) -> u64 {
    if std::env::var("ATOLL_TEST_FULL").is_ok_and(|v| v == "1") { full } else { quick }
}

/// E3: one revision, whatever it held; E4: attached to one lease at most.
#[test]
fn the_keys_of_a_lease_go_in_one_revision() {
    let keys = sized(5000, 1_000_000);
    let limits = MachineLimits {
        lease_keys_max: 1_000_000,
        lease_bytes_max: 1 << 30,
        scan_keys_max: 1_000_000,
        ..MachineLimits::default()
    };
    let mut replica = with_leases(limits);
    for first in (0..keys).step_by(10_000) {
        let attach = |n| Op::Put(PutOp { lease: Some(A), ..put(&format!("k{n}")) });
        let part = first..keys.min(first + 10_000);
        let commands: Vec<Command> = part.map(|n| Command::anonymous(attach(n))).collect();
        let entry = replica.entry(0, &commands);
        replica.apply(&[entry]);
    }
    // One moves away, one is let go, one is deleted.
    run(&mut replica, Op::Put(PutOp { lease: Some(B), ..put("k1") }));
    run(&mut replica, Op::Put(put("k2")));
    let delete = DeleteOp { key: Bytes::from("k3"), end: KeyEnd::Single, prev_kv: false };
    run(&mut replica, Op::Delete(delete));
    replica.reopen();
    assert_eq!(replica.machine.lease(A).unwrap().keys, keys - 3);
    let told = replica.machine.lease_keys(&replica.engine, A, Some(b"k0"), 2).unwrap();
    assert_eq!(told, [Bytes::from("k10"), Bytes::from("k100")]);
    let revision = replica.machine.revision().next();
    let entry = replica.entry(0, &[Command::anonymous(Op::Lease(LeaseOp::Revoke { id: A }))]);
    let (replies, events) = replica.apply(&[entry]);
    let deleted = keys - 3;
    assert_eq!(replies, [Reply::Lease(LeaseReply::Ended { revision, deleted })]);
    assert_eq!(events.len() as u64, deleted);
    assert!(events.iter().all(|e| e.revision == revision && e.kind == EventKind::Delete));
    replica.machine.check(&replica.engine).unwrap();
    assert!(replica.machine.get(&replica.engine, b"k1", None).unwrap().is_some());
    assert!(replica.machine.get(&replica.engine, b"k5", None).unwrap().is_none());
}

#[test]
fn a_lease_takes_no_more_than_its_limits() {
    let limits =
        MachineLimits { lease_keys_max: 2, lease_bytes_max: 10, ..MachineLimits::default() };
    let mut replica = with_leases(limits);
    let attach = |key: &str| Op::Put(PutOp { lease: Some(A), ..put(key) });
    assert_eq!(code(&run(&mut replica, attach("0123456789"))), Code::TooLarge);
    for key in ["a", "b", "a"] {
        assert!(matches!(run(&mut replica, attach(key)), Reply::Put { .. }));
    }
    assert_eq!(code(&run(&mut replica, attach("c"))), Code::TooLarge);
    let dead = Op::Put(PutOp { lease: Some(LeaseId(9)), ..put("a") });
    assert_eq!(code(&run(&mut replica, dead)), Code::NotFound);
}

#[test]
fn an_id_of_the_shards_choice_is_new_and_positive() {
    let mut replica = Replica::new(MachineLimits::default());
    let mut ids = Vec::new();
    for _ in 0..50 {
        let op = LeaseOp::Grant { id: None, ttl_ms: 1, lock_delay_ms: 0 };
        let Reply::Lease(LeaseReply::Granted { id, ttl_ms }) = lease(&mut replica, op) else {
            panic!("no lease");
        };
        assert_eq!(ttl_ms, 2000, "raised to the least");
        assert!(id.0 > 0 && i64::try_from(id.0).is_ok() && !ids.contains(&id));
        ids.push(id);
    }
    assert_eq!(code(&lease(&mut replica, grant(ids[0]))), Code::AlreadyExists);
}

/// F1: through deletion of the lock, restarts, and a floor from elsewhere.
#[test]
fn tokens_only_grow() {
    let mut replica = with_leases(MachineLimits::default());
    let mut last = Token(0);
    for request in 0..20 {
        let reply = lock(&mut replica, acquire(A, request, Mode::Exclusive));
        let Reply::Lock(LockReply::Acquired { token }) = reply else { panic!("{reply:?}") };
        assert!(token > last);
        last = token;
        lock(&mut replica, LockOp::Release { lock: Bytes::from("m"), session: A, token });
        assert_eq!(replica.machine.lock(b"m"), None);
        replica.reopen();
        if request == 10 {
            last = Token(1000);
            lock(&mut replica, LockOp::RaiseFence { floor: last });
        }
    }
}

/// Ten thousand waiters, in one lock's queue, in order; a waiter's entry writes a few small
/// records.
#[test]
fn a_storm_of_waiters_is_served_in_order() {
    const WAITERS: u64 = 10_000;
    let mut replica = with_leases(MachineLimits::default());
    lock(&mut replica, acquire(A, 0, Mode::Exclusive));
    let acquires: Vec<Command> = (1..=WAITERS)
        .map(|request| Command::anonymous(Op::Lock(acquire(B, request, Mode::Exclusive))))
        .collect();
    let entry = replica.entry(0, &acquires);
    replica.apply(&[entry]);
    replica.reopen();
    assert_eq!(replica.machine.lock(b"m").unwrap().busy.waiting, WAITERS);
    let releases: Vec<Command> = (0..WAITERS)
        .map(|n| {
            let (session, token) = (if n == 0 { A } else { B }, Token(n + 1));
            let op = LockOp::Release { lock: Bytes::from("m"), session, token };
            Command::anonymous(Op::Lock(op))
        })
        .collect();
    replica.effects.clear();
    let entry = replica.entry(0, &releases);
    replica.apply(&[entry]);
    let granted = replica.effects.iter().filter_map(|effect| match effect {
        Effect::Granted { claim, token, .. } => Some((claim.request, *token)),
        _ => None,
    });
    assert!(granted.eq((1..=WAITERS).map(|n| (n, Token(n + 1)))));
    // All of a session's claims go with it.
    let end = LeaseOp::Expire { id: B, birth: birth(&replica, B), term: Term(1) };
    lease(&mut replica, end);
    assert_eq!(replica.machine.lock(b"m"), None);
}

#[test]
fn permits_are_counted_and_the_head_is_not_passed() {
    let mut replica = with_leases(MachineLimits::default());
    let name = Bytes::from("m");
    let limit = |limit| LockOp::SetSemaphore { lock: Bytes::from("m"), limit };
    let place = |replica: &Replica, session, request| {
        let claim = Claim { lock: Bytes::from("m"), session, request };
        replica.machine.claim_place(&claim)
    };
    assert_eq!(code(&lock(&mut replica, acquire(A, 1, Mode::Permits(1)))), Code::NotFound);
    lock(&mut replica, limit(3));
    let refused = lock(&mut replica, acquire(A, 1, Mode::Permits(4)));
    assert_eq!(code(&refused), Code::InvalidArgument);
    assert_eq!(code(&lock(&mut replica, acquire(A, 1, Mode::Shared))), Code::InvalidArgument);
    lock(&mut replica, acquire(A, 1, Mode::Permits(2)));
    lock(&mut replica, acquire(B, 1, Mode::Permits(3)));
    lock(&mut replica, acquire(B, 2, Mode::Permits(1)));
    assert_eq!(place(&replica, A, 1), Place::Holds(Token(1)));
    assert_eq!((place(&replica, B, 1), place(&replica, B, 2)), (Place::Waits, Place::Waits));
    // What can't be had any more leaves the queue, and no longer holds up the rest.
    lock(&mut replica, limit(2));
    assert_eq!((place(&replica, B, 1), place(&replica, B, 2)), (Place::Nowhere, Place::Waits));
    lock(&mut replica, LockOp::Release { lock: name, session: A, token: Token(1) });
    assert_eq!(place(&replica, B, 2), Place::Holds(Token(2)));
}

fn guarded(keyspace: KeyspaceId, token: u64, op: Op) -> Op {
    let guard = Guard { keyspace, lock: Bytes::from("m"), token: Token(token) };
    Op::Guarded(GuardedOp { guards: vec![guard], op: Box::new(op) })
}

/// F7 in the lock's own shard.
#[test]
fn a_guard_holds_while_its_token_does() {
    let mut replica = with_leases(MachineLimits::default());
    let write = |token| guarded(KeyspaceId::DEFAULT, token, Op::Put(put("x")));
    assert_eq!(code(&run(&mut replica, write(1))), Code::PreconditionFailed);
    lock(&mut replica, acquire(A, 1, Mode::Exclusive));
    assert!(matches!(run(&mut replica, write(1)), Reply::Put { .. }));
    let revision = replica.machine.revision();
    let reply = run(&mut replica, write(2));
    let Reply::Failed(failure) = &reply else { panic!("{reply:?}") };
    assert_eq!(failure.message, "guard refused: lock m, token 2 given, it is held with 1");
    assert_eq!(replica.machine.revision(), revision);
    lease(&mut replica, LeaseOp::Revoke { id: A });
    assert_eq!(code(&run(&mut replica, write(1))), Code::PreconditionFailed);
}

/// F7 elsewhere: a key remembers, also when it is deleted by somebody else.
#[test]
fn elsewhere_a_smaller_token_is_refused() {
    const AWAY: KeyspaceId = KeyspaceId(99);
    let mut replica = Replica::new(MachineLimits::default());
    let write = |token, key: &str| guarded(AWAY, token, Op::Put(put(key)));
    let is_done = |reply: &Reply| !matches!(reply, Reply::Failed(_));
    assert!(is_done(&run(&mut replica, write(5, "x"))));
    assert!(is_done(&run(&mut replica, write(3, "y"))), "another key");
    let stale = run(&mut replica, write(4, "x"));
    let Reply::Failed(failure) = &stale else { panic!("{stale:?}") };
    assert_eq!(failure.message, "guard refused: lock m, token 4 given, shard 7 saw 5");
    assert!(is_done(&run(&mut replica, write(5, "x"))));
    replica.reopen();
    let delete = |key: &str, end| {
        Op::Delete(DeleteOp { key: Bytes::from(key.to_owned()), end, prev_kv: false })
    };
    let all = || delete("a", KeyEnd::ToEnd);
    assert_eq!(code(&run(&mut replica, guarded(AWAY, 4, all()))), Code::PreconditionFailed);
    // Nobody's delete: what it forgets is kept for the lock as a whole.
    assert!(is_done(&run(&mut replica, delete("x", KeyEnd::Single))));
    assert_eq!(code(&run(&mut replica, write(4, "x"))), Code::PreconditionFailed);
    assert!(is_done(&run(&mut replica, write(3, "y"))), "its own mark is known");
    // Only the side of a transaction that is done leaves marks.
    let step = |key: &str| vec![TxnStep::Put(put(key))];
    let txn = TxnOp { compares: Vec::new(), then: step("t"), otherwise: step("e") };
    assert!(is_done(&run(&mut replica, guarded(AWAY, 6, Op::Txn(txn)))));
    assert_eq!(code(&run(&mut replica, write(5, "t"))), Code::PreconditionFailed);
    assert!(is_done(&run(&mut replica, write(5, "e"))));
    assert!(is_done(&run(&mut replica, guarded(AWAY, 7, all()))));
    assert_eq!(code(&run(&mut replica, write(6, "new"))), Code::PreconditionFailed);
    assert!(is_done(&run(&mut replica, write(7, "new"))));
}

/// A shard that was made before there were leases has the limits of today for them.
#[test]
fn limits_of_the_first_version_are_read() {
    let engine = MemEngine::new();
    let mut batch = WriteBatch::new();
    let key = [&SHARD.0.to_be_bytes()[..], &[2]].concat();
    let mut value = vec![1];
    value.extend_from_slice(&[9; 14]);
    batch.put(Tree::Meta, key, value);
    engine.write(batch).unwrap();
    let (limits, range) = (MachineLimits::default(), KeyRange::ALL);
    let machine = ShardMachine::open(SHARD, KeyspaceId::DEFAULT, range, limits, &engine).unwrap();
    let limits = machine.limits();
    assert_eq!((limits.key_bytes_max, limits.collect_per_entry), (9, 9));
    assert_eq!(limits.leases_max, MachineLimits::default().leases_max);
    assert_eq!(machine.revision(), Revision(1));
}
