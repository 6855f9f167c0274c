//! Members and upkeep of a store, asked with etcd's own messages and by `etcdctl`.

use std::process::{Command, Stdio};
use std::time::Duration;

use atoll_base::checksum::crc32c_append;
use atoll_transport::stub::etcdserverpb::cluster_client::ClusterClient;
use atoll_wire::etcd::{etcdserverpb as pb, mvccpb};
use bytes::{Buf as _, Bytes};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tonic::transport::{Channel, Endpoint};

use super::peer::program;
use super::store::{SOON, Store, prefix, put, text};
use crate::harness::{Cluster, Turn, eventually};

async fn cluster_client(cluster: &Cluster, node: usize) -> ClusterClient<Channel> {
    let address = format!("http://{}", cluster.client_address(node));
    let endpoint = Endpoint::from_shared(address).expect("an address");
    ClusterClient::new(endpoint.connect().await.expect("the node is there"))
}

fn ids(members: &[pb::Member]) -> Vec<(u64, bool)> {
    let mut ids: Vec<_> = members.iter().map(|m| (m.id, m.is_learner)).collect();
    ids.sort_unstable();
    ids
}

/// A fourth node is told of, learns, votes and goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_added_promoted_updated_and_removed() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let store = Store::connect(&cluster.client_address(1)).await;
    for n in 0..20 {
        store.kv().put(put(&format!("k{n}"), "v")).await.expect("a put");
    }
    let mut members = cluster_client(&cluster, 2).await;
    let add = |url: String, is_learner| pb::MemberAddRequest { peer_ur_ls: vec![url], is_learner };
    let nobody = members.member_add(add("http://127.0.0.1:1".to_owned(), true)).await;
    let nobody = nobody.expect_err("there is no such node");
    assert!(nobody.message().contains("start it with atoll serve --join first"), "{nobody}");
    let there = add(format!("http://{}", cluster.peer_address(3)), false);
    let there = members.member_add(there).await.expect_err("it is one");
    assert_eq!(text(&there), "FailedPrecondition: etcdserver: Peer URLs already exists");

    let client = cluster.client(SOON).await;
    let fourth = cluster.join_node(&client).await as u64;
    let url = format!("http://{}", cluster.peer_address(4));
    // The node that is asked may hear of the fourth one a little later.
    let added = eventually("the fourth is added", SOON, async || {
        let added = members.clone().member_add(add(url.clone(), true)).await;
        added.map(tonic::Response::into_inner).map_err(|status| text(&status))
    })
    .await;
    let member = added.member.expect("who was added");
    assert_eq!((member.id, member.is_learner, &member.peer_ur_ls[0]), (fourth, true, &url));

    let update = |id, url: &str| pb::MemberUpdateRequest { id, peer_ur_ls: vec![url.to_owned()] };
    members.member_update(update(fourth, &url)).await.expect("it says so itself");
    let refused = members.member_update(update(fourth, "http://127.0.0.1:1")).await;
    assert!(refused.expect_err("it does not").message().contains("says itself"));
    let refused = members.member_update(update(99, &url)).await.expect_err("there is none");
    assert_eq!(text(&refused), "NotFound: etcdserver: member not found");

    let promote = |id| pb::MemberPromoteRequest { id };
    let promoted = members.member_promote(promote(fourth)).await.expect("it has caught up");
    eventually("all four vote", SOON, async || {
        let list = members.clone().member_list(pb::MemberListRequest::default()).await;
        let list = ids(&list.map_err(|s| text(&s))?.into_inner().members);
        let all = [(1, false), (2, false), (3, false), (fourth, false)];
        if list == all { Ok(()) } else { Err(format!("{list:?}, told {promoted:?}")) }
    })
    .await;
    let again = members.member_promote(promote(fourth)).await.expect_err("it votes");
    let text_of = "FailedPrecondition: etcdserver: can only promote a learner member";
    assert_eq!(text(&again), text_of);
    // It has the store, and serves it.
    let newcomer = Store::connect(&cluster.client_address(4)).await;
    eventually("the newcomer has all", SOON, async || {
        let read = pb::RangeRequest { serializable: true, ..prefix("k") };
        let read = newcomer.kv().range(read).await.map_err(|s| text(&s))?.into_inner();
        if read.count == 20 { Ok(()) } else { Err(format!("it has {}", read.count)) }
    })
    .await;

    let remove = pb::MemberRemoveRequest { id: fourth };
    members.member_remove(remove).await.expect("it goes");
    eventually("three are left", SOON, async || {
        let list = members.clone().member_list(pb::MemberListRequest::default()).await;
        let list = ids(&list.map_err(|s| text(&s))?.into_inner().members);
        if list.len() == 3 { Ok(()) } else { Err(format!("{list:?}")) }
    })
    .await;
    let again = members.member_remove(remove).await.expect_err("it is gone");
    assert_eq!(text(&again), "NotFound: etcdserver: member not found");
    store.kv().put(put("k", "after")).await.expect("a put");
    cluster.check_sound();
}

/// The same by the tool that people use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_changes_members() {
    let _turn = Turn::among_others();
    let Some(program) = program("etcdctl", "ETCDCTL_BIN") else { return };
    let mut cluster = Cluster::start(3, &[]).await;
    let endpoints = cluster.endpoints();
    let run = |args: &[&str]| {
        let output = Command::new(&program)
            .env("ETCDCTL_API", "3")
            .stdin(Stdio::null())
            .args([&format!("--endpoints={endpoints}"), "--command-timeout=60s"])
            .args(args)
            .output()
            .expect("etcdctl runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    assert_eq!(run(&["put", "k", "v"]), (true, "OK\n".to_owned()));
    let client = cluster.client(SOON).await;
    cluster.join_node(&client).await;
    let url = format!("--peer-urls=http://{}", cluster.peer_address(4));
    eventually("etcdctl adds it", SOON, async || {
        let (is_done, said) = run(&["member", "add", "four", "--learner", &url]);
        if is_done { Ok(()) } else { Err(said) }
    })
    .await;
    let (is_done, said) = run(&["member", "promote", "4"]);
    assert!(is_done && said.contains("promoted"), "{said}");
    let (is_done, said) = run(&["member", "update", "4", &url]);
    assert!(is_done && said.contains("updated"), "{said}");
    let (is_done, said) = run(&["member", "remove", "4"]);
    assert!(is_done && said.contains("removed"), "{said}");
    eventually("three are left", SOON, async || {
        let (_, said) = run(&["member", "list"]);
        if said.lines().count() == 3 { Ok(()) } else { Err(said) }
    })
    .await;
    cluster.check_sound();
}

/// Takes a snapshot apart, as its description says.
fn read_snapshot(mut bytes: Bytes) -> (pb::ResponseHeader, Vec<mvccpb::KeyValue>) {
    let sum = bytes.split_off(bytes.len() - 32);
    assert_eq!(Sha256::digest(&bytes)[..], sum[..], "the sum is that of all before it");
    assert_eq!(bytes.len() % 512, 0, "whole blocks");
    let magic = bytes.split_to(b"atoll-etcd-snapshot 1\n".len());
    assert_eq!(magic, "atoll-etcd-snapshot 1\n");
    let header = pb::ResponseHeader::decode_length_delimited(&mut bytes).expect("a header");
    let mut kvs = Vec::new();
    while bytes.first().is_some_and(|byte| *byte != 0) {
        kvs.push(mvccpb::KeyValue::decode_length_delimited(&mut bytes).expect("a pair"));
    }
    assert!(bytes.has_remaining() && bytes.iter().all(|byte| *byte == 0), "zeros at its end");
    (header, kvs)
}

/// What is told of a store is the same at every node, and what it should be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upkeep_is_answered_by_every_node() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let mut stores = Vec::new();
    for node in cluster.all() {
        stores.push(Store::connect(&cluster.client_address(node)).await);
    }
    for n in 0..50 {
        stores[n % 3].kv().put(put(&format!("k{n:02}"), &"v".repeat(n))).await.expect("a put");
    }
    let all = stores[0].kv().range(prefix("")).await.expect("a range").into_inner().kvs;
    assert_eq!(all.len(), 50);
    let encoded = all.iter().map(mvccpb::KeyValue::encode_length_delimited_to_vec);
    let expected = encoded.fold(0, |hash, bytes| crc32c_append(hash, &bytes));
    for store in &stores {
        let mut upkeep = store.maintenance();
        eventually("its replica has all", SOON, async || {
            let status = upkeep.clone().status(pb::StatusRequest {}).await;
            let header = status.map_err(|s| text(&s))?.into_inner().header.expect("a header");
            if header.revision == 51 { Ok(()) } else { Err(format!("{header:?}")) }
        })
        .await;
        let hash = upkeep.hash(pb::HashRequest {}).await.expect("a hash").into_inner();
        assert_eq!((hash.hash, hash.header.expect("a header").revision), (expected, 51));
        let kv = upkeep.hash_kv(pb::HashKvRequest { revision: 51 }).await.expect("a hash");
        assert_eq!((kv.get_ref().hash, kv.get_ref().hash_revision), (expected, 51));
        let past = upkeep.hash_kv(pb::HashKvRequest { revision: 20 }).await.expect("a hash");
        assert_ne!(past.into_inner().hash, expected, "the past differs");
        let future = upkeep.hash_kv(pb::HashKvRequest { revision: 99 }).await;
        let future = text(&future.expect_err("the future"));
        assert!(future.contains("required revision is a future revision"), "{future}");
        upkeep.defragment(pb::DefragmentRequest {}).await.expect("there is nothing to do");
        let ask = pb::AlarmRequest::default();
        let alarms = upkeep.alarm(ask).await.expect("an answer").into_inner().alarms;
        assert_eq!(alarms, [], "no disk is full");
        let action = pb::alarm_request::AlarmAction::Activate as i32;
        let refused = upkeep.alarm(pb::AlarmRequest { action, ..ask }).await;
        assert_eq!(refused.expect_err("not by hand").code(), tonic::Code::Unimplemented);
        let mut parts = upkeep.snapshot(pb::SnapshotRequest {}).await.expect("one").into_inner();
        let mut bytes = Vec::new();
        while let Some(part) = parts.message().await.expect("no end before its end") {
            bytes.extend_from_slice(&part.blob);
        }
        let (header, kvs) = read_snapshot(bytes.into());
        assert_eq!((header.revision, &kvs), (51, &all));
    }
    leaders_are_moved(&stores).await;
    cluster.check_sound();
}

async fn leaders_are_moved(stores: &[Store]) {
    let mut leader = None;
    for (n, store) in stores.iter().enumerate() {
        let status = store.maintenance().status(pb::StatusRequest {}).await.expect("a status");
        if status.into_inner().leader == n as u64 + 1 {
            leader = Some(n);
        }
    }
    let leader = leader.expect("one leads");
    let target = (leader + 1) % 3;
    let to = |n: usize| pb::MoveLeaderRequest { target_id: n as u64 + 1 };
    let refused = stores[target].maintenance().move_leader(to(target)).await;
    let not_leader = "FailedPrecondition: etcdserver: not leader";
    assert_eq!(text(&refused.expect_err("it does not lead")), not_leader);
    let refused = stores[leader].maintenance().move_leader(to(98)).await;
    let bad = "FailedPrecondition: etcdserver: bad leader transferee";
    assert_eq!(text(&refused.expect_err("there is none")), bad);
    stores[leader].maintenance().move_leader(to(target)).await.expect("it gives way");
    eventually("the other one leads", Duration::from_secs(30), async || {
        let status = stores[target].maintenance().status(pb::StatusRequest {}).await;
        let leads = status.map_err(|s| text(&s))?.into_inner().leader;
        if leads == target as u64 + 1 { Ok(()) } else { Err(format!("node {leads} leads")) }
    })
    .await;
}
