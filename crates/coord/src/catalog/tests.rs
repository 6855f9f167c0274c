use atoll_base::Rng;

use super::*;

fn shard(id: u64, start: &str, end: Option<&str>, epoch: u64) -> Descriptor {
    let member =
        |node, role| ReplicaMember { node: NodeId(node), incarnation: Incarnation(1), role };
    Descriptor {
        shard: ShardId(id),
        keyspace: KeyspaceId(3),
        start: Bytes::copy_from_slice(start.as_bytes()),
        end: end.map(|e| Bytes::copy_from_slice(e.as_bytes())),
        epoch: Epoch(epoch),
        members: vec![member(2, Role::Voter), member(300, Role::Learner), member(7, Role::Witness)],
        protocol: Protocol::Raft,
        options: ShardOptions { lease_reads: true, history_revisions: 1000 },
        dropped: false,
    }
}

fn records() -> Vec<Record> {
    let unknown = Bytes::new();
    let mut dropped = shard(0x1f, "m", None, 8);
    dropped.dropped = true;
    vec![
        Record::Cluster(ClusterRecord {
            cluster_id: 0x0102_0304_0506_0708,
            format: 1,
            unknown: unknown.clone(),
        }),
        Record::Next(NextRecord {
            keyspace: KeyspaceId(4),
            shard: ShardId(300),
            unknown: unknown.clone(),
        }),
        Record::Node(NodeRecord {
            id: NodeId(2),
            incarnation: Incarnation(1),
            client_address: "a:1".to_owned(),
            peer_address: "a:2".to_owned(),
            http_address: String::new(),
            unknown: unknown.clone(),
        }),
        Record::Keyspace(KeyspaceRecord {
            name: "orders".to_owned(),
            id: KeyspaceId(3),
            protocol: Protocol::Raft,
            replicas: 3,
            options: ShardOptions { lease_reads: false, history_revisions: 5 },
            unknown: unknown.clone(),
        }),
        Record::Shard(ShardRecord {
            descriptor: shard(3, "", Some("m"), 2),
            unknown: unknown.clone(),
        }),
        Record::Shard(ShardRecord { descriptor: dropped, unknown }),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes that every later version must still read. They are described in
/// docs/formats/catalog.md.
#[test]
fn records_have_these_bytes() {
    let golden = [
        ("meta/cluster", "01080706050403020101"),
        ("meta/next", "0104ac02"),
        ("node/0000000000000002", "010103613a3103613a3200"),
        ("keyspace/orders", "010301030005"),
        ("shard/0000000000000003", "01030001016d020101e80703020100ac020101070102"),
        ("shard/000000000000001f", "0103016d00080103e80703020100ac020101070102"),
    ];
    for (record, (key, value)) in records().iter().zip(golden) {
        let bytes = record.encode();
        assert_eq!((&record.key().to_bytes()[..], &*hex(&bytes)), (key.as_bytes(), value));
        assert_eq!(Record::decode(key.as_bytes(), &bytes), Ok(Some(record.clone())));
    }
}

#[test]
fn fields_of_later_versions_survive() {
    for record in records() {
        let key = record.key().to_bytes();
        let mut later = record.encode().to_vec();
        later[0] = 2;
        later.extend_from_slice(b"new field");
        let read = Record::decode(&key, &Bytes::from(later)).unwrap().unwrap();
        assert!(read.encode().ends_with(b"new field"), "{read:?}");
        assert_eq!(Record::decode(&key, &read.encode()), Ok(Some(read)));
    }
}

#[test]
fn damaged_records_are_refused_with_their_key() {
    let mut rng = Rng::new(3);
    for record in records() {
        let (key, bytes) = (record.key().to_bytes(), record.encode());
        for cut in 0..bytes.len() {
            let error = Record::decode(&key, &bytes.slice(..cut)).unwrap_err();
            assert!(error.to_string().contains(std::str::from_utf8(&key).unwrap()), "{error}");
        }
        for _ in 0..200 {
            let mut broken = bytes.to_vec();
            let at = rng.below(broken.len() as u64) as usize;
            broken[at] ^= 1 << rng.below(8);
            let _ = Record::decode(&key, &Bytes::from(broken)); // must not panic
        }
    }
    assert!(Record::decode(b"shard/1", &Bytes::from_static(&[1])).is_err());
    assert_eq!(Record::decode(b"setting/x", &Bytes::from_static(&[9, 9])), Ok(None));
    assert_eq!(Record::decode(&[0xff], &Bytes::new()), Ok(None));
}

fn put(catalog: &mut Catalog, record: &Record, revision: u64) -> Vec<Descriptor> {
    catalog.put(&record.key().to_bytes(), &record.encode(), Revision(revision)).unwrap()
}

fn put_descriptor(catalog: &mut Catalog, descriptor: Descriptor, revision: u64) -> Vec<Descriptor> {
    let record = Record::Shard(ShardRecord { descriptor, unknown: Bytes::new() });
    put(catalog, &record, revision)
}

#[test]
fn keys_find_their_shards() {
    let mut catalog = Catalog::new();
    put_descriptor(&mut catalog, shard(3, "", Some("g"), 1), 1);
    put_descriptor(&mut catalog, shard(5, "g", Some("p"), 1), 2);
    put_descriptor(&mut catalog, shard(4, "p", None, 1), 3);
    let of = |key: &str| catalog.shard_of(KeyspaceId(3), key.as_bytes()).map(|d| d.shard.0);
    assert_eq!(
        [of(""), of("fz"), of("g"), of("oz"), of("p"), of("z")],
        [3, 3, 5, 5, 4, 4].map(Some)
    );
    assert_eq!(catalog.shard_of(KeyspaceId(9), b"a"), None);
    let within = |start: &str, end: Option<&str>| -> Vec<u64> {
        catalog
            .shards_in(KeyspaceId(3), start.as_bytes(), end.map(str::as_bytes))
            .map(|d| d.shard.0)
            .collect()
    };
    assert_eq!(within("", None), [3, 5, 4]);
    assert_eq!(within("g", Some("p")), [5]);
    assert_eq!(within("a", Some("g\0")), [3, 5]);
    assert_eq!(within("q", None), [4]);
    assert_eq!(catalog.revision(), Revision(3));
}

#[test]
fn a_shard_changes_its_range_and_goes_only_when_dropped() {
    let mut catalog = Catalog::new();
    put_descriptor(&mut catalog, shard(3, "", None, 1), 1);
    let changed = put_descriptor(&mut catalog, shard(3, "k", None, 2), 2);
    assert_eq!(changed[0].epoch, Epoch(2));
    assert_eq!(catalog.shard_of(KeyspaceId(3), b"a"), None);
    assert!(put_descriptor(&mut catalog, shard(3, "", None, 1), 3).is_empty(), "I1");
    assert_eq!(catalog.shard_of(KeyspaceId(3), b"a"), None);
    let mut dropped = shard(3, "k", None, 3);
    dropped.dropped = true;
    assert!(put_descriptor(&mut catalog, dropped, 4)[0].dropped);
    assert_eq!(catalog.shard_of(KeyspaceId(3), b"m"), None);
    catalog.delete(b"shard/0000000000000003", Revision(5)).unwrap();
    assert_eq!((catalog.descriptors().count(), catalog.revision()), (0, Revision(5)));
}
