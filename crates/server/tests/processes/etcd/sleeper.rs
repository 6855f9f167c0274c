//! A holder that is put to sleep, by etcd's own tool: it and what it runs are stopped for longer
//! than their lease lives.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal as Number, kill_process_group};

use super::faults::{leader, stores};
use super::peer::program;
use super::store::{Store, prefix, text};
use crate::harness::{Cluster, Turn, eventually};

const LONG: Duration = Duration::from_secs(90);

/// Says what it holds; when it is told to go on, it writes on condition that its key is the one
/// that it held, which is the fence of this API; and it holds on until it is told to end. It
/// compares the key's creation: `etcdctl` tells the revision at which it had the lock, which is
/// later for those who waited.
const SCRIPT: &str = r#"
ETCD_LOCK_CREATED=$("$CTL" --endpoints="$ENDPOINTS" get "$ETCD_LOCK_KEY" -w json |
    sed 's/.*create_revision":\([0-9]*\).*/\1/')
echo "$ETCD_LOCK_KEY $ETCD_LOCK_REV" > "$NAME.held"
while [ ! -e "$NAME.write" ]; do sleep 0.05; done
printf 'c("%s") = "%s"\n\nput guarded %s\n\n\n\n' "$ETCD_LOCK_KEY" "$ETCD_LOCK_CREATED" "$NAME" |
    "$CTL" --endpoints="$ENDPOINTS" txn > "$NAME.part"
mv "$NAME.part" "$NAME.wrote"
while [ ! -e "$NAME.end" ]; do sleep 0.05; done
"#;

/// `etcdctl lock` and the command that it runs, in a process group; killed when dropped.
struct Holder {
    child: Child,
    name: &'static str,
    folder: PathBuf,
}

impl Holder {
    fn start(ctl: &Path, cluster: &Cluster, name: &'static str, ttl: u32) -> Self {
        let folder = cluster.folder().to_owned();
        let child = Command::new(ctl)
            .arg(format!("--endpoints={}", cluster.endpoints()))
            .args(["lock", &format!("--ttl={ttl}"), "door", "--", "sh", "-c", SCRIPT])
            .env("ETCDCTL_API", "3")
            .env("NAME", name)
            .env("CTL", ctl)
            .env("ENDPOINTS", cluster.endpoints())
            .current_dir(&folder)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcdctl runs");
        Self { child, name, folder }
    }

    fn send(&self, signal: Number) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        let group = Pid::from_raw(id).expect("a process id is not zero");
        kill_process_group(group, signal).expect("the group is there: nobody has awaited it");
    }

    fn file(&self, what: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.join(format!("{}.{what}", self.name))).ok()
    }

    fn tell(&self, what: &str) {
        let path = self.folder.join(format!("{}.{what}", self.name));
        std::fs::write(path, "").expect("a file");
    }

    async fn says(&self, what: &str) -> String {
        eventually(&format!("{} {what}", self.name), LONG, async || match self.file(what) {
            Some(said) if said.ends_with('\n') => Ok(said),
            other => Err(format!("{other:?}")),
        })
        .await
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.send(Number::KILL);
        let _ = self.child.wait();
    }
}

/// The creations of the keys in the queue, oldest first, when there are so many.
async fn queue(store: &Store, count: usize) -> Vec<i64> {
    eventually("the queue is as long as it should be", LONG, async || {
        let asked = store.kv().range(prefix("door/")).await.map_err(|s| text(&s))?.into_inner();
        let mut created: Vec<i64> = asked.kvs.iter().map(|kv| kv.create_revision).collect();
        created.sort_unstable();
        if created.len() == count { Ok(created) } else { Err(format!("{created:?}")) }
    })
    .await
}

/// Traps T26 and T28: who sleeps past its lease finds its write refused; those who wait keep their
/// order through a killed leader; what they compare with never goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_holder_wakes_without_its_lock() {
    let _turn = Turn::among_others();
    let Some(ctl) = program("etcdctl", "ETCDCTL_BIN") else { return };
    let mut cluster = Cluster::start(3, &[]).await;
    let stores = stores(&cluster).await;
    let leads = leader(&stores).await;
    let other = &stores[leads % 3];

    let sleeper = Holder::start(&ctl, &cluster, "sleeper", 3);
    sleeper.says("held").await;
    let first = queue(other, 1).await[0];
    let second = Holder::start(&ctl, &cluster, "second", 60);
    queue(other, 2).await;
    let third = Holder::start(&ctl, &cluster, "third", 60);
    let created = queue(other, 3).await;
    assert_eq!(created[0], first);

    sleeper.send(Number::STOP);
    cluster.kill_node(leads);
    second.says("held").await;
    let left = queue(other, 2).await;
    assert_eq!(left, created[1..], "both kept their places, and nothing came back");
    assert_eq!(third.file("held"), None, "one at a time");
    second.tell("write");
    assert!(second.says("wrote").await.starts_with("SUCCESS"));

    sleeper.tell("write");
    sleeper.send(Number::CONT);
    assert!(sleeper.says("wrote").await.starts_with("FAILURE"), "it slept past its lease");
    let read = other.kv().range(prefix("guarded")).await.expect("a range").into_inner();
    assert_eq!(read.kvs[0].value, "second");
    sleeper.tell("end");
    assert_eq!(queue(other, 2).await, created[1..], "it gave up nothing of the others'");
    assert_eq!(third.file("held"), None, "one at a time");

    second.tell("end");
    third.says("held").await;
    assert_eq!(queue(other, 1).await, created[2..]);
    third.tell("write");
    assert!(third.says("wrote").await.starts_with("SUCCESS"));
    third.tell("end");
    queue(other, 0).await;
    cluster.start_node(leads);
    cluster.ready().await;
    cluster.check_sound();
}
