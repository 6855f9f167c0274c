use std::time::Duration;

use atoll_base::{
    ClientId, Code, Epoch, Happened, LeaseId, LogIndex, NodeId, Revision, Rng, Sequence, ShardId,
    Term, Time,
};
use atoll_coord::{
    Answer, AnswerBody, Consistency, FollowerStatus, KeptAlive, LeaseStatus, Origin, ReplicaStatus,
    Request, RequestBody, Told, WatchEvents, WatchSpec,
};
use atoll_machine::*;
use atoll_raft::{Member, Role};
use atoll_storage::Direction;
use atoll_wire::v1 as pb;
use bytes::Bytes;
use prost::Message;

use super::*;

fn command(op: Op) -> RequestBody {
    let id =
        CommandId { client: ClientId(5), sequence: Sequence(9), first_unacknowledged: Sequence(7) };
    RequestBody::Command(Command { id: Some(id), op })
}

fn put(key: &'static str) -> PutOp {
    PutOp {
        key: key.into(),
        value: "v".into(),
        lease: Some(LeaseId(3)),
        prev_kv: true,
        ignore_value: false,
        ignore_lease: true,
    }
}

fn query() -> RangeQuery {
    RangeQuery {
        direction: Direction::Backward,
        limit: Some(3),
        bytes_max: Some(100),
        at: Some(Revision(4)),
        keys_only: true,
        count_total: true,
        ..RangeQuery::new("a".into(), KeyEnd::Until("b".into()))
    }
}

fn txn() -> TxnOp {
    let compare =
        |target, relation| Compare { key: "k".into(), end: KeyEnd::ToEnd, target, relation };
    TxnOp {
        compares: vec![
            compare(CompareTarget::Version(1), Relation::Equal),
            compare(CompareTarget::Create(Revision(2)), Relation::NotEqual),
            compare(CompareTarget::Mod(Revision(3)), Relation::Less),
            compare(CompareTarget::Value("x".into()), Relation::Greater),
            compare(CompareTarget::Lease(0), Relation::Equal),
        ],
        then: vec![
            TxnStep::Put(put("p")),
            TxnStep::Range(query()),
            TxnStep::Txn(TxnOp { then: vec![TxnStep::Put(put("q"))], ..TxnOp::default() }),
        ],
        otherwise: vec![TxnStep::Delete(DeleteOp {
            key: "a".into(),
            end: KeyEnd::Single,
            prev_kv: false,
        })],
    }
}

fn bodies() -> Vec<RequestBody> {
    vec![
        command(Op::Put(put("k"))),
        command(Op::Delete(DeleteOp { key: "k".into(), end: KeyEnd::ToEnd, prev_kv: true })),
        command(Op::Txn(txn())),
        command(Op::Compact { revision: Revision(8) }),
        RequestBody::Get {
            key: "k".into(),
            at: Some(Revision(3)),
            consistency: Consistency::Stale { max: Some(Duration::from_millis(20)) },
        },
        RequestBody::Range { query: query(), consistency: Consistency::Linearizable },
        RequestBody::Range { query: query(), consistency: Consistency::Stale { max: None } },
        RequestBody::Watch(WatchSpec {
            start: "a".into(),
            end: KeyEnd::Until("b".into()),
            from: Some(Revision(7)),
            puts: Told::Yes,
            deletes: Told::No,
            previous: Told::Yes,
            progress: Told::No,
        }),
        RequestBody::CancelWatch { watch: 4 },
        RequestBody::Transfer(NodeId(3)),
        RequestBody::Retire { epoch: Epoch(3), index: LogIndex(8) },
        RequestBody::Members(vec![
            Member { node: NodeId(1), role: Role::Voter },
            Member { node: NodeId(2), role: Role::Learner },
            Member { node: NodeId(3), role: Role::Witness },
        ]),
        RequestBody::Status,
    ]
    .into_iter()
    .chain(coordination())
    .collect()
}

fn coordination() -> Vec<RequestBody> {
    let claim = || Claim { lock: "m".into(), session: LeaseId(7), request: 3 };
    let acquire = |mode, wait| {
        let value = "here".into();
        command(Op::Lock(LockOp::Acquire(AcquireOp { claim: claim(), mode, wait, value })))
    };
    let (lock, session, token) = (Bytes::from("m"), LeaseId(7), Token(12));
    let guarded = |op| {
        let keyspace = atoll_base::KeyspaceId(4);
        let guards = vec![Guard { keyspace, lock: "m".into(), token }];
        command(Op::Guarded(GuardedOp { guards, op: Box::new(op) }))
    };
    let delete = DeleteOp { key: "k".into(), end: KeyEnd::ToEnd, prev_kv: true };
    vec![
        command(Op::Lease(LeaseOp::Grant {
            id: Some(LeaseId(9)),
            ttl_ms: 5000,
            lock_delay_ms: 15_000,
        })),
        command(Op::Lease(LeaseOp::Grant { id: None, ttl_ms: 1, lock_delay_ms: 0 })),
        command(Op::Lease(LeaseOp::Revoke { id: LeaseId(9) })),
        RequestBody::KeepAlive { leases: vec![LeaseId(9), LeaseId(2)] },
        RequestBody::Lease { id: LeaseId(9), keys: Told::Yes },
        RequestBody::Leases { after: Some(LeaseId(2)), limit: 10 },
        RequestBody::Leases { after: None, limit: usize::MAX },
        acquire(Mode::Exclusive, Wait::No),
        acquire(Mode::Shared, Wait::For(20)),
        acquire(Mode::Permits(3), Wait::Forever),
        command(Op::Lock(LockOp::Release { lock: lock.clone(), session, token })),
        command(Op::Lock(LockOp::Cancel(claim()))),
        command(Op::Lock(LockOp::SetSemaphore { lock: lock.clone(), limit: 4 })),
        command(Op::Lock(LockOp::Proclaim {
            lock: lock.clone(),
            session,
            token,
            value: "there".into(),
        })),
        RequestBody::Lock { lock: lock.clone() },
        RequestBody::Observe { lock },
        guarded(Op::Put(put("k"))),
        guarded(Op::Delete(delete)),
        guarded(Op::Txn(txn())),
    ]
}

/// What would not be readable in the log, or would be passed over, is refused at the door.
#[test]
fn what_names_nobody_is_refused() {
    let bad = [
        pb::call::Body::LeaseRevoke(pb::LeaseRevokeRequest::default()),
        pb::call::Body::KeepAlive(pb::KeepAliveRequest {
            leases: vec![1, 0],
            ..Default::default()
        }),
        pb::call::Body::Acquire(pb::AcquireRequest { lock: "m".into(), ..Default::default() }),
        pb::call::Body::Release(pb::ReleaseRequest { lock: "m".into(), ..Default::default() }),
        pb::call::Body::CancelAcquire(pb::CancelAcquireRequest::default()),
        pb::call::Body::Proclaim(pb::ProclaimRequest::default()),
        pb::call::Body::Put(pb::PutRequest {
            guards: vec![pb::Guard { lock: "m".into(), token: 1, ..Default::default() }],
            ..Default::default()
        }),
        pb::call::Body::Txn(pb::TxnRequest {
            then: vec![pb::TxnStep {
                step: Some(pb::txn_step::Step::Put(pb::PutRequest {
                    guards: vec![pb::Guard { keyspace_id: 2, ..Default::default() }],
                    ..Default::default()
                })),
            }],
            ..Default::default()
        }),
    ];
    for body in bad {
        let call = pb::Call { id: 1, shard: 1, body: Some(body), ..Default::default() };
        let failure = decode_call(call, Origin(1), Time::ZERO).unwrap_err();
        assert_eq!(failure.code, Code::InvalidArgument, "{failure}");
    }
}

/// What only a leader may say has no wire form.
#[test]
fn what_runs_out_is_not_for_clients() {
    let (lock, term) = (Bytes::from("m"), Term(1));
    let own = [
        Op::Lease(LeaseOp::Expire { id: LeaseId(1), birth: 2, term }),
        Op::Lock(LockOp::ExpireWait { lock: lock.clone(), place: 1, term }),
        Op::Lock(LockOp::EndDelay { lock, number: 1, term }),
        Op::Lock(LockOp::RaiseFence { floor: Token(9) }),
    ];
    for op in own {
        let request = Request {
            origin: Origin(1),
            id: 1,
            shard: ShardId(3),
            epoch: Epoch(2),
            deadline: Time::from_millis(5),
            body: command(op),
        };
        assert_eq!(encode_call(request, Time::ZERO).unwrap_err().code, Code::Unsupported);
    }
}

#[test]
fn every_request_survives_the_wire() {
    for body in bodies() {
        let request = Request {
            origin: Origin(1),
            id: 77,
            shard: ShardId(3),
            epoch: Epoch(2),
            deadline: Time::from_millis(1500),
            body,
        };
        let call = encode_call(request.clone(), Time::from_millis(500)).unwrap();
        let call = pb::Call::decode(Bytes::from(call.encode_to_vec())).unwrap();
        let back = decode_call(call, Origin(1), Time::from_millis(9500)).unwrap();
        let moved = Request { deadline: Time::from_millis(10_500), ..request };
        assert_eq!(format!("{back:?}"), format!("{moved:?}"));
    }
}

fn kv(key: &'static str) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: "v".into(),
        create_revision: Revision(1),
        mod_revision: Revision(4),
        version: 2,
        lease: None,
    }
}

fn status() -> ReplicaStatus {
    ReplicaStatus {
        node: NodeId(1),
        shard: ShardId(2),
        epoch: Epoch(3),
        term: Term(4),
        leader: Some(NodeId(1)),
        waits_for: "node 3".to_owned(),
        state: "leader",
        first_index: LogIndex(5),
        last_index: LogIndex(6),
        commit_index: LogIndex(6),
        applied_index: LogIndex(5),
        revision: Revision(3),
        compacted: Revision(2),
        members: vec![Member { node: NodeId(1), role: Role::Voter }],
        progress: vec![FollowerStatus {
            node: NodeId(2),
            matched: LogIndex(6),
            state: "replicate",
        }],
    }
}

fn answers() -> Vec<AnswerBody> {
    let page = RangePage {
        kvs: vec![kv("a"), kv("b")],
        more: Some("c".into()),
        count: 9,
        uncounted: Some("d".into()),
        revision: Revision(5),
    };
    let record = Record {
        value: "v".into(),
        create_revision: Revision(1),
        mod_revision: Revision(6),
        version: 2,
        lease: Some(LeaseId(1)),
    };
    let event = |kind, previous| Event { revision: Revision(6), key: "k".into(), kind, previous };
    vec![
        AnswerBody::Command(Reply::Put { revision: Revision(2), previous: Some(kv("k")) }),
        AnswerBody::Command(Reply::Delete {
            revision: Revision(2),
            deleted: 2,
            previous: vec![kv("k")],
        }),
        AnswerBody::Command(Reply::Txn {
            revision: Revision(3),
            succeeded: true,
            results: vec![
                TxnResult::Put { previous: None },
                TxnResult::Delete { deleted: 1, previous: vec![] },
                TxnResult::Range(page.clone()),
                TxnResult::Txn {
                    succeeded: false,
                    results: vec![TxnResult::Put { previous: Some(kv("z")) }],
                },
            ],
        }),
        AnswerBody::Command(Reply::Compact { revision: Revision(9), compacted: Revision(3) }),
        AnswerBody::Get {
            kv: Some(kv("k")),
            revision: Revision(3),
            staleness: Duration::from_millis(4),
        },
        AnswerBody::Range { page, newest: Revision(99), staleness: Duration::ZERO },
        AnswerBody::WatchStarted { from: Revision(8) },
        AnswerBody::Watch(WatchEvents {
            events: vec![
                event(EventKind::Put(record.clone()), None),
                event(EventKind::Delete, Some(record)),
            ],
            through: Revision(6),
        }),
        AnswerBody::WatchCompacted { compacted: Revision(4) },
        AnswerBody::WatchCancelled,
        AnswerBody::Transferred,
        AnswerBody::Members { epoch: Epoch(4), index: LogIndex(9) },
        AnswerBody::Retired,
        AnswerBody::Status(status()),
    ]
    .into_iter()
    .chain(coordinated())
    .collect()
}

fn coordinated() -> Vec<AnswerBody> {
    let busy = Busy {
        holders: vec![LockHolder { session: LeaseId(2), token: Token(3), mode: Mode::Permits(2) }],
        held: 1,
        waiting: 4,
    };
    let leadership = Leadership { session: LeaseId(2), token: Token(3), value: "me".into() };
    let info = LockInfo {
        busy: busy.clone(),
        leadership: Some(leadership.clone()),
        limit: Some(0),
        delay_ms: Some(15_000),
    };
    let lease = |reply| AnswerBody::Command(Reply::Lease(reply));
    let lock = |reply| AnswerBody::Command(Reply::Lock(reply));
    vec![
        lease(LeaseReply::Granted { id: LeaseId(9), ttl_ms: 2000 }),
        lease(LeaseReply::Ended { revision: Revision(8), deleted: 3 }),
        lock(LockReply::Acquired { token: Token(12) }),
        lock(LockReply::Busy(busy)),
        lock(LockReply::Done),
        AnswerBody::KeptAlive(vec![
            KeptAlive { id: LeaseId(1), ttl: None },
            KeptAlive { id: LeaseId(2), ttl: Some(Duration::from_secs(5)) },
        ]),
        AnswerBody::Lease(LeaseStatus {
            id: LeaseId(2),
            ttl: Duration::from_secs(5),
            left: Duration::from_millis(1),
            attached: 2,
            keys: vec!["a".into()],
        }),
        AnswerBody::Leases(vec![LeaseId(1), LeaseId(5)]),
        AnswerBody::Lock(None),
        AnswerBody::Lock(Some(info)),
        AnswerBody::Observed(None),
        AnswerBody::Observed(Some(leadership)),
    ]
}

#[test]
fn every_answer_survives_the_wire() {
    for body in answers() {
        let wire = encode_answer(Answer { origin: Origin(1), id: 5, body: Ok(body.clone()) });
        let wire = pb::Answer::decode(Bytes::from(wire.encode_to_vec())).unwrap();
        let (id, back) = decode_answer(wire);
        assert_eq!(id, 5);
        assert_eq!(format!("{:?}", back.unwrap()), format!("{body:?}"));
    }
}

#[test]
fn a_call_whose_deadline_has_passed_is_not_sent() {
    let request = Request {
        origin: Origin(1),
        id: 1,
        shard: ShardId(3),
        epoch: Epoch(2),
        deadline: Time::from_millis(5),
        body: RequestBody::Status,
    };
    let failure = encode_call(request, Time::from_millis(5)).unwrap_err();
    assert_eq!((failure.code, failure.happened), (Code::DeadlineExceeded, Happened::No));
}

#[test]
fn transactions_that_nest_too_deep_are_refused() {
    let mut wire = pb::TxnRequest::default();
    for _ in 0..20 {
        let step = pb::TxnStep { step: Some(pb::txn_step::Step::Txn(wire)) };
        wire = pb::TxnRequest { then: vec![step], ..Default::default() };
    }
    assert_eq!(decode_txn(wire).unwrap_err().code, Code::InvalidArgument);
}

#[test]
fn broken_calls_and_answers_never_panic() {
    let request = |body| Request {
        origin: Origin(1),
        id: 77,
        shard: ShardId(3),
        epoch: Epoch(2),
        deadline: Time::from_millis(500),
        body,
    };
    let calls = bodies()
        .into_iter()
        .map(|body| encode_call(request(body), Time::ZERO).unwrap().encode_to_vec());
    let answers = answers().into_iter().map(|body| {
        encode_answer(Answer { origin: Origin(1), id: 5, body: Ok(body) }).encode_to_vec()
    });
    let good: Vec<Vec<u8>> = calls.chain(answers).collect();
    let mut rng = Rng::new(3);
    for _ in 0..20_000 {
        let mut bytes = rng.pick(&good).unwrap().clone();
        let at = rng.below(bytes.len() as u64) as usize;
        bytes[at] = rng.next_u64() as u8;
        let bytes = Bytes::from(bytes);
        if let Ok(call) = pb::Call::decode(bytes.clone()) {
            let _ = decode_call(call, Origin(1), Time::ZERO);
        }
        if let Ok(answer) = pb::Answer::decode(bytes) {
            let _ = decode_answer(answer);
        }
    }
}
