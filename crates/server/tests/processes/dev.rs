//! `atoll dev`: started, used, stopped, started again.

use std::path::Path;
use std::time::Duration;

use atoll_client::{Client, KeyspaceSpec, Options};

use crate::harness::{Ports, Process, Signal, Turn, eventually};

const LONG: Duration = Duration::from_secs(60);

/// Three nodes of three ports each.
const PORTS: u16 = 9;

fn args(folder: &Path, port: u16) -> Vec<String> {
    let data = folder.join("data");
    vec!["dev".to_owned(), format!("--port={port}"), format!("--data={}", data.display())]
}

/// Starts a cluster on these ports and gives its nodes' client addresses once it says that it is
/// up.
async fn start(folder: &Path, name: &str, port: u16) -> (Process, Vec<String>) {
    let mut process = Process::start(folder, name, &args(folder, port));
    let addresses = eventually("the cluster is up", LONG, async || {
        let said = process.said();
        if let Some(status) = process.ended() {
            panic!("it ended with {status}:\n{said}");
        }
        if said.contains("Ctrl-C stops it") { Ok(addresses(&said)) } else { Err(said) }
    })
    .await;
    assert_eq!(addresses.len(), 3, "{}", process.said());
    (process, addresses)
}

fn addresses(said: &str) -> Vec<String> {
    let of = |line: &str| Some(line.split_once("clients ")?.1.split_once(',')?.0.to_owned());
    said.lines().filter_map(of).collect()
}

async fn connect(address: &str) -> Client {
    let options = Options { timeout: Duration::from_secs(30), ..Options::default() };
    let client = Client::builder().addresses([address]).options(options).connect().await;
    client.expect("the cluster is there")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_stopped_by_ctrl_c_has_its_data_when_it_is_started_again() {
    let _turn = Turn::among_others();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut ports = Ports::new();
    let port = ports.reserve_row(PORTS);
    for round in 0..3_u64 {
        let (mut process, addresses) = start(folder.path(), &format!("dev-{round}"), port).await;
        // Any node will do as the first to ask.
        let client = connect(&addresses[round as usize]).await;
        if round == 0 {
            client.create_keyspace(&KeyspaceSpec::new("made")).await.expect("a keyspace");
        }
        for keyspace in [client.keyspace("default"), client.keyspace("made")] {
            for before in 0..round {
                let kv = keyspace.get(format!("key/{before}")).await.expect("a get");
                let kv = kv.unwrap_or_else(|| panic!("key {before} is lost in round {round}"));
                assert_eq!((&kv.value[..], kv.version), (format!("{before}").as_bytes(), 1));
            }
            keyspace.put(format!("key/{round}"), format!("{round}")).await.expect("a put");
        }
        let status = client.cluster_status().await.expect("a status");
        for node in status.nodes {
            assert!(
                node.replicas.is_ok(),
                "node {:?} is not reached: {:?}",
                node.node,
                node.replicas
            );
        }
        drop(client);
        process.send(Signal::Interrupt);
        assert_eq!(process.exit_code(LONG).await, 0, "{}", process.said());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_cluster_on_the_same_folder_is_refused() {
    let _turn = Turn::among_others();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut ports = Ports::new();
    let (first, addresses) = start(folder.path(), "first", ports.reserve_row(PORTS)).await;
    let other = args(folder.path(), ports.reserve_row(PORTS));
    let mut second = Process::start(folder.path(), "second", &other);
    assert_ne!(second.exit_code(LONG).await, 0);
    let said = second.said();
    assert!(said.contains("in use by another process"), "{said}");
    let client = connect(&addresses[0]).await;
    client.keyspace("default").put("still", "here").await.expect("the first one goes on");
    drop(first);
}
