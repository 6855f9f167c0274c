//! The bytes of every format of `docs/formats/commands.md`. They are in logs, engines and messages
//! of running clusters: a change here is a new version of the format, never a correction.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fmt::Write;
use std::ops::Bound;

use atoll_base::codec::{Reader, Writer};
use atoll_base::{
    ClientId, Code, Failure, KeyspaceId, LeaseId, LogIndex, NodeId, Revision, Rng, Sequence, Term,
    Timestamp,
};
use atoll_machine::{
    AcquireOp, BatchReader, BatchWriter, Busy, Chunk, Claim, Command, CommandId, Compare,
    CompareTarget, DeleteOp, Guard, GuardedOp, KeyEnd, KeyValue, LeaseOp, LeaseReply, LockHolder,
    LockOp, LockReply, MachineLimits, Mode, Op, PutOp, RangePage, RangeQuery, Relation, Reply,
    Token, TxnOp, TxnResult, TxnStep, Wait,
};
use atoll_storage::{Direction, Engine, ReadView, Tree};
use bytes::Bytes;
use support::{Replica, identified, random};

const GOLDEN: &str = include_str!("golden.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

fn put() -> PutOp {
    PutOp {
        key: Bytes::from("k"),
        value: Bytes::from("v"),
        lease: Some(LeaseId(5)),
        prev_kv: true,
        ..PutOp::default()
    }
}

fn query() -> RangeQuery {
    RangeQuery {
        direction: Direction::Backward,
        limit: Some(1),
        bytes_max: Some(2),
        at: Some(Revision(300)),
        keys_only: true,
        count_only: true,
        count_total: true,
        ..RangeQuery::new(Bytes::from("a"), KeyEnd::ToEnd)
    }
}

fn compares() -> Vec<Compare> {
    let targets = [
        (CompareTarget::Version(1), Relation::Equal),
        (CompareTarget::Create(Revision(2)), Relation::NotEqual),
        (CompareTarget::Mod(Revision(3)), Relation::Less),
        (CompareTarget::Value(Bytes::from("x")), Relation::Greater),
        (CompareTarget::Lease(4), Relation::Equal),
    ];
    let key = Bytes::from("k");
    let compare =
        |(target, relation)| Compare { key: key.clone(), end: KeyEnd::Single, target, relation };
    targets.into_iter().map(compare).collect()
}

fn commands() -> Vec<(&'static str, Command)> {
    let delete =
        DeleteOp { key: Bytes::from("a"), end: KeyEnd::Until(Bytes::from("b")), prev_kv: true };
    let inner = TxnOp { then: vec![TxnStep::Range(query())], ..TxnOp::default() };
    let txn = TxnOp {
        compares: compares(),
        then: vec![TxnStep::Put(put()), TxnStep::Delete(delete.clone()), TxnStep::Txn(inner)],
        otherwise: Vec::new(),
    };
    let id = CommandId {
        client: ClientId(0x0102_0304_0506_0708),
        sequence: Sequence(300),
        first_unacknowledged: Sequence(298),
    };
    let keeps = PutOp {
        value: Bytes::new(),
        lease: None,
        prev_kv: false,
        ignore_value: true,
        ignore_lease: true,
        ..put()
    };
    [
        ("put", Command::anonymous(Op::Put(put()))),
        ("put with id", Command { id: Some(id), op: Op::Put(put()) }),
        ("put that keeps", Command::anonymous(Op::Put(keeps))),
        ("delete", Command::anonymous(Op::Delete(delete))),
        ("txn", Command::anonymous(Op::Txn(txn))),
        ("compact", Command::anonymous(Op::Compact { revision: Revision(300) })),
        (
            "expire sessions",
            Command::anonymous(Op::ExpireSessions { unused_since: Timestamp(1000) }),
        ),
    ]
    .into_iter()
    .chain(coordination().map(|(name, op)| (name, Command::anonymous(op))))
    .collect()
}

fn claim() -> Claim {
    Claim { lock: Bytes::from("m"), session: LeaseId(5), request: 300 }
}

fn acquire(claim: Claim, mode: Mode, wait: Wait) -> LockOp {
    LockOp::Acquire(AcquireOp { claim, mode, wait, value: Bytes::from("me") })
}

/// Commands about leases and locks.
fn coordination() -> impl Iterator<Item = (&'static str, Op)> {
    let (lock, session, token) = (Bytes::from("m"), LeaseId(5), Token(300));
    let (id, ttl_ms, lock_delay_ms, term) = (Some(session), 15_000, 300, Term(2));
    let (place, number, value) = (7, 7, Bytes::from("me"));
    let name = || lock.clone();
    let leases = [
        ("lease grant", LeaseOp::Grant { id, ttl_ms, lock_delay_ms }),
        ("lease grant of any id", LeaseOp::Grant { id: None, ttl_ms, lock_delay_ms: 0 }),
        ("lease revoke", LeaseOp::Revoke { id: session }),
        ("lease expire", LeaseOp::Expire { id: session, birth: 300, term }),
    ];
    let locks = [
        ("acquire", acquire(claim(), Mode::Exclusive, Wait::No)),
        ("acquire and wait", acquire(claim(), Mode::Shared, Wait::For(300))),
        ("acquire permits", acquire(claim(), Mode::Permits(2), Wait::Forever)),
        ("release", LockOp::Release { lock: name(), session, token }),
        ("cancel", LockOp::Cancel(claim())),
        ("expire wait", LockOp::ExpireWait { lock: name(), place, term }),
        ("end delay", LockOp::EndDelay { lock: name(), number, term }),
        ("set semaphore", LockOp::SetSemaphore { lock: name(), limit: 300 }),
        ("proclaim", LockOp::Proclaim { lock: name(), session, token, value }),
        ("raise fence", LockOp::RaiseFence { floor: token }),
    ];
    let guard = Guard { keyspace: KeyspaceId(2), lock, token };
    let guarded = GuardedOp { guards: vec![guard], op: Box::new(Op::Put(put())) };
    let leases = leases.into_iter().map(|(name, op)| (name, Op::Lease(op)));
    let locks = locks.into_iter().map(|(name, op)| (name, Op::Lock(op)));
    leases.chain(locks).chain([("guarded put", Op::Guarded(guarded))])
}

fn replies() -> Vec<(&'static str, Reply)> {
    let pair = KeyValue {
        key: Bytes::from("k"),
        value: Bytes::from("v"),
        create_revision: Revision(2),
        mod_revision: Revision(300),
        version: 3,
        lease: Some(LeaseId(5)),
    };
    let revision = Revision(300);
    let page = RangePage {
        kvs: vec![pair.clone()],
        more: Some(Bytes::from("l")),
        count: 9,
        uncounted: None,
        revision,
    };
    let results = vec![
        TxnResult::Put { previous: None },
        TxnResult::Put { previous: Some(pair.clone()) },
        TxnResult::Delete { deleted: 1, previous: vec![pair.clone()] },
        TxnResult::Range(page),
        TxnResult::Txn { succeeded: false, results: Vec::new() },
    ];
    let holder = |mode| LockHolder { session: LeaseId(5), token: Token(300), mode };
    let busy =
        Busy { holders: vec![holder(Mode::Shared), holder(Mode::Permits(2))], held: 2, waiting: 9 };
    let failure = Failure::new(Code::NotLeader, "not here").with_leader(Some(NodeId(2)));
    vec![
        ("put", Reply::Put { revision, previous: None }),
        ("put with previous", Reply::Put { revision, previous: Some(pair.clone()) }),
        ("delete", Reply::Delete { revision, deleted: 1, previous: vec![pair] }),
        ("txn", Reply::Txn { revision, succeeded: true, results }),
        ("compact", Reply::Compact { revision, compacted: Revision(299) }),
        ("sessions expired", Reply::SessionsExpired { count: 3 }),
        ("lease granted", Reply::Lease(LeaseReply::Granted { id: LeaseId(5), ttl_ms: 300 })),
        ("lease ended", Reply::Lease(LeaseReply::Ended { revision, deleted: 3 })),
        ("acquired", Reply::Lock(LockReply::Acquired { token: Token(300) })),
        ("queued", Reply::Lock(LockReply::Queued { claim: claim() })),
        ("busy", Reply::Lock(LockReply::Busy(busy))),
        ("done", Reply::Lock(LockReply::Done)),
        ("failed", Reply::Failed(failure)),
        ("failed, retry later", Reply::Failed(Failure::new(Code::Overloaded, "full"))),
    ]
}

/// A machine that has one of everything.
fn world() -> Replica {
    let limits = MachineLimits { clients_max: 1, ..MachineLimits::default() };
    let mut replica = Replica::new(limits);
    let plain = |key: &'static str| PutOp { lease: None, key: Bytes::from(key), ..put() };
    replica.run(1000, identified(9, 1, 1, Op::Put(plain("gone"))));
    let (id, ttl_ms) = (Some(LeaseId(5)), 15_000);
    let grant = LeaseOp::Grant { id, ttl_ms, lock_delay_ms: 300 };
    replica.run(1001, Command::anonymous(Op::Lease(grant)));
    replica.run(1001, Command::anonymous(Op::Put(put())));
    replica.run(1002, identified(10, 1, 1, Op::Put(PutOp { prev_kv: false, ..plain("k\0") })));
    replica.run(1003, identified(10, 2, 1, Op::Put(plain("k"))));
    let delete = DeleteOp { key: Bytes::from("gone"), end: KeyEnd::Single, prev_kv: false };
    replica.run(1004, identified(10, 3, 1, Op::Delete(delete)));
    replica.run(1005, Command::anonymous(Op::Compact { revision: Revision(3) }));
    let lock = Bytes::from("m");
    let other = Claim { request: 301, ..claim() };
    for op in [
        LockOp::SetSemaphore { lock: Bytes::from("s"), limit: 300 },
        acquire(claim(), Mode::Exclusive, Wait::No),
        acquire(other, Mode::Shared, Wait::For(300)),
    ] {
        replica.run(1006, Command::anonymous(Op::Lock(op)));
    }
    let guard = Guard { keyspace: KeyspaceId(9), lock, token: Token(300) };
    let delete = DeleteOp { key: Bytes::from("x"), end: KeyEnd::Single, prev_kv: false };
    for op in [Op::Put(plain("k")), Op::Delete(delete)] {
        let guarded = GuardedOp { guards: vec![guard.clone()], op: Box::new(op) };
        replica.run(1007, Command::anonymous(Op::Guarded(guarded)));
    }
    replica
}

fn dump(out: &mut String, view: &dyn ReadView) {
    let k = KeyspaceId::DEFAULT;
    let trees =
        [("meta", Tree::Meta), ("current", Tree::Current(k)), ("history", Tree::History(k))];
    for (name, tree) in trees {
        for pair in view.scan(tree, (Bound::Unbounded, Bound::Unbounded), Direction::Forward) {
            let (key, value) = pair.unwrap();
            writeln!(out, "{name} {} = {}", hex(&key), hex(&value)).unwrap();
        }
    }
}

#[test]
fn bytes_stay_as_they_are() {
    let mut out = String::new();
    for (name, command) in commands() {
        let mut w = Writer::default();
        command.encode(&mut w);
        writeln!(out, "command, {name}: {}", hex(&w.finish())).unwrap();
    }
    let mut batch = BatchWriter::new(Timestamp(1000));
    batch.push(&commands()[0].1);
    writeln!(out, "batch: {}", hex(&batch.finish())).unwrap();
    for (name, reply) in replies() {
        let mut w = Writer::default();
        reply.encode(&mut w);
        writeln!(out, "reply, {name}: {}", hex(&w.finish())).unwrap();
    }
    let replica = world();
    dump(&mut out, &*replica.engine.view());
    for chunk in replica.machine.snapshot_chunks(replica.engine.view(), 100).unwrap().take(2) {
        writeln!(out, "chunk: {}", hex(&chunk.unwrap().encode())).unwrap();
    }
    assert!(out == GOLDEN, "the bytes are now:\n{out}");
}

#[test]
fn commands_and_replies_survive_a_round_trip() {
    let mut rng = Rng::new(1);
    let random = (0..500).map(|i| {
        let op = random::op(&mut rng, Revision(300));
        if i % 2 == 0 { Command::anonymous(op) } else { identified(9, 7, 5, op) }
    });
    let mut all: Vec<Command> = commands().into_iter().map(|(_, command)| command).collect();
    all.extend(random);
    let mut batch = BatchWriter::new(Timestamp(1000));
    all.iter().for_each(|command| batch.push(command));
    let read = BatchReader::new(batch.finish()).unwrap();
    assert_eq!(read.stamp(), Timestamp(1000));
    assert_eq!(read.map(Result::unwrap).collect::<Vec<_>>(), all);
    for (name, reply) in replies() {
        let mut w = Writer::default();
        reply.encode(&mut w);
        let mut r = Reader::new(Bytes::from(w.finish()));
        assert_eq!(Reply::decode(&mut r).unwrap(), reply, "{name}");
        assert_eq!(r.remaining(), 0, "{name}");
    }
}

/// Whatever the bytes, decoding ends, with a value or an error.
#[test]
fn broken_bytes_are_errors() {
    let mut rng = Rng::new(2);
    let sources: Vec<Vec<u8>> = commands()
        .iter()
        .map(|(_, command)| {
            let mut w = Writer::default();
            command.encode(&mut w);
            w.finish()
        })
        .chain(replies().iter().map(|(_, reply)| {
            let mut w = Writer::default();
            reply.encode(&mut w);
            w.finish()
        }))
        .collect();
    for source in &sources {
        for _ in 0..2000 {
            let mut bytes = source.clone();
            for _ in 0..rng.range(1, 4) {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] = rng.next_u64() as u8;
            }
            bytes.truncate(rng.range(0, bytes.len() as u64 + 1) as usize);
            let bytes = Bytes::from(bytes);
            drop(Command::decode(&mut Reader::new(bytes.clone())));
            drop(Reply::decode(&mut Reader::new(bytes.clone())));
            drop(Chunk::decode(&bytes));
        }
    }
    // A nest of transactions is cut off before it takes the stack.
    let deep = [vec![3, 0], [0, 1, 3].repeat(100_000)].concat();
    assert!(Command::decode(&mut Reader::new(Bytes::from(deep))).is_err());
    // A batch is refused whole.
    let mut replica = Replica::new(MachineLimits::default());
    let mut entry = support::entry(LogIndex(1), 1, &[commands().remove(0).1]);
    entry.payload = entry.payload.slice(..entry.payload.len() - 1);
    let mut batch = replica.machine.begin(&replica.engine);
    let error = batch.apply(&entry, &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "shard 7: entry 1 can't be read");
}
