//! Opening a log: what the segments of a folder hold, and where writing goes on.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atoll_base::ShardId;
use bytes::Bytes;

use super::error::{LogError, io_error, sync_error};
use super::replay::Replay;
use super::scan::{self, Ending, Hole, Item, Scanned};
use super::segment::{FileRole, SEGMENT_HEADER_BYTES, SegmentHeader, file_role, segment_path};
use super::{LogAmnesia, LogHardState, ShardLog};
use crate::disk::{Disk, DiskFile, OpenMode};

/// What a log held when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Every shard that the log knows and that was not removed.
    pub shards: BTreeMap<ShardId, RecoveredShard>,
    /// What was cut or is damaged, with file and offset; for the operator.
    pub warnings: Vec<String>,
    /// Stretches that were durable once and can't be read now.
    pub damaged_stretches: usize,
    /// A stretch of which nobody can say whose records it held. It may have held all that there was
    /// of a shard: one of which this node has a replica, and the log nothing, is damaged.
    pub unexplained: Option<String>,
}

/// One shard as the log knows it.
#[derive(Debug)]
pub struct RecoveredShard {
    /// The newest hard state, if there is one.
    pub hard_state: Option<LogHardState>,
    /// The entries, none of them in memory yet.
    pub log: ShardLog,
    /// Why this shard may neither vote nor lead until it is rebuilt from its peers: records of it
    /// are, or may be, lost. The log then holds what precedes the loss.
    pub damaged: Option<String>,
    /// What of the replica's promises may be lost by that.
    pub forgot: LogAmnesia,
}

/// A segment that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentState {
    pub(crate) number: u64,
    pub(crate) end: u32,
    /// The file is shorter than it was made.
    pub(crate) is_cut: bool,
}

/// Everything that a writer goes on from.
pub(crate) struct Opened {
    pub(crate) replay: Replay,
    /// Oldest first; the last one is the tail. Empty for a new log.
    pub(crate) segments: Vec<SegmentState>,
    pub(crate) warnings: Vec<String>,
    pub(crate) damaged_stretches: usize,
}

/// Reads all segments of `dir`, and scrubs what a torn write left behind the end.
pub(crate) fn recover(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Opened, LogError> {
    let mut opened = Opened {
        replay: Replay::default(),
        segments: Vec::new(),
        warnings: Vec::new(),
        damaged_stretches: 0,
    };
    let mut numbers = Vec::new();
    for path in disk.list(dir).map_err(io_error("list", dir))? {
        match file_role(&path) {
            FileRole::Segment(number) => numbers.push(number),
            FileRole::Foreign => {
                opened.warnings.push(format!("{} is not the log's; left alone", path.display()));
            }
            FileRole::Spare(_) | FileRole::Unfinished => {}
        }
    }
    numbers.sort_unstable();
    let headers = numbers
        .iter()
        .map(|number| read_header(disk, dir, *number))
        .collect::<Result<Vec<_>, _>>()?;
    for (at, &number) in numbers.iter().enumerate() {
        let later = (at + 1 < numbers.len()).then(|| headers[at + 1]);
        let mut file = SegmentFile::open(disk, dir, number)?;
        file.check_header(headers[at], &mut opened)?;
        let ending = match later {
            None => Ending::Open,
            Some(Some(next)) if next.prev_number == number => Ending::At(next.prev_end),
            Some(_) => Ending::Durable,
        };
        let is_cut = file.is_cut(headers[at]);
        file.replay(ending, later.is_none().then_some(headers[at]).flatten(), &mut opened)?;
        if is_cut {
            file.report_cut(&mut opened);
        }
    }
    Ok(opened)
}

fn read_header(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    number: u64,
) -> Result<Option<SegmentHeader>, LogError> {
    let path = segment_path(dir, number);
    let file = disk.open(&path, OpenMode::Read).map_err(io_error("open", &path))?;
    let mut head = [0; SEGMENT_HEADER_BYTES as usize];
    if file.len().map_err(io_error("measure", &path))? < head.len() as u64 {
        return Ok(None);
    }
    file.read_at(0, &mut head).map_err(io_error("read", &path))?;
    SegmentHeader::decode(&head, number)
}

/// One segment while it is read.
struct SegmentFile {
    number: u64,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    bytes: Bytes,
}

/// A whole segment, in which the pages nothing was written to take no memory: a segment is as long
/// as it may become from its beginning, and mostly zeros until it is full.
fn read_written(file: &dyn DiskFile, len: usize) -> io::Result<Vec<u8>> {
    static ZEROS: [u8; 16 << 10] = [0; 16 << 10];
    let mut bytes = vec![0; len];
    let mut piece = vec![0; ZEROS.len().min(len)];
    for from in (0..len).step_by(ZEROS.len()) {
        let until = (from + ZEROS.len()).min(len);
        let piece = &mut piece[..until - from];
        file.read_at(from as u64, piece)?;
        if *piece != ZEROS[..piece.len()] {
            bytes[from..until].copy_from_slice(piece);
        }
    }
    Ok(bytes)
}

impl SegmentFile {
    fn open(disk: &Arc<dyn Disk>, dir: &Path, number: u64) -> Result<Self, LogError> {
        let path = segment_path(dir, number);
        let file = disk.open(&path, OpenMode::Write).map_err(io_error("open", &path))?;
        let len = file.len().map_err(io_error("measure", &path))?;
        let bytes = read_written(file.as_ref(), len as usize).map_err(io_error("read", &path))?;
        Ok(Self { number, path, file, bytes: Bytes::from(bytes) })
    }

    /// Reports a segment that is missing before this one.
    fn check_header(
        &self,
        header: Option<SegmentHeader>,
        opened: &mut Opened,
    ) -> Result<(), LogError> {
        let (Some(header), Some(before)) = (header, opened.segments.last()) else { return Ok(()) };
        if header.prev_number != before.number {
            let hole = Hole { from: 0, to: 0, claims: None };
            opened.replay.on_hole(header.prev_number, &hole);
            opened.damaged_stretches += 1;
            opened.warnings.push(format!(
                "segment {:x} is missing: {} follows it",
                header.prev_number,
                self.path.display()
            ));
        }
        Ok(())
    }

    /// True when the file lost its end: it was filled and synced before its first use.
    fn is_cut(&self, header: Option<SegmentHeader>) -> bool {
        let capacity = header.map_or(SEGMENT_HEADER_BYTES, |header| header.capacity);
        self.bytes.len() < capacity as usize
    }

    fn report_cut(&self, opened: &mut Opened) {
        let Some(state) = opened.segments.last_mut() else { return };
        state.is_cut = true;
        let hole = Hole { from: state.end, to: self.bytes.len() as u32, claims: None };
        opened.replay.on_hole(self.number, &hole);
        opened.damaged_stretches += 1;
        let (path, len) = (self.path.display(), self.bytes.len());
        opened.warnings.push(format!("{path} was cut to {len} bytes, by nothing of the log's"));
    }

    fn replay(
        &mut self,
        ending: Ending,
        tail_header: Option<SegmentHeader>,
        opened: &mut Opened,
    ) -> Result<(), LogError> {
        let scanned = scan::scan(self.number, &self.bytes, ending);
        if ending == Ending::Open && tail_header.is_none() && !self.header_was_durable(&scanned) {
            return self.give_up_tail(&scanned, opened);
        }
        for item in &scanned.items {
            match item {
                Item::Record(found) => opened.replay.on_record(self.number, found),
                Item::Hole(hole) => {
                    opened.replay.on_hole(self.number, hole);
                    opened.damaged_stretches += 1;
                    opened.warnings.push(format!(
                        "{} is damaged at {}..{}",
                        self.path.display(),
                        hole.from,
                        hole.to
                    ));
                }
            }
        }
        self.scrub(scanned.end, scanned.remnants_end, opened)?;
        if ending == Ending::Open {
            // A killed process may have left its last frame in the system's cache: it is about to
            // be acted upon, so it must be durable first (L1).
            self.file.sync().map_err(sync_error(&self.path))?;
        }
        opened.segments.push(SegmentState { number: self.number, end: scanned.end, is_cut: false });
        Ok(())
    }

    /// The header is written with the first frame, so a second frame proves that it was durable.
    fn header_was_durable(&self, scanned: &Scanned) -> bool {
        scanned.items.iter().any(|item| match item {
            Item::Record(found) => found.header.frame > SEGMENT_HEADER_BYTES,
            Item::Hole(_) => true,
        })
    }

    /// The segment's first write was torn: its number stays its own, its content goes.
    fn give_up_tail(&mut self, scanned: &Scanned, opened: &mut Opened) -> Result<(), LogError> {
        atoll_base::reached!("the first write of a segment was torn");
        let end = scanned.remnants_end.max(Some(scanned.end));
        let had_any = end > Some(SEGMENT_HEADER_BYTES);
        self.scrub(SEGMENT_HEADER_BYTES, end.filter(|_| had_any), opened)?;
        opened.segments.push(SegmentState { number: self.number, end: 0, is_cut: false });
        Ok(())
    }

    /// Fills what lies between the end and `remnants_end` with zeros, durably (L2).
    fn scrub(
        &self,
        end: u32,
        remnants_end: Option<u32>,
        opened: &mut Opened,
    ) -> Result<(), LogError> {
        let Some(to) = remnants_end.filter(|to| *to > end) else { return Ok(()) };
        atoll_base::reached!("a torn tail was cut");
        let zeros = vec![0; (to.min(self.bytes.len() as u32) - end) as usize];
        self.file.write_at(u64::from(end), &zeros).map_err(io_error("scrub", &self.path))?;
        self.file.sync().map_err(sync_error(&self.path))?;
        opened.warnings.push(format!(
            "{}: a write that was never acknowledged was cut at {end}..{to}",
            self.path.display()
        ));
        Ok(())
    }
}
