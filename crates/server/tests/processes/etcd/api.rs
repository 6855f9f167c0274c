//! What etcd's clients rely on, asked with its own messages.

use std::time::Duration;

use atoll_wire::etcd::{etcdserverpb as pb, mvccpb, v3electionpb, v3lockpb};
use pb::watch_request::RequestUnion;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use super::store::{SOON, Store, prefix, put, text};
use crate::harness::{Cluster, Turn, eventually, http_get, within};

async fn stores(nodes: usize) -> (Cluster, Vec<Store>) {
    let cluster = Cluster::start(nodes, &[]).await;
    let mut stores = Vec::new();
    for node in cluster.all() {
        stores.push(Store::connect(&cluster.client_address(node)).await);
    }
    (cluster, stores)
}

fn events(told: &pb::WatchResponse) -> Vec<mvccpb::Event> {
    told.decoded_events().expect("events")
}

async fn grant(store: &Store, ttl: i64) -> i64 {
    let request = pb::LeaseGrantRequest { ttl, id: 0 };
    store.lease().lease_grant(request).await.expect("a grant").into_inner().id
}

/// Any node answers, in one history, and says who it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_speaks_for_the_same_store() {
    let _turn = Turn::among_others();
    let (mut cluster, stores) = stores(3).await;
    let mut clusters = Vec::new();
    for (n, store) in stores.iter().enumerate() {
        let done = store.kv().put(put("k", &n.to_string())).await.expect("a put").into_inner();
        let header = done.header.expect("a header");
        assert_eq!((header.revision, header.member_id), (n as i64 + 2, n as u64 + 1));
        assert!(header.raft_term > 0 && header.cluster_id > 0, "{header:?}");
        clusters.push(header.cluster_id);
    }
    clusters.dedup();
    assert_eq!(clusters.len(), 1);
    for (n, store) in stores.iter().enumerate() {
        let found = store.kv().range(prefix("k")).await.expect("a range").into_inner();
        let kv = &found.kvs[0];
        assert_eq!((&kv.value[..], kv.version, kv.create_revision), (&b"2"[..], 3, 2));
        let status = store.maintenance().status(pb::StatusRequest {}).await.expect("a status");
        let status = status.into_inner();
        assert!((1..=3).contains(&status.leader), "node {} knows {status:?}", n + 1);
        let address = cluster.client_address(n + 1);
        let (code, version) = http_get(&address, "/version").expect("a version");
        assert_eq!((code, version.contains("etcdserver")), (200, true), "{version}");
        let (code, health) = http_get(&address, "/health").expect("health");
        assert_eq!((code, health.as_str()), (200, r#"{"health":"true","reason":""}"#));
    }
    let mut hashes = Vec::new();
    for store in &stores {
        let request = pb::HashKvRequest { revision: 3 };
        let hash = store.maintenance().hash_kv(request).await.expect("a hash").into_inner();
        hashes.push((hash.hash, hash.hash_revision));
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0] && hash.1 == 3), "{hashes:?}");
    cluster.check_sound();
}

/// What is asked of one keyspace is not seen in another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_keyspaces_are_named_by_metadata() {
    let _turn = Turn::among_others();
    let (cluster, stores) = stores(1).await;
    let client = cluster.client(SOON).await;
    cluster.keyspace(&client, "other", &[]).await;
    cluster.keyspace(&client, "wide", &["m"]).await;
    let with = |name: &'static str, message| {
        let mut request = Request::new(message);
        request.metadata_mut().insert("atoll-keyspace", name.parse().expect("a name"));
        request
    };
    let mut kv = stores[0].kv();
    kv.put(put("k", "usual")).await.expect("a put");
    kv.put(with("other", put("k", "other"))).await.expect("a put");
    let usual = kv.range(prefix("k")).await.expect("a range").into_inner();
    assert_eq!(usual.kvs[0].value, "usual");
    let native = client.keyspace("other").get("k").await.expect("a get").expect("the key");
    assert_eq!(native.value, "other");
    let refused = kv.put(with("wide", put("k", "v"))).await.expect_err("two shards");
    assert!(refused.message().contains("keyspace wide has 2 shards"), "{}", text(&refused));
    let refused = kv.put(with("missing", put("k", "v"))).await.expect_err("no such keyspace");
    assert_eq!(refused.code(), Code::NotFound, "{}", text(&refused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_the_codes_and_texts_that_clients_match() {
    let _turn = Turn::among_others();
    let (_cluster, stores) = stores(1).await;
    let mut kv = stores[0].kv();
    let large = put("k", &"x".repeat(1536 << 10));
    let status = kv.put(large).await.expect_err("too large");
    assert_eq!(text(&status), "InvalidArgument: etcdserver: request is too large");
    kv.put(put("k", &"x".repeat(1400 << 10))).await.expect("within the limit");
    let op = |key: String| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(put(&key, ""))),
    };
    let txn = |n: u32| pb::TxnRequest {
        success: (0..n).map(|n| op(n.to_string())).collect(),
        ..Default::default()
    };
    let status = kv.txn(txn(129)).await.expect_err("too many");
    assert_eq!(text(&status), "InvalidArgument: etcdserver: too many operations in txn request");
    kv.txn(txn(128)).await.expect("as many as may be");
    let twice = pb::TxnRequest {
        success: vec![op("k".to_owned()), op("k".to_owned())],
        ..Default::default()
    };
    let status = kv.txn(twice).await.expect_err("the same key twice");
    assert_eq!(text(&status), "InvalidArgument: etcdserver: duplicate key given in txn request");
    let status = kv.put(pb::PutRequest { lease: 77, ..put("k", "v") }).await.expect_err("no lease");
    assert_eq!(text(&status), "NotFound: etcdserver: requested lease not found");
    let compact = pb::CompactionRequest { revision: 99, physical: true };
    let status = kv.compact(compact).await.expect_err("the future");
    let future = "OutOfRange: etcdserver: mvcc: required revision is a future revision";
    assert_eq!(text(&status), future);
    kv.compact(pb::CompactionRequest { revision: 3, physical: true }).await.expect("compacted");
    let past = pb::RangeRequest { revision: 2, ..prefix("k") };
    let status = kv.range(past).await.expect_err("the past");
    let gone = "OutOfRange: etcdserver: mvcc: required revision has been compacted";
    assert_eq!(text(&status), gone);
}

/// Ordered, complete, in one piece per revision, cancelled when asked, never behind its own word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_share_a_stream() {
    let _turn = Turn::among_others();
    let (_cluster, stores) = stores(3).await;
    let store = &stores[0];
    let mut watches = stores[1].watches();
    let all = prefix("k");
    let create = pb::WatchCreateRequest {
        key: all.key.clone(),
        range_end: all.range_end.clone(),
        prev_kv: true,
        ..Default::default()
    };
    watches.create(create.clone()).await;
    watches.create(pb::WatchCreateRequest { watch_id: 9, ..create.clone() }).await;
    watches.create(pb::WatchCreateRequest { watch_id: 9, ..create.clone() }).await;
    let created = [watches.hear().await, watches.hear().await, watches.hear().await];
    assert_eq!(created.each_ref().map(|c| c.watch_id), [0, 9, -1]);
    assert_eq!(
        created.each_ref().map(|c| (c.created, c.canceled)),
        [(true, false), (true, false), (true, true)]
    );
    assert!(created[2].cancel_reason.contains("duplicate watch ID"), "{created:?}");

    let put_op = |key: &str| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(put(key, "v"))),
    };
    let txn = pb::TxnRequest { success: vec![put_op("k1"), put_op("k2")], ..Default::default() };
    store.kv().txn(txn).await.expect("a txn");
    for _ in 0..2 {
        let told = watches.hear().await;
        assert_eq!(told.events.len(), 2, "both changes of the revision: {told:?}");
        let revisions: Vec<i64> =
            events(&told).iter().filter_map(|e| e.kv.as_ref()).map(|kv| kv.mod_revision).collect();
        assert_eq!(revisions, [2, 2]);
    }

    let cancel = pb::WatchCancelRequest { watch_id: 9 };
    watches.say(RequestUnion::CancelRequest(cancel)).await;
    let cancelled = watches.hear().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled), (9, true));

    let last = store.kv().put(put("k1", "w")).await.expect("a put").into_inner();
    let last = last.header.expect("a header").revision;
    watches.say(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let told = watches.hear().await;
    assert_eq!((told.watch_id, told.events.len()), (0, 1), "events come before progress");
    assert_eq!(events(&told)[0].prev_kv.as_ref().map(|kv| kv.version), Some(1));
    let progress = watches.hear().await;
    let header = progress.header.expect("a header");
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert!(header.revision >= last, "{header:?}");

    store.kv().compact(pb::CompactionRequest { revision: last, physical: true }).await.expect("ok");
    watches.create(pb::WatchCreateRequest { start_revision: 1, ..create }).await;
    let created = watches.hear().await;
    assert!(created.created && !created.canceled, "{created:?}");
    let ended = watches.hear().await;
    assert_eq!((ended.canceled, ended.compact_revision), (true, last), "{ended:?}");
}

/// A lease lives while it is kept alive, and its keys go with it in one revision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_live_by_keep_alives() {
    let _turn = Turn::among_others();
    let (_cluster, stores) = stores(3).await;
    let store = &stores[0];
    let id = grant(store, 1).await;
    for key in ["l/1", "l/2"] {
        store.kv().put(pb::PutRequest { lease: id, ..put(key, "v") }).await.expect("a put");
    }
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let kept = stores[1].lease().lease_keep_alive(ReceiverStream::new(requests)).await;
    let mut kept = kept.expect("a stream").into_inner();
    sender.send(pb::LeaseKeepAliveRequest { id }).await.expect("it stands");
    let answer = within("kept alive", SOON, kept.message()).await.expect("no end").expect("one");
    assert_eq!((answer.id, answer.ttl), (id, 2), "the least that there is");
    let mut watches = stores[2].watches();
    let all = prefix("l/");
    watches
        .create(pb::WatchCreateRequest {
            key: all.key.clone(),
            range_end: all.range_end.clone(),
            ..Default::default()
        })
        .await;
    assert!(watches.hear().await.created);
    // Nobody keeps it alive any more.
    let gone = watches.hear().await;
    assert_eq!(gone.events.len(), 2, "both keys in one revision: {gone:?}");
    sender.send(pb::LeaseKeepAliveRequest { id }).await.expect("it stands");
    let answer = within("answered", SOON, kept.message()).await.expect("no end").expect("one");
    assert_eq!((answer.id, answer.ttl), (id, 0), "a dead lease has no time left");
    let dead = pb::LeaseTimeToLiveRequest { id, keys: true };
    let dead = store.lease().lease_time_to_live(dead).await.expect("an answer").into_inner();
    assert_eq!(dead.ttl, -1);
}

/// The queue is fair, a key stands for holding, and a dead waiter is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_are_handed_on_in_order() {
    let _turn = Turn::among_others();
    let (_cluster, stores) = stores(3).await;
    let mut leases = Vec::new();
    for _ in 0..4 {
        leases.push(grant(&stores[0], 60).await);
    }
    let lock = |store: &Store, lease: i64| {
        let mut client = store.lock();
        async move {
            let request = v3lockpb::LockRequest { name: "door".into(), lease };
            client.lock(request).await.map(|held| held.into_inner().key)
        }
    };
    let first = lock(&stores[0], leases[0]).await.expect("nobody has it");
    assert_eq!(first, format!("door/{:x}", leases[0]));
    let again = lock(&stores[1], leases[0]).await.expect("it has it already");
    assert_eq!(again, first);
    let mut waiting = Vec::new();
    for (n, lease) in leases.iter().enumerate().skip(1) {
        waiting.push(tokio::spawn(lock(&stores[n % 3], *lease)));
        eventually("it is in the queue", SOON, async || {
            let queue = stores[0].kv().range(prefix("door/")).await.map_err(|s| text(&s))?;
            let count = queue.into_inner().count;
            if count == n as i64 + 1 { Ok(()) } else { Err(format!("{count} are in it")) }
        })
        .await;
    }
    // The second one's lease ends: it is told, and the third is served in its turn.
    let revoke = pb::LeaseRevokeRequest { id: leases[1] };
    stores[0].lease().lease_revoke(revoke).await.expect("revoked");
    assert!(waiting.iter().all(|w| !w.is_finished()) || waiting[0].is_finished());
    let unlock = v3lockpb::UnlockRequest { key: first };
    stores[2].lock().unlock(unlock).await.expect("unlocked");
    let mut waiting = waiting.into_iter();
    let dead = waiting.next().expect("a waiter");
    let dead = within("the dead one is told", SOON, dead).await.expect("no panic");
    assert!(text(&dead.expect_err("its lease is gone")).contains("session is expired"));
    let second = waiting.next().expect("a waiter");
    let held = within("it is its turn", SOON, second).await.expect("no panic").expect("it is had");
    assert_eq!(held, format!("door/{:x}", leases[2]));
    let third = waiting.next().expect("a waiter");
    assert!(!third.is_finished(), "one at a time");
    // Who goes away while waiting leaves the queue.
    third.abort();
    eventually("the queue is left", SOON, async || {
        let queue = stores[0].kv().range(prefix("door/")).await.map_err(|s| text(&s))?;
        let count = queue.into_inner().count;
        if count == 1 { Ok(()) } else { Err(format!("{count} are in it")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elections_are_won_observed_and_resigned() {
    let _turn = Turn::among_others();
    let (_cluster, stores) = stores(3).await;
    let leases = [grant(&stores[0], 60).await, grant(&stores[0], 60).await];
    let name = v3electionpb::LeaderRequest { name: "chair".into() };
    let none = stores[0].election().leader(name.clone()).await.expect_err("nobody stands");
    assert!(none.message().contains("no leader"), "{}", text(&none));
    let campaign = |store: &Store, lease: i64, value: &'static str| {
        let mut client = store.election();
        async move {
            let request =
                v3electionpb::CampaignRequest { name: "chair".into(), lease, value: value.into() };
            client.campaign(request).await.expect("won").into_inner().leader.expect("a key")
        }
    };
    let first = campaign(&stores[0], leases[0], "one").await;
    let observed = stores[2].election().observe(name.clone()).await.expect("a stream");
    let mut observed = observed.into_inner();
    let mut next = async || {
        let told = within("told", SOON, observed.message()).await.expect("no end").expect("one");
        told.kv.expect("a leader").value
    };
    assert_eq!(next().await, "one");
    let second = tokio::spawn(campaign(&stores[1], leases[1], "two"));
    let proclaim =
        v3electionpb::ProclaimRequest { leader: Some(first.clone()), value: "uno".into() };
    stores[0].election().proclaim(proclaim.clone()).await.expect("it leads");
    assert_eq!(next().await, "uno");
    eventually("the other one stands, too", SOON, async || {
        let queue = stores[0].kv().range(prefix("chair/")).await.map_err(|s| text(&s))?;
        if queue.into_inner().count == 2 { Ok(()) } else { Err("it does not".to_owned()) }
    })
    .await;
    let resign = v3electionpb::ResignRequest { leader: Some(first) };
    stores[0].election().resign(resign).await.expect("resigned");
    let second = within("elected", SOON, second).await.expect("no panic");
    assert_eq!(next().await, "two");
    let refused = stores[0].election().proclaim(proclaim).await.expect_err("it does not lead");
    assert!(refused.message().contains("not leader"), "{}", text(&refused));
    let leader = stores[1].election().leader(name).await.expect("somebody leads").into_inner();
    assert_eq!(leader.kv.expect("a key").key, second.key);
}

/// A node that stops does not wait for those who wait for a lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_for_a_lock_does_not_keep_a_node_up() {
    let _turn = Turn::among_others();
    let (mut cluster, stores) = stores(1).await;
    let leases = [grant(&stores[0], 60).await, grant(&stores[0], 60).await];
    let request = |lease| v3lockpb::LockRequest { name: "door".into(), lease };
    stores[0].lock().lock(request(leases[0])).await.expect("had");
    let mut client = stores[0].lock();
    let waiter = tokio::spawn(async move { client.lock(request(leases[1])).await });
    eventually("it waits", SOON, async || {
        let queue = stores[0].kv().range(prefix("door/")).await.map_err(|s| text(&s))?;
        if queue.into_inner().count == 2 { Ok(()) } else { Err("it does not".to_owned()) }
    })
    .await;
    cluster.send(1, crate::harness::Signal::Terminate);
    let told = within("it is told", Duration::from_secs(8), waiter).await.expect("no panic");
    assert_eq!(told.expect_err("the node stops").code(), Code::Unavailable);
    assert_eq!(cluster.node(1).exit_code(SOON).await, 0);
}

/// Requests of all sizes are one API, whichever way they take inside, and so are refusals.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_and_large_requests_are_answered_alike() {
    let _turn = Turn::among_others();
    let (cluster, stores) = stores(1).await;
    let store = &stores[0];
    let mut revision = 1;
    for size in [0, 1, 1_000, 17_000, 65_000, 66_000, 300_000, 1_400_000] {
        let value = "v".repeat(size);
        let done = store.kv().put(put("k", &value)).await.expect("a put").into_inner();
        revision += 1;
        assert_eq!(done.header.expect("a header").revision, revision, "{size} bytes");
        let found = store.kv().range(prefix("k")).await.expect("a range").into_inner();
        assert_eq!(found.kvs[0].value.len(), size);
    }
    let refused = store.kv().put(put("", "v")).await.expect_err("no key");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "etcdserver: key is not provided",)
    );
    let refused = store.kv().put(put("k", &"v".repeat(1_600_000))).await.expect_err("too large");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "etcdserver: request is too large",)
    );
    let refused = store.kv().put(put("k", &"v".repeat(3_000_000))).await.expect_err("too large");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    drop(cluster);
}
