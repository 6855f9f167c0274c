//! Reading entries back from where they were written.

use std::fmt;
use std::sync::Arc;

use atoll_base::{Entry, LogIndex, ShardId};
use bytes::Bytes;

use super::Location;
use super::error::{LogError, io_error};
use super::record::{self, HEADER_BYTES, LogRecord, Place};
use super::segment::{SegmentFiles, segment_path};

/// Reads entries of the log's segments. Clones share the open files; any thread may read while the
/// writer writes.
#[derive(Clone)]
pub struct LogReaderHandle {
    files: Arc<SegmentFiles>,
    dir: Arc<std::path::Path>,
}

impl LogReaderHandle {
    pub(crate) fn new(files: Arc<SegmentFiles>, dir: Arc<std::path::Path>) -> Self {
        Self { files, dir }
    }

    /// The entry `index` of `shard`, which was written at `at` and not released since.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when something else stands there, [`LogError::Io`] when it can't be
    /// read.
    pub fn read(&self, shard: ShardId, index: LogIndex, at: Location) -> Result<Entry, LogError> {
        let bytes = self.read_bytes(at.segment, at.offset, at.len as usize)?;
        entry_in(bytes, shard, index, at)
    }

    /// The entries from `first` on at `places`, which lie in one segment in this order, with one
    /// read.
    ///
    /// # Errors
    /// As [`LogReaderHandle::read`].
    pub(crate) fn read_run(
        &self,
        shard: ShardId,
        first: LogIndex,
        places: &[Location],
        out: &mut Vec<Entry>,
    ) -> Result<(), LogError> {
        let (Some(head), Some(tail)) = (places.first(), places.last()) else { return Ok(()) };
        let end = tail.offset as usize + tail.len as usize;
        let bytes = self.read_bytes(head.segment, head.offset, end - head.offset as usize)?;
        for (i, at) in places.iter().enumerate() {
            let start = (at.offset - head.offset) as usize;
            let record = bytes.slice(start..start + at.len as usize);
            out.push(entry_in(record, shard, first.plus(i as u64), *at)?);
        }
        Ok(())
    }

    fn read_bytes(&self, segment: u64, offset: u32, len: usize) -> Result<Bytes, LogError> {
        let file = self.files.get(segment)?;
        let mut buf = vec![0; len];
        file.read_at(u64::from(offset), &mut buf)
            .map_err(|error| io_error("read", &segment_path(&self.dir, segment))(error))?;
        Ok(Bytes::from(buf))
    }
}

fn entry_in(
    bytes: Bytes,
    shard: ShardId,
    index: LogIndex,
    at: Location,
) -> Result<Entry, LogError> {
    let place = Place { segment: at.segment, offset: at.offset };
    let found = record::valid_header(&bytes, place)
        .filter(|header| header.len == at.len)
        .and_then(|header| record::decode(&header, bytes.slice(HEADER_BYTES..)));
    match found {
        Some(LogRecord::Entry { shard: s, entry }) if s == shard && entry.index == index => {
            Ok(entry)
        }
        _ => Err(LogError::Damaged { shard, index, at }),
    }
}

impl fmt::Debug for LogReaderHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogReaderHandle({})", self.dir.display())
    }
}
