//! `atoll.v1.Coordination` as a program in another language uses it: its messages, over gRPC.

use std::time::Duration;

use atoll_transport::stub::v1::coordination_client::CoordinationClient;
use atoll_transport::stub::v1::kv_client::KvClient;
use atoll_wire::v1 as pb;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::harness::{Cluster, Turn, eventually, within};

const SOON: Duration = Duration::from_secs(60);
const KEYSPACE: &str = "default";

async fn coordination(cluster: &Cluster, node: usize) -> CoordinationClient<Channel> {
    CoordinationClient::new(channel(cluster, node).await)
}

async fn channel(cluster: &Cluster, node: usize) -> Channel {
    let address = format!("http://{}", cluster.client_address(node));
    let endpoint = Endpoint::from_shared(address).expect("an address");
    endpoint.connect().await.expect("the node is there")
}

async fn grant(client: &mut CoordinationClient<Channel>) -> u64 {
    let request = pb::LeaseGrantRequest {
        keyspace: KEYSPACE.to_owned(),
        ttl_ms: 60_000,
        ..Default::default()
    };
    client.grant_lease(request).await.expect("a lease").into_inner().lease
}

fn acquire(lock: &'static str, session: u64, request: u64) -> pb::AcquireRequest {
    let keyspace = KEYSPACE.to_owned();
    pb::AcquireRequest { keyspace, lock: lock.into(), session, request, ..Default::default() }
}

fn release(lock: &'static str, session: u64, token: u64) -> pb::ReleaseRequest {
    let keyspace = KEYSPACE.to_owned();
    pb::ReleaseRequest { keyspace, lock: lock.into(), session, token, id: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_granted_kept_shown_listed_and_revoked() {
    let _turn = Turn::among_others();
    let cluster = Cluster::start(3, &[]).await;
    let mut client = coordination(&cluster, 1).await;
    let lease = grant(&mut client).await;
    let mut kv = KvClient::new(channel(&cluster, 2).await);
    let put = pb::PutRequest {
        keyspace: KEYSPACE.to_owned(),
        key: "leased".into(),
        value: "v".into(),
        lease,
        ..Default::default()
    };
    kv.put(put).await.expect("a put");
    let (sender, requests) = tokio::sync::mpsc::channel(2);
    let mut kept = coordination(&cluster, 3).await;
    let kept = kept.keep_alive(ReceiverStream::new(requests)).await.expect("a stream");
    let mut kept = kept.into_inner();
    let keyspace = KEYSPACE.to_owned();
    for leases in [vec![lease], vec![lease + 1, lease]] {
        let ask = pb::KeepAliveRequest {
            keyspace: keyspace.clone(),
            leases: leases.clone(),
            ..Default::default()
        };
        sender.send(ask).await.expect("it stands");
        let answer = within("kept", SOON, kept.message()).await.expect("no end").expect("one");
        let told: Vec<(u64, bool)> =
            answer.leases.iter().map(|k| (k.lease, k.ttl_ms == 60_000)).collect();
        let expected: Vec<(u64, bool)> = leases.iter().map(|l| (*l, *l == lease)).collect();
        assert_eq!(told, expected, "in the order in which they are named");
    }
    let show = pb::LeaseShowRequest { keyspace, lease, keys: true, ..Default::default() };
    let shown = client.show_lease(show.clone()).await.expect("it lives").into_inner();
    assert_eq!((shown.attached, shown.keys), (1, vec!["leased".into()]));
    assert!(shown.left_ms > 0 && shown.left_ms <= 60_000, "{}", shown.left_ms);
    let list = pb::LeaseListRequest { keyspace: KEYSPACE.to_owned(), ..Default::default() };
    let listed = client.list_leases(list).await.expect("a list").into_inner().leases;
    assert_eq!(listed, [lease]);
    let revoke =
        pb::LeaseRevokeRequest { keyspace: KEYSPACE.to_owned(), lease, ..Default::default() };
    let revoked = client.revoke_lease(revoke.clone()).await.expect("revoked").into_inner();
    assert_eq!(revoked.deleted, 1);
    let again = client.revoke_lease(revoke).await.expect_err("it is gone");
    assert_eq!(again.code(), Code::NotFound, "{again}");
    assert_eq!(client.show_lease(show).await.expect_err("it is gone").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_are_idempotent_fair_and_their_holders_alone() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let mut client = coordination(&cluster, 1).await;
    let (one, two) = (grant(&mut client).await, grant(&mut client).await);

    // Locks: idempotent by request, busy for others, released by the holder alone, in order.
    let first = client.acquire(acquire("door", one, 1)).await.expect("an answer").into_inner();
    assert!(first.token > 0, "{first:?}");
    let mut other = coordination(&cluster, 2).await;
    let again = other.acquire(acquire("door", one, 1)).await.expect("an answer").into_inner();
    assert_eq!(again.token, first.token, "the same request, through whatever node");
    let busy = other.acquire(acquire("door", two, 1)).await.expect("an answer").into_inner();
    let busy = busy.busy.expect("why not");
    assert_eq!((busy.held, busy.holders[0].session, busy.holders[0].token), (1, one, first.token));
    let mut waits = coordination(&cluster, 3).await;
    let waiting = pb::AcquireRequest { wait_forever: true, ..acquire("door", two, 2) };
    let waiting = tokio::spawn(async move { waits.acquire(waiting).await });
    let ask = pb::LockRequest { keyspace: KEYSPACE.to_owned(), lock: "door".into() };
    eventually("it waits", SOON, async || {
        let shown = client.clone().show_lock(ask.clone()).await.map_err(|s| s.to_string())?;
        let busy = shown.into_inner().state.and_then(|s| s.busy).unwrap_or_default();
        if busy.waiting == 1 { Ok(()) } else { Err(format!("{busy:?}")) }
    })
    .await;
    let stranger = other.release(release("door", two, first.token)).await;
    assert_eq!(stranger.expect_err("not its").code(), Code::FailedPrecondition);
    client.release(release("door", one, first.token)).await.expect("released");
    let second = within("its turn", SOON, waiting).await.expect("no panic").expect("it is had");
    let second = second.into_inner().token;
    assert!(second > first.token, "tokens grow");
    let cancel = pb::CancelAcquireRequest {
        keyspace: KEYSPACE.to_owned(),
        lock: "door".into(),
        session: two,
        request: 2,
        id: None,
    };
    let cancelled = client.cancel_acquire(cancel).await.expect("an answer").into_inner();
    assert_eq!(cancelled.token, second, "it is held by now, and that is said");

    cluster.check_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn semaphores_and_elections_are_served() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let mut client = coordination(&cluster, 1).await;
    let mut other = coordination(&cluster, 2).await;
    let (one, two) = (grant(&mut client).await, grant(&mut client).await);

    // A semaphore of two lets two in.
    let limit = pb::SetSemaphoreRequest {
        keyspace: KEYSPACE.to_owned(),
        lock: "seats".into(),
        limit: 2,
        id: None,
    };
    client.set_semaphore(limit).await.expect("made");
    let kind = pb::lock_mode::Kind::Permits as i32;
    let seat = |session, request, permits| pb::AcquireRequest {
        mode: Some(pb::LockMode { kind, permits }),
        ..acquire("seats", session, request)
    };
    let held = client.acquire(seat(one, 10, 2)).await.expect("an answer").into_inner();
    assert!(held.token > 0);
    let none = client.acquire(seat(two, 11, 1)).await.expect("an answer").into_inner();
    assert_eq!((none.token, none.busy.expect("why not").held), (0, 1), "one holder of both");
    client.release(release("seats", one, held.token)).await.expect("released");
    let held = client.acquire(seat(two, 12, 1)).await.expect("an answer").into_inner();
    assert!(held.token > 0);

    // An election is observed from its first leader to its end.
    let ask = pb::ObserveRequest { keyspace: KEYSPACE.to_owned(), lock: "chair".into() };
    let mut observed = other.observe(ask).await.expect("a stream").into_inner();
    let mut next = async || {
        let told = within("told", SOON, observed.message()).await.expect("no end").expect("one");
        told.leadership.map(|l| (l.session, l.value))
    };
    assert_eq!(next().await, None, "nobody leads");
    let stand = pb::AcquireRequest { value: "me".into(), ..acquire("chair", one, 20) };
    let won = client.acquire(stand).await.expect("an answer").into_inner().token;
    assert_eq!(next().await, Some((one, "me".into())));
    let proclaim = pb::ProclaimRequest {
        keyspace: KEYSPACE.to_owned(),
        lock: "chair".into(),
        session: one,
        token: won,
        value: "still me".into(),
        id: None,
    };
    client.proclaim(proclaim.clone()).await.expect("it leads");
    assert_eq!(next().await, Some((one, "still me".into())));
    client.release(release("chair", one, won)).await.expect("resigned");
    assert_eq!(next().await, None);
    let late = client.proclaim(proclaim).await.expect_err("it does not lead any more");
    assert_eq!(late.code(), Code::FailedPrecondition);
    cluster.check_sound();
}
