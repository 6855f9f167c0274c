//! The log's task on a disk that stalls, fills up and recovers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use atoll_base::{Entry, EntryKind, LaneId, LogIndex, ShardId, Term, Ticket};
use atoll_node::{Input, LogWrite};
use atoll_storage::disk::OpenMode;
use atoll_storage::{
    Disk, DiskFile, LogBatch, LogOptions, LogRecord, MemDisk, MemEngine, WrittenEntry,
};

use super::*;
use crate::config;
use crate::drive::metrics::Metrics;
use crate::drive::node::hub;
use crate::drive::room::Room;

const SHARD: ShardId = ShardId(7);
const LANE: LaneId = LaneId(0);

/// What goes wrong with a disk.
#[derive(Default)]
struct Faults {
    /// Syncs wait so long.
    sync_takes_ms: AtomicU64,
    /// So many writes find no room.
    writes_without_room: AtomicU64,
}

#[derive(Clone)]
struct FaultyDisk(MemDisk, Arc<Faults>);

struct FaultyFile(Box<dyn DiskFile>, Arc<Faults>);

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FaultyFile(self.0.open(path, mode)?, self.1.clone())))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.0.free_bytes(path)
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let room = &self.1.writes_without_room;
        if room.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let takes = Duration::from_millis(self.1.sync_takes_ms.load(SeqCst));
        let began = Instant::now();
        while began.elapsed() < takes {
            std::thread::yield_now();
        }
        self.0.sync()
    }

    fn allocate_zeroed(&self, len: u64) -> io::Result<()> {
        self.0.allocate_zeroed(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

/// A log on a faulty disk, written by the task.
struct Log {
    disk: MemDisk,
    faults: Arc<Faults>,
    hub: Arc<Hub>,
    running: Running,
    last: u64,
    inbox: Vec<Input>,
    _folder: tempfile::TempDir,
}

fn open(disk: FaultyDisk) -> (LogWriter, u64) {
    let options =
        LogOptions { segment_bytes: 64 << 10, record_bytes_max: 9 << 10, ..LogOptions::default() };
    let (writer, recovered) = LogWriter::open(Arc::new(disk), Path::new("/log"), options).unwrap();
    assert_eq!(recovered.warnings, Vec::<String>::new());
    let last = recovered.shards.get(&SHARD).map_or(0, |shard| shard.log.last_index().0);
    (writer, last)
}

/// What a node's threads share, without the node.
fn hub_in(folder: &Path) -> Arc<Hub> {
    let command = config::matches_of(clap::Command::new("t").no_binary_name(true));
    let data = format!("--data={}", folder.display());
    let flags = command.try_get_matches_from(["--node-id=1", &data, "--lanes=1"]).unwrap();
    let config = config::load_flags(&flags).unwrap();
    let room = Room::open(folder, 0);
    hub(&config, 1, Arc::new(MemEngine::new()), Metrics::new().0, room)
}

impl Log {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (disk, faults) = (MemDisk::new(1), Arc::new(Faults::default()));
        let hub = hub_in(folder.path());
        let (writer, _) = open(FaultyDisk(disk.clone(), faults.clone()));
        let running = start(writer, SyncTime::default(), hub.clone(), Place::Task).unwrap();
        Self { disk, faults, hub, running, last: 0, inbox: Vec::new(), _folder: folder }
    }

    /// Hands the next write to the log, as a lane does.
    fn push(&mut self, bytes: usize) {
        self.last += 1;
        let entry = Entry {
            term: Term(1),
            index: LogIndex(self.last),
            kind: EntryKind::Commands,
            payload: vec![7; bytes].into(),
        };
        let batch = LogBatch { records: vec![LogRecord::Entry { shard: SHARD, entry }] };
        let ticket = Ticket(self.last);
        self.hub.log.write(LANE, LogWrite { ticket, batch, ..LogWrite::default() });
    }

    /// Waits until the last write is durable; everything before it must be told before it.
    async fn written(&mut self) {
        let mailbox = self.hub.lanes.mailbox(LANE);
        let mut told = 0;
        let all = async {
            while told < self.last {
                std::future::poll_fn(|context| mailbox.poll_filled(context)).await;
                mailbox.take(&mut self.inbox, Some(Duration::ZERO));
                for input in self.inbox.drain(..) {
                    let Input::Written { ticket, entries } = input else { continue };
                    assert!(told == 0 || ticket.0 == told + 1, "{} after {told}", ticket.0);
                    let [WrittenEntry { index, .. }] = entries[..] else { panic!("{entries:?}") };
                    assert_eq!(index.0, ticket.0);
                    told = ticket.0;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    }

    async fn write(&mut self, bytes: usize) {
        self.push(bytes);
        self.written().await;
    }

    fn inline_writes(&self) -> u64 {
        self.hub.metrics.log_inline_writes.get()
    }

    fn pauses(&self) -> u64 {
        self.hub.metrics.log_inline_pauses.get()
    }

    /// Writes until the task has the log and keeps it for a write.
    async fn is_inline_again(&mut self) {
        let again = async {
            loop {
                let before = self.inline_writes();
                self.write(100).await;
                if self.inline_writes() > before && self.hub.metrics.log_inline.get() == 1 {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(120), again).await.unwrap();
    }

    /// Ends the log and makes sure that it holds every write.
    async fn end(self) {
        self.hub.log.close();
        self.running.ended().await;
        assert_eq!(open(FaultyDisk(self.disk, Arc::default())).1, self.last);
    }
}

#[tokio::test]
async fn a_stall_gives_the_log_to_a_thread_until_the_disk_is_fast_again() {
    let mut log = Log::start();
    log.is_inline_again().await;
    log.faults.sync_takes_ms.store(40, SeqCst);
    let (pauses, before) = (log.pauses(), log.inline_writes());
    for _ in 0..20 {
        log.push(100);
        log.written().await;
    }
    assert!(log.inline_writes() - before <= 1, "{before} and {}", log.inline_writes());
    assert_eq!(log.pauses(), pauses + 1);
    assert_eq!(log.hub.metrics.log_inline.get(), 0);
    log.faults.sync_takes_ms.store(0, SeqCst);
    log.is_inline_again().await;
    log.end().await;
}

#[tokio::test]
async fn what_is_no_plain_write_is_a_threads_and_order_holds() {
    let mut log = Log::start();
    log.is_inline_again().await;
    let before = log.inline_writes();
    // Each takes a segment of its own, or nearly.
    for _ in 0..20 {
        for _ in 0..7 {
            log.push(8000);
        }
        log.written().await;
        log.write(10).await;
    }
    assert!(log.hub.metrics.log_segments.get() > 10);
    assert!(log.inline_writes() - before < 40, "{}", log.inline_writes() - before);
    log.end().await;
}

#[tokio::test]
async fn a_full_disk_is_waited_for_by_a_thread() {
    let mut log = Log::start();
    log.is_inline_again().await;
    log.faults.writes_without_room.store(3, SeqCst);
    log.push(100);
    let pressure = async {
        while !log.hub.pressure.is_full() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), pressure).await.unwrap();
    log.push(100);
    log.written().await;
    assert!(!log.hub.pressure.is_full());
    log.is_inline_again().await;
    log.end().await;
}
