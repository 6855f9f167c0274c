//! The same random requests to etcd and to Atoll: the answers must be the same, field by field, but
//! for who gave them. Revisions, leases and events are compared as they are, since both stores
//! begin at revision 1 and see the same.

use atoll_base::Rng;
use atoll_wire::etcd::{etcdserverpb as pb, mvccpb};
use tonic::{Response, Status};

use super::peer::{Peer, program};
use super::random::{Ask, Asks};
use super::store::{Store, Watches, prefix, text};
use super::ties::{untie, untie_all};
use crate::harness::{Cluster, Turn, sized};

const SEED: u64 = 20_261_122;
/// How an answer ends that says that a transaction sets a key twice.
const DUPLICATE_KEY: &str = "duplicate key given in txn request";
/// Requests of one sequence.
const REQUESTS: u64 = 25;

/// What an answer says, without who says it.
async fn ask(store: &Store, ask: Ask) -> String {
    match ask {
        Ask::Range(r) => said(store.kv().range(r.clone()).await, |a| {
            blank(&mut a.header);
            untie(&r, a);
        }),
        Ask::Put(r) => said(store.kv().put(r).await, |a| blank(&mut a.header)),
        Ask::Delete(r) => said(store.kv().delete_range(r).await, |a| blank(&mut a.header)),
        Ask::Txn(r) => said(store.kv().txn(r.clone()).await, |a| {
            blank(&mut a.header);
            untie_all(&r, a);
        }),
        Ask::Compact(r) => said(store.kv().compact(r).await, |a| blank(&mut a.header)),
        Ask::Grant(r) => said(store.lease().lease_grant(r).await, |a| blank(&mut a.header)),
        Ask::Revoke(r) => said(store.lease().lease_revoke(r).await, |a| blank(&mut a.header)),
        Ask::TimeToLive(r) => said(store.lease().lease_time_to_live(r).await, |a| {
            blank(&mut a.header);
            a.keys.sort();
            // Both have just been granted for hours.
            a.ttl = a.ttl.min(1);
        }),
        Ask::Leases(r) => said(store.lease().lease_leases(r).await, |a| {
            blank(&mut a.header);
            a.leases.sort_by_key(|l| l.id);
        }),
    }
}

fn said<T: std::fmt::Debug>(
    answer: Result<Response<T>, Status>,
    blank: impl FnOnce(&mut T),
) -> String {
    match answer {
        Ok(answer) => {
            let mut answer = answer.into_inner();
            blank(&mut answer);
            format!("{answer:?}")
        }
        Err(status) => text(&status),
    }
}

fn blank(header: &mut Option<pb::ResponseHeader>) {
    let header = header.as_mut().expect("every answer has a header");
    (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
}

async fn revision(store: &Store) -> i64 {
    let answer = store.kv().range(prefix("a")).await.expect("a range").into_inner();
    answer.header.expect("a header").revision
}

/// What a watch told, up to the changes of `last`, however it was cut into answers.
async fn events(watches: &mut Watches, last: i64) -> (Vec<mvccpb::Event>, Option<(i64, i64)>) {
    let mut all = Vec::new();
    loop {
        let answer = watches.hear().await;
        assert!(!answer.created, "one watch was asked for");
        if answer.canceled {
            return (all, Some((answer.compact_revision, answer.watch_id)));
        }
        all.extend(answer.decoded_events().expect("events"));
        let is_last = |e: &mvccpb::Event| e.kv.as_ref().is_some_and(|kv| kv.mod_revision >= last);
        if all.iter().any(is_last) {
            return (all, None);
        }
    }
}

/// What was before a change at the oldest revision that is kept, etcd has forgotten, Atoll tells;
/// and so it is with deletions at that revision. Takes that out of what Atoll told; what etcd told
/// must be told.
fn forget_what_etcd_forgot(etcd: &[mvccpb::Event], atoll: &mut Vec<mvccpb::Event>) {
    let at = |e: &mvccpb::Event| e.kv.as_ref().map_or(0, |kv| kv.mod_revision);
    let oldest = atoll.first().map_or(0, at);
    if etcd.first().is_some_and(|first| at(first) > oldest) {
        let is_delete = |e: &mvccpb::Event| e.r#type == mvccpb::event::EventType::Delete as i32;
        atoll.retain(|e| !(is_delete(e) && at(e) == oldest));
    }
    for (theirs, ours) in etcd.iter().zip(atoll) {
        let is_first = theirs.kv.as_ref().is_some_and(|kv| kv.create_revision == kv.mod_revision);
        if theirs.prev_kv.is_none() && !is_first {
            ours.prev_kv = None;
        }
    }
}

/// Starts the same watch at both.
async fn start(stores: &[Store; 2], request: &pb::WatchCreateRequest) -> Vec<Watches> {
    let mut both = Vec::new();
    for store in stores {
        let mut watches = store.watches();
        watches.create(request.clone()).await;
        let created = watches.hear().await;
        assert!(created.created && !created.canceled, "{created:?}");
        both.push(watches);
    }
    both
}

fn watch_request(asks: &mut Asks, start_revision: i64) -> pb::WatchCreateRequest {
    let (mut key, mut range_end) = asks.keys();
    let is_empty = !range_end.is_empty() && range_end != [0][..] && range_end <= key;
    if key.is_empty() || is_empty {
        (key, range_end) = (vec![0].into(), vec![0].into());
    }
    let filters = match asks.rng.below(4) {
        0 => vec![pb::watch_create_request::FilterType::Noput as i32],
        1 => vec![pb::watch_create_request::FilterType::Nodelete as i32],
        _ => Vec::new(),
    };
    let prev_kv = asks.rng.chance(1, 2);
    pb::WatchCreateRequest {
        key,
        range_end,
        start_revision,
        filters,
        prev_kv,
        fragment: asks.rng.chance(1, 4),
        ..Default::default()
    }
}

/// Sets and deletes the first key of the watch's range, so that it has an end that it must tell,
/// whatever it filters. Returns the revision of the change that it tells of.
async fn close(stores: &[Store; 2], request: &pb::WatchCreateRequest) -> i64 {
    let mut last = 0;
    for store in stores {
        let put = pb::PutRequest { key: request.key.clone(), ..Default::default() };
        store.kv().put(put).await.expect("a put");
        let key = request.key.clone();
        let delete = pb::DeleteRangeRequest { key, ..Default::default() };
        let deleted = store.kv().delete_range(delete).await.expect("a deletion").into_inner();
        last = deleted.header.expect("a header").revision;
    }
    let no_delete = pb::watch_create_request::FilterType::Nodelete as i32;
    if request.filters.contains(&no_delete) { last - 1 } else { last }
}

async fn sequence(stores: &[Store; 2], seed: u64) -> u64 {
    let revision_now = revision(&stores[0]).await;
    let mut asks = Asks { rng: Rng::new(seed), revision: revision_now, compacted: 2 };
    // What was compacted before this sequence is not known; revisions far back are refused alike.
    asks.compacted = (revision_now - 30).max(2);
    let live = watch_request(&mut asks, 0);
    let mut live_watches = start(stores, &live).await;
    let (mut compared, mut duplicates) = (0, 0);
    for step in 0..REQUESTS {
        let one = asks.next();
        let atoll = ask(&stores[1], one.clone()).await;
        if atoll.ends_with(DUPLICATE_KEY) {
            // Nothing happened. etcd overlooks some of these, as docs/etcd.md says, and carries
            // them out: from there on the stores would differ.
            duplicates += 1;
            continue;
        }
        let etcd = ask(&stores[0], one.clone()).await;
        assert_eq!(
            etcd, atoll,
            "seed {seed}, request {step}: {one:#?}\nleft is etcd's answer, right is Atoll's"
        );
        asks.revision = revision(&stores[0]).await;
        compared += 1;
    }
    let last = close(stores, &live).await;
    let mut told =
        [events(&mut live_watches[0], last).await, events(&mut live_watches[1], last).await];
    let [etcd, atoll] = &mut told;
    forget_what_etcd_forgot(&etcd.0, &mut atoll.0);
    assert_eq!(told[0], told[1], "seed {seed}: live watch {live:#?}");

    let from = asks.past().max(1);
    let past = watch_request(&mut asks, from);
    let last = close(stores, &past).await;
    let mut past_watches = start(stores, &past).await;
    let mut told =
        [events(&mut past_watches[0], last).await, events(&mut past_watches[1], last).await];
    let [etcd, atoll] = &mut told;
    forget_what_etcd_forgot(&etcd.0, &mut atoll.0);
    assert_eq!(told[0], told[1], "seed {seed}: watch of the past {past:#?}");
    assert!(duplicates < REQUESTS, "seed {seed}: there was nothing else to compare");
    compared + 2
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_and_atoll_answer_alike() {
    let _turn = Turn::among_others();
    let Some(binary) = program("etcd", "ETCD_BIN") else { return };
    let peer = Peer::start(&binary).await;
    let mut cluster = Cluster::start(1, &[]).await;
    let stores =
        [Store::connect(&peer.address).await, Store::connect(&cluster.client_address(1)).await];
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let first = number("ATOLL_TEST_SEED").unwrap_or(SEED);
    let sequences = number("ATOLL_TEST_SEQUENCES").unwrap_or(sized(10, 3000));
    let mut compared = 0;
    for seed in first..first + sequences {
        compared += sequence(&stores, seed).await;
    }
    assert!(compared >= sequences * REQUESTS / 2, "{compared} answers of {sequences} sequences");
    eprintln!("{compared} answers of {sequences} sequences were alike");
    cluster.check_sound();
}
