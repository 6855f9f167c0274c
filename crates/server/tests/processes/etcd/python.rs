//! A Python client of etcd and its own tests, installed from the package index.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Cluster, Turn};

/// The client, and what its tests are known to run with.
const CLIENT: &str = "etcd3==0.12.0";
const PACKAGES: [&str; 6] =
    [CLIENT, "protobuf<3.21", "hypothesis==4.56.3", "tenacity==6.1.0", "pytest<7", "mock"];

/// Tests that can't pass here, and why.
const LEFT_OUT: [&str; 10] = [
    // They stop members of a tool that starts etcd, by its name; one wants members named so.
    "TestEtcd3::test_get_key_serializable",
    "TestEtcd3::test_get_prefix_serializable",
    "TestEtcd3::test_member_list",
    // `etcdctl snapshot status` reads etcd's own format only.
    "TestEtcd3::test_snapshot",
    // They ask localhost:2379, whatever endpoint is given. Alarms can't be raised by hand, either,
    // and there are no users.
    "TestAlarms::test_create_alarm_all_members",
    "TestAlarms::test_create_alarm_specific_member",
    "TestAlarms::test_list_alarms",
    "TestAlarms::test_disarm_alarm",
    "TestClient::test_compact",
    "TestClient::test_user_pwd_auth",
];

/// Runs a program to its end; what it said.
fn run(folder: &Path, program: &Path, args: &[&str], variables: &[(&str, &str)]) -> (bool, String) {
    let output = Command::new(program)
        .args(args)
        .envs(variables.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&said).into_owned())
        }
        Err(error) => (false, format!("{} can't be started: {error}", program.display())),
    }
}

/// The same, of what must succeed.
pub(super) fn must(folder: &Path, program: &Path, args: &[&str]) {
    let (is_done, said) = run(folder, program, args, &[]);
    assert!(is_done, "{} {args:?}: {said}", program.display());
}

/// 72 of its 82 tests; `cargo x clients` runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "installs packages from the index, which takes minutes"]
async fn the_tests_of_the_python_client_pass() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(3, &[]).await;
    let folder = cluster.folder().join("python");
    std::fs::create_dir(&folder).expect("a folder");
    must(&folder, Path::new("python3"), &["-m", "venv", "venv"]);
    let pip = folder.join("venv/bin/pip");
    must(&folder, &pip, &[&["install", "--quiet"][..], &PACKAGES].concat());
    // Its tests are in the archive of its source alone.
    let source = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", CLIENT];
    must(&folder, &pip, &source);
    must(&folder, Path::new("tar"), &["xzf", "etcd3-0.12.0.tar.gz"]);
    let left_out: Vec<String> =
        LEFT_OUT.iter().map(|name| format!("--deselect=tests/test_etcd3.py::{name}")).collect();
    let mut args = vec!["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_etcd3.py"];
    args.extend(left_out.iter().map(String::as_str));
    let endpoint = format!("http://{}", cluster.client_address(1));
    let variables = [
        ("PYTHON_ETCD_HTTP_URL", endpoint.as_str()),
        ("TEST_ETCD_VERSION", "v3.4.23"),
        ("ETCDCTL_API", "3"),
    ];
    let python = folder.join("venv/bin/python");
    let (is_done, said) = run(&folder.join("etcd3-0.12.0"), &python, &args, &variables);
    eprintln!("{}", said.lines().last().unwrap_or_default());
    assert!(is_done, "{said}");
    assert!(said.contains("72 passed"), "{said}");
    cluster.check_sound();
}
