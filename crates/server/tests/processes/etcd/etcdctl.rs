//! Debian's `etcdctl`: what its users do, done with it.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use super::peer::program;
use crate::harness::{Cluster, Turn, eventually, sized};

const SOON: Duration = Duration::from_secs(30);

/// The program and the endpoints that it asks.
struct Ctl {
    program: PathBuf,
    endpoints: String,
}

/// A run that goes on; killed and awaited when dropped.
struct Running {
    child: Child,
    output: PathBuf,
}

impl Ctl {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("ETCDCTL_API", "3").stdin(Stdio::null());
        command.arg(format!("--endpoints={}", self.endpoints)).args(args);
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("etcdctl runs")
    }

    /// What it says when all is well.
    fn run(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.output(args);
        let (said, errors) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "etcdctl {args:?}: {status}\n{said}\n{errors}");
        said.into_owned()
    }

    /// Its last line when something is not.
    fn fails(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.output(args);
        assert!(!status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&stdout));
        let errors = String::from_utf8_lossy(&stderr);
        errors.lines().last().unwrap_or_default().to_owned()
    }

    fn start(&self, folder: &std::path::Path, args: &[&str]) -> Running {
        let output = folder.join(format!("etcdctl-{}.out", args.join("-").replace('/', "_")));
        let file = std::fs::File::create(&output).expect("a file");
        let child = self.command(args).stdout(file).stderr(Stdio::null()).spawn();
        Running { child: child.expect("etcdctl runs"), output }
    }

    /// Runs a transaction: conditions, one list, the other.
    fn txn(&self, parts: [&str; 3]) -> String {
        use std::io::Write as _;
        let mut child = self
            .command(&["txn"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("etcdctl runs");
        let text = format!("{}\n\n", parts.join("\n\n"));
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(text.as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Running {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    async fn says(&self, what: &str) {
        eventually(&format!("etcdctl says {what:?}"), SOON, async || {
            let said = self.said();
            if said.contains(what) { Ok(()) } else { Err(said) }
        })
        .await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn cluster() -> Option<(Cluster, Ctl)> {
    let program = program("etcdctl", "ETCDCTL_BIN")?;
    let cluster = Cluster::start(3, &[]).await;
    let endpoints = cluster.endpoints();
    Some((cluster, Ctl { program, endpoints }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_put_read_deleted_and_compacted() {
    let _turn = Turn::among_others();
    let Some((mut cluster, ctl)) = cluster().await else { return };
    assert_eq!(ctl.run(&["put", "foo", "bar"]), "OK\n");
    assert_eq!(ctl.run(&["put", "foo", "baz", "--prev-kv"]), "OK\nfoo\nbar\n");
    assert_eq!(ctl.run(&["get", "foo"]), "foo\nbaz\n");
    assert_eq!(ctl.run(&["get", "foo", "--rev=2"]), "foo\nbar\n");
    assert_eq!(ctl.run(&["get", "foo", "--print-value-only"]), "baz\n");
    for (key, value) in [("k1", "c"), ("k2", "a"), ("k3", "b"), ("l", "z")] {
        ctl.run(&["put", key, value]);
    }
    let get = |flags: &[&str]| ctl.run(&[&["get", "k", "--prefix"][..], flags].concat());
    assert_eq!(get(&["--keys-only"]), "k1\n\nk2\n\nk3\n\n");
    assert_eq!(get(&["--limit=2"]), "k1\nc\nk2\na\n");
    assert_eq!(get(&["--order=DESCEND", "--limit=1"]), "k3\nb\n");
    assert_eq!(get(&["--sort-by=VALUE", "--order=ASCEND"]), "k2\na\nk3\nb\nk1\nc\n");
    assert_eq!(get(&["--sort-by=MODIFY", "--order=DESCEND", "--limit=1"]), "k3\nb\n");
    assert_eq!(get(&["--sort-by=CREATE", "--order=DESCEND", "--limit=1"]), "k3\nb\n");
    assert_eq!(get(&["--consistency=s"]), "k1\nc\nk2\na\nk3\nb\n");
    assert_eq!(ctl.run(&["get", "k1", "k3"]), "k1\nc\nk2\na\n");
    assert_eq!(ctl.run(&["get", "k3", "--from-key"]), "k3\nb\nl\nz\n");
    let json = ctl.run(&["get", "k1", "-w", "json"]);
    assert!(json.contains(r#""create_revision":4,"mod_revision":4,"version":1"#), "{json}");
    assert_eq!(ctl.run(&["put", "k1", "--ignore-value"]), "OK\n");
    assert!(ctl.fails(&["put", "none", "--ignore-value"]).contains("etcdserver: key not found"));
    assert!(ctl.fails(&["put", "k1", "v", "--lease=77"]).contains("requested lease not found"));
    assert_eq!(ctl.run(&["del", "k1", "--prev-kv"]), "1\nk1\nc\n");
    assert_eq!(ctl.run(&["del", "k", "--prefix"]), "2\n");
    assert_eq!(ctl.run(&["del", "nothing"]), "0\n");
    assert_eq!(ctl.run(&["del", "l", "--from-key"]), "1\n");
    assert_eq!(ctl.run(&["compaction", "5", "--physical"]), "compacted revision 5\n");
    let gone = ctl.fails(&["get", "foo", "--rev=2"]);
    assert!(gone.contains("etcdserver: mvcc: required revision has been compacted"), "{gone}");
    let again = ctl.fails(&["compaction", "5"]);
    assert!(again.contains("required revision has been compacted"), "{again}");
    cluster.check_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_watches_and_leases_work() {
    let _turn = Turn::among_others();
    let Some((mut cluster, ctl)) = cluster().await else { return };
    ctl.run(&["put", "k1", "v1"]);
    let watch = ctl.start(cluster.folder(), &["watch", "k", "--prefix", "--prev-kv"]);
    let past = ctl.start(cluster.folder(), &["watch", "k1", "--rev=2"]);
    past.says("PUT\nk1\nv1").await;
    let yes = ctl.txn(["value(\"k1\") = \"v1\"", "put k2 x\nget k --prefix", "put k3 y"]);
    assert_eq!(yes, "SUCCESS\n\nOK\n\nk1\nv1\nk2\nx\n");
    let no = ctl.txn(["mod(\"k1\") > \"2\"", "put k2 no", "del k1\nput k3 y"]);
    assert_eq!(no, "FAILURE\n\n1\n\nOK\n");
    watch.says("PUT\nk2\nx\n").await;
    watch.says("DELETE\nk1\nv1\nk1\n\n").await;

    let granted = ctl.run(&["lease", "grant", "100"]);
    let id = granted.split_whitespace().nth(1).expect("an id").to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(100s)\n"));
    ctl.run(&["put", "kl", "leased", &format!("--lease={id}")]);
    let left = ctl.run(&["lease", "timetolive", &id, "--keys"]);
    assert!(left.contains("TTL(100s)") && left.contains("attached keys([kl])"), "{left}");
    assert!(ctl.run(&["lease", "list"]).contains(&id));
    let kept = ctl.run(&["lease", "keep-alive", "--once", &id]);
    assert_eq!(kept, format!("lease {id} keepalived with TTL(100)\n"));
    assert_eq!(ctl.run(&["lease", "revoke", &id]), format!("lease {id} revoked\n"));
    watch.says("DELETE\nkl\nleased").await;
    assert_eq!(ctl.run(&["get", "kl"]), "");
    assert_eq!(ctl.run(&["lease", "timetolive", &id]), format!("lease {id} already expired\n"));
    let again = ctl.fails(&["lease", "revoke", &id]);
    assert!(again.contains("requested lease not found"), "{again}");
    cluster.check_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_and_elections_exclude() {
    let _turn = Turn::among_others();
    let Some((mut cluster, ctl)) = cluster().await else { return };
    let ran = ctl.run(&["lock", "door", "echo", "inside"]);
    assert_eq!(ran, "inside\n");
    let first = ctl.start(cluster.folder(), &["lock", "door"]);
    first.says("door/").await;
    let second = ctl.start(cluster.folder(), &["lock", "door", "--ttl=20"]);
    eventually("both are in the queue", SOON, async || {
        let queue = ctl.run(&["get", "door/", "--prefix", "--keys-only"]);
        if queue.matches("door/").count() == 2 { Ok(()) } else { Err(queue) }
    })
    .await;
    assert_eq!(second.said(), "", "one at a time");
    let holder = first.said().trim().to_owned();
    assert_eq!(ctl.run(&["del", &holder]), "1\n");
    second.says("door/").await;
    drop((first, second));

    let leader = ctl.start(cluster.folder(), &["elect", "chair", "me"]);
    leader.says("me").await;
    let listener = ctl.start(cluster.folder(), &["elect", "--listen", "chair"]);
    listener.says("me").await;
    cluster.check_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_and_endpoints_are_told() {
    let _turn = Turn::among_others();
    let Some((mut cluster, ctl)) = cluster().await else { return };
    ctl.run(&["put", "k", "v"]);
    let members = ctl.run(&["member", "list"]);
    for node in cluster.all() {
        let line = format!(
            "{node:x}, started, node-{node}, http://{}, http://{}, false",
            cluster.peer_address(node),
            cluster.client_address(node)
        );
        assert!(members.contains(&line), "{line} in {members}");
    }
    let statuses = ctl.run(&["endpoint", "status"]);
    assert_eq!(statuses.lines().count(), 3, "{statuses}");
    let leading: Vec<&str> = statuses.lines().filter(|l| l.contains(", true, false,")).collect();
    assert_eq!(leading.len(), 1, "one leads: {statuses}");
    let health = ctl.output(&["endpoint", "health"]);
    assert!(health.status.success(), "{health:?}");
    let mut hashes = Vec::new();
    eventually("all replicas have the same", SOON, async || {
        let said = ctl.run(&["endpoint", "hashkv"]);
        hashes = said.lines().filter_map(|l| Some(l.split_once(", ")?.1.to_owned())).collect();
        let is_same = hashes.len() == 3 && hashes.iter().all(|hash| *hash == hashes[0]);
        if is_same { Ok(()) } else { Err(said) }
    })
    .await;
    assert_eq!(ctl.run(&["alarm", "list"]), "");
    assert!(ctl.run(&["defrag"]).contains("Finished defragmenting"));
    let snapshot = cluster.folder().join("snapshot");
    let one = Ctl { program: ctl.program.clone(), endpoints: cluster.client_address(1) };
    one.run(&["snapshot", "save", &snapshot.display().to_string()]);
    let bytes = std::fs::read(&snapshot).expect("it is there");
    assert!(bytes.starts_with(b"atoll-etcd-snapshot 1\n") && bytes.len() % 512 == 32);
    let leader = statuses.lines().position(|l| l.contains(", true, false,")).expect("one") + 1;
    let next = leader % 3 + 1;
    let moved = ctl.run(&["move-leader", &format!("{next:x}")]);
    assert!(moved.contains(&format!("from {leader:x} to {next:x}")), "{moved}");
    let refused = ctl.fails(&["member", "remove", "99"]);
    assert!(refused.contains("member not found"), "{refused}");
    cluster.check_sound();
}

/// Its own benchmark runs to its end; whether this machine passes is another matter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_check_of_performance_runs() {
    let _turn = Turn::alone();
    if !sized(false, true) {
        // A minute; the quick form sees that the load is taken at all.
        let Some((cluster, ctl)) = cluster().await else { return };
        let check = ctl.start(cluster.folder(), &["check", "perf", "--load=s"]);
        eventually("it writes", SOON, async || {
            let keys = ctl.run(&["get", "/etcdctl-check-perf/", "--prefix", "--keys-only"]);
            if keys.lines().count() > 100 { Ok(()) } else { Err(keys) }
        })
        .await;
        drop(check);
        return;
    }
    let Some((cluster, ctl)) = cluster().await else { return };
    let said = ctl.output(&["check", "perf", "--load=s"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    eprintln!("{said}");
    assert!(said.contains("Throughput is"), "{said}");
    drop(cluster);
}
