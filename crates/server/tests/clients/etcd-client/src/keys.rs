//! KV.

use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, Error, GetOptions, PutOptions,
    SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};

use crate::is_refused;

pub async fn puts_and_gets(client: &mut Client) -> Result<(), Error> {
    let first = client.put("put", "1", None).await?;
    let header = first.header().expect("a header");
    assert!(header.cluster_id() != 0 && header.member_id() != 0 && header.raft_term() > 0);
    let again = client.put("put", "2", Some(PutOptions::new().with_prev_key())).await?;
    assert_eq!(again.prev_key().expect("what was there").value(), b"1");
    assert_eq!(again.header().expect("a header").revision(), header.revision() + 1);
    let lease = client.lease_grant(60, None).await?.id();
    client.put("put", "3", Some(PutOptions::new().with_lease(lease))).await?;
    client.put("put", "", Some(PutOptions::new().with_ignore_value().with_lease(0))).await?;
    let kept = client.get("put", None).await?;
    assert_eq!((kept.kvs()[0].value(), kept.kvs()[0].lease()), (&b"3"[..], 0));
    client.put("put", "4", Some(PutOptions::new().with_lease(lease))).await?;
    client.put("put", "5", Some(PutOptions::new().with_ignore_lease())).await?;
    let kept = client.get("put", None).await?;
    let pair = &kept.kvs()[0];
    assert_eq!((pair.value(), pair.lease(), pair.version()), (&b"5"[..], lease, 6));
    assert_eq!(pair.create_revision(), header.revision());
    assert!(pair.mod_revision() > pair.create_revision());
    let old = GetOptions::new().with_revision(header.revision());
    assert_eq!(client.get("put", Some(old)).await?.kvs()[0].value(), b"1");
    let none = client.put("none", "", Some(PutOptions::new().with_ignore_value())).await;
    is_refused("ignore_value of nothing", none, "InvalidArgument: etcdserver: key not found");
    let none = client.put("put", "6", Some(PutOptions::new().with_lease(4711))).await;
    is_refused("an unknown lease", none, "NotFound: etcdserver: requested lease not found");
    is_refused("no key", client.put("", "1", None).await, "etcdserver: key is not provided");
    client.lease_revoke(lease).await?;
    assert_eq!(client.get("put", None).await?.count(), 0);
    println!("put, get: as expected");
    Ok(())
}

pub async fn ranges(client: &mut Client) -> Result<(), Error> {
    let mut revisions = Vec::new();
    for (key, value) in [("r/1", "c"), ("r/2", "b"), ("r/3", "a"), ("r0", "x")] {
        let put = client.put(key, value, None).await?;
        revisions.push(put.header().expect("a header").revision());
    }
    let keys = |answer: &etcd_client::GetResponse| -> Vec<String> {
        answer.kvs().iter().map(|kv| kv.key_str().expect("text").to_owned()).collect()
    };
    let all = client.get("r/", Some(GetOptions::new().with_prefix())).await?;
    assert_eq!((keys(&all), all.count(), all.more()), (names(&["r/1", "r/2", "r/3"]), 3, false));
    let two = client.get("r/", Some(GetOptions::new().with_prefix().with_limit(2))).await?;
    assert_eq!((keys(&two), two.count(), two.more()), (names(&["r/1", "r/2"]), 3, true));
    let range = client.get("r/2", Some(GetOptions::new().with_range("r0"))).await?;
    assert_eq!(keys(&range), names(&["r/2", "r/3"]));
    let from = client.get("r/3", Some(GetOptions::new().with_from_key().with_limit(2))).await?;
    assert_eq!(keys(&from), names(&["r/3", "r0"]));
    assert!(client.get("", Some(GetOptions::new().with_all_keys())).await?.count() >= 4);
    let by_value = GetOptions::new().with_prefix().with_sort(SortTarget::Value, SortOrder::Ascend);
    assert_eq!(keys(&client.get("r/", Some(by_value)).await?), names(&["r/3", "r/2", "r/1"]));
    let down = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Descend);
    let down = client.get("r/", Some(down.with_limit(1))).await?;
    assert_eq!(keys(&down), names(&["r/3"]));
    let bare = client.get("r/1", Some(GetOptions::new().with_keys_only())).await?;
    assert!(bare.kvs()[0].value().is_empty());
    let count = GetOptions::new().with_prefix().with_count_only().with_serializable();
    let count = client.get("r/", Some(count)).await?;
    assert_eq!((count.count(), count.kvs().len()), (3, 0));
    let some = [
        GetOptions::new().with_min_mod_revision(revisions[1]),
        GetOptions::new().with_max_mod_revision(revisions[1]),
        GetOptions::new().with_min_create_revision(revisions[2]),
        GetOptions::new().with_max_create_revision(revisions[0]),
    ];
    for (options, wanted) in some.into_iter().zip([2, 2, 1, 1]) {
        assert_eq!(client.get("r/", Some(options.with_prefix())).await?.kvs().len(), wanted);
    }
    let future = client.get("r/1", Some(GetOptions::new().with_revision(1 << 40))).await;
    is_refused("the future", future, "OutOfRange: etcdserver: mvcc: required revision is a future");
    println!("ranges: as expected");
    Ok(())
}

fn names(all: &[&str]) -> Vec<String> {
    all.iter().map(|name| (*name).to_owned()).collect()
}

pub async fn deletes(client: &mut Client) -> Result<(), Error> {
    for key in ["d/1", "d/2", "d/3", "d/4"] {
        client.put(key, key, None).await?;
    }
    assert_eq!(client.delete("d/none", None).await?.deleted(), 0);
    let one = client.delete("d/1", Some(DeleteOptions::new().with_prev_key())).await?;
    assert_eq!((one.deleted(), one.prev_kvs()[0].value()), (1, &b"d/1"[..]));
    let range = client.delete("d/2", Some(DeleteOptions::new().with_range("d/3"))).await?;
    assert_eq!((range.deleted(), range.prev_kvs().len()), (1, 0));
    let rest = DeleteOptions::new().with_prefix().with_prev_key();
    let rest = client.delete("d/", Some(rest)).await?;
    assert_eq!((rest.deleted(), rest.prev_kvs().len()), (2, 2));
    client.put("zz", "", None).await?;
    let end = client.delete("zz", Some(DeleteOptions::new().with_from_key())).await?;
    assert_eq!(end.deleted(), 1);
    println!("delete: as expected");
    Ok(())
}

pub async fn transactions(client: &mut Client) -> Result<(), Error> {
    client.put("t/a", "1", None).await?;
    let inner = Txn::new()
        .when([Compare::version("t/none", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("t/c", "inner", None)])
        .or_else([TxnOp::put("t/c", "other", None)]);
    let txn = Txn::new()
        .when([
            Compare::value("t/a", CompareOp::Equal, "1"),
            Compare::version("t/a", CompareOp::Greater, 0),
            Compare::create_revision("t/a", CompareOp::NotEqual, 0),
            Compare::mod_revision("t/a", CompareOp::Less, 1 << 40),
            Compare::lease("t/a", CompareOp::Equal, 0),
            Compare::version("t/", CompareOp::Less, 9).with_prefix(),
            Compare::version("t/", CompareOp::Less, 9).with_range("t0"),
        ])
        .and_then([
            TxnOp::get("t/a", None),
            TxnOp::put("t/b", "2", None),
            TxnOp::delete("t/a", Some(DeleteOptions::new().with_prev_key())),
            TxnOp::txn(inner),
        ])
        .or_else([TxnOp::get("t/a", None)]);
    let done = client.txn(txn.clone()).await?;
    assert!(done.succeeded());
    let revision = done.header().expect("a header").revision();
    let answers = done.op_responses();
    let [
        TxnOpResponse::Get(got),
        TxnOpResponse::Put(_),
        TxnOpResponse::Delete(deleted),
        TxnOpResponse::Txn(nested),
    ] = &answers[..]
    else {
        panic!("{answers:?}");
    };
    assert_eq!(got.kvs()[0].value(), b"1");
    assert_eq!(deleted.prev_kvs()[0].value(), b"1");
    assert!(nested.succeeded());
    let both = client.get("t/", Some(GetOptions::new().with_prefix())).await?;
    assert_eq!(both.count(), 2);
    assert!(both.kvs().iter().all(|kv| kv.mod_revision() == revision), "one revision");
    let other = client.txn(txn).await?;
    assert!(!other.succeeded());
    assert_eq!(other.op_responses().len(), 1);
    let twice = Txn::new().and_then([TxnOp::put("t/a", "1", None), TxnOp::put("t/a", "2", None)]);
    let text = "InvalidArgument: etcdserver: duplicate key given in txn request";
    is_refused("a key put twice", client.txn(twice).await, text);
    println!("transactions: as expected");
    Ok(())
}

pub async fn compaction(client: &mut Client) -> Result<(), Error> {
    let old = client.put("c", "1", None).await?.header().expect("a header").revision();
    let new = client.put("c", "2", None).await?.header().expect("a header").revision();
    client.compact(new, None).await?;
    let text = "OutOfRange: etcdserver: mvcc: required revision has been compacted";
    let read = client.get("c", Some(GetOptions::new().with_revision(old))).await;
    is_refused("what is compacted", read, text);
    is_refused("compacted twice", client.compact(new, None).await, text);
    let newer = client.put("c", "3", None).await?.header().expect("a header").revision();
    client.compact(newer, Some(CompactionOptions::new().with_physical())).await?;
    assert_eq!(client.get("c", None).await?.kvs()[0].value(), b"3");
    println!("compact: as expected");
    Ok(())
}

/// A call of etcd 3.7 that the crate has: servers of 3.5, whose version Atoll tells, lack it.
pub async fn streams_of_ranges(client: &mut Client) {
    let streamed = match client.kv_client().get_stream("c", None).await {
        Ok(mut stream) => stream.message().await.map(|_| ()),
        Err(error) => Err(error),
    };
    is_refused("a stream of a range", streamed, "Unimplemented");
    println!("get_stream: refused, as etcd 3.5 refuses it");
}
