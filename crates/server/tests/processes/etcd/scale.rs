//! Many watchers, a long prefix, a lease with many keys.

use std::time::Duration;

use atoll_wire::etcd::etcdserverpb as pb;
use tokio::task::JoinSet;

use super::store::{Store, Watches, put};
use crate::harness::{Cluster, Turn, sized, within};

const LONG: Duration = Duration::from_secs(300);
/// Watches of one stream.
const PER_STREAM: usize = 100;

fn watch_all(key: &'static str) -> pb::WatchCreateRequest {
    let mut end = key.as_bytes().to_vec();
    *end.last_mut().expect("a key") += 1;
    pb::WatchCreateRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

/// A stream of watches that stand.
async fn watching(store: &Store, count: usize) -> Watches {
    let mut watches = store.watches();
    for _ in 0..count {
        watches.create(watch_all("w/")).await;
        let created = watches.hear().await;
        assert!(created.created && !created.canceled, "{created:?}");
    }
    watches
}

/// Hears until each of `count` watches has told of all revisions in `first..=last`, in order.
async fn hears_all(mut watches: Watches, count: usize, first: i64, last: i64) {
    let mut next = vec![first; count];
    while next.iter().any(|next| *next <= last) {
        let told = watches.hear().await;
        let next = &mut next[usize::try_from(told.watch_id).expect("an id")];
        for event in told.decoded_events().expect("events") {
            let revision = event.kv.expect("a pair").mod_revision;
            assert_eq!(revision, *next, "watch {} is told each once, in order", told.watch_id);
            *next += 1;
        }
    }
}

/// Carries out so many operations, as many in one transaction as etcd takes.
async fn put_all(store: &Store, count: usize, op: impl Fn(usize) -> pb::RequestOp + Copy) {
    let mut done = 0;
    while done < count {
        let some = 128.min(count - done);
        let success = (done..done + some).map(op).collect();
        let txn = pb::TxnRequest { success, ..Default::default() };
        store.kv().txn(txn).await.expect("a txn");
        done += some;
    }
}

/// Trap T43: watchers share what happens, and one that does not read costs the others nothing: it
/// has all of it in the end, whenever it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watchers_share_one_history_and_a_slow_one_resumes() {
    let _turn = Turn::alone();
    let watchers = sized(600, 10_000);
    // More than a stream's queue and the network between hold.
    let writes = sized(120, 120) as i64;
    let value = "v".repeat(256 << 10);
    let mut cluster = Cluster::start(1, &[]).await;
    let store = Store::connect(&cluster.client_address(1)).await;
    let first = store.kv().put(put("other", "v")).await.expect("a put").into_inner();
    let first = first.header.expect("a header").revision + 1;
    let slow = watching(&Store::connect(&cluster.client_address(1)).await, 1).await;
    let mut streams = Vec::new();
    for _ in 0..watchers / PER_STREAM {
        let store = Store::connect(&cluster.client_address(1)).await;
        streams.push(watching(&store, PER_STREAM).await);
    }
    let before = cluster.node(1).resident_bytes();
    // Small changes for all, and then large ones for two streams only: the slow one and another.
    let small = sized(20, 50) as i64;
    for n in 0..small {
        store.kv().put(put("w/small", &n.to_string())).await.expect("a put");
    }
    let last = first + small - 1;
    let mut hearing = JoinSet::new();
    for watches in streams {
        hearing.spawn(hears_all(watches, PER_STREAM, first, last));
    }
    while let Some(heard) = within("all are told", LONG, hearing.join_next()).await {
        heard.expect("all was told");
    }
    let quick = watching(&Store::connect(&cluster.client_address(1)).await, 1).await;
    let quick = tokio::spawn(hears_all(quick, 1, last + 1, last + writes));
    for n in 0..writes {
        store.kv().put(put(&format!("w/{n}"), &value)).await.expect("a put");
    }
    within("the quick one is not held up", LONG, quick).await.expect("all was told");
    let grown = cluster.node(1).resident_bytes().saturating_sub(before);
    eprintln!("{watchers} watchers; the node grew by {} MiB", grown >> 20);
    within("the slow one has all", LONG, hears_all(slow, 1, first, last + writes)).await;
    cluster.check_sound();
}

/// A prefix is watched whatever lies below it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_of_very_many_keys_is_watched() {
    let _turn = Turn::alone();
    let keys = sized(2_560, 1_000_000);
    let mut cluster = Cluster::start(1, &[]).await;
    let store = Store::connect(&cluster.client_address(1)).await;
    let watches = watching(&store, 1).await;
    let hearing = tokio::spawn(counts(watches, keys));
    let op = |n: usize| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(put(&format!("w/{n:08}"), "v"))),
    };
    put_all(&store, keys, op).await;
    within("all is told", LONG * 4, hearing).await.expect("each once, in order");
    // One that begins now hears what comes, not what is there; one from the past all of it.
    let now = watching(&store, 1).await;
    let last = store.kv().put(put("w/last", "v")).await.expect("a put").into_inner();
    let last = last.header.expect("a header").revision;
    within("it is told", LONG, hears_all(now, 1, last, last)).await;
    let mut past = store.watches();
    past.create(pb::WatchCreateRequest { start_revision: 2, ..watch_all("w/") }).await;
    assert!(past.hear().await.created);
    within("history is told", LONG * 4, counts(past, keys)).await;
    cluster.check_sound();
}

/// Hears of so many keys, in their order.
async fn counts(mut watches: Watches, keys: usize) {
    let mut count = 0;
    while count < keys {
        // What comes behind them may come with them.
        let events = watches.hear().await.decoded_events().expect("events");
        for event in events.into_iter().take(keys - count) {
            let key = event.kv.expect("a pair").key;
            assert_eq!(key, format!("w/{count:08}"));
            count += 1;
        }
    }
}

/// All keys of a lease go with it in one revision, and the shard goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_with_very_many_keys_is_revoked_at_once() {
    let _turn = Turn::alone();
    let keys = sized(2_560, 100_000);
    let mut cluster = Cluster::start(3, &[]).await;
    let store = Store::connect(&cluster.client_address(1)).await;
    let lease = pb::LeaseGrantRequest { ttl: 6000, id: 0 };
    let lease = store.lease().lease_grant(lease).await.expect("a grant").into_inner().id;
    let op = |n: usize| {
        let put = pb::PutRequest { lease, ..put(&format!("l/{n:08}"), "v") };
        pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
    };
    put_all(&store, keys, op).await;
    let over = pb::PutRequest { lease, ..put("l/over", "v") };
    if keys == 100_000 {
        store.kv().put(over).await.expect_err("a lease has 100,000 keys at most");
    }
    let mut watches = store.watches();
    watches.create(watch_all("l/")).await;
    assert!(watches.hear().await.created);
    let revoke = pb::LeaseRevokeRequest { id: lease };
    let revoked = store.lease().lease_revoke(revoke).await.expect("revoked").into_inner();
    let revision = revoked.header.expect("a header").revision;
    let told = watches.hear().await;
    assert!(!told.canceled, "{}", told.cancel_reason);
    let events = told.decoded_events().expect("events");
    assert_eq!(events.len(), keys, "all in one piece");
    assert!(events.iter().all(|e| e.kv.as_ref().is_some_and(|kv| kv.mod_revision == revision)));
    let left = pb::RangeRequest {
        key: "l/".into(),
        range_end: "l0".into(),
        count_only: true,
        ..Default::default()
    };
    assert_eq!(store.kv().range(left).await.expect("a range").into_inner().count, 0);
    store.kv().put(put("after", "v")).await.expect("a put");
    cluster.check_sound();
}
