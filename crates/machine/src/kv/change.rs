//! Change records: what happened at `(revision, sub)`.

use atoll_base::Revision;
use atoll_base::codec::{DecodeError, Reader, Writer};
use bytes::Bytes;

/// What a change did to its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChangeKind {
    Put = 1,
    Delete = 2,
}

/// One change without its place, which is its key in the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChangeRecord {
    pub(crate) kind: ChangeKind,
    /// The revision of the version that this change superseded, if there was one.
    pub(crate) previous: Option<Revision>,
    pub(crate) key: Bytes,
}

/// High nibble of the first byte: the format's version. Low nibble: the kind.
const VERSION: u8 = 0x10;

impl ChangeRecord {
    /// Appends the record's bytes.
    pub(crate) fn encode(&self, out: Vec<u8>) -> Vec<u8> {
        let mut w = Writer::onto(out);
        // Revisions of versions are never 0.
        w.u8(VERSION | self.kind as u8).varint(self.previous.map_or(0, |r| r.0)).raw(&self.key);
        w.finish()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let head = r.u8("change head")?;
        let kind = match head ^ VERSION {
            1 => ChangeKind::Put,
            2 => ChangeKind::Delete,
            _ => {
                let value = u64::from(head);
                return Err(DecodeError::Unknown { what: "change head", offset: 0, value });
            }
        };
        let previous = Some(r.varint("change previous")?).filter(|r| *r != 0).map(Revision);
        let left = r.remaining();
        Ok(Self { kind, previous, key: r.raw(left, "change key")? })
    }
}
