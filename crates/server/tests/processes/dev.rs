//! `atoll dev`: started, used, stopped, started again.

use std::path::Path;
use std::time::Duration;

use atoll_client::{Client, Options};

use crate::harness::{Process, Turn, eventually};

const LONG: Duration = Duration::from_secs(60);

/// Starts a cluster on free ports and gives its nodes' client addresses once it says that it is up.
async fn start(folder: &Path, name: &str) -> (Process, Vec<String>) {
    let data = folder.join("data");
    let args = ["dev", "--port=0", "--data", data.to_str().expect("a plain path")];
    let mut process = Process::start(folder, name, &args.map(str::to_owned));
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
async fn a_second_cluster_on_the_same_folder_is_refused() {
    let _turn = Turn::among_others();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (first, addresses) = start(folder.path(), "first").await;
    let data = folder.path().join("data");
    let args = ["dev", "--port=0", "--data", data.to_str().expect("a plain path")];
    let mut second = Process::start(folder.path(), "second", &args.map(str::to_owned));
    assert_ne!(second.exit_code(LONG).await, 0);
    let said = second.said();
    assert!(said.contains("in use by another process"), "{said}");
    let client = connect(&addresses[0]).await;
    client.keyspace("default").put("still", "here").await.expect("the first one goes on");
    drop(first);
}
