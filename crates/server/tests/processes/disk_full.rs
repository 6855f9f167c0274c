//! A full disk: writes are refused with the reason, reads go on, and all is well once there is
//! room.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use atoll_client::{Code, Happened, Keys, Keyspace};
use atoll_storage::{Disk as _, RealDisk};

use crate::harness::{Cluster, Turn, eventually, within};

const LONG: Duration = Duration::from_secs(60);

/// A small disk of its own, gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one at `path`, or says why that is not possible here.
    fn mount(path: &Path, size: &str) -> Result<Self, String> {
        std::fs::create_dir_all(path).map_err(|e| e.to_string())?;
        let options = format!("size={size},mode=700");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "atoll-test"])
            .arg(path)
            .output()
            .map_err(|e| format!("mount can't be run: {e}"))?;
        if mount.status.success() {
            Ok(Self(path.to_owned()))
        } else {
            Err(String::from_utf8_lossy(&mount.stderr).trim().to_owned())
        }
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes room until no more than `bytes` are left, and never leaves less: a node that looks
    /// meanwhile would give its reserve up, and that would be room again.
    fn fill_up_to(&self, bytes: u64) {
        let mut file = File::create(self.ballast()).expect("a file");
        let block = vec![1_u8; 64 << 10];
        loop {
            let free = RealDisk.free_bytes(&self.0).expect("the system says what is free");
            let more = free.saturating_sub(bytes).min(block.len() as u64);
            if more == 0 || file.write_all(&block[..more as usize]).is_err() {
                return;
            }
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Puts until a put is refused because the disk is full; gives those that were acknowledged.
async fn put_until_full(keyspace: &Keyspace, from: u64) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    let work = async {
        for n in from.. {
            match keyspace.put(key(n), value(n)).await {
                Ok(_) => acknowledged.push(n),
                Err(failure) if failure.code == Code::DiskFull => {
                    assert_eq!(failure.happened, Happened::No, "{failure}");
                    assert!(failure.message.contains("disk_reserve_bytes"), "{failure}");
                    return;
                }
                // The write that found no room may wait for some.
                Err(failure) => assert_eq!(failure.code, Code::DeadlineExceeded, "{failure}"),
            }
        }
    };
    within("a put is refused", Duration::from_secs(120), work).await;
    acknowledged
}

fn key(n: u64) -> String {
    format!("key/{n:06}")
}

fn value(n: u64) -> Vec<u8> {
    vec![n as u8; 32 << 10]
}

async fn check_all(keyspace: &Keyspace, acknowledged: &[u64]) {
    let mut scan = keyspace.scan(Keys::all());
    let mut found = BTreeMap::new();
    while let Some(kv) = scan.next().await.expect("reads are served") {
        found.insert(kv.key.clone(), kv);
    }
    for n in acknowledged {
        let kv = found.get(key(*n).as_bytes()).unwrap_or_else(|| panic!("{} is lost", key(*n)));
        assert_eq!(kv.value, value(*n));
        assert_eq!(kv.version, 1, "{} was put once", key(*n));
    }
}

/// One node on a small disk, of which somebody else leaves `room` bytes.
async fn fill(room: u64) {
    let _turn = Turn::alone();
    let settings = [
        "--disk-reserve-bytes=32MiB",
        "--persist-interval=300ms",
        "--persist-bytes=1MiB",
        "--log-keep-entries=10",
    ];
    let mut cluster = Cluster::prepare(1, &settings);
    let disk = match SmallDisk::mount(&cluster.data(1), "512m") {
        Ok(disk) => disk,
        Err(why) => {
            println!("skipped: a small disk can't be mounted here: {why}");
            return;
        }
    };
    cluster.start_all();
    cluster.ready().await;
    let client = cluster.client(Duration::from_millis(1500)).await;
    let (keyspace, _) = cluster.keyspace(&client, "data", &[]).await;
    let mut acknowledged: Vec<u64> = (0..20).collect();
    for n in &acknowledged {
        keyspace.put(key(*n), value(*n)).await.expect("there is room");
    }
    for round in 1..=2 {
        disk.fill_up_to(room);
        let put = put_until_full(&keyspace, round * 100_000).await;
        println!("round {round}: full after {} puts", put.len());
        acknowledged.extend(put);
        check_all(&keyspace, &acknowledged).await;
        let got = keyspace.get(key(7)).await.expect("a get is served");
        assert_eq!(got.expect("it is there").value, value(7));
        let again = keyspace.put("key/refused", "x").await.expect_err("it is still full");
        assert_eq!(again.code, Code::DiskFull, "{again}");
        assert!(keyspace.delete(key(round)).await.expect("deletes go on"));
        acknowledged.retain(|n| *n != round);
        cluster.check_sound();
        disk.make_room();
        let last = round * 100_000 + 90_000;
        eventually("writes are taken again", LONG, async || {
            let put = keyspace.put(key(last), value(last)).await;
            put.map(drop).map_err(|failure| failure.to_string())
        })
        .await;
        acknowledged.push(last);
        check_all(&keyspace, &acknowledged).await;
    }
    // And a restart finds all of it.
    cluster.kill_node(1);
    cluster.start_node(1);
    cluster.ready().await;
    check_all(&keyspace, &acknowledged).await;
    cluster.check_sound();
    drop(cluster);
    drop(disk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_writes_fill_the_disk_they_are_refused_until_there_is_room() {
    fill(20 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_somebody_else_takes_all_room_writes_are_refused_until_there_is_some() {
    fill(0).await;
}
