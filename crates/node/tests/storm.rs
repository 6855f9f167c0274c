//! Many at once over lanes: ten thousand waiters of one lock, ten thousand watchers of one node,
//! and clocks that jump under those who hold something.
#![allow(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod lanes;

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_base::{Code, Epoch, LeaseId, NodeId, Revision};
use atoll_coord::{
    Answer, AnswerBody, Origin, Request, RequestBody, Told, WATCH_CREDIT, WatchSpec,
};
use atoll_machine::{
    AcquireOp, Claim, Command, Guard, GuardedOp, KeyEnd, LeaseOp, LockInfo, LockOp, LockReply,
    Mode, Op, PutOp, Reply, Token, TxnOp, TxnStep, Wait,
};
use atoll_node::Upkeep;
use bytes::Bytes;
use lanes::{Cluster, DATA, SECOND};

/// Who asks in this file; the cluster's own calls are those of 1.
const MANY: Origin = Origin(2);
/// Numbers of calls from here on are ours.
const CALLS: u64 = 1 << 32;

#[allow(clippy::disallowed_methods, reason = "a test is told how large to be")]
fn sized(quick: u64, full: u64) -> u64 {
    if std::env::var("ATOLL_TEST_FULL").is_ok_and(|v| v == "1") { full } else { quick }
}

fn command(op: Op) -> RequestBody {
    RequestBody::Command(Command::anonymous(op))
}

fn request(cluster: &Cluster, id: u64, body: RequestBody) -> Request {
    let deadline = cluster.now.after(SECOND * 3600);
    let id = CALLS + id;
    Request { origin: MANY, id, shard: DATA, epoch: Epoch::ZERO, deadline, body }
}

fn acquire(session: LeaseId, request: u64, mode: Mode) -> Op {
    let claim = Claim { lock: Bytes::from("m"), session, request };
    Op::Lock(LockOp::Acquire(AcquireOp { claim, mode, wait: Wait::Forever, value: Bytes::new() }))
}

fn grant(cluster: &mut Cluster, id: LeaseId, ttl_ms: u64) {
    let op = Op::Lease(LeaseOp::Grant { id: Some(id), ttl_ms, lock_delay_ms: 0 });
    cluster.ask_leader(DATA, &command(op)).unwrap();
}

fn lock(cluster: &mut Cluster) -> LockInfo {
    let lock = Bytes::from("m");
    match cluster.ask_leader(DATA, &RequestBody::Lock { lock }).unwrap() {
        AnswerBody::Lock(info) => info.unwrap(),
        other => panic!("lock answered {other:?}"),
    }
}

fn token_of(body: AnswerBody) -> Token {
    match body {
        AnswerBody::Command(Reply::Lock(LockReply::Acquired { token })) => token,
        other => panic!("acquire answered {other:?}"),
    }
}

/// The answers of [`MANY`] that have come so far.
fn answers(cluster: &mut Cluster) -> Vec<Answer> {
    let ours = cluster.take_answers().into_iter().filter(|answer| answer.origin == MANY);
    ours.map(|answer| Answer { id: answer.id - CALLS, ..answer }).collect()
}

const SESSIONS: u64 = 100;
const WAITERS: u64 = 10_000;

/// The session and request of a waiter.
fn waiter(n: u64, mode: Mode) -> Op {
    acquire(LeaseId(n % SESSIONS + 2), n, mode)
}

/// A lock storm: all are queued, the leader dies, all ask again and none has lost its place or has
/// two; then each has its turn, in the order of asking.
#[test]
fn ten_thousand_waiters_keep_their_order_over_a_change_of_leaders() {
    let alone = sized(300, WAITERS);
    let mode = |n| if n <= alone { Mode::Exclusive } else { Mode::Shared };
    let mut cluster = Cluster::new(3, Upkeep::default());
    for n in 1..=SESSIONS + 1 {
        grant(&mut cluster, LeaseId(n), 3_600_000);
    }
    let held = cluster.ask_leader(DATA, &command(acquire(LeaseId(1), 1, Mode::Exclusive)));
    let mut last = token_of(held.unwrap());
    let ask_all = |cluster: &mut Cluster| {
        let leader = cluster.leader(DATA);
        let all = (1..=WAITERS).map(|n| request(cluster, n, command(waiter(n, mode(n)))));
        let all = all.collect();
        cluster.send(leader, all);
        cluster.run(Duration::from_millis(50));
        leader
    };
    let leader = ask_all(&mut cluster);
    assert_eq!(lock(&mut cluster).busy.waiting, WAITERS);
    assert!(answers(&mut cluster).is_empty(), "nobody has it yet");
    cluster.cut.insert(leader);
    let next = ask_all(&mut cluster);
    assert_ne!(next, leader);
    cluster.cut.clear();
    // The first one may get its leadership back: it is where the catalog wants it.
    cluster.run(SECOND * 2);
    assert_eq!(lock(&mut cluster).busy.waiting, WAITERS, "each is in the queue once");
    // Those who waited at a leader that leads no more were told that it is not known how it ended.
    let told = answers(&mut cluster);
    assert!(told.len() as u64 >= WAITERS, "{} were told", told.len());
    assert!(told.iter().all(|a| a.body.as_ref().is_err_and(|f| f.code == Code::Indeterminate)));
    if told.len() as u64 > WAITERS {
        ask_all(&mut cluster);
        assert_eq!(lock(&mut cluster).busy.waiting, WAITERS, "still once");
    }
    let mut holder = LeaseId(1);
    for n in 1..=alone {
        let leader = cluster.leader(DATA);
        let release = LockOp::Release { lock: Bytes::from("m"), session: holder, token: last };
        cluster.call(leader, DATA, command(Op::Lock(release)));
        let mut told = Vec::new();
        while told.is_empty() {
            cluster.run(Duration::from_millis(1));
            told = answers(&mut cluster);
        }
        assert_eq!(told[0].id, n, "the next in the queue");
        let token = token_of(told.remove(0).body.unwrap());
        assert_eq!(token, Token(last.0 + 1));
        (holder, last) = (LeaseId(n % SESSIONS + 2), token);
        if n < alone {
            assert!(told.is_empty(), "only one holds it");
        }
    }
    // Behind the last one that wants it alone, all others have it together.
    let release = LockOp::Release { lock: Bytes::from("m"), session: holder, token: last };
    let leader = cluster.leader(DATA);
    cluster.call(leader, DATA, command(Op::Lock(release)));
    cluster.run(SECOND);
    let told = answers(&mut cluster);
    let ids: Vec<u64> = told.iter().map(|a| a.id).collect();
    assert!(ids.iter().copied().eq(alone + 1..=WAITERS), "{} were told", ids.len());
    if alone < WAITERS {
        assert_eq!(lock(&mut cluster).busy.held, WAITERS - alone);
    }
}

/// Trap T26: the clocks of all nodes jump, for a machine that slept. The holder may lose its lock;
/// nobody has it beside another, and the store refuses whom it no longer knows.
#[test]
fn a_jump_of_the_clock_gives_nobody_a_lock_twice() {
    let mut cluster = Cluster::new(3, Upkeep::default());
    let (a, b) = (LeaseId(1), LeaseId(2));
    grant(&mut cluster, a, 15_000);
    grant(&mut cluster, b, 3_600_000);
    let old = cluster.ask_leader(DATA, &command(acquire(a, 1, Mode::Exclusive))).unwrap();
    let old = token_of(old);
    let leader = cluster.leader(DATA);
    let waits = request(&cluster, 1, command(acquire(b, 1, Mode::Exclusive)));
    cluster.send(leader, vec![waits]);
    cluster.run(SECOND);
    assert_eq!(lock(&mut cluster).leadership.unwrap().session, a);
    let keyspace = cluster.descriptor(DATA).keyspace;
    let write = |token| {
        let guards = vec![Guard { keyspace, lock: Bytes::from("m"), token }];
        let put = PutOp { key: Bytes::from("k"), ..PutOp::default() };
        command(Op::Guarded(GuardedOp { guards, op: Box::new(Op::Put(put)) }))
    };
    cluster.ask_leader(DATA, &write(old)).unwrap();
    // A quarter of an hour in no time: a's deadline has passed, b's has not. Where the jump brings
    // another leader, that one counts anew.
    cluster.now = cluster.now.after(SECOND * 900);
    cluster.run(SECOND * 20);
    let info = lock(&mut cluster);
    assert_eq!((info.busy.held, info.busy.waiting), (1, 0));
    let new = info.leadership.unwrap();
    assert!(new.session == b && new.token > old);
    let refused = cluster.ask_leader(DATA, &write(old)).unwrap_err();
    assert_eq!(refused.code, Code::PreconditionFailed);
    cluster.ask_leader(DATA, &write(new.token)).unwrap();
    let kept = cluster.ask_leader(DATA, &RequestBody::KeepAlive { leases: vec![a, b] }).unwrap();
    let AnswerBody::KeptAlive(kept) = kept else { panic!("{kept:?}") };
    assert!(kept[0].ttl.is_none() && kept[1].ttl.is_some());
}

fn watch(prefix: &str, progress: Told) -> RequestBody {
    let start = Bytes::from(prefix.to_owned());
    RequestBody::Watch(WatchSpec {
        end: KeyEnd::of_prefix(&start),
        start,
        from: None,
        puts: Told::Yes,
        deletes: Told::No,
        previous: Told::No,
        progress,
    })
}

/// What the watchers were told, and credit for each who reads.
struct Readers {
    told: BTreeMap<u64, Vec<Vec<Revision>>>,
    marks: BTreeMap<u64, Revision>,
}

impl Readers {
    /// Takes what came; those for whom `reads` gives true make room for more.
    fn take(&mut self, cluster: &mut Cluster, at: NodeId, reads: impl Fn(u64) -> bool) {
        let mut credits = Vec::new();
        for answer in answers(cluster) {
            match answer.body.unwrap() {
                AnswerBody::Watch(batch) if batch.events.is_empty() => {
                    let last = self.told.get(&answer.id).and_then(|b| b.last()?.last().copied());
                    assert!(last.is_none_or(|last| last <= batch.through), "trap T41");
                    self.marks.insert(answer.id, batch.through);
                }
                AnswerBody::Watch(batch) => {
                    let revisions: Vec<Revision> =
                        batch.events.iter().map(|e| e.revision).collect();
                    assert_eq!(batch.through, *revisions.last().unwrap());
                    self.told.entry(answer.id).or_default().push(revisions);
                }
                AnswerBody::WatchStarted { .. } => continue,
                other => panic!("watch answered {other:?}"),
            }
            if reads(answer.id) {
                let body = RequestBody::WatchCredit { watch: CALLS + answer.id };
                credits.push(request(cluster, answer.id, body));
            }
        }
        cluster.send(at, credits);
    }

    fn all(&self, watcher: u64) -> Vec<Revision> {
        self.told.get(&watcher).into_iter().flatten().flatten().copied().collect()
    }
}

/// Ten thousand watchers of one node: each is told every change that it wants, once, in order, a
/// transaction whole; those that do not read stay behind alone and go on where they were.
#[test]
fn ten_thousand_watchers_and_slow_ones_among_them() {
    const WATCHERS: u64 = 10_000;
    const SLOW: u64 = 50;
    let changes = sized(6, 60);
    let mut cluster = Cluster::new(3, Upkeep::default());
    let leader = cluster.leader(DATA);
    // Every tenth watches other keys, and is told how far it is.
    let is_idle = |n: u64| n.is_multiple_of(10);
    let spec = |n| if is_idle(n) { watch("b/", Told::Yes) } else { watch("a/", Told::No) };
    let all = (1..=WATCHERS).map(|n| request(&cluster, n, spec(n))).collect();
    cluster.send(leader, all);
    cluster.run(Duration::from_millis(100));
    let started = answers(&mut cluster);
    assert_eq!(started.len() as u64, WATCHERS);
    let one_more = request(&cluster, WATCHERS + 1, watch("a/", Told::No));
    cluster.send(leader, vec![one_more]);
    cluster.run(Duration::from_millis(10));
    let refused = answers(&mut cluster).remove(0).body.unwrap_err();
    assert_eq!(refused.code, Code::Overloaded, "{refused}");

    let is_slow = |n: u64| n <= SLOW;
    let mut readers = Readers { told: BTreeMap::new(), marks: BTreeMap::new() };
    let mut wanted: Vec<Revision> = Vec::new();
    for n in 0..changes {
        let put = |key: String| PutOp { key: Bytes::from(key), ..PutOp::default() };
        let then = ["a/1", "a/2", "c"].map(|k| TxnStep::Put(put(format!("{k}/{n}")))).to_vec();
        let txn = Op::Txn(TxnOp { then, ..TxnOp::default() });
        // Its answer goes with those of others.
        cluster.call(leader, DATA, command(txn));
        cluster.run(Duration::from_millis(20));
        let before = wanted.last().map_or(Revision(1), |r| *r);
        wanted.extend([before.next(), before.next()]);
        readers.take(&mut cluster, leader, |id| !is_slow(id));
        cluster.run(Duration::from_millis(5));
    }
    // Revisions are counted from whatever the shard had.
    let offset = readers.all(SLOW + 1).first().unwrap().0 - wanted[0].0;
    let wanted: Vec<Revision> = wanted.iter().map(|r| Revision(r.0 + offset)).collect();
    for n in (1..=WATCHERS).filter(|n| !is_idle(*n)) {
        let told = readers.all(n);
        if is_slow(n) {
            let batches = readers.told[&n].len();
            assert_eq!(batches, (WATCH_CREDIT as usize).min(changes as usize), "watcher {n}");
            assert!(wanted.starts_with(&told));
        } else {
            assert_eq!(told, wanted, "watcher {n}");
        }
        let whole = readers.told[&n].iter().all(|batch| batch.len() % 2 == 0);
        assert!(whole, "watcher {n} was told a part of a transaction");
    }
    // The slow ones begin to read: one batch handed on makes room for the next.
    for _ in 0..changes {
        let credit = |n| request(&cluster, n, RequestBody::WatchCredit { watch: CALLS + n });
        let credits = (1..=SLOW).map(credit).collect();
        cluster.send(leader, credits);
        cluster.run(Duration::from_millis(5));
        readers.take(&mut cluster, leader, |_| false);
    }
    for n in (1..=SLOW).filter(|n| !is_idle(*n)) {
        assert_eq!(readers.all(n), wanted, "watcher {n}");
    }
    cluster.run(SECOND * 3);
    readers.take(&mut cluster, leader, |_| true);
    let newest = *wanted.last().unwrap();
    for n in (1..=WATCHERS).filter(|n| is_idle(*n)) {
        assert!(!readers.told.contains_key(&n), "watcher {n} wants other keys");
        assert_eq!(readers.marks.get(&n), Some(&newest), "watcher {n} knows how far it is");
    }
}
