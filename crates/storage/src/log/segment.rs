//! Segment files: their names, their header, and the open ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use atoll_base::checksum::crc32c;

use super::error::{LogError, io_error};
use crate::disk::{Disk, DiskFile, OpenMode};

/// Bytes before a segment's first record.
pub(crate) const SEGMENT_HEADER_BYTES: u32 = 64;

const MAGIC: &[u8; 8] = b"ATOLLLOG";
const FORMAT_VERSION: u32 = 1;

/// Segments kept open for reading.
const OPEN_FILES_MAX: usize = 64;

/// What the first bytes of a segment say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    /// The segment's number, from 1, never used again.
    pub(crate) number: u64,
    /// The number of the segment before; 0 for the log's first one.
    pub(crate) prev_number: u64,
    /// Where the records of the segment before end.
    pub(crate) prev_end: u32,
    /// The file's length; 0 where it is not told.
    pub(crate) capacity: u32,
}

impl SegmentHeader {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.prev_number.to_le_bytes());
        out.extend_from_slice(&self.prev_end.to_le_bytes());
        out.extend_from_slice(&self.capacity.to_le_bytes());
        out.resize(start + SEGMENT_HEADER_BYTES as usize, 0);
        let crc = crc32c(&out[start..]);
        out[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
    }

    /// The header of segment `number`, if `bytes` start with it.
    ///
    /// # Errors
    /// [`LogError::UnknownVersion`] when a sound header is of a format that this build doesn't
    /// know.
    pub(crate) fn decode(bytes: &[u8], number: u64) -> Result<Option<Self>, LogError> {
        let Some(head) = bytes.first_chunk::<{ SEGMENT_HEADER_BYTES as usize }>() else {
            return Ok(None);
        };
        let mut plain = *head;
        plain[12..16].fill(0);
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if &head[..8] != MAGIC || word(12) != crc32c(&plain) || long(16) != number {
            return Ok(None);
        }
        if word(8) != FORMAT_VERSION {
            return Err(LogError::UnknownVersion { segment: number, version: word(8) });
        }
        let (prev_number, prev_end, capacity) = (long(24), word(32), word(36));
        Ok(Some(Self { number, prev_number, prev_end, capacity }))
    }
}

/// What a file of the log's folder is, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FileRole {
    /// A segment with records.
    Segment(u64),
    /// A prepared segment that waits for its turn.
    Spare(u64),
    /// A segment that is being prepared.
    Unfinished,
    /// Not the log's.
    Foreign,
}

pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.seg"))
}

pub(crate) fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.spare"))
}

pub(crate) fn unfinished_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.new"))
}

pub(crate) fn file_role(path: &Path) -> FileRole {
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let Ok(number) = u64::from_str_radix(stem, 16) else { return FileRole::Foreign };
    match path.extension().and_then(|e| e.to_str()) {
        Some("seg") if stem.len() == 16 => FileRole::Segment(number),
        Some("spare") if stem.len() == 16 => FileRole::Spare(number),
        Some("new") if stem.len() == 16 => FileRole::Unfinished,
        _ => FileRole::Foreign,
    }
}

/// Segments that are open for reading, shared by all readers of a log and its writer.
pub(crate) struct SegmentFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    open: Mutex<BTreeMap<u64, Arc<dyn DiskFile>>>,
}

impl SegmentFiles {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self { disk, dir, open: Mutex::default() }
    }

    pub(crate) fn get(&self, number: u64) -> Result<Arc<dyn DiskFile>, LogError> {
        let mut open = self.open.lock().expect("no code panics while it holds this lock");
        if let Some(file) = open.get(&number) {
            return Ok(Arc::clone(file));
        }
        let path = segment_path(&self.dir, number);
        let file: Arc<dyn DiskFile> =
            self.disk.open(&path, OpenMode::Read).map_err(io_error("open", &path))?.into();
        if open.len() >= OPEN_FILES_MAX {
            open.pop_first();
        }
        open.insert(number, Arc::clone(&file));
        Ok(file)
    }

    /// Forgets a segment whose file is about to be used for another one.
    pub(crate) fn close(&self, number: u64) {
        self.open.lock().expect("no code panics while it holds this lock").remove(&number);
    }
}
