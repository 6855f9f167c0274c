use atoll_transport::status::from_status;
use atoll_transport::stub::v1::admin_client::AdminClient;
use atoll_transport::stub::v1::kv_client::KvClient;
use atoll_wire::v1 as pb;
use pb::range_end::End;
use tonic::transport::Channel;

use super::*;

async fn channel(cluster: &Cluster, index: usize) -> Channel {
    let limits = atoll_transport::limits::WireLimits::default();
    limits.endpoint(&cluster.configs[index].listen).unwrap().connect().await.unwrap()
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        keyspace: "orders".into(),
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

fn all(limit: u64) -> pb::RangeRequest {
    pb::RangeRequest {
        keyspace: "orders".into(),
        end: Some(pb::RangeEnd { end: Some(End::Unbounded(true)) }),
        limit,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_answers_unary_calls() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(3, folder.path()).await;
    drop(cluster.client().await);
    let mut admin = AdminClient::new(channel(&cluster, 1).await);
    let spec = pb::KeyspaceSpec {
        name: "orders".into(),
        split_keys: vec!["m".into()],
        shards: 2,
        ..Default::default()
    };
    let request = pb::CreateKeyspaceRequest { spec: Some(spec) };
    let made = admin.create_keyspace(request.clone()).await.unwrap().into_inner();
    assert_eq!(made.keyspace.unwrap().shards.len(), 2);
    let again = from_status(&admin.create_keyspace(request).await.unwrap_err());
    assert_eq!(again.code, atoll_base::Code::AlreadyExists);

    let mut watcher = KvClient::new(channel(&cluster, 0).await);
    let watch =
        pb::WatchRequest { keyspace: "orders".into(), end: all(0).end, ..Default::default() };
    let mut events = watcher.watch(watch).await.unwrap().into_inner();
    for _ in 0..2 {
        assert!(events.message().await.unwrap().unwrap().started);
    }
    for index in 0..3 {
        let mut kv = KvClient::new(channel(&cluster, index).await);
        let id = pb::CommandId { client: 7, sequence: 1 + index as u64, first_unacknowledged: 1 };
        let named = pb::PutRequest { id: Some(id), ..put(&format!("a{index}"), "x") };
        let first = kv.put(named.clone()).await.unwrap().into_inner();
        assert_eq!(
            kv.put(named).await.unwrap().into_inner(),
            first,
            "a retry gets the first answer"
        );
        kv.put(put(&format!("z{index}"), "y")).await.unwrap();
    }
    let mut told = 0;
    while told < 6 {
        told += events.message().await.unwrap().unwrap().events.len();
    }
    drop(events);

    let mut kv = KvClient::new(channel(&cluster, 2).await);
    let mut pages = Vec::new();
    let mut request = all(2);
    loop {
        let page = kv.range(request.clone()).await.unwrap().into_inner();
        pages.extend(page.kvs.iter().map(|kv| kv.key.clone()));
        let Some(next) = page.next else { break };
        request.start = next;
    }
    assert_eq!(pages, ["a0", "a1", "a2", "z0", "z1", "z2"]);
    assert_eq!(scan_down(&mut kv).await, ["z2", "z1", "z0", "a2", "a1", "a0"]);
    let count = kv.range(pb::RangeRequest { count_only: true, ..all(0) }).await.unwrap();
    assert_eq!(count.into_inner().count, 6);
    pages_and_counts(&mut kv).await;
    let wide =
        pb::DeleteRequest { keyspace: "orders".into(), end: all(0).end, ..Default::default() };
    assert_eq!(kv.delete(wide).await.unwrap().into_inner().deleted, 6);
    let missing = pb::GetRequest { keyspace: "nope".into(), key: "k".into(), ..Default::default() };
    let failure = from_status(&kv.get(missing).await.unwrap_err());
    assert_eq!(failure.code, atoll_base::Code::NotFound);
    let status = admin.cluster_status(pb::ClusterStatusRequest { all: true }).await.unwrap();
    assert_eq!(status.into_inner().nodes.len(), 3);
    cluster.stop_all().await;
}

/// A page ends where its bytes do, and its count may be that of the whole range.
async fn pages_and_counts(kv: &mut KvClient<Channel>) {
    let request = pb::RangeRequest { max_bytes: 1, count_total: true, ..all(0) };
    let mut at = request.clone();
    for (before, key) in (0..).zip(["a0", "a1", "a2", "z0", "z1", "z2"]) {
        let page = kv.range(at.clone()).await.unwrap().into_inner();
        let keys: Vec<_> = page.kvs.iter().map(|kv| kv.key.clone()).collect();
        assert_eq!(keys, [key], "one key has a byte already");
        assert_eq!((page.count, page.uncounted), (6 - before, None));
        at.start = page.next.unwrap_or_default();
    }
    let page = kv.range(pb::RangeRequest { limit: 2, descending: true, ..request.clone() }).await;
    assert_eq!((page.unwrap().into_inner().count), 6);
    let page = kv.range(pb::RangeRequest { limit: 2, count_total: false, ..request.clone() }).await;
    assert_eq!((page.unwrap().into_inner().count), 1, "without it the page is counted");
    let mut pages = kv.scan(request).await.unwrap().into_inner();
    let mut counts = Vec::new();
    while let Some(page) = pages.message().await.unwrap() {
        counts.push((page.kvs.len(), page.count));
    }
    counts.retain(|(keys, _)| *keys > 0);
    assert_eq!(counts, [(1, 6), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)]);
}

async fn scan_down(kv: &mut KvClient<Channel>) -> Vec<atoll_client::Bytes> {
    let mut stream =
        kv.scan(pb::RangeRequest { descending: true, ..all(0) }).await.unwrap().into_inner();
    let mut keys = Vec::new();
    while let Some(page) = stream.message().await.unwrap() {
        keys.extend(page.kvs.into_iter().map(|kv| kv.key));
    }
    keys
}
