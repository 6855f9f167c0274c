//! Room on the disk, kept so that what was promised can be finished.
//!
//! A full disk is easily survived by the log, whose segments are allocated ahead, and badly by the
//! engine: a flush or a compaction that finds no room leaves it refusing every write until a
//! restart. So a file of
//! `disk_reserve_bytes` lies in the data folder. When little room is left, whoever took it, the
//! file is given up, which makes room for what is under way, and new data is refused until there is
//! room for the file again.
//!
//! The log thread looks before every commit and the upkeep thread now and then, so that a node's
//! own writes never outrun the look.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use atoll_base::{Code, Failure};
use atoll_storage::{Disk, RealDisk};

/// The file's name.
const RESERVE: &str = "RESERVE";

/// The room kept for a node.
#[derive(Debug)]
pub(crate) struct Room {
    folder: PathBuf,
    reserve_bytes: u64,
    kept: Mutex<Kept>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kept {
    /// The file is there.
    File,
    /// The file system keeps no room for files; free space is counted instead.
    Count,
    /// There is too little room: new data is refused.
    Nothing,
}

/// What a look found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Look {
    /// Free bytes of the disk.
    pub(crate) free_bytes: u64,
    /// What this look changed.
    pub(crate) change: Option<Change>,
}

/// Whether new data is taken from now on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// It is refused with this.
    Full(Failure),
    /// It is taken again.
    Free,
}

impl Room {
    /// Room in a data folder. Gives up an earlier run's file where it is needed, so that the engine
    /// and the log can be opened.
    pub(crate) fn open(folder: &Path, reserve_bytes: u64) -> Self {
        let file = folder.join(RESERVE);
        let held = file.metadata().is_ok_and(|m| m.len() == reserve_bytes) && reserve_bytes > 0;
        if !held {
            let _ = std::fs::remove_file(&file);
        }
        let kept = if held { Kept::File } else { Kept::Count };
        let this = Self { folder: folder.to_owned(), reserve_bytes, kept: Mutex::new(kept) };
        let mut kept = this.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let free = this.free();
        if held && free < this.low() {
            this.give_up();
            *kept = Kept::Nothing;
        } else if !held && reserve_bytes > 0 {
            *kept = if free < this.enough() { Kept::Nothing } else { this.keep() };
        }
        drop(kept);
        this
    }

    /// What is the case before anything changes: a refusal where there is too little room.
    pub(crate) fn refusal(&self) -> Option<Failure> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (*kept == Kept::Nothing).then(|| self.full(self.free()))
    }

    /// Looks, and gives the file up or takes it back.
    pub(crate) fn look(&self) -> Look {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let free_bytes = self.free();
        let is_low = match *kept {
            Kept::File => free_bytes < self.low(),
            Kept::Count => free_bytes < self.reserve_bytes,
            Kept::Nothing => free_bytes < self.enough(),
        };
        let change = match (*kept, is_low) {
            (Kept::File | Kept::Count, true) => {
                self.give_up();
                *kept = Kept::Nothing;
                Some(Change::Full(self.full(free_bytes)))
            }
            (Kept::Nothing, false) => {
                *kept = self.keep();
                (*kept != Kept::Nothing).then_some(Change::Free)
            }
            _ => None,
        };
        Look { free_bytes, change }
    }

    /// With less than this beside the file, it is given up.
    fn low(&self) -> u64 {
        self.reserve_bytes / 4
    }

    /// With so much, the file is made again; some distance, so that the answer does not flicker.
    fn enough(&self) -> u64 {
        self.reserve_bytes + self.reserve_bytes / 2
    }

    /// Free bytes; as many as can be where the system does not say.
    fn free(&self) -> u64 {
        RealDisk.free_bytes(&self.folder).unwrap_or(u64::MAX)
    }

    fn give_up(&self) {
        let _ = std::fs::remove_file(self.folder.join(RESERVE));
    }

    fn keep(&self) -> Kept {
        let path = self.folder.join(RESERVE);
        let made = File::create(&path).and_then(|file| {
            let flags = rustix::fs::FallocateFlags::empty();
            Ok(rustix::fs::fallocate(&file, flags, 0, self.reserve_bytes)?)
        });
        let Err(error) = made else { return Kept::File };
        let _ = std::fs::remove_file(&path);
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Kept::Nothing,
            _ => Kept::Count,
        }
    }

    fn full(&self, free_bytes: u64) -> Failure {
        let text = format!(
            "disk is nearly full: {free_bytes} bytes are free in {}, new data is taken again at {} \
             (disk_reserve_bytes is {})",
            self.folder.display(),
            self.enough(),
            self.reserve_bytes
        );
        Failure::new(Code::DiskFull, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_kept_over_restarts_and_nothing_is_refused_while_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let room = Room::open(dir.path(), 1 << 20);
            assert_eq!(room.refusal(), None);
            assert_eq!(room.look().change, None);
            assert_eq!(dir.path().join(RESERVE).metadata().unwrap().len(), 1 << 20);
        }
        let room = Room::open(dir.path(), 0);
        assert_eq!((room.refusal(), room.look().change), (None, None));
        assert!(!dir.path().join(RESERVE).exists());
    }

    #[test]
    fn more_than_there_is_can_not_be_kept_and_new_data_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::open(dir.path(), 1 << 60);
        assert_eq!(room.refusal().unwrap().code, Code::DiskFull);
        assert_eq!(room.look().change, None);
        assert!(!dir.path().join(RESERVE).exists());
    }
}
