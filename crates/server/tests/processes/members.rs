//! Nodes that come and go: joining, adding, promoting, removing, under load and with nodes down.

use std::time::Duration;

use atoll_client::{Client, NodeId, Role, ShardId};

use crate::harness::{Cluster, Load, Process, Turn, done, eventually, leader, sized};

const HISTORY: &str = "--history-revisions=100000000";
const LONG: Duration = Duration::from_secs(60);
const DEFAULT: ShardId = ShardId(2);

/// Who votes in a shard, ascending.
async fn voters(client: &Client, shard: ShardId) -> Vec<u64> {
    let catalog = client.newest_catalog().await.expect("the catalog is there");
    let members = &catalog.shard(shard).expect("the shard is there").record.descriptor.members;
    let mut voters: Vec<u64> =
        members.iter().filter(|m| m.role == Role::Voter).map(|m| m.node.0).collect();
    voters.sort_unstable();
    voters
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_become_five_and_three_others_under_load() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(3, &[HISTORY]).await;
    let client = cluster.client(Duration::from_secs(20)).await;
    let load = Load::start(&cluster, 32).await;
    let enough = sized(300, 20_000);
    for _ in 4..=5 {
        let node = cluster.join_node(&client).await.to_string();
        done(&cluster, &["cluster", "add", &node]).await;
        load.advances(enough).await;
    }
    let shards: Vec<ShardId> =
        load.shards().into_iter().chain([ShardId::SYSTEM, DEFAULT]).collect();
    for shard in &shards {
        assert_eq!(voters(&client, *shard).await, [1, 2, 3, 4, 5], "shard {shard}");
    }
    for node in ["1", "2"] {
        let said = done(&cluster, &["cluster", "remove", node]).await;
        assert!(!said.contains("keeps its replica"), "{said}");
        load.advances(enough).await;
    }
    for shard in &shards {
        assert_eq!(voters(&client, *shard).await, [3, 4, 5], "shard {shard}");
    }
    // The new ones do without the old ones, and with one of them down.
    cluster.kill_node(1);
    cluster.kill_node(2);
    load.advances(enough).await;
    cluster.kill_node(4);
    load.advances(enough).await;
    cluster.start_node(4);
    cluster.node_ready(4).await;
    // Who was removed and is started as in the beginning founds nothing and leads nothing.
    cluster.start_node(1);
    load.advances(enough).await;
    for shard in &shards {
        assert_ne!(leader(&client, *shard).await, 1);
    }
    cluster.check_sound();
    load.finish(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_can_be_repeated_and_say_what_they_did() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client(Duration::from_secs(20)).await;
    client.keyspace("default").put("k", "v").await.expect("a put");
    let (code, said) = cluster.run(&["cluster", "add", "4"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("node 4 is not known") && said.contains("--join"), "{said}");
    cluster.join_node(&client).await;
    for _ in 0..2 {
        let said = done(&cluster, &["cluster", "add", "4", "--shard=2", "--learner"]).await;
        assert!(said.contains("4 (learner)"), "{said}");
    }
    for _ in 0..2 {
        done(&cluster, &["cluster", "promote", "4", "--shard=2"]).await;
    }
    assert_eq!(voters(&client, DEFAULT).await, [1, 2, 3, 4]);
    for _ in 0..2 {
        done(&cluster, &["cluster", "transfer-leader", "--shard=2", "--to=4"]).await;
        assert_eq!(leader(&client, DEFAULT).await, 4);
    }
    // The leader itself goes, twice; and the whole node.
    for _ in 0..2 {
        done(&cluster, &["cluster", "remove", "4", "--shard=2"]).await;
    }
    assert_eq!(voters(&client, DEFAULT).await, [1, 2, 3]);
    for _ in 0..2 {
        done(&cluster, &["cluster", "remove", "4"]).await;
    }
    let catalog = client.newest_catalog().await.expect("the catalog is there");
    assert!(catalog.node(NodeId(4)).is_none());
    let value = client.keyspace("default").get("k").await.expect("a get");
    assert_eq!(value.expect("it is there").value, "v");
    cluster.check_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_for_a_node_that_is_down_is_refused_and_goes_there_when_it_is_back() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client(Duration::from_secs(20)).await;
    client.keyspace("default").put("k", "v").await.expect("a put");
    let to = if leader(&client, DEFAULT).await == 3 { 2 } else { 3 };
    cluster.kill_node(to);
    let (code, said) =
        cluster.run(&["cluster", "transfer-leader", "--shard=2", &format!("--to={to}")]).await;
    assert_ne!(code, 0, "{said}");
    let why = format!("node {to} was not heard from for ");
    assert!(said.contains(&why) && said.contains("leads when it can"), "{said}");
    client.keyspace("default").put("k", "w").await.expect("its leader goes on");
    cluster.start_node(to);
    eventually("it leads", LONG, async || match leader(&client, DEFAULT).await {
        leader if leader == to => Ok(()),
        other => Err(format!("node {other} leads")),
    })
    .await;
    cluster.check_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_down_is_removed_and_deletes_its_replica_when_it_is_back() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client(Duration::from_secs(20)).await;
    client.keyspace("default").put("k", "v").await.expect("a put");
    cluster.kill_node(3);
    let said = done(&cluster, &["cluster", "remove", "3", "--shard=2"]).await;
    assert!(said.contains("node 3 keeps its replica"), "{said}");
    assert_eq!(voters(&client, DEFAULT).await, [1, 2]);
    client.keyspace("default").put("k", "w").await.expect("a put");
    cluster.start_node(3);
    cluster.node_ready(3).await;
    eventually("the replica is deleted", LONG, async || {
        let said = done(&cluster, &["cluster", "remove", "3", "--shard=2"]).await;
        if said.contains("keeps its replica") { Err(said) } else { Ok(()) }
    })
    .await;
    // And the other way: a node that is killed while it joins goes on where it was.
    let node = cluster.join_node(&client).await;
    let add = ["cluster", "add", "4", "--shard=2", "--wait=1"];
    cluster.kill_node(node);
    let (code, said) = cluster.run(&add).await;
    assert_ne!(code, 0, "{said}");
    assert!(said.contains("waits for node 4 to catch up"), "{said}");
    cluster.start_node(node);
    done(&cluster, &["cluster", "add", "4", "--shard=2"]).await;
    assert_eq!(voters(&client, DEFAULT).await, [1, 2, 4]);
    cluster.check_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_wrongly_is_refused_with_what_to_do() {
    let _turn = Turn::among_others();
    let cluster = Cluster::start(1, &[]).await;
    let join = format!("--join={}", cluster.client_address(1));
    let cases = [
        ("--node-id=1", join.as_str(), "node 1 is in the cluster already"),
        ("--node-id=2", "--join=127.0.0.1:1", "the cluster to join can't be asked at 127.0.0.1:1"),
        ("--node-id=2", "--join=nowhere", "setting join refused"),
    ];
    for (id, join, words) in cases {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = format!("--data={}", folder.path().join("new").display());
        let args =
            ["serve", id, &data, join, "--listen=:0", "--peer-listen=:0", "--http-listen=:0"];
        let mut process = Process::start(folder.path(), "joining", &args.map(str::to_owned));
        assert_ne!(process.exit_code(LONG).await, 0);
        assert!(process.said().contains(words), "{}", process.said());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_lost_its_folder_does_not_vote_and_says_what_to_do() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client(Duration::from_secs(20)).await;
    let keyspace = client.keyspace("default");
    keyspace.put("k", "v").await.expect("a put");
    eventually("the catalog has seen all three", LONG, async || {
        let catalog = client.newest_catalog().await.map_err(|f| f.to_string())?;
        let unseen = catalog.nodes().find(|n| n.incarnation.0 == 0);
        unseen.map_or(Ok(()), |n| Err(format!("node {} has no mark", n.id)))
    })
    .await;
    // Node 3 loses everything while node 2 is down: with node 1 it could elect a leader.
    cluster.kill_node(2);
    cluster.kill_node(3);
    std::fs::remove_dir_all(cluster.data(3)).expect("it is there");
    cluster.start_node(3);
    let short = keyspace.clone().with_timeout(Duration::from_secs(3));
    let failure = short.put("k", "w").await.expect_err("one of three can't acknowledge");
    assert!(failure.happened != atoll_client::Happened::Yes, "{failure}");
    assert!(cluster.node(3).ended().is_none(), "it waits until it can know");
    // With node 2 the cluster can tell it.
    cluster.start_node(2);
    cluster.node_ready(2).await;
    assert_eq!(cluster.node(3).exit_code(LONG).await, 1);
    let said = cluster.node(3).said();
    for words in ["node 3 was part of cluster", "cluster remove 3", "--join"] {
        assert!(said.contains(words), "{words:?} is missing in: {said}");
    }
    assert!(!cluster.data(3).join("IDENTITY").exists(), "it did not take part");
    keyspace.put("k", "x").await.expect("the other two go on");
    // What it says to do works.
    done(&cluster, &["cluster", "remove", "3"]).await;
    cluster.kill_node(3);
    let node = cluster.join_node(&client).await;
    done(&cluster, &["cluster", "add", &node.to_string()]).await;
    assert_eq!(voters(&client, DEFAULT).await, [1, 2, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_is_first_started_late_takes_part() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::prepare(3, &[]);
    cluster.start_node(1);
    cluster.start_node(2);
    cluster.ready().await;
    let client = cluster.client(Duration::from_secs(20)).await;
    client.keyspace("default").put("k", "v").await.expect("a put");
    cluster.start_node(3);
    cluster.node_ready(3).await;
    // It holds what the others hold: one of them may go.
    eventually("node 3 has caught up", LONG, async || {
        let replica = cluster.replica(&client, 3, DEFAULT).await;
        let replica = replica.ok_or_else(|| "it has no replica".to_owned())?;
        if replica.revision.0 >= 2 { Ok(()) } else { Err(format!("{replica:?}")) }
    })
    .await;
    cluster.kill_node(1);
    let value = client.keyspace("default").get("k").await.expect("a get");
    assert_eq!(value.expect("it is there").value, "v");
    client.keyspace("default").put("k", "w").await.expect("a put");
    cluster.check_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_begin_at_a_node_that_has_no_replica_of_the_catalog() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(1, &[]).await;
    let client = cluster.client(Duration::from_secs(20)).await;
    client.keyspace("default").put("k", "v").await.expect("a put");
    let node = cluster.join_node(&client).await;
    let address = cluster.client_address(node);
    let newcomer = Client::connect([address]).await.expect("any node will do");
    let value = newcomer.keyspace("default").get("k").await.expect("a get");
    assert_eq!(value.expect("it is there").value, "v");
    newcomer.keyspace("default").put("k", "w").await.expect("a put");
    cluster.check_sound();
}
