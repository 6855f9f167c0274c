//! The disk of the log, and how long it spent on making things durable.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use atoll_storage::disk::OpenMode;
use atoll_storage::{Disk, DiskFile, RealDisk};

/// Time spent in syncs of files since it was last taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct SyncTime(Arc<AtomicU64>);

impl SyncTime {
    /// The time so far; counts anew from here.
    pub(crate) fn take(&self) -> Duration {
        Duration::from_nanos(self.0.swap(0, Relaxed))
    }

    fn add(&self, took: Duration) {
        self.0.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// The machine's file system with a watch on syncs.
#[derive(Debug, Default)]
pub(super) struct TimedDisk {
    syncing: SyncTime,
}

impl TimedDisk {
    /// Where the time spent is found.
    pub(super) fn sync_time(&self) -> SyncTime {
        self.syncing.clone()
    }
}

impl Disk for TimedDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let file = RealDisk.open(path, mode)?;
        Ok(Box::new(TimedFile { file, syncing: self.syncing.clone() }))
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

struct TimedFile {
    file: Box<dyn DiskFile>,
    syncing: SyncTime,
}

impl DiskFile for TimedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let began = Instant::now();
        let done = self.file.sync();
        self.syncing.add(began.elapsed());
        done
    }

    fn allocate_zeroed(&self, len: u64) -> io::Result<()> {
        self.file.allocate_zeroed(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}
