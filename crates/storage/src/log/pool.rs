//! Segment files that wait for their turn: prepared ahead, recycled, made durable under their name.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{LogError, io_error, sync_error};
use super::segment::{FileRole, file_role, segment_path, spare_path, unfinished_path};
use crate::disk::{Disk, DiskFile, OpenMode};

/// The spares of a log's folder.
pub(crate) struct SegmentPool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u32,
    spares_max: usize,
    spares: VecDeque<u64>,
    next_spare: u64,
}

impl SegmentPool {
    /// Takes over the spares found in `dir` and removes unfinished ones.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        segment_bytes: u32,
        spares_max: usize,
    ) -> Result<Self, LogError> {
        let mut pool = Self {
            disk,
            dir: dir.to_path_buf(),
            segment_bytes,
            spares_max,
            spares: VecDeque::new(),
            next_spare: 1,
        };
        for path in pool.disk.list(dir).map_err(io_error("list", dir))? {
            match file_role(&path) {
                FileRole::Spare(number) if pool.has_full_length(&path)? => {
                    pool.spares.push_back(number);
                    pool.next_spare = pool.next_spare.max(number + 1);
                }
                FileRole::Spare(_) | FileRole::Unfinished => {
                    pool.disk.remove(&path).map_err(io_error("remove", &path))?;
                }
                FileRole::Segment(_) | FileRole::Foreign => {}
            }
        }
        Ok(pool)
    }

    /// Removes all spares: without a segment nothing tells which numbers their bytes are of (L4).
    pub(crate) fn discard(&mut self) -> Result<(), LogError> {
        for number in self.spares.drain(..) {
            let path = spare_path(&self.dir, number);
            self.disk.remove(&path).map_err(io_error("remove", &path))?;
        }
        self.disk.sync_dir(&self.dir).map_err(sync_error(&self.dir))
    }

    /// Makes sure that `count` spares are there.
    ///
    /// # Errors
    /// [`LogError::DiskFull`] when there is no room for them.
    pub(crate) fn ensure(&mut self, count: usize) -> Result<(), LogError> {
        while self.spares.len() < count {
            self.prepare_one()?;
        }
        Ok(())
    }

    /// Prepares spares up to the wanted number.
    pub(crate) fn refill(&mut self) -> Result<(), LogError> {
        self.ensure(self.spares_max)
    }

    /// What the next segment can hold.
    pub(crate) fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    /// Gives a spare the name of segment `number`, durably, and opens it.
    pub(crate) fn activate(&mut self, number: u64) -> Result<Arc<dyn DiskFile>, LogError> {
        self.ensure(1)?;
        let spare = self.spares.pop_front().expect("one spare was ensured");
        let (from, to) = (spare_path(&self.dir, spare), segment_path(&self.dir, number));
        self.disk.rename(&from, &to).map_err(io_error("rename", &from))?;
        self.disk.sync_dir(&self.dir).map_err(sync_error(&self.dir))?;
        let file = self.disk.open(&to, OpenMode::Append).map_err(io_error("open", &to))?;
        Ok(file.into())
    }

    /// Makes a spare of segment `number`, or removes it when there are enough.
    pub(crate) fn recycle(&mut self, number: u64) -> Result<(), LogError> {
        let path = segment_path(&self.dir, number);
        if self.spares.len() < self.spares_max && self.has_full_length(&path)? {
            atoll_base::reached!("a segment was recycled");
            let to = spare_path(&self.dir, self.next_spare);
            self.disk.rename(&path, &to).map_err(io_error("rename", &path))?;
            self.spares.push_back(self.next_spare);
            self.next_spare += 1;
        } else {
            self.disk.remove(&path).map_err(io_error("remove", &path))?;
        }
        self.disk.sync_dir(&self.dir).map_err(sync_error(&self.dir))
    }

    fn prepare_one(&mut self) -> Result<(), LogError> {
        let (from, to) =
            (unfinished_path(&self.dir, self.next_spare), spare_path(&self.dir, self.next_spare));
        let prepared = self.make_zeroed(&from).and_then(|()| self.disk.rename(&from, &to));
        if let Err(source) = prepared {
            atoll_base::reached!("a segment could not be prepared");
            // A half-made file must not keep the room that is missing.
            let _ = self.disk.remove(&from);
            let needed = u64::from(self.segment_bytes);
            return Err(match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    LogError::DiskFull { path: from, needed }
                }
                _ => LogError::Io { during: "prepare", path: from, source },
            });
        }
        self.spares.push_back(self.next_spare);
        self.next_spare += 1;
        Ok(())
    }

    fn make_zeroed(&self, path: &Path) -> std::io::Result<()> {
        if self.disk.exists(path)? {
            self.disk.remove(path)?;
        }
        let file = self.disk.open(path, OpenMode::CreateNew)?;
        file.allocate_zeroed(u64::from(self.segment_bytes))
    }

    fn has_full_length(&self, path: &Path) -> Result<bool, LogError> {
        let file = self.disk.open(path, OpenMode::Read).map_err(io_error("open", path))?;
        let len = file.len().map_err(io_error("measure", path))?;
        Ok(len == u64::from(self.segment_bytes))
    }
}
