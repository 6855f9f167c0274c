//! The unit of a replicated log, known to consensus (which orders it) and to storage (which keeps
//! it) so that neither needs to know the other.

use bytes::Bytes;

use crate::id::{LogIndex, Term};

/// What an entry's payload is. The numbers are persisted: never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum EntryKind {
    /// A new leader's first entry (Raft thesis 6.4); no payload.
    Empty = 0,
    /// A batch of the machine's commands.
    Commands = 1,
    /// A configuration of the group (Raft thesis 4).
    Membership = 2,
}

impl EntryKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Empty),
            1 => Some(Self::Commands),
            2 => Some(Self::Membership),
            _ => None,
        }
    }
}

/// One position of a shard's log. Cloning shares the payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The term of the leader that created it.
    pub term: Term,
    /// Its position, from 1.
    pub index: LogIndex,
    /// What the payload is.
    pub kind: EntryKind,
    /// Bytes that only the layer named by `kind` reads.
    pub payload: Bytes,
}

impl Entry {
    /// Bytes that this entry counts against windows and batches: its payload and a fixed share for
    /// what surrounds it.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.payload.len() + 32
    }
}
