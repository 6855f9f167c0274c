use std::collections::BTreeMap;

use atoll_base::{Code, Epoch, Failure, Incarnation, KeyspaceId, NodeId, Rng, ShardId};
use atoll_machine::{CompareTarget, TxnOp};
use atoll_raft::Role;
use bytes::Bytes;

use super::*;
use crate::catalog::{Catalog, NodeRecord};
use crate::placement;

/// Carries a plan out as shard 1 would: compares against mod revisions, then applies in one
/// revision.
fn carry_out(catalog: &mut Catalog, txn: &TxnOp, present: &mut BTreeMap<Bytes, Revision>) -> bool {
    let holds = |c: &Compare| {
        let at = present.get(&c.key).copied();
        match c.target {
            CompareTarget::Version(0) => at.is_none(),
            CompareTarget::Mod(revision) => at == Some(revision),
            _ => panic!("plans use no other compare: {c:?}"),
        }
    };
    if !txn.compares.iter().all(holds) {
        return false;
    }
    let revision = catalog.revision().next();
    for step in &txn.then {
        match step {
            TxnStep::Put(op) => {
                catalog.put(&op.key, &op.value, revision).unwrap();
                present.insert(op.key.clone(), revision);
            }
            TxnStep::Delete(op) => {
                catalog.delete(&op.key, revision).unwrap();
                present.remove(&op.key);
            }
            other => panic!("plans use no other step: {other:?}"),
        }
    }
    true
}

fn nodes(n: u64) -> Vec<BootstrapNode> {
    let node = |i| BootstrapNode {
        id: NodeId(i),
        client_address: format!("h{i}:1"),
        peer_address: format!("h{i}:2"),
        http_address: String::new(),
    };
    (1..=n).map(node).collect()
}

fn cluster(n: u64) -> (Catalog, BTreeMap<Bytes, Revision>) {
    let (mut catalog, mut present) = (Catalog::new(), BTreeMap::new());
    assert!(carry_out(&mut catalog, &bootstrap(77, &nodes(n)).unwrap(), &mut present));
    (catalog, present)
}

#[test]
fn a_cluster_begins_with_two_keyspaces() {
    let (mut catalog, mut present) = cluster(3);
    assert_eq!(catalog.cluster().unwrap().cluster_id, 77);
    assert_eq!(catalog.keyspace("system").unwrap().record.id, KeyspaceId::SYSTEM);
    assert_eq!(catalog.keyspace("default").unwrap().record.id, KeyspaceId::DEFAULT);
    assert_eq!(catalog.keyspace_name(KeyspaceId(2)), Some("default"));
    let system = catalog.shard_of(KeyspaceId::SYSTEM, b"x").unwrap();
    let ids: Vec<NodeId> = nodes(3).iter().map(|n| n.id).collect();
    assert_eq!(*system, Catalog::system_descriptor(&ids));
    let default = catalog.shard_of(KeyspaceId::DEFAULT, b"x").unwrap();
    assert_eq!((default.shard, default.members.len()), (ShardId(2), 3));
    assert_ne!(default.members[0].node, system.members[0].node);
    let again = bootstrap(78, &nodes(3)).unwrap();
    assert!(!carry_out(&mut catalog, &again, &mut present), "only once");
    assert_eq!(cluster(2).0.shard_of(KeyspaceId::DEFAULT, b"").unwrap().members.len(), 1);
}

#[test]
fn a_bad_bootstrap_list_is_refused_by_name() {
    let refused = |nodes: &[BootstrapNode]| bootstrap(1, nodes).unwrap_err().message;
    assert!(refused(&[]).contains("no node"));
    let mut twice = nodes(2);
    twice[1].id = NodeId(1);
    assert!(refused(&twice).contains("node 1 twice"));
    let mut shared = nodes(2);
    shared[1].peer_address = "h1:1".to_owned();
    assert!(refused(&shared).contains("nodes 1 and 2 both have h1:1"));
    let mut zero = nodes(1);
    zero[0].id = NodeId(0);
    assert!(refused(&zero).contains("node 0"));
}

#[test]
fn keyspaces_are_created_whole_and_dropped_whole() {
    let (mut catalog, mut present) = cluster(3);
    let mut spec = KeyspaceSpec::new("orders");
    spec.split_keys = ["g", "p"].map(Bytes::from).to_vec();
    let plan = create_keyspace(&catalog, &spec).unwrap();
    let stale = create_keyspace(&catalog, &KeyspaceSpec::new("other")).unwrap();
    assert!(carry_out(&mut catalog, &plan.txn, &mut present));
    assert!(!carry_out(&mut catalog, &stale.txn, &mut present), "the ids were taken meanwhile");
    let id = catalog.keyspace("orders").unwrap().record.id;
    let shards: Vec<_> = catalog.shards_in(id, b"", None).cloned().collect();
    assert_eq!(shards, plan.shards);
    assert_eq!(shards[1].start, "g");
    assert_eq!(create_keyspace(&catalog, &spec).unwrap_err().code, Code::AlreadyExists);

    let drop = drop_keyspace(&catalog, "orders").unwrap();
    assert!(carry_out(&mut catalog, &drop, &mut present));
    assert!(catalog.keyspace("orders").is_none());
    let dropped: Vec<_> = catalog.descriptors().filter(|d| d.dropped).collect();
    assert!(dropped.len() == 3 && dropped.iter().all(|d| d.epoch.0 == 2));
    assert!(!carry_out(&mut catalog, &drop, &mut present), "only once");
    let again = create_keyspace(&catalog, &spec).unwrap();
    assert!(again.keyspace.id > id && again.shards[0].shard.0 > shards[2].shard.0, "new ids");
}

#[test]
fn what_cannot_be_met_is_refused_by_name() {
    let (catalog, _) = cluster(3);
    let refused = |change: &dyn Fn(&mut KeyspaceSpec)| {
        let mut spec = KeyspaceSpec::new("k");
        change(&mut spec);
        let failure = create_keyspace(&catalog, &spec).unwrap_err();
        assert_eq!(failure.code, Code::InvalidArgument);
        failure.message
    };
    assert!(refused(&|s| s.name = "Orders".to_owned()).contains("'O'"));
    assert!(refused(&|s| s.name = String::new()).contains("has 0"));
    assert!(refused(&|s| s.name = "a".repeat(65)).contains("has 65"));
    assert!(refused(&|s| s.replicas = Some(2)).contains("odd"));
    assert!(refused(&|s| s.replicas = Some(5)).contains("has 3 nodes"));
    assert!(refused(&|s| s.shards = Some(0)).contains("1 to 256"));
    assert!(refused(&|s| s.shards = Some(257)).contains("1 to 256"));
    let keys = |keys: &[&str]| keys.iter().map(|k| Bytes::from((*k).to_owned())).collect();
    assert!(refused(&|s| s.split_keys = keys(&["b", "a"])).contains("\"a\" follows \"b\""));
    assert!(refused(&|s| s.split_keys = keys(&[""])).contains("ascend"));
    let two = |s: &mut KeyspaceSpec| {
        s.split_keys = keys(&["a"]);
        s.shards = Some(5);
    };
    assert!(refused(&two).contains("1 split keys make 2"));
    let drop = |name| drop_keyspace(&catalog, name).unwrap_err().code;
    assert_eq!(drop("system"), Code::PreconditionFailed);
    assert_eq!(drop("nothing"), Code::NotFound);
    let empty = create_keyspace(&Catalog::new(), &KeyspaceSpec::new("k")).unwrap_err();
    assert_eq!(empty.code, Code::NoLeader);
}

/// Whatever is created and dropped: shards of a keyspace cover all keys once, ids are never used
/// twice, replicas lie on different nodes, and loads stay level while nothing is dropped.
#[test]
fn any_history_of_plans_keeps_the_catalog_sound() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let count = rng.range(1, 8);
        let (mut catalog, mut present) = cluster(count);
        let mut used = std::collections::BTreeSet::new();
        let mut level = true;
        for i in 0..12 {
            if rng.chance(1, 4) {
                let names: Vec<String> =
                    catalog.keyspaces().filter(|k| k.id.0 > 2).map(|k| k.name.clone()).collect();
                let Some(name) = rng.pick(&names) else { continue };
                let plan = drop_keyspace(&catalog, name).unwrap();
                assert!(carry_out(&mut catalog, &plan, &mut present));
                level = false;
                continue;
            }
            let mut spec = KeyspaceSpec::new(format!("k{i}"));
            spec.shards = Some(rng.range(1, 40) as u32);
            let odd: Vec<u32> = (1..=count as u32).step_by(2).collect();
            spec.replicas = rng.pick(&odd).copied();
            let plan = create_keyspace(&catalog, &spec).unwrap();
            assert!(plan.shards.iter().all(|d| used.insert(d.shard)), "seed {seed}");
            assert!(carry_out(&mut catalog, &plan.txn, &mut present));
            if level {
                assert_level(&catalog, seed);
            }
        }
        assert_sound(&catalog, seed);
    }
}

fn assert_level(catalog: &Catalog, seed: u64) {
    let loads = placement::loads(catalog);
    let spread = |of: fn(&placement::Load) -> u64| {
        loads.values().map(of).max().unwrap() - loads.values().map(of).min().unwrap()
    };
    let replicas = spread(|l| l.replicas);
    assert!(replicas <= 1, "seed {seed}: {loads:?}");
    let leaders = spread(|l| l.leaders);
    assert!(leaders <= 2, "seed {seed}: {loads:?}");
}

fn assert_sound(catalog: &Catalog, seed: u64) {
    for keyspace in catalog.keyspaces() {
        let mut at = Some(Bytes::new());
        for d in catalog.shards_in(keyspace.id, b"", None) {
            assert_eq!(Some(&d.start), at.as_ref(), "seed {seed}: gap or overlap before {d:?}");
            at.clone_from(&d.end);
            let mut nodes: Vec<NodeId> = d.members.iter().map(|m| m.node).collect();
            nodes.sort_unstable();
            nodes.dedup();
            assert_eq!(nodes.len(), keyspace.replicas as usize, "seed {seed}: {d:?}");
        }
        assert_eq!(at, None, "seed {seed}: {} does not reach the end", keyspace.name);
    }
}

#[test]
fn a_node_comes_votes_leads_and_goes_step_by_step() {
    let (mut catalog, mut present) = cluster(3);
    let (shard, four) = (ShardId(2), NodeId(4));
    assert_eq!(
        members::add(&catalog, shard, four, Role::Learner).unwrap_err().code,
        Code::NotFound
    );
    let record = NodeRecord {
        id: four,
        incarnation: Incarnation(1),
        client_address: "h4:1".to_owned(),
        peer_address: "h4:2".to_owned(),
        http_address: String::new(),
        unknown: Bytes::new(),
    };
    type Plan = fn(&Catalog, ShardId, NodeId) -> Result<Option<TxnOp>, Failure>;
    let steps: [Plan; 4] = [
        |c, s, n| members::add(c, s, n, Role::Learner),
        members::promote,
        members::prefer,
        members::remove,
    ];
    let joined = members::put_node(&catalog, &record).unwrap().unwrap();
    assert!(carry_out(&mut catalog, &joined, &mut present));
    assert_eq!(members::put_node(&catalog, &record).unwrap(), None);
    for (epoch, step) in (2..).zip(steps) {
        let txn = step(&catalog, shard, four).unwrap().unwrap();
        assert!(carry_out(&mut catalog, &txn, &mut present));
        assert!(!carry_out(&mut catalog, &txn, &mut present), "a step is made once");
        assert_eq!(catalog.shard(shard).unwrap().record.descriptor.epoch, Epoch(epoch));
        if epoch < 5 {
            assert_eq!(step(&catalog, shard, four).unwrap(), None, "a repeated step is none");
        }
        if epoch == 4 {
            assert_eq!(catalog.shard(shard).unwrap().record.descriptor.members[0].node, four);
        }
    }
    // Forgetting a node and placing something on it exclude each other.
    let forget = members::forget_node(&catalog, four).unwrap().unwrap();
    let created = create_keyspace(&catalog, &KeyspaceSpec::new("new")).unwrap();
    assert!(carry_out(&mut catalog, &created.txn, &mut present));
    assert!(!carry_out(&mut catalog, &forget, &mut present));
}

#[test]
fn steps_that_would_harm_are_refused() {
    let (catalog, _) = cluster(1);
    let (shard, one) = (ShardId(2), NodeId(1));
    let code = |r: Result<Option<TxnOp>, Failure>| r.unwrap_err().code;
    assert_eq!(code(members::remove(&catalog, shard, one)), Code::PreconditionFailed);
    assert_eq!(code(members::forget_node(&catalog, one)), Code::PreconditionFailed);
    assert_eq!(code(members::add(&catalog, shard, one, Role::Witness)), Code::PreconditionFailed);
    assert_eq!(code(members::prefer(&catalog, shard, NodeId(2))), Code::PreconditionFailed);
    assert_eq!(code(members::remove(&catalog, ShardId(99), one)), Code::NotFound);
}

/// The catalog of `n` nodes that hold everything and of one more that joined.
fn with_newcomer(n: u64) -> (Catalog, BTreeMap<Bytes, Revision>, NodeId) {
    let (mut catalog, mut present) = cluster(n);
    let node = NodeId(n + 1);
    let record = NodeRecord {
        id: node,
        incarnation: Incarnation(1),
        client_address: "new:1".to_owned(),
        peer_address: "new:2".to_owned(),
        http_address: String::new(),
        unknown: Bytes::new(),
    };
    let txn = members::put_node(&catalog, &record).unwrap().unwrap();
    assert!(carry_out(&mut catalog, &txn, &mut present));
    (catalog, present, node)
}

#[test]
fn a_witness_comes_goes_and_is_nothing_else_in_between() {
    let (mut catalog, mut present, three) = with_newcomer(2);
    let shard = ShardId(2);
    // Two copies are worth no more than one, so a cluster of two begins with one.
    type Plan = fn(&Catalog, ShardId, NodeId) -> Result<Option<TxnOp>, Failure>;
    let steps: [Plan; 2] = [|c, s, n| members::add(c, s, n, Role::Learner), members::promote];
    for (node, step) in [1, 2].into_iter().flat_map(|n| steps.map(|step| (NodeId(n), step))) {
        if let Some(txn) = step(&catalog, shard, node).unwrap() {
            assert!(carry_out(&mut catalog, &txn, &mut present));
        }
    }
    let add = |c: &Catalog, role| members::add(c, shard, three, role);
    let txn = add(&catalog, Role::Witness).unwrap().unwrap();
    assert!(carry_out(&mut catalog, &txn, &mut present));
    assert_eq!(add(&catalog, Role::Witness).unwrap(), None, "a repeated step is none");
    let refused = [
        (add(&catalog, Role::Learner), "node 3 is a witness of shard 2: remove it first"),
        (members::promote(&catalog, shard, three), "it votes already and has no data"),
        (members::prefer(&catalog, shard, three), "node 3 can't lead shard 2: it is a witness"),
        (
            members::remove(&catalog, shard, NodeId(1)),
            "shard 2 would have witnesses: 1, voters with data: 1",
        ),
        (
            members::add(&catalog, shard, NodeId(1), Role::Witness),
            "node 1 holds data of shard 2: remove it first",
        ),
    ];
    for (planned, words) in refused {
        let failure = planned.unwrap_err();
        assert_eq!(failure.code, Code::PreconditionFailed, "{failure}");
        assert!(failure.message.contains(words), "{failure}");
    }
    let txn = members::remove(&catalog, shard, three).unwrap().unwrap();
    assert!(carry_out(&mut catalog, &txn, &mut present));
    let txn = add(&catalog, Role::Learner).unwrap().unwrap();
    assert!(carry_out(&mut catalog, &txn, &mut present));
}

#[test]
fn a_witness_beside_a_single_voter_is_refused() {
    let (catalog, _, two) = with_newcomer(1);
    let failure = members::add(&catalog, ShardId(2), two, Role::Witness).unwrap_err();
    assert_eq!(failure.code, Code::PreconditionFailed);
    assert!(failure.message.contains("more voters than witnesses"), "{failure}");
}
