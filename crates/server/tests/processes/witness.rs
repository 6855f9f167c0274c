//! Two nodes with data and a witness: real processes, real kills.

use std::time::Duration;

use atoll_client::{Client, Role, ShardId};

use crate::harness::{Cluster, Turn, done, eventually, leader};

const LONG: Duration = Duration::from_secs(60);
const DEFAULT: ShardId = ShardId(2);

/// A command that must be refused with these words.
async fn refused(cluster: &Cluster, args: &[&str], words: &str) {
    let (code, said) = cluster.run(args).await;
    assert!(code != 0 && said.contains(words), "{args:?} ended with {code}: {said}");
}

/// The node is a witness of both shards, and says so.
async fn is_witness(cluster: &Cluster, client: &Client, node: usize) {
    for shard in [ShardId::SYSTEM, DEFAULT] {
        eventually(&format!("node {node} is a witness of shard {shard}"), LONG, async || {
            let replica = cluster.replica(client, node, shard).await;
            match replica {
                Some(replica) if replica.state == "witness" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

/// Nodes 1 and 2 hold everything, node 3 is a witness of everything.
async fn two_and_a_witness() -> (Cluster, Client) {
    let mut cluster = Cluster::start(2, &[]).await;
    let client = cluster.client(Duration::from_secs(30)).await;
    client.keyspace("default").put("before", "v").await.expect("a put");
    for node in ["1", "2"] {
        done(&cluster, &["cluster", "add", node]).await;
    }
    cluster.join_node(&client).await;
    for _ in 0..2 {
        let said = done(&cluster, &["cluster", "add", "3", "--witness"]).await;
        assert!(said.contains("3 (witness)"), "{said}");
    }
    (cluster, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_copies_and_a_witness_survive_the_loss_of_either_copy() {
    let _turn = Turn::among_others();
    let (mut cluster, client) = two_and_a_witness().await;
    let data = client.keyspace("default");
    is_witness(&cluster, &client, 3).await;
    let said = done(&cluster, &["cluster", "status"]).await;
    assert!(said.contains("witness"), "{said}");
    for round in 0..2 {
        // Whoever leads the data goes, so the other one is elected with the witness's vote.
        let gone = leader(&client, DEFAULT).await;
        assert_ne!(gone, 3);
        cluster.kill_node(gone);
        data.put(format!("without {gone} in {round}"), "v").await.expect("a put");
        let value = data.get("before").await.expect("a get");
        assert_eq!(value.expect("it is there").value, "v");
        cluster.start_node(gone);
        cluster.node_ready(gone).await;
        let revision = data.put("all", "v").await.expect("a put").revision;
        eventually(&format!("node {gone} has caught up"), LONG, async || {
            let replica = cluster.replica(&client, gone, DEFAULT).await;
            match replica {
                Some(replica) if replica.revision >= revision => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    // The witness itself is killed, misses something, and is what it was.
    cluster.kill_node(3);
    data.put("without the witness", "v").await.expect("a put");
    cluster.start_node(3);
    cluster.node_ready(3).await;
    is_witness(&cluster, &client, 3).await;
    let gone = leader(&client, DEFAULT).await;
    cluster.kill_node(gone);
    data.put("with it again", "v").await.expect("a put");
    cluster.check_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_witness_cannot_do_is_refused_and_what_it_was_can_change() {
    let _turn = Turn::among_others();
    let (mut cluster, client) = two_and_a_witness().await;
    let cases: [(&[&str], &str); 4] = [
        (
            &["cluster", "transfer-leader", "--shard=2", "--to=3"],
            "can't lead shard 2: it is a witness",
        ),
        (&["cluster", "promote", "3", "--shard=2"], "it votes already and has no data"),
        (&["cluster", "add", "3", "--shard=2"], "node 3 is a witness of shard 2: remove it first"),
        (&["cluster", "remove", "2", "--shard=2"], "there must be more voters than witnesses"),
    ];
    for (args, words) in cases {
        refused(&cluster, args, words).await;
    }
    // Asked for data, its node asks those who have it.
    let only_three = [format!("--endpoints={}", cluster.client_address(3))];
    for how in [vec!["get", "before"], vec!["get", "before", "--stale"]] {
        let args: Vec<&str> = how.iter().copied().chain([only_three[0].as_str()]).collect();
        let mut process = crate::harness::Process::start(
            cluster.folder(),
            "asks-the-witness",
            &args.iter().map(|&a| a.to_owned()).collect::<Vec<_>>(),
        );
        assert_eq!(process.exit_code(LONG).await, 0, "{}", process.said());
        assert!(process.said().contains('v'), "{}", process.said());
    }
    for _ in 0..2 {
        done(&cluster, &["cluster", "remove", "3", "--shard=2"]).await;
    }
    assert!(cluster.replica(&client, 3, DEFAULT).await.is_none(), "its replica is deleted");
    done(&cluster, &["cluster", "add", "3", "--shard=2"]).await;
    let catalog = client.newest_catalog().await.expect("the catalog is there");
    let members = &catalog.shard(DEFAULT).expect("the shard is there").record.descriptor.members;
    assert!(members.iter().all(|m| m.role == Role::Voter) && members.len() == 3, "{members:?}");
    // It holds the data now: it does without either of the others.
    let gone = leader(&client, DEFAULT).await;
    cluster.lead(&client, 3, DEFAULT).await;
    if gone != 3 {
        cluster.kill_node(gone);
    }
    let value = client.keyspace("default").get("before").await.expect("a get");
    assert_eq!(value.expect("it is there").value, "v");
    cluster.check_sound();
}
