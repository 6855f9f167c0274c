//! The machine against the model, and named corners of its rules.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use atoll_base::{Code, KeyspaceId, LeaseId, Revision, Rng};
use atoll_machine::{
    Command, DeleteOp, KeyEnd, KeyRange, MachineLimits, Op, PutOp, RangeQuery, Reply, ShardMachine,
    TxnOp, TxnStep,
};
use atoll_storage::{Engine, MemEngine};
use bytes::Bytes;
use support::model::{Model, assert_same};
use support::{Replica, SHARD, random};

fn small() -> MachineLimits {
    MachineLimits { collect_per_entry: 3, ..MachineLimits::default() }
}

/// Replies, events, point reads and ranges, now and at every readable revision, equal the model's.
#[test]
fn random_operations_equal_the_model() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut replica = Replica::new(small());
        let mut model = Model::new();
        for turn in 0..60 {
            let context = format!("seed {seed}, turn {turn}");
            let fed = model.events.len();
            let mut entries = Vec::new();
            let mut wanted = Vec::new();
            for n in 0..rng.range(1, 4) {
                let commands: Vec<Command> = (0..rng.range(1, 4))
                    .map(|_| random::op_on(&mut rng, model.revision(), &replica.machine))
                    .map(Command::anonymous)
                    .collect();
                wanted.extend(commands.iter().map(|c| (c.clone(), model.apply(&c.op))));
                let index = replica.machine.applied().plus(n + 1);
                entries.push(support::entry(index, turn, &commands));
            }
            let (replies, events) = replica.apply(&entries);
            assert_eq!(replies.len(), wanted.len());
            for (got, (command, want)) in replies.iter().zip(&wanted) {
                assert_same(got, want, &format!("{context}: {command:?}"));
            }
            assert_eq!(events, model.events[fed..], "{context}");
            assert_eq!(replica.machine.revision(), model.revision(), "{context}");
            if rng.chance(1, 4) {
                replica.reopen();
            }
            compare_reads(&mut rng, &replica, &model, &context);
            compare_locks(&replica, &model, &context);
            replica.machine.check(&replica.engine).unwrap();
        }
        replica.machine.check(&replica.engine).unwrap();
    }
}

fn compare_locks(replica: &Replica, model: &Model, context: &str) {
    for name in model.locks.names() {
        let info = replica.machine.lock(&name).unwrap();
        assert_eq!(info.leadership, model.locks.leadership(&name), "{context}: {name:?}");
    }
}

fn compare_reads(rng: &mut Rng, replica: &Replica, model: &Model, context: &str) {
    for _ in 0..6 {
        let query = random::query(rng, model.revision());
        let view = replica.engine.view();
        let got = replica.machine.range(&*view, &query).map_err(|failure| failure.code);
        assert_eq!(got, model.range(&query), "{context}: {query:?}");
        let key = random::key(rng);
        let got = replica.machine.get(&replica.engine, &key, query.at).map_err(|f| f.code);
        assert_eq!(got, model.get(&key, query.at), "{context}: {key:?} at {:?}", query.at);
    }
}

fn put(key: &str, value: &str) -> PutOp {
    PutOp {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from(value.to_owned()),
        ..PutOp::default()
    }
}

fn run(replica: &mut Replica, op: Op) -> Reply {
    replica.run(0, Command::anonymous(op))
}

#[test]
fn pages_lead_through_a_range_in_both_directions() {
    let mut replica = Replica::new(small());
    for i in 0..25 {
        run(&mut replica, Op::Put(put(&format!("k{i:02}"), "v")));
    }
    let mut query = RangeQuery::new(Bytes::from("k"), KeyEnd::of_prefix(b"k"));
    query.limit = Some(4);
    let mut seen = Vec::new();
    loop {
        let page = replica.machine.range(&*replica.engine.view(), &query).unwrap();
        query.at = Some(page.revision);
        seen.extend(page.kvs.into_iter().map(|pair| pair.key));
        // A later write is not seen: the pages read one revision.
        run(&mut replica, Op::Put(put("k99", "late")));
        let Some(more) = page.more else { break };
        query.start = more;
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted());

    let mut query = RangeQuery::new(Bytes::from("k"), KeyEnd::ToEnd);
    query.direction = atoll_storage::Direction::Backward;
    query.bytes_max = Some(100);
    let mut seen = Vec::new();
    loop {
        let page = replica.machine.range(&*replica.engine.view(), &query).unwrap();
        seen.extend(page.kvs.into_iter().map(|pair| pair.key));
        let Some(more) = page.more else { break };
        query.end = KeyEnd::Until(Bytes::from([&more[..], &[0]].concat()));
    }
    assert_eq!(seen.len(), 26);
    assert!(seen.iter().rev().is_sorted());
}

#[test]
fn a_shard_refuses_what_is_not_its_own() {
    let engine = MemEngine::new();
    let range = KeyRange { start: Bytes::from("b"), end: Some(Bytes::from("d")) };
    let limits = MachineLimits::default();
    let machine = ShardMachine::open(SHARD, KeyspaceId::DEFAULT, range, limits, &engine).unwrap();
    let code = |start: &'static str, end| {
        let query = RangeQuery::new(Bytes::from(start), end);
        machine.range(&*engine.view(), &query).err().map(|failure| failure.code)
    };
    assert_eq!(code("b", KeyEnd::Until(Bytes::from("d"))), None);
    assert_eq!(code("b", KeyEnd::Until(Bytes::from("d\0"))), Some(Code::StaleEpoch));
    assert_eq!(code("b", KeyEnd::ToEnd), Some(Code::StaleEpoch));
    assert_eq!(code("a", KeyEnd::Until(Bytes::from("c"))), Some(Code::StaleEpoch));
    assert_eq!(code("d", KeyEnd::Single), Some(Code::StaleEpoch));
    assert_eq!(machine.get(&engine, b"d", None).unwrap_err().code, Code::StaleEpoch);
}

/// M2: a transaction that is refused late in its list has done nothing of what stands before.
#[test]
fn a_refused_transaction_has_no_effect() {
    let mut replica = Replica::new(small());
    let before = run(&mut replica, Op::Put(put("a", "1")));
    assert_eq!(before, Reply::Put { revision: Revision(2), previous: None });
    let keep = PutOp { ignore_value: true, value: Bytes::new(), ..put("missing", "") };
    let then = vec![TxnStep::Put(put("a", "2")), TxnStep::Put(keep)];
    let reply = run(&mut replica, Op::Txn(TxnOp { then, ..TxnOp::default() }));
    assert!(matches!(&reply, Reply::Failed(f) if f.code == Code::NotFound), "{reply:?}");
    assert_eq!(replica.machine.revision(), Revision(2));
    assert_eq!(replica.machine.get(&replica.engine, b"a", None).unwrap().unwrap().value, "1");
}

#[test]
fn what_is_over_a_limit_is_refused() {
    let limits = MachineLimits {
        key_bytes_max: 3,
        value_bytes_max: 3,
        scan_keys_max: 2,
        txn_parts_max: 2,
        ..MachineLimits::default()
    };
    let mut replica = Replica::new(limits);
    let code = |replica: &mut Replica, op| match run(replica, op) {
        Reply::Failed(failure) => Some(failure.code),
        _ => None,
    };
    assert_eq!(code(&mut replica, Op::Put(put("abcd", ""))), Some(Code::TooLarge));
    assert_eq!(code(&mut replica, Op::Put(put("a", "1234"))), Some(Code::TooLarge));
    for key in ["a", "b", "c"] {
        assert_eq!(code(&mut replica, Op::Put(put(key, "1"))), None);
    }
    let end = KeyEnd::ToEnd;
    let delete = |key| DeleteOp { key: Bytes::from_static(key), end: end.clone(), prev_kv: false };
    assert_eq!(code(&mut replica, Op::Delete(delete(b"a"))), Some(Code::TooLarge));
    assert_eq!(code(&mut replica, Op::Delete(delete(b"b"))), None);
    let then = vec![TxnStep::Put(put("a", "")); 3];
    assert_eq!(
        code(&mut replica, Op::Txn(TxnOp { then, ..TxnOp::default() })),
        Some(Code::TooLarge)
    );
    assert_eq!(replica.machine.revision(), Revision(5));
}

/// After a compaction the shard ends up with what is needed from there on, and nothing else.
#[test]
fn garbage_goes_entry_by_entry_until_nothing_is_left() {
    let mut replica = Replica::new(small());
    for i in 0..40 {
        run(&mut replica, Op::Put(put(&format!("k{}", i % 4), &format!("{i}"))));
    }
    let end = KeyEnd::Single;
    run(&mut replica, Op::Delete(DeleteOp { key: Bytes::from("k0"), end, prev_kv: false }));
    run(&mut replica, Op::Put(put("last", "1")));
    let revision = replica.machine.revision();
    run(&mut replica, Op::Compact { revision });
    let mut entries = 0;
    while replica.machine.must_collect() {
        let idle = replica.entry(0, &[]);
        replica.apply(&[idle]);
        replica.machine.check(&replica.engine).unwrap();
        entries += 1;
    }
    // 41 changes below the compact revision, 3 an entry, the first 3 with the compaction itself.
    assert_eq!(entries, 13);
    let at = |at| replica.machine.get(&replica.engine, b"k1", Some(Revision(at)));
    assert_eq!(at(revision.0).unwrap().unwrap().value, "37");
    assert_eq!(at(revision.0 - 1).unwrap_err().code, Code::Compacted);
    let history = atoll_storage::Tree::History(KeyspaceId::DEFAULT);
    let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    let view = replica.engine.view();
    assert_eq!(view.scan(history, all, atoll_storage::Direction::Forward).count(), 0);
}

/// Of two faults the one is named that etcd names: puts are looked at before reads, nested or not.
#[test]
fn puts_of_a_transaction_are_checked_before_its_reads() {
    let mut replica = Replica::new(MachineLimits::default());
    run(&mut replica, Op::Put(put("a", "1")));
    let future = RangeQuery {
        at: Some(Revision(1_000)),
        ..RangeQuery::new(Bytes::from_static(b"a"), KeyEnd::Single)
    };
    let leased = PutOp { lease: Some(LeaseId(77)), ..put("b", "2") };
    let inner = TxnOp { then: vec![TxnStep::Put(leased)], ..TxnOp::default() };
    let mut code = |then| match run(&mut replica, Op::Txn(TxnOp { then, ..TxnOp::default() })) {
        Reply::Failed(failure) => failure.code,
        reply => panic!("{reply:?}"),
    };
    let both = code(vec![TxnStep::Range(future.clone()), TxnStep::Txn(inner)]);
    assert_eq!(both, Code::NotFound);
    let read_only = code(vec![TxnStep::Range(future), TxnStep::Put(put("b", "2"))]);
    assert_ne!(read_only, Code::NotFound);
}
