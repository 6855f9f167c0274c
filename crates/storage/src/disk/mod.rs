//! The disk seam: files as the log needs them, and no more.
//!
//! Offsets are explicit and reads and writes are whole, so that a file has no hidden position and
//! no partial success. What a caller may rely on after a power loss:
//!
//! - D1 Bytes written before a [`DiskFile::sync`] that returned are there. Other writes may be
//!   there,
//!   in part, sector by sector, in any order.
//! - D2 A name that was created, renamed or removed before a [`Disk::sync_dir`] that returned stays
//!   so. Later changes of names may be lost, the last ones first.
//! - D3 After a sync that failed nothing is known about the bytes written since the one before: the
//!   caller must stop, not sync again.
//!
//! Errors are `std::io::Error`; a full disk is `ErrorKind::StorageFull`.

#[cfg(target_os = "linux")]
mod append;
mod content;
pub mod mem;
pub mod real;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub use mem::MemDisk;
pub use real::RealDisk;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// For reading; it must be there.
    Read,
    /// For reading and writing; it must be there.
    Write,
    /// For reading and writing; it must not be there yet.
    CreateNew,
    /// For writes that follow one another, inside the length that the file has; it must be there.
    /// What is written is seen by readers when a [`DiskFile::sync`] has returned, and what is
    /// behind it, up to a multiple of 4096 bytes, may be zeros then. Reading, and changing the
    /// length, may be refused.
    Append,
}

/// A file system, or what the simulator gives for one. Shared by all threads of a node.
pub trait Disk: Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound` and `AlreadyExists` as the mode says, else what the system reports.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>>;

    /// The files of a folder (not its folders), sorted by name.
    ///
    /// # Errors
    /// `NotFound` when there is no such folder, else what the system reports.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Gives a file another name, replacing what had that name. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// `NotFound`, else what the system reports.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// `NotFound`, else what the system reports.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a folder and those above it, where missing, durably.
    ///
    /// # Errors
    /// What the system reports.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes the names of a folder's files durable.
    ///
    /// # Errors
    /// What the system reports; see D3.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// True when a file or folder has this name.
    ///
    /// # Errors
    /// What the system reports.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Bytes that may still be allocated on the file system that holds `path`.
    ///
    /// # Errors
    /// What the system reports.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before, else what the system reports.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, growing the file where needed.
    ///
    /// # Errors
    /// `StorageFull`, else what the system reports. Some of the bytes may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written durable, with as much metadata as reading it back needs
    /// (`fdatasync`).
    ///
    /// # Errors
    /// What the system reports; see D3.
    fn sync(&self) -> io::Result<()>;

    /// Makes the file `len` bytes of zeros, really written and synced, so that later writes inside
    /// it allocate nothing and their syncs change no metadata.
    ///
    /// # Errors
    /// `StorageFull` when there is no room, else what the system reports.
    fn allocate_zeroed(&self, len: u64) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// What the system reports.
    fn len(&self) -> io::Result<u64>;

    /// True when the file holds no byte.
    ///
    /// # Errors
    /// As [`DiskFile::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file or fills it with zeros to `len` bytes.
    ///
    /// # Errors
    /// What the system reports.
    fn set_len(&self, len: u64) -> io::Result<()>;
}
