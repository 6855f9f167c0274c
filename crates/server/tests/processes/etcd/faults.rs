//! Locks, leases and watches of etcd's clients while leaders and clients sleep, die and come back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atoll_wire::etcd::{etcdserverpb as pb, mvccpb, v3lockpb};
use tokio::task::JoinSet;

use super::store::{SOON, Store, prefix, put, text};
use crate::harness::{Cluster, Signal, Turn, eventually, sized, within};

const LONG: Duration = Duration::from_secs(90);

pub(super) async fn stores(cluster: &Cluster) -> Vec<Store> {
    let mut stores = Vec::new();
    for node in cluster.all() {
        stores.push(Store::connect_lazily(&cluster.client_address(node)));
    }
    stores
}

/// Asks until there is an answer: nodes are away now and then.
async fn persist<T>(what: &str, ask: impl AsyncFnMut() -> Result<T, tonic::Status>) -> T {
    let mut ask = ask;
    eventually(what, LONG, async || {
        let asked = tokio::time::timeout(Duration::from_secs(10), ask()).await;
        asked.map_err(|_| "no answer".to_owned())?.map_err(|s| text(&s))
    })
    .await
}

async fn grant(store: &Store, ttl: i64) -> i64 {
    let grant = pb::LeaseGrantRequest { ttl, id: 0 };
    persist("a grant", async || Ok(store.lease().lease_grant(grant).await?.into_inner().id)).await
}

/// The node that leads the store, as any node tells.
pub(super) async fn leader(stores: &[Store]) -> usize {
    eventually("the store has a leader", LONG, async || {
        for (n, store) in stores.iter().enumerate() {
            let ask = store.maintenance();
            let mut ask = ask;
            let status = ask.status(pb::StatusRequest {});
            let status = tokio::time::timeout(Duration::from_secs(5), status).await;
            if let Ok(Ok(status)) = status
                && status.get_ref().leader == n as u64 + 1
            {
                return Ok(n + 1);
            }
        }
        Err("nobody says that it leads".to_owned())
    })
    .await
}

/// What is done only while a lock's key is there, as etcd's users do it: the fence of this API.
fn fenced(key: &bytes::Bytes, created: i64, op: pb::PutRequest) -> pb::TxnRequest {
    let compare = pb::Compare {
        result: pb::compare::CompareResult::Equal as i32,
        target: pb::compare::CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(pb::compare::TargetUnion::CreateRevision(created)),
        ..Default::default()
    };
    let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(op)) };
    pb::TxnRequest { compare: vec![compare], success: vec![op], ..Default::default() }
}

/// Traps T26, T27, T30: a holder that slept past its lease can do nothing with what it holds, the
/// next one has the lock, and a leader that sleeps gives it to nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_slept_and_a_leader_that_slept_do_no_harm() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let stores = stores(&cluster).await;
    let leads = leader(&stores).await;
    let (one, two) = (leads % 3, (leads + 1) % 3);
    // The holder never keeps its lease alive: to the store it sleeps.
    let lease = grant(&stores[one], 2).await;
    let held = v3lockpb::LockRequest { name: "door".into(), lease };
    let held = stores[one].lock().lock(held).await.expect("nobody has it").into_inner();
    let created = held.header.expect("a header").revision;
    let write = fenced(&held.key, created, put("guarded", "by the first"));
    let done = stores[one].kv().txn(write.clone()).await.expect("an answer").into_inner();
    assert!(done.succeeded, "it holds the lock: {done:?}");

    let next_lease = grant(&stores[two], 600).await;
    let mut client = stores[two].lock();
    let request = v3lockpb::LockRequest { name: "door".into(), lease: next_lease };
    let next = tokio::spawn(async move { client.lock(request).await });
    let place = format!("door/{next_lease:x}");
    eventually("it waits", LONG, async || {
        let place = value_at(&stores[one], &place).await.map_err(|s| text(&s))?;
        place.map(drop).ok_or_else(|| "its place is not there".to_owned())
    })
    .await;
    // The leader sleeps longer than the lease lives; the others elect another one.
    cluster.send(leads, Signal::Stop);
    let next = within("the next one has it", LONG, next).await.expect("no panic");
    cluster.send(leads, Signal::Continue);
    let next = next.expect("it is had").into_inner();
    assert_eq!(next.key, place);
    let done = persist("an answer", async || stores[one].kv().txn(write.clone()).await).await;
    assert!(!done.into_inner().succeeded, "it slept past its lease");
    let next_created = persist("the key", async || {
        let read = pb::RangeRequest { key: next.key.clone(), ..Default::default() };
        Ok(stores[two].kv().range(read).await?.into_inner().kvs[0].create_revision)
    })
    .await;
    assert!(next_created > created, "tokens never go back");
    let write = fenced(&next.key, next_created, put("guarded", "by the second"));
    let done = persist("an answer", async || stores[two].kv().txn(write.clone()).await).await;
    assert!(done.into_inner().succeeded);
    // What the sleeper unlocks now is not the other one's.
    let unlock = v3lockpb::UnlockRequest { key: held.key };
    stores[one].lock().unlock(unlock).await.expect("nothing to do");
    let queue = stores[two].kv().range(prefix("door/")).await.expect("a range").into_inner();
    assert_eq!(queue.kvs.len(), 1, "the second still has it");
    // Also the one that slept as a leader knows all that.
    eventually("the old leader has the news", LONG, async || {
        let read = stores[leads - 1].kv().range(prefix("guarded")).await.map_err(|s| text(&s))?;
        let value = read.into_inner().kvs[0].value.clone();
        if value == "by the second" { Ok(()) } else { Err(format!("{value:?}")) }
    })
    .await;
    cluster.check_sound();
}

/// What a store has at `key`; nothing, or its value.
async fn value_at(store: &Store, key: &str) -> Result<Option<String>, tonic::Status> {
    let read = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
    let found = store.kv().range(read).await?.into_inner().kvs.pop();
    Ok(found.map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
}

/// Trap R1: every node answers reads itself, and none tells what was before the newest change that
/// was acknowledged to anybody: neither a follower that is a little behind, nor a leader that slept
/// and was replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_by_one_node_is_read_from_every_other() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let stores = stores(&cluster).await;
    let leads = leader(&stores).await;
    for n in 0..sized(150, 3_000) {
        let value = n.to_string();
        stores[n % 3].kv().put(put("news", &value)).await.expect("a put");
        let reads = stores.iter().map(|store| value_at(store, "news"));
        for (at, read) in reads.enumerate() {
            assert_eq!(read.await.expect("a read"), Some(value.clone()), "node {}", at + 1);
        }
    }
    // The leader sleeps until another one has acknowledged something, and is asked as it wakes.
    cluster.send(leads, Signal::Stop);
    let awake = &stores[leads % 3];
    persist("a put", async || awake.kv().put(put("news", "of the next leader")).await).await;
    let asked = persist("a read", async || value_at(&stores[leads - 1], "news").await);
    let wake = async { cluster.send(leads, Signal::Continue) };
    let (told, ()) = tokio::join!(asked, wake);
    assert_eq!(told.as_deref(), Some("of the next leader"));
    cluster.check_sound();
}

/// Trap T29: no lease ends before its time because its leader was killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_shortens_no_lease() {
    const TTL: Duration = Duration::from_secs(4);
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let stores = stores(&cluster).await;
    let leads = leader(&stores).await;
    let other = &stores[leads % 3];
    let lease = grant(other, TTL.as_secs() as i64).await;
    // From before its last renewal is asked for to after its key was seen to be gone.
    let put = pb::PutRequest { lease, ..put("leased", "v") };
    other.kv().put(put).await.expect("a put");
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    sender.send(pb::LeaseKeepAliveRequest { id: lease }).await.expect("it stands");
    let renewed_at = Instant::now();
    let mut kept = other.lease().lease_keep_alive(requests).await.expect("a stream").into_inner();
    let kept = within("kept alive", SOON, kept.message()).await.expect("no end").expect("one");
    assert_eq!(kept.ttl, TTL.as_secs() as i64);
    cluster.kill_node(leads);
    eventually("the key goes in the end", LONG, async || {
        let read = other.kv().range(prefix("leased")).await.map_err(|s| text(&s))?;
        if read.into_inner().count == 0 { Ok(()) } else { Err("it is there".to_owned()) }
    })
    .await;
    assert!(renewed_at.elapsed() >= TTL, "it lived {:?} of {TTL:?}", renewed_at.elapsed());
    cluster.start_node(leads);
    cluster.node_ready(leads).await;
    cluster.check_sound();
}

async fn lock(store: Store, lease: i64) -> Result<bytes::Bytes, tonic::Status> {
    let request = v3lockpb::LockRequest { name: "door".into(), lease };
    store.lock().lock(request).await.map(|held| held.into_inner().key)
}

/// Asks again when it is refused; a call that waits is left alone, because its end gives up its
/// place.
async fn lock_in_the_end(store: Store, lease: i64) -> bytes::Bytes {
    let begin = Instant::now();
    loop {
        match lock(store.clone(), lease).await {
            Ok(key) => return key,
            Err(status) => assert!(begin.elapsed() < LONG, "{}", text(&status)),
        }
        tokio::task::yield_now().await;
    }
}

/// A waiter whose node dies comes back through another one, and has its old place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_keep_their_place_when_they_come_back() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let stores = stores(&cluster).await;
    let leads = leader(&stores).await;
    let (dying, other) = (leads - 1, leads % 3);
    let mut leases = Vec::new();
    for _ in 0..4 {
        leases.push(grant(&stores[other], 600).await);
    }
    let mut held = lock(stores[other].clone(), leases[0]).await.expect("nobody has it");
    let mut waiting = Vec::new();
    for (n, lease) in leases.iter().enumerate().skip(1) {
        waiting.push(tokio::spawn(lock(stores[dying].clone(), *lease)));
        eventually("it is in the queue", SOON, async || {
            let queue = stores[other].kv().range(prefix("door/")).await.map_err(|s| text(&s))?;
            let count = queue.into_inner().count;
            if count == n as i64 + 1 { Ok(()) } else { Err(format!("{count} are in it")) }
        })
        .await;
    }
    // `kill -9`: nobody takes their keys out of the queue.
    cluster.kill_node(leads);
    for waiter in waiting {
        let lost = within("its call ends", LONG, waiter).await.expect("no panic");
        lost.expect_err("its node is gone");
    }
    // They come back in the wrong order.
    let mut waiting = BTreeMap::new();
    for lease in leases[1..].iter().rev() {
        waiting.insert(*lease, tokio::spawn(lock_in_the_end(stores[other].clone(), *lease)));
    }
    for lease in &leases[1..] {
        let unlock = v3lockpb::UnlockRequest { key: held.clone() };
        persist("unlocked", async || stores[other].lock().unlock(unlock.clone()).await).await;
        let next = waiting.remove(lease).expect("it waits");
        held = within("it is its turn", LONG, next).await.expect("no panic");
        assert_eq!(held, format!("door/{lease:x}"), "in the order in which they came first");
        assert!(waiting.values().all(|waiter| !waiter.is_finished()), "one at a time");
    }
    cluster.start_node(leads);
    cluster.node_ready(leads).await;
    cluster.check_sound();
}

/// What one watcher was told, in order.
#[derive(Default)]
struct Heard {
    events: Vec<mvccpb::Event>,
    /// The last revision that is complete.
    through: i64,
}

impl Heard {
    /// Ordered, unique, and in one piece per revision.
    fn take(&mut self, told: &pb::WatchResponse, keys_per_txn: usize) {
        let events = told.decoded_events().expect("events");
        let mut by_revision: BTreeMap<i64, usize> = BTreeMap::new();
        for event in events {
            let kv = event.kv.as_ref().expect("a pair");
            assert!(kv.mod_revision > self.through, "told twice or too late: {kv:?}");
            let last = self.events.last().and_then(|e| e.kv.as_ref()).map_or(0, |k| k.mod_revision);
            assert!(kv.mod_revision >= last, "out of order: {kv:?} after {last}");
            *by_revision.entry(kv.mod_revision).or_default() += 1;
            self.events.push(event);
        }
        for (revision, count) in by_revision {
            assert_eq!(count, keys_per_txn, "revision {revision} came in pieces");
            self.through = revision;
        }
        if !told.created && !told.canceled && told.events.is_empty() {
            // A bookmark: all up to it was told.
            let mark = told.header.as_ref().expect("a header").revision;
            assert!(mark >= self.through, "a mark at {mark} behind {}", self.through);
            self.through = mark;
        }
    }
}

/// Watches until a revision is reached; a stream that ends is opened again behind what was told.
async fn watch_until(stores: Vec<Store>, first: usize, last: impl Fn() -> Option<i64>) -> Heard {
    let mut heard = Heard::default();
    let mut turn = first;
    loop {
        let create = pb::WatchCreateRequest {
            key: "w/".into(),
            range_end: "w0".into(),
            start_revision: heard.through + 1,
            progress_notify: true,
            ..Default::default()
        };
        let mut watches = stores[turn % stores.len()].watches();
        watches.create(create).await;
        while let Ok(Ok(Some(told))) =
            tokio::time::timeout(Duration::from_secs(8), watches.try_hear()).await
        {
            assert!(!told.canceled, "{told:?}");
            heard.take(&told, 3);
            if last().is_some_and(|last| heard.through >= last) {
                return heard;
            }
        }
        turn += 1;
    }
}

/// Watches are ordered, unique, complete, atomic, resumable and bookmarkable, whoever leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_keep_their_word_while_leaders_die() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let stores = stores(&cluster).await;
    leader(&stores).await;
    let last = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
    let mut watchers = JoinSet::new();
    for n in 0..6 {
        let (stores, last) = (stores.clone(), last.clone());
        let end = move || {
            let last = last.load(std::sync::atomic::Ordering::SeqCst);
            (last != 0).then_some(last)
        };
        watchers.spawn(watch_until(stores, n, end));
    }
    let mut written: Vec<i64> = Vec::new();
    let rounds = sized(2, 8);
    let per_round = sized(60, 500);
    for round in 0..rounds {
        for n in 0..per_round {
            let op = |key: &str| {
                let put = put(key, &format!("{round}/{n}"));
                pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
            };
            let success = ["w/a", "w/b", "w/c"].iter().map(|key| op(key)).collect();
            let txn = pb::TxnRequest { success, ..Default::default() };
            // A write whose answer is lost is not repeated here: it may have happened.
            let mut kv = stores[n % 3].kv();
            let asked = kv.txn(txn);
            if let Ok(Ok(done)) = tokio::time::timeout(Duration::from_secs(5), asked)
                .await
                .map(|answer| answer.map(|a| a.into_inner().header.expect("a header").revision))
            {
                written.push(done);
            }
        }
        let leads = leader(&stores).await;
        cluster.kill_node(leads);
        cluster.start_node(leads);
        cluster.node_ready(leads).await;
    }
    let end = persist("the last write", async || {
        let keys = ["w/a", "w/b", "w/c"].iter();
        let op = |key: &&str| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put(key, "end"))),
        };
        let txn = pb::TxnRequest { success: keys.map(op).collect(), ..Default::default() };
        Ok(stores[0].kv().txn(txn).await?.into_inner().header.expect("a header").revision)
    })
    .await;
    written.push(end);
    last.store(end, std::sync::atomic::Ordering::SeqCst);
    let mut all = Vec::new();
    while let Some(heard) =
        within("all watchers come to the end", LONG * 2, watchers.join_next()).await
    {
        all.push(heard.expect("a watcher's word holds"));
    }
    assert!(written.len() > rounds * per_round / 2, "{} writes were answered", written.len());
    all_were_told(&all, &written);
    cluster.check_sound();
}

/// Every acknowledged write, to everybody, and to everybody the same.
fn all_were_told(all: &[Heard], written: &[i64]) {
    let end = written.last().copied().expect("there is one");
    for heard in all {
        let told: Vec<i64> =
            heard.events.iter().filter_map(|e| e.kv.as_ref()).map(|kv| kv.mod_revision).collect();
        let is_told = |revision: &i64| told.binary_search(revision).is_ok();
        assert!(written.iter().all(is_told), "every acknowledged write is told");
        let upto = |heard: &Heard| -> Vec<mvccpb::Event> {
            let is_before =
                |e: &&mvccpb::Event| e.kv.as_ref().is_some_and(|kv| kv.mod_revision <= end);
            heard.events.iter().filter(is_before).cloned().collect()
        };
        assert_eq!(upto(heard), upto(&all[0]), "all were told the same");
    }
}
