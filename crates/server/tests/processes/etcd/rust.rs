//! The Rust client `etcd-client`: every call that it has, made at Atoll by a program of its own.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Cluster, Turn};

/// `cargo test -p atoll-server --test processes etcd::rust -- --ignored`; wants `protoc` on the
/// path, or named by `PROTOC`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "builds a hundred crates, which takes minutes, and needs protoc"]
async fn the_calls_of_the_rust_client_are_answered() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(3, &[]).await;
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/etcd-client");
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--manifest-path"])
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("etcd-client"))
        .arg("--")
        .args(cluster.all().map(|node| cluster.client_address(node)))
        .stdin(Stdio::null())
        .output()
        .expect("cargo runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    eprintln!("{said}");
    assert!(output.status.success(), "{}", output.status);
    assert!(said.contains("all calls were answered"));
    cluster.check_sound();
}
