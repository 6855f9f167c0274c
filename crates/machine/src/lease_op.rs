//! What may be asked of leases, and the answers, with their bytes.

use atoll_base::codec::{DecodeError, Reader, Writer};
use atoll_base::{LeaseId, Revision, Term};

pub(crate) const GRANT: u8 = 6;
pub(crate) const REVOKE: u8 = 7;
pub(crate) const EXPIRE: u8 = 8;

pub(crate) const REPLY_GRANTED: u8 = 16;
pub(crate) const REPLY_ENDED: u8 = 17;

/// A command about leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseOp {
    /// Makes a lease.
    Grant {
        /// The id wanted; `None` for one that the shard chooses.
        id: Option<LeaseId>,
        /// Time to live, milliseconds; raised to the shard's least.
        ttl_ms: u64,
        /// How long its locks stay closed after it *expired*, milliseconds; 0 for not at all. For
        /// locks over resources that can't check tokens.
        lock_delay_ms: u64,
    },
    /// Ends a lease: its keys go in one revision, its locks are released.
    Revoke {
        /// Which.
        id: LeaseId,
    },
    /// Ends a lease that was not heard of for its TTL. Proposed by the leader alone.
    Expire {
        /// Which.
        id: LeaseId,
        /// Its birth, so that a younger lease of the same id is spared.
        birth: u64,
        /// The term in which the leader saw it; in an entry of another one nothing happens.
        term: Term,
    },
}

/// The answer to a command about leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseReply {
    /// The lease lives.
    Granted {
        /// Its id.
        id: LeaseId,
        /// Its time to live, milliseconds.
        ttl_ms: u64,
    },
    /// The lease ended.
    Ended {
        /// The revision of the deletion of its keys; the current one if it had none.
        revision: Revision,
        /// How many keys went.
        deleted: u64,
    },
}

fn lease_id(r: &mut Reader) -> Result<LeaseId, DecodeError> {
    match r.varint("lease id")? {
        0 => Err(DecodeError::Unknown { what: "lease id", offset: 0, value: 0 }),
        id => Ok(LeaseId(id)),
    }
}

impl LeaseOp {
    pub(crate) fn number(&self) -> u8 {
        match self {
            Self::Grant { .. } => GRANT,
            Self::Revoke { .. } => REVOKE,
            Self::Expire { .. } => EXPIRE,
        }
    }

    /// Appends what stands behind the number.
    pub(crate) fn encode(&self, w: &mut Writer) {
        match self {
            Self::Grant { id, ttl_ms, lock_delay_ms } => {
                // Leases are never 0.
                w.varint(id.map_or(0, |id| id.0)).varint(*ttl_ms).varint(*lock_delay_ms);
            }
            Self::Revoke { id } => drop(w.varint(id.0)),
            Self::Expire { id, birth, term } => drop(w.varint(id.0).varint(*birth).varint(term.0)),
        }
    }

    /// `None` for a number that is not a lease's.
    pub(crate) fn decode(number: u8, r: &mut Reader) -> Option<Result<Self, DecodeError>> {
        matches!(number, GRANT | REVOKE | EXPIRE).then(|| Self::decode_body(number, r))
    }

    fn decode_body(number: u8, r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match number {
            GRANT => Self::Grant {
                id: Some(r.varint("lease id")?).filter(|id| *id != 0).map(LeaseId),
                ttl_ms: r.varint("lease ttl")?,
                lock_delay_ms: r.varint("lock delay")?,
            },
            REVOKE => Self::Revoke { id: lease_id(r)? },
            _ => Self::Expire {
                id: lease_id(r)?,
                birth: r.varint("lease birth")?,
                term: Term(r.varint("lease term")?),
            },
        })
    }
}

impl LeaseReply {
    pub(crate) fn encode(&self, w: &mut Writer) {
        match self {
            Self::Granted { id, ttl_ms } => w.u8(REPLY_GRANTED).varint(id.0).varint(*ttl_ms),
            Self::Ended { revision, deleted } => {
                w.u8(REPLY_ENDED).varint(revision.0).varint(*deleted)
            }
        };
    }

    /// `None` for a tag that is not of a lease's reply.
    pub(crate) fn decode(tag: u8, r: &mut Reader) -> Option<Result<Self, DecodeError>> {
        matches!(tag, REPLY_GRANTED | REPLY_ENDED).then(|| Self::decode_body(tag, r))
    }

    fn decode_body(tag: u8, r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match tag {
            REPLY_GRANTED => Self::Granted { id: lease_id(r)?, ttl_ms: r.varint("lease ttl")? },
            _ => Self::Ended {
                revision: Revision(r.varint("reply revision")?),
                deleted: r.varint("reply deleted")?,
            },
        })
    }
}
