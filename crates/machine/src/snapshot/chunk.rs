//! The bytes of snapshot chunks.

use atoll_base::checksum::crc32c;
use atoll_base::codec::{DecodeError, Reader, Writer};
use atoll_base::{KeyspaceId, ShardId};
use bytes::Bytes;

use crate::query::KeyRange;

const VERSION: u8 = 1;
const HEAD: u8 = 0;
const PAIRS: u8 = 1;
const END: u8 = 2;

/// One piece of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Whose.
    pub shard: ShardId,
    /// From 0 on.
    pub number: u64,
    pub(super) body: Body,
}

/// What chunk 0 says of the rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotHead {
    /// The keyspace that the data belongs to.
    pub keyspace: KeyspaceId,
    /// The keys that the shard holds.
    pub range: KeyRange,
    /// The machine's counters, as they are stored.
    pub(super) state: Bytes,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Body {
    Head(SnapshotHead),
    Pairs(Vec<(Part, Bytes, Bytes)>),
    End { pairs: u64, checksum: u32 },
}

/// Which tree a pair belongs to, and of `Meta` which side of the install marker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Part {
    Meta = 0,
    Current = 1,
    History = 2,
    Coordination = 3,
}

fn unknown(what: &'static str, value: impl Into<u64>) -> DecodeError {
    DecodeError::Unknown { what, offset: 0, value: value.into() }
}

impl Chunk {
    /// Whether it is the last one.
    #[must_use]
    pub fn is_last(&self) -> bool {
        matches!(self.body, Body::End { .. })
    }

    /// What the snapshot is of, if this is chunk 0.
    #[must_use]
    pub fn head(&self) -> Option<&SnapshotHead> {
        match &self.body {
            Body::Head(head) => Some(head),
            _ => None,
        }
    }

    /// The chunk's bytes, checksum included.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u8(VERSION).varint(self.shard.0).varint(self.number);
        match &self.body {
            Body::Head(head) => {
                w.u8(HEAD).varint(u64::from(head.keyspace.0)).bytes(&head.range.start);
                match &head.range.end {
                    None => w.u8(0),
                    Some(end) => w.u8(1).bytes(end),
                };
                w.bytes(&head.state);
            }
            Body::Pairs(pairs) => {
                w.u8(PAIRS);
                for (part, key, value) in pairs {
                    w.u8(*part as u8).bytes(key).bytes(value);
                }
            }
            Body::End { pairs, checksum } => {
                w.u8(END).varint(*pairs).u32_fixed(*checksum);
            }
        }
        let mut bytes = w.finish();
        bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
        Bytes::from(bytes)
    }

    /// Reads a chunk; its pairs share `bytes`.
    ///
    /// # Errors
    /// When the checksum does not fit or the bytes are no chunk that this build knows.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let what = "chunk checksum";
        let cut = bytes.len().checked_sub(4).ok_or(DecodeError::Truncated {
            what,
            offset: 0,
            needed: 4 - bytes.len().min(4),
        })?;
        let said = Reader::new(bytes.slice(cut..)).u32_fixed(what)?;
        if crc32c(&bytes[..cut]) != said {
            return Err(unknown(what, said));
        }
        let mut r = Reader::new(bytes.slice(..cut));
        let version = r.u8("chunk version")?;
        if version != VERSION {
            return Err(unknown("chunk version", version));
        }
        let shard = ShardId(r.varint("chunk shard")?);
        let number = r.varint("chunk number")?;
        let body = match r.u8("chunk kind")? {
            HEAD => Body::Head(decode_head(&mut r)?),
            PAIRS => Body::Pairs(decode_pairs(&mut r)?),
            END => Body::End {
                pairs: r.varint("chunk pairs")?,
                checksum: r.u32_fixed("snapshot checksum")?,
            },
            other => return Err(unknown("chunk kind", other)),
        };
        r.finish("chunk")?;
        Ok(Self { shard, number, body })
    }
}

fn decode_head(r: &mut Reader) -> Result<SnapshotHead, DecodeError> {
    let keyspace = r.varint("chunk keyspace")?;
    let keyspace = u32::try_from(keyspace).map_err(|_| unknown("chunk keyspace", keyspace))?;
    let start = r.bytes("chunk range")?;
    let end = match r.u8("chunk range")? {
        0 => None,
        1 => Some(r.bytes("chunk range")?),
        other => return Err(unknown("chunk range", other)),
    };
    let state = r.bytes("chunk state")?;
    Ok(SnapshotHead { keyspace: KeyspaceId(keyspace), range: KeyRange { start, end }, state })
}

fn decode_pairs(r: &mut Reader) -> Result<Vec<(Part, Bytes, Bytes)>, DecodeError> {
    let mut pairs = Vec::new();
    while r.remaining() > 0 {
        let part = match r.u8("chunk tree")? {
            0 => Part::Meta,
            1 => Part::Current,
            2 => Part::History,
            3 => Part::Coordination,
            other => return Err(unknown("chunk tree", other)),
        };
        pairs.push((part, r.bytes("chunk key")?, r.bytes("chunk value")?));
    }
    Ok(pairs)
}
