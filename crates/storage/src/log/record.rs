//! Records: what the log is made of, and their bytes. `docs/formats/log.md` is the reference.

use atoll_base::checksum::{crc32c, crc32c_append};
use atoll_base::{Entry, EntryKind, LogIndex, NodeId, ShardId, Term, planted};
use bytes::Bytes;

/// Bytes before a record's payload.
pub(crate) const HEADER_BYTES: usize = 48;

/// Where in a header the segment's tag stands.
pub(crate) const TAG_AT: usize = 8;

/// Records start at multiples of this.
pub(crate) const ALIGN_BYTES: usize = 8;

/// What a replica must remember besides its entries (Raft paper, figure 2).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LogHardState {
    /// The latest term seen.
    pub term: Term,
    /// Who got this term's vote.
    pub vote: Option<NodeId>,
    /// A commit index known at that time; a hint.
    pub commit: LogIndex,
    /// How often entries were lost that may have been acknowledged.
    pub life: u64,
    /// What is missing since such a loss, until all of it is there again.
    pub amnesia: LogAmnesia,
}

/// What a replica may have forgotten of its promises.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum LogAmnesia {
    /// Nothing.
    #[default]
    None = 0,
    /// Entries that it acknowledged.
    Entries = 1,
    /// Entries, and whom it voted for.
    Votes = 2,
}

/// Why a log begins where it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum StartReason {
    /// The front was cut away; entries from `first` on stay.
    Cut = 0,
    /// A snapshot replaced the log; no entry stays.
    Snapshot = 1,
    /// Something of the log was lost before this record: until a snapshot replaces it, nothing that
    /// it says may be taken for all that the replica ever promised. Entries from `first` on stay.
    Damaged = 2,
}

/// One fact about one shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogRecord {
    /// An entry. It replaces the shard's entries at and above its index.
    Entry {
        /// The shard.
        shard: ShardId,
        /// The entry.
        entry: Entry,
    },
    /// The shard's hard state from here on.
    HardState {
        /// The shard.
        shard: ShardId,
        /// The state.
        state: LogHardState,
    },
    /// The shard's log begins at `first` from here on.
    LogStart {
        /// The shard.
        shard: ShardId,
        /// The first entry kept or to come, from 1.
        first: LogIndex,
        /// The term of the entry before; zero when `first` is 1.
        prev_term: Term,
        /// Whether entries from `first` on stay.
        reason: StartReason,
    },
    /// Nothing before this record is the shard's any more.
    ShardRemoved {
        /// The shard.
        shard: ShardId,
    },
}

impl LogRecord {
    /// The shard that this is about.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        match self {
            Self::Entry { shard, .. }
            | Self::HardState { shard, .. }
            | Self::LogStart { shard, .. }
            | Self::ShardRemoved { shard } => *shard,
        }
    }

    /// Bytes that the record takes in a segment.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        let payload = match self {
            Self::Entry { entry, .. } => entry.payload.len(),
            Self::HardState { state, .. } if state.life > 0 => 16,
            Self::HardState { state, .. } if state.vote.is_some() => 8,
            _ => 0,
        };
        aligned(HEADER_BYTES + payload)
    }
}

/// The kinds' numbers. Any two differ in four bits, so that a flipped bit never makes one kind of
/// another. Never reuse a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Entry = 0x11,
    HardState = 0x22,
    LogStart = 0x44,
    ShardRemoved = 0x88,
}

impl Kind {
    fn from_u8(n: u8) -> Option<Self> {
        match n {
            0x11 => Some(Self::Entry),
            0x22 => Some(Self::HardState),
            0x44 => Some(Self::LogStart),
            0x88 => Some(Self::ShardRemoved),
            _ => None,
        }
    }
}

/// `len` rounded up to where the next record may start.
pub(crate) fn aligned(len: usize) -> usize {
    len.next_multiple_of(ALIGN_BYTES)
}

/// Four bytes that mark a record as one of segment `number`: a quick test before the checksum.
pub(crate) fn segment_tag(number: u64) -> u32 {
    (number as u32) ^ 0x5245_4341
}

/// Where a record stands: part of what its checksum covers, so that bytes of another segment, place
/// or life of the file are never taken for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) offset: u32,
}

/// A record's header, as read; the payload stays where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordHeader {
    pub(crate) len: u32,
    /// Where the write that holds the record starts.
    pub(crate) frame: u32,
    pub(crate) kind: Kind,
    pub(crate) detail: u8,
    /// Counts the shard's records, so that a missing one shows.
    pub(crate) sequence: u32,
    pub(crate) shard: ShardId,
    pub(crate) term: Term,
    pub(crate) index: LogIndex,
}

impl RecordHeader {
    /// Bytes up to the next record.
    pub(crate) fn stored_bytes(&self) -> u32 {
        aligned(self.len as usize) as u32
    }
}

/// Appends `record`, padded, to `out`, and returns its length without the padding.
pub(crate) fn encode(
    record: &LogRecord,
    place: Place,
    frame: u32,
    sequence: u32,
    out: &mut Vec<u8>,
) -> u32 {
    let mut promise = [0; 16];
    let (kind, detail, term, index, payload): (_, u8, _, _, &[u8]) = match record {
        LogRecord::Entry { entry, .. } => {
            (Kind::Entry, entry.kind as u8, entry.term, entry.index, &entry.payload)
        }
        LogRecord::HardState { state, .. } => {
            promise[..8].copy_from_slice(&state.vote.unwrap_or_default().0.to_le_bytes());
            promise[8..].copy_from_slice(&state.life.to_le_bytes());
            let len = match (state.vote, state.life) {
                (None, 0) => 0,
                (Some(_), 0) => 8,
                _ => 16,
            };
            let detail = state.amnesia as u8;
            (Kind::HardState, detail, state.term, state.commit, &promise[..len])
        }
        LogRecord::LogStart { first, prev_term, reason, .. } => {
            (Kind::LogStart, *reason as u8, *prev_term, *first, &[])
        }
        LogRecord::ShardRemoved { .. } => (Kind::ShardRemoved, 0, Term::ZERO, LogIndex::ZERO, &[]),
    };
    let start = out.len();
    let len = (HEADER_BYTES + payload.len()) as u32;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&segment_tag(place.segment).to_le_bytes());
    out.extend_from_slice(&frame.to_le_bytes());
    out.extend_from_slice(&[kind as u8, detail, 0, 0]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&record.shard().0.to_le_bytes());
    out.extend_from_slice(&term.0.to_le_bytes());
    out.extend_from_slice(&index.0.to_le_bytes());
    out.extend_from_slice(payload);
    let check = header_check(&out[start..], place);
    out[start + 18..start + 20].copy_from_slice(&check.to_le_bytes());
    let crc = checksum(&out[start..], place);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + aligned(len as usize), 0);
    len
}

fn salt(record: &[u8], place: Place) -> u32 {
    let mut salt = [0; 16];
    salt[..8].copy_from_slice(&place.segment.to_le_bytes());
    salt[8..12].copy_from_slice(&place.offset.to_le_bytes());
    salt[12..].copy_from_slice(&record[..4]);
    crc32c(&salt)
}

fn checksum(record: &[u8], place: Place) -> u32 {
    crc32c_append(salt(record, place), &record[8..])
}

/// A short checksum over the header alone: it tells whose record it was whose payload is damaged.
fn header_check(record: &[u8], place: Place) -> u16 {
    let crc = crc32c_append(salt(record, place), &record[8..18]);
    crc32c_append(crc, &record[20..HEADER_BYTES]) as u16
}

/// Reads the header at the start of `bytes` without trusting it: `None` when it can't be one of a
/// record of this segment that fits `bytes`.
pub(crate) fn claimed_header(bytes: &[u8], place: Place) -> Option<RecordHeader> {
    let head = bytes.first_chunk::<HEADER_BYTES>()?;
    let len = word(head, 0);
    if word(head, TAG_AT) != segment_tag(place.segment)
        || (len as usize) < HEADER_BYTES
        || len as usize > bytes.len()
    {
        return None;
    }
    Some(RecordHeader {
        len,
        frame: word(head, 12),
        kind: Kind::from_u8(head[16])?,
        detail: head[17],
        sequence: word(head, 20),
        shard: ShardId(long(head, 24)),
        term: Term(long(head, 32)),
        index: LogIndex(long(head, 40)),
    })
}

/// Reads the header at the start of `bytes`; `None` unless the header is as it was written,
/// whatever became of the payload.
pub(crate) fn sound_header(bytes: &[u8], place: Place) -> Option<RecordHeader> {
    let header = claimed_header(bytes, place)?;
    let check = u16::from_le_bytes([bytes[18], bytes[19]]);
    (check == header_check(bytes, place)).then_some(header)
}

/// Reads the header at the start of `bytes`; `None` unless the whole record is as it was written.
pub(crate) fn valid_header(bytes: &[u8], place: Place) -> Option<RecordHeader> {
    let header = claimed_header(bytes, place)?;
    let record = &bytes[..header.len as usize];
    let is_whole = word(record, 4) == checksum(record, place) || planted!(TornRecordTaken);
    is_whole.then_some(header)
}

/// Makes the record of a valid header; `None` when the header's details mean nothing to this build.
pub(crate) fn decode(header: &RecordHeader, payload: Bytes) -> Option<LogRecord> {
    let RecordHeader { shard, term, index, .. } = *header;
    Some(match header.kind {
        Kind::Entry => {
            let kind = EntryKind::from_u8(header.detail)?;
            LogRecord::Entry { shard, entry: Entry { term, index, kind, payload } }
        }
        Kind::HardState => {
            let long = |at: usize| Some(u64::from_le_bytes(*payload.get(at..)?.first_chunk()?));
            let (vote, life) = match payload.len() {
                0 => (0, 0),
                8 => (long(0)?, 0),
                _ => (long(0)?, long(8)?),
            };
            let vote = (vote != 0).then_some(NodeId(vote));
            let amnesia = match header.detail {
                0 => LogAmnesia::None,
                1 => LogAmnesia::Entries,
                2 => LogAmnesia::Votes,
                _ => return None,
            };
            let state = LogHardState { term, vote, commit: index, life, amnesia };
            LogRecord::HardState { shard, state }
        }
        Kind::LogStart => {
            let reason = match header.detail {
                0 => StartReason::Cut,
                1 => StartReason::Snapshot,
                2 => StartReason::Damaged,
                _ => return None,
            };
            LogRecord::LogStart { shard, first: index, prev_term: term, reason }
        }
        Kind::ShardRemoved => LogRecord::ShardRemoved { shard },
    })
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut w = [0; 4];
    w.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(w)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let mut w = [0; 8];
    w.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(w)
}
