//! The machine's counters, one record, in the same engine batch as what they count (M6).

use atoll_base::codec::{DecodeError, Reader, Writer};
use atoll_base::{LogIndex, Revision, Term, Timestamp};
use bytes::Bytes;

const VERSION: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State {
    /// The last entry applied, and its term.
    pub(crate) applied: LogIndex,
    pub(crate) term: Term,
    /// The last change. An empty shard is at 1, so that 0 can mean "no such key" in compares.
    pub(crate) revision: Revision,
    /// The oldest revision that can be read.
    pub(crate) compacted: Revision,
    /// Changes before this place are cleared away.
    pub(crate) collected: (Revision, u32),
    /// The latest stamp of a batch.
    pub(crate) clock: Timestamp,
    /// The number of the next client that is forgotten.
    pub(crate) forgotten_next: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            applied: LogIndex::ZERO,
            term: Term::ZERO,
            revision: Revision(1),
            compacted: Revision(1),
            collected: (Revision(1), 0),
            clock: Timestamp(0),
            forgotten_next: 0,
        }
    }
}

impl State {
    /// Whether changes below the compact revision are left to clear away.
    pub(crate) fn must_collect(&self) -> bool {
        self.collected.0 < self.compacted
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(32);
        w.u8(VERSION).varint(self.applied.0).varint(self.term.0).varint(self.revision.0);
        w.varint(self.compacted.0).varint(self.collected.0.0);
        w.varint(u64::from(self.collected.1)).varint(self.clock.0).varint(self.forgotten_next);
        w.finish()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let version = r.u8("state version")?;
        if version != VERSION {
            let value = u64::from(version);
            return Err(DecodeError::Unknown { what: "state version", offset: 0, value });
        }
        let state = Self {
            applied: LogIndex(r.varint("applied index")?),
            term: Term(r.varint("applied term")?),
            revision: Revision(r.varint("revision")?),
            compacted: Revision(r.varint("compact revision")?),
            collected: (Revision(r.varint("collected revision")?), {
                let sub = r.varint("collected sub")?;
                u32::try_from(sub).map_err(|_| DecodeError::Unknown {
                    what: "collected sub",
                    offset: 0,
                    value: sub,
                })?
            }),
            clock: Timestamp(r.varint("clock")?),
            forgotten_next: r.varint("forgotten next")?,
        };
        r.finish("state")?;
        Ok(state)
    }
}
