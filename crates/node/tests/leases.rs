//! Leases and locks over lanes: who counts, who is told, and what a change of leaders leaves of it.
#![allow(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod lanes;

use std::time::Duration;

use atoll_base::{ClientId, Code, Failure, KeyspaceId, LeaseId, NodeId, Sequence};
use atoll_coord::{AnswerBody, KeptAlive, RequestBody, Told};
use atoll_machine::{
    AcquireOp, Claim, Command, CommandId, Guard, GuardedOp, LeaseOp, LeaseReply, LockInfo, LockOp,
    LockReply, Mode, Op, PutOp, Reply, Token, Wait,
};
use atoll_node::Upkeep;
use bytes::Bytes;
use lanes::{Cluster, DATA, SECOND};

const A: LeaseId = LeaseId(1);
const B: LeaseId = LeaseId(2);
const C: LeaseId = LeaseId(3);

fn command(op: Op) -> RequestBody {
    RequestBody::Command(Command::anonymous(op))
}

fn key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn acquire(lock: &str, session: LeaseId, request: u64, wait: Wait) -> Op {
    let claim = Claim { lock: key(lock), session, request };
    let value = Bytes::from(format!("at {session}"));
    Op::Lock(LockOp::Acquire(AcquireOp { claim, mode: Mode::Exclusive, wait, value }))
}

fn token_of(answer: Result<AnswerBody, Failure>) -> Token {
    match answer.unwrap() {
        AnswerBody::Command(Reply::Lock(LockReply::Acquired { token })) => token,
        other => panic!("acquire answered {other:?}"),
    }
}

/// What this file asks of the cluster's data shard.
struct Shard(Cluster);

impl Shard {
    fn new() -> Self {
        Self(Cluster::new(3, Upkeep::default()))
    }

    fn leader(&mut self) -> NodeId {
        self.0.leader(DATA)
    }

    fn run(&mut self, ms: u64) {
        self.0.run(Duration::from_millis(ms));
    }

    fn ask(&mut self, body: &RequestBody) -> Result<AnswerBody, Failure> {
        self.0.ask_leader(DATA, body)
    }

    fn op(&mut self, op: Op) -> Result<AnswerBody, Failure> {
        self.ask(&command(op))
    }

    /// A call that is answered some time.
    fn start(&mut self, op: Op) -> u64 {
        let leader = self.leader();
        let id = self.0.call(leader, DATA, command(op));
        self.run(100);
        id
    }

    fn grant(&mut self, id: LeaseId, ttl_ms: u64, lock_delay_ms: u64) {
        let op = Op::Lease(LeaseOp::Grant { id: Some(id), ttl_ms, lock_delay_ms });
        match self.op(op).unwrap() {
            AnswerBody::Command(Reply::Lease(LeaseReply::Granted { .. })) => {}
            other => panic!("grant answered {other:?}"),
        }
    }

    fn keep_alive(&mut self, id: LeaseId) -> Option<Duration> {
        match self.ask(&RequestBody::KeepAlive { leases: vec![id] }).unwrap() {
            AnswerBody::KeptAlive(kept) => {
                let [KeptAlive { ttl, .. }] = kept[..] else { panic!("{kept:?}") };
                ttl
            }
            other => panic!("keep-alive answered {other:?}"),
        }
    }

    /// Keeps `ids` alive for so long.
    fn keep_on(&mut self, ids: &[LeaseId], ms: u64) {
        for _ in 0..ms / 500 {
            ids.iter().for_each(|id| assert!(self.keep_alive(*id).is_some(), "lease {id} ended"));
            self.run(500);
        }
    }

    fn lives(&mut self, id: LeaseId) -> bool {
        match self.ask(&RequestBody::Lease { id, keys: Told::Yes }) {
            Ok(AnswerBody::Lease(_)) => true,
            Err(failure) if failure.code == Code::NotFound => false,
            other => panic!("lease answered {other:?}"),
        }
    }

    fn attach(&mut self, name: &str, lease: LeaseId) {
        let put = PutOp { key: key(name), lease: Some(lease), ..PutOp::default() };
        self.op(Op::Put(put)).unwrap();
    }

    fn take(&mut self, lock: &str, session: LeaseId, request: u64) -> Token {
        token_of(self.op(acquire(lock, session, request, Wait::Forever)))
    }

    fn release(&mut self, lock: &str, session: LeaseId, token: Token) -> Result<(), Failure> {
        self.op(Op::Lock(LockOp::Release { lock: key(lock), session, token })).map(|_| ())
    }

    fn lock(&mut self, lock: &str) -> Option<LockInfo> {
        match self.ask(&RequestBody::Lock { lock: key(lock) }).unwrap() {
            AnswerBody::Lock(info) => info,
            other => panic!("lock answered {other:?}"),
        }
    }

    fn guarded_put(&mut self, name: &str, lock: &str, token: Token) -> Result<(), Failure> {
        let keyspace = self.0.descriptor(DATA).keyspace;
        assert_ne!(keyspace, KeyspaceId::SYSTEM);
        let guards = vec![Guard { keyspace, lock: key(lock), token }];
        let put = PutOp { key: key(name), value: key("v"), ..PutOp::default() };
        let op = Op::Guarded(GuardedOp { guards, op: Box::new(Op::Put(put)) });
        self.op(op).map(|_| ())
    }
}

#[test]
fn a_lease_lives_while_it_is_kept_alive_and_takes_its_keys_with_it() {
    let mut shard = Shard::new();
    shard.grant(A, 2000, 0);
    shard.grant(B, 2000, 0);
    shard.attach("a", A);
    shard.attach("b", B);
    shard.keep_on(&[A], 6000);
    assert!(shard.lives(A) && !shard.lives(B));
    assert!(shard.0.get(DATA, "a").is_some());
    assert_eq!(shard.0.get(DATA, "b"), None);
    assert_eq!(shard.keep_alive(B), None);
    match shard.ask(&RequestBody::Lease { id: A, keys: Told::Yes }).unwrap() {
        AnswerBody::Lease(status) => {
            assert_eq!((status.attached, status.keys), (1, vec![key("a")]));
            assert!(status.left > SECOND && status.left <= 2 * SECOND);
        }
        other => panic!("{other:?}"),
    }
    match shard.ask(&RequestBody::Leases { after: None, limit: 9 }).unwrap() {
        AnswerBody::Leases(leases) => assert_eq!(leases, vec![A]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn t26_a_paused_holder_cannot_write_under_its_old_token() {
    let mut shard = Shard::new();
    shard.grant(A, 2000, 0);
    shard.grant(B, 2000, 0);
    let old = shard.take("m", A, 1);
    shard.guarded_put("x", "m", old).unwrap();
    let waits = shard.start(acquire("m", B, 1, Wait::Forever));
    // The holder is paused for longer than its TTL; B is not.
    shard.keep_on(&[B], 4000);
    let new = token_of(shard.0.answer(waits));
    assert!(new > old);
    let refusal = shard.guarded_put("x", "m", old).unwrap_err();
    assert_eq!(refusal.code, Code::PreconditionFailed, "{refusal}");
    assert!(refusal.message.contains(&format!("token {old} given")), "{refusal}");
    shard.guarded_put("x", "m", new).unwrap();
    // Not even its own heartbeat brings it back.
    assert_eq!(shard.keep_alive(A), None);
}

#[test]
fn t27_a_waiter_whose_lease_died_is_not_granted() {
    let mut shard = Shard::new();
    for (id, ttl) in [(A, 20_000), (B, 2000), (C, 20_000)] {
        shard.grant(id, ttl, 0);
    }
    let token = shard.take("m", A, 1);
    let dead = shard.start(acquire("m", B, 1, Wait::Forever));
    let next = shard.start(acquire("m", C, 1, Wait::Forever));
    shard.run(3000);
    assert_eq!(shard.0.answer(dead).unwrap_err().code, Code::NotFound);
    shard.release("m", A, token).unwrap();
    assert!(token_of(shard.0.answer(next)) > token);
    assert_eq!(shard.lock("m").unwrap().leadership.unwrap().session, C);
    let late = shard.op(acquire("m", B, 2, Wait::No)).unwrap_err();
    assert_eq!(late.code, Code::NotFound);
}

#[test]
fn t28_an_old_leaders_timer_ends_nothing() {
    let mut shard = Shard::new();
    shard.grant(A, 2000, 0);
    let old = shard.leader();
    shard.0.cut.insert(old);
    // The old leader hears of no keep-alive any more and answers none: it can't confirm that it
    // leads.
    let unheard = shard.0.call(old, DATA, RequestBody::KeepAlive { leases: vec![A] });
    shard.keep_on(&[A], 5000);
    assert!(shard.0.answer(unheard).is_err());
    assert_ne!(shard.leader(), old);
    shard.0.cut.clear();
    shard.keep_on(&[A], 3000);
    assert!(shard.lives(A));
    // From anybody but the leader itself an expiry is refused.
    let term = atoll_base::Term(1);
    let forged = Op::Lease(LeaseOp::Expire { id: A, birth: 1, term });
    assert_eq!(shard.op(forged).unwrap_err().code, Code::Unsupported);
    shard.run(3000);
    assert!(!shard.lives(A));
}

#[test]
fn t29_a_new_leader_starts_every_deadline_in_full() {
    let mut shard = Shard::new();
    shard.grant(A, 4000, 0);
    for _ in 0..3 {
        shard.run(2500);
        let old = shard.leader();
        shard.0.crash(old);
        shard.leader();
        shard.0.start(old);
        shard.run(500);
        assert!(shard.lives(A), "3 of 4 seconds have passed under one leader");
    }
    shard.run(5000);
    assert!(!shard.lives(A), "no leader change keeps it for ever");
}

#[test]
fn t30_only_the_holder_releases() {
    let mut shard = Shard::new();
    shard.grant(A, 20_000, 0);
    shard.grant(B, 20_000, 0);
    let token = shard.take("m", A, 1);
    for (session, token) in [(B, token), (A, Token(token.0 + 1)), (A, Token(0))] {
        let refusal = shard.release("m", session, token).unwrap_err();
        assert_eq!(refusal.code, Code::PreconditionFailed, "{refusal}");
    }
    shard.release("m", A, token).unwrap();
    assert_eq!(shard.lock("m"), None);
    assert!(shard.release("m", A, token).is_err());
}

#[test]
fn a_waiter_that_asks_again_at_other_leaders_keeps_its_place() {
    let mut shard = Shard::new();
    for id in [A, B, C] {
        shard.grant(id, 60_000, 0);
    }
    let token = shard.take("m", A, 1);
    let first = Command {
        id: Some(CommandId {
            client: ClientId(7),
            sequence: Sequence(1),
            first_unacknowledged: Sequence(1),
        }),
        op: acquire("m", B, 1, Wait::Forever),
    };
    let leader = shard.leader();
    let mut call = shard.0.call(leader, DATA, RequestBody::Command(first.clone()));
    shard.run(100);
    shard.start(acquire("m", C, 1, Wait::Forever));
    for _ in 0..3 {
        let old = shard.leader();
        shard.0.crash(old);
        let leader = shard.leader();
        shard.0.start(old);
        call = shard.0.call(leader, DATA, RequestBody::Command(first.clone()));
        shard.run(1000);
    }
    assert_eq!(shard.lock("m").unwrap().busy.waiting, 2);
    shard.release("m", A, token).unwrap();
    let mut answer = shard.0.answer(call);
    while answer.as_ref().is_err_and(|failure| failure.code == Code::Indeterminate) {
        answer = shard.ask(&RequestBody::Command(first.clone()));
    }
    let token = token_of(answer);
    // The reply kept for a retry says "queued"; what is true now is answered.
    assert_eq!(token_of(shard.ask(&RequestBody::Command(first))), token);
    assert_eq!(shard.lock("m").unwrap().leadership.unwrap().session, B);
    shard.release("m", B, token).unwrap();
    assert_eq!(shard.lock("m").unwrap().leadership.unwrap().session, C);
}

#[test]
fn waits_and_lock_delays_end_by_the_leaders_clock() {
    let mut shard = Shard::new();
    shard.grant(A, 2000, 3000);
    shard.grant(B, 60_000, 0);
    shard.take("m", A, 1);
    let short = shard.start(acquire("m", B, 1, Wait::For(500)));
    shard.run(600);
    let over = shard.0.answer(short).unwrap_err();
    assert_eq!(over.code, Code::DeadlineExceeded, "{over}");
    let busy = shard.op(acquire("m", B, 2, Wait::No)).unwrap();
    let AnswerBody::Command(Reply::Lock(LockReply::Busy(busy))) = busy else { panic!("{busy:?}") };
    assert_eq!((busy.held, busy.waiting, busy.holders[0].session), (1, 0, A));
    shard.run(2500);
    // Its holder expired: the lock stays closed.
    let info = shard.lock("m").unwrap();
    assert_eq!((info.busy.held, info.delay_ms), (0, Some(3000)));
    let waits = shard.start(acquire("m", B, 3, Wait::Forever));
    shard.run(1000);
    assert_eq!(shard.lock("m").unwrap().busy.waiting, 1);
    shard.run(2500);
    token_of(shard.0.answer(waits));
}

#[test]
fn an_election_is_observed_leader_by_leader() {
    let mut shard = Shard::new();
    for id in [A, B] {
        shard.grant(id, 60_000, 0);
    }
    let leader = shard.leader();
    let observe = shard.0.call(leader, DATA, RequestBody::Observe { lock: key("e") });
    let mut told = Vec::new();
    let mut next = |shard: &mut Shard| match shard.0.answer(observe).unwrap() {
        AnswerBody::Observed(news) => {
            let leader = shard.leader();
            shard.0.call(leader, DATA, RequestBody::WatchCredit { watch: observe });
            told.push(news.map(|l| (l.session, String::from_utf8(l.value.to_vec()).unwrap())));
        }
        other => panic!("observe answered {other:?}"),
    };
    next(&mut shard);
    let token = shard.take("e", A, 1);
    next(&mut shard);
    let (lock, value) = (key("e"), key("moved"));
    shard.op(Op::Lock(LockOp::Proclaim { lock, session: A, token, value })).unwrap();
    next(&mut shard);
    let campaign = shard.start(acquire("e", B, 1, Wait::Forever));
    shard.release("e", A, token).unwrap();
    next(&mut shard);
    next(&mut shard);
    assert!(token_of(shard.0.answer(campaign)) > token);
    let at = |session: LeaseId, value: &str| Some((session, value.to_owned()));
    assert_eq!(told, [None, at(A, "at 1"), at(A, "moved"), None, at(B, "at 2")]);
    // Its reader must go to the next leader when this one leads no more.
    shard.0.crash(leader);
    shard.0.start(leader);
}
