//! What the log and the engine cost on this disk. Run with
//! `cargo run --release -p atoll-storage --example measure -- [folder]`.
//!
//! Prints one line per measurement; ratios between lines mean more than the numbers.

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_base::{Entry, EntryKind, KeyspaceId, LogIndex, Rng, ShardId, Term};
use atoll_storage::{
    Compression, Direction, Disk, DiskFile, Engine, FjallEngine, FjallOptions, LogBatch,
    LogOptions, LogRecord, LogWriter, OpenMode, RealDisk, Tree, WriteBatch,
};
use bytes::Bytes;

const ENTRIES_PER_WRITE: u64 = 64;
const PAYLOAD_BYTES: usize = 256;
const RUN: Duration = Duration::from_secs(4);
const KEYS: u64 = 400_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("atoll-measure-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    for round in 1..=3 {
        let name = |disk: &str| format!("log, 64 entries of 64 shards a write, {disk}");
        measure_log(&dir.join(format!("log-{round}")), Arc::new(RealDisk), &name("direct"))?;
        let cached = Arc::new(PageCached);
        measure_log(&dir.join(format!("cached-{round}")), cached, &name("page cache"))?;
    }
    measure_growing_file(&dir.join("growing"))?;
    for compression in [Compression::None, Compression::Lz4] {
        measure_engine(&dir.join(format!("{compression:?}")), compression)?;
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn batch(turn: u64) -> LogBatch {
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let records = (0..ENTRIES_PER_WRITE)
        .map(|shard| {
            let (term, index, kind) = (Term(1), LogIndex(turn + 1), EntryKind::Commands);
            let entry = Entry { term, index, kind, payload: payload.clone() };
            LogRecord::Entry { shard: ShardId(shard + 1), entry }
        })
        .collect();
    LogBatch { records }
}

/// The machine's disk with every write through the page cache.
struct PageCached;

impl Disk for PageCached {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path, if mode == OpenMode::Append { OpenMode::Write } else { mode })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(path)
    }
}

fn measure_log(
    dir: &Path,
    disk: Arc<dyn Disk>,
    name: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let options = LogOptions { spare_segments: 2, ..LogOptions::default() };
    let (mut log, _) = LogWriter::open(Arc::clone(&disk), dir, options.clone())?;
    log.maintain()?;
    let start = Instant::now();
    let mut turns = 0;
    while start.elapsed() < RUN {
        log.write(&[batch(turns)])?;
        turns += 1;
        if turns % 256 == 0 {
            for shard in 1..=ENTRIES_PER_WRITE {
                log.release(ShardId(shard), LogIndex(turns), Term(1));
            }
        }
    }
    report(name, turns * ENTRIES_PER_WRITE, start.elapsed());
    drop(log);
    let start = Instant::now();
    let (_, recovered) = LogWriter::open(disk, dir, options)?;
    println!("{:44} {:?}, {} shards", "reopen", start.elapsed(), recovered.shards.len());
    Ok(())
}

fn measure_growing_file(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let file = RealDisk.open(path, OpenMode::CreateNew)?;
    let bytes = vec![7; ENTRIES_PER_WRITE as usize * (PAYLOAD_BYTES + 48)];
    let start = Instant::now();
    let mut turns = 0;
    while start.elapsed() < RUN {
        file.write_at(turns * bytes.len() as u64, &bytes)?;
        file.sync()?;
        turns += 1;
    }
    report("the same bytes to a growing file", turns * ENTRIES_PER_WRITE, start.elapsed());
    Ok(())
}

fn key(n: u64) -> Vec<u8> {
    // Spread over the key space, so that the order of writing is not the order of keys.
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec()
}

fn measure_engine(dir: &Path, compression: Compression) -> Result<(), Box<dyn std::error::Error>> {
    let engine = FjallEngine::open(dir, FjallOptions { compression, ..FjallOptions::default() })?;
    let tree = Tree::Current(KeyspaceId(1));
    let mut rng = Rng::new(1);
    let name = |what: &str| format!("engine, {compression:?}: {what}");
    let start = Instant::now();
    for first in (0..KEYS).step_by(64) {
        let mut batch = WriteBatch::new();
        for n in first..(first + 64).min(KEYS) {
            let value: Vec<u8> =
                (0..32).flat_map(|_| (rng.next_u64() & 0xffff).to_le_bytes()).collect();
            batch.put(tree, key(n), value);
        }
        batch.put(Tree::Meta, vec![1], first.to_le_bytes().to_vec());
        engine.write(batch)?;
    }
    report(&name("put, 64 of 256 B a batch"), KEYS, start.elapsed());
    let start = Instant::now();
    engine.persist()?;
    println!("{:44} {:?}", name("persist"), start.elapsed());
    let gets = 100_000;
    let start = Instant::now();
    for _ in 0..gets {
        assert!(engine.get(tree, &key(rng.below(KEYS)))?.is_some());
    }
    report(&name("get"), gets, start.elapsed());
    let start = Instant::now();
    for n in 0..gets {
        assert!(engine.get(tree, &key(KEYS + n))?.is_none());
    }
    report(&name("get of a missing key"), gets, start.elapsed());
    let scans = 5000;
    let start = Instant::now();
    for _ in 0..scans {
        let view = engine.view();
        let from = rng.next_u64().to_be_bytes();
        let range = (Bound::Included(&from[..]), Bound::Unbounded);
        for pair in view.scan(tree, range, Direction::Forward).take(100) {
            pair?;
        }
    }
    report(&name("scan of 100"), scans, start.elapsed());
    let start = Instant::now();
    for _ in 0..gets {
        drop(engine.view());
    }
    report(&name("view"), gets, start.elapsed());
    println!("{:44} {} MB", name("disk"), engine.disk_bytes()? >> 20);
    Ok(())
}

fn report(what: &str, count: u64, took: Duration) {
    let each = took.as_secs_f64() * 1e6 / count as f64;
    println!("{what:44} {each:9.2} us each, {:9.0} /s", count as f64 / took.as_secs_f64());
}
