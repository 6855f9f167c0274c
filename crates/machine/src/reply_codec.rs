//! The bytes of replies, as kept for retries and as sent between nodes: see
//! `docs/formats/commands.md`.

use std::time::Duration;

use atoll_base::codec::{DecodeError, Reader, Writer};
use atoll_base::{Code, Failure, Happened, LeaseId, NodeId, Retry, Revision};
use bytes::Bytes;

use crate::lease_op::LeaseReply;
use crate::lock_op::LockReply;
use crate::query::RangePage;
use crate::record::KeyValue;
use crate::reply::{Reply, TxnResult};

const PUT: u8 = 1;
const PUT_PREVIOUS: u8 = 2;
const DELETE: u8 = 3;
const TXN_FAILED: u8 = 4;
const TXN_SUCCEEDED: u8 = 5;
const COMPACT: u8 = 6;
const SESSIONS_EXPIRED: u8 = 7;
const FAILED: u8 = 8;
const RANGE: u8 = 9;
// 16 and 17 are about leases, 18 to 21 about locks.

fn unknown(what: &'static str, value: impl Into<u64>) -> DecodeError {
    DecodeError::Unknown { what, offset: 0, value: value.into() }
}

impl Reply {
    /// Appends the reply's bytes.
    pub fn encode(&self, w: &mut Writer) {
        match self {
            Self::Put { revision, previous } => encode_put(Some(*revision), previous.as_ref(), w),
            Self::Delete { revision, deleted, previous } => {
                w.u8(DELETE).varint(revision.0).varint(*deleted);
                encode_pairs(previous, w);
            }
            Self::Txn { revision, succeeded, results } => {
                w.u8(if *succeeded { TXN_SUCCEEDED } else { TXN_FAILED }).varint(revision.0);
                encode_results(results, w);
            }
            Self::Compact { revision, compacted } => {
                w.u8(COMPACT).varint(revision.0).varint(compacted.0);
            }
            Self::SessionsExpired { count } => drop(w.u8(SESSIONS_EXPIRED).varint(*count)),
            Self::Lease(reply) => reply.encode(w),
            Self::Lock(reply) => reply.encode(w),
            Self::Failed(failure) => encode_failure(failure, w.u8(FAILED)),
        }
    }

    /// Takes one reply off the front of `r`.
    ///
    /// # Errors
    /// When the bytes are no reply that this build knows.
    pub fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let tag = r.u8("reply")?;
        if let Some(reply) = LeaseReply::decode(tag, r) {
            return reply.map(Self::Lease);
        }
        if let Some(reply) = LockReply::decode(tag, r) {
            return reply.map(Self::Lock);
        }
        Ok(match tag {
            PUT | PUT_PREVIOUS => Self::Put {
                revision: Revision(r.varint("reply revision")?),
                previous: (tag == PUT_PREVIOUS).then(|| KeyValue::decode(r)).transpose()?,
            },
            DELETE => Self::Delete {
                revision: Revision(r.varint("reply revision")?),
                deleted: r.varint("reply deleted")?,
                previous: decode_pairs(r)?,
            },
            TXN_FAILED | TXN_SUCCEEDED => Self::Txn {
                revision: Revision(r.varint("reply revision")?),
                succeeded: tag == TXN_SUCCEEDED,
                results: decode_results(r, 8)?,
            },
            COMPACT => Self::Compact {
                revision: Revision(r.varint("reply revision")?),
                compacted: Revision(r.varint("reply compacted")?),
            },
            SESSIONS_EXPIRED => Self::SessionsExpired { count: r.varint("reply count")? },
            FAILED => Self::Failed(decode_failure(r)?),
            other => return Err(unknown("reply", other)),
        })
    }
}

fn encode_put(revision: Option<Revision>, previous: Option<&KeyValue>, w: &mut Writer) {
    w.u8(if previous.is_some() { PUT_PREVIOUS } else { PUT });
    if let Some(revision) = revision {
        w.varint(revision.0);
    }
    if let Some(previous) = previous {
        previous.encode(w);
    }
}

fn encode_pairs(pairs: &[KeyValue], w: &mut Writer) {
    w.varint(pairs.len() as u64);
    for pair in pairs {
        pair.encode(w);
    }
}

fn decode_pairs(r: &mut Reader) -> Result<Vec<KeyValue>, DecodeError> {
    let count = count(r, "pairs")?;
    (0..count).map(|_| KeyValue::decode(r)).collect()
}

/// A count of items of at least one byte each.
fn count(r: &mut Reader, what: &'static str) -> Result<u64, DecodeError> {
    let count = r.varint(what)?;
    if count > r.remaining() as u64 { Err(unknown(what, count)) } else { Ok(count) }
}

fn encode_results(results: &[TxnResult], w: &mut Writer) {
    w.varint(results.len() as u64);
    for result in results {
        match result {
            TxnResult::Put { previous } => encode_put(None, previous.as_ref(), w),
            TxnResult::Delete { deleted, previous } => {
                encode_pairs(previous, w.u8(DELETE).varint(*deleted));
            }
            TxnResult::Range(page) => page.encode(w.u8(RANGE)),
            TxnResult::Txn { succeeded, results } => {
                encode_results(results, w.u8(if *succeeded { TXN_SUCCEEDED } else { TXN_FAILED }));
            }
        }
    }
}

fn decode_results(r: &mut Reader, depth: u32) -> Result<Vec<TxnResult>, DecodeError> {
    let depth = depth.checked_sub(1).ok_or(unknown("txn depth", 9_u8))?;
    let count = count(r, "results")?;
    let mut results = Vec::new();
    for _ in 0..count {
        let tag = r.u8("result")?;
        results.push(match tag {
            PUT => TxnResult::Put { previous: None },
            PUT_PREVIOUS => TxnResult::Put { previous: Some(KeyValue::decode(r)?) },
            DELETE => TxnResult::Delete {
                deleted: r.varint("result deleted")?,
                previous: decode_pairs(r)?,
            },
            RANGE => TxnResult::Range(RangePage::decode(r)?),
            TXN_FAILED | TXN_SUCCEEDED => TxnResult::Txn {
                succeeded: tag == TXN_SUCCEEDED,
                results: decode_results(r, depth)?,
            },
            other => return Err(unknown("result", other)),
        });
    }
    Ok(results)
}

fn encode_option(bytes: Option<&Bytes>, w: &mut Writer) {
    match bytes {
        None => drop(w.u8(0)),
        Some(bytes) => drop(w.u8(1).bytes(bytes)),
    }
}

fn decode_option(r: &mut Reader, what: &'static str) -> Result<Option<Bytes>, DecodeError> {
    match r.u8(what)? {
        0 => Ok(None),
        1 => r.bytes(what).map(Some),
        other => Err(unknown(what, other)),
    }
}

impl RangePage {
    /// Appends the page's bytes.
    pub fn encode(&self, w: &mut Writer) {
        w.varint(self.revision.0).varint(self.count);
        encode_option(self.more.as_ref(), w);
        encode_option(self.uncounted.as_ref(), w);
        encode_pairs(&self.kvs, w);
    }

    /// Takes one page off the front of `r`.
    ///
    /// # Errors
    /// When the bytes are no page that this build knows.
    pub fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            revision: Revision(r.varint("page revision")?),
            count: r.varint("page count")?,
            more: decode_option(r, "page more")?,
            uncounted: decode_option(r, "page uncounted")?,
            kvs: decode_pairs(r)?,
        })
    }
}

impl KeyValue {
    /// Appends the pair's bytes.
    pub fn encode(&self, w: &mut Writer) {
        w.bytes(&self.key).bytes(&self.value).varint(self.mod_revision.0);
        w.varint(self.create_revision.0).varint(self.version);
        // Leases are never 0.
        w.varint(self.lease.map_or(0, |lease| lease.0));
    }

    /// Takes one pair off the front of `r`.
    ///
    /// # Errors
    /// When the bytes are no pair.
    pub fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            key: r.bytes("pair key")?,
            value: r.bytes("pair value")?,
            mod_revision: Revision(r.varint("pair mod revision")?),
            create_revision: Revision(r.varint("pair create revision")?),
            version: r.varint("pair version")?,
            lease: Some(r.varint("pair lease")?).filter(|lease| *lease != 0).map(LeaseId),
        })
    }
}

fn encode_failure(failure: &Failure, w: &mut Writer) {
    w.varint(failure.code as u64);
    w.u8(match failure.happened {
        Happened::No => 0,
        Happened::Maybe => 1,
        Happened::Yes => 2,
    });
    match failure.retry {
        Retry::Never => drop(w.u8(0)),
        Retry::Now => drop(w.u8(1)),
        Retry::After(wait) => {
            w.u8(2).varint(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        }
    }
    // Nodes are never 0.
    w.varint(failure.leader.map_or(0, |node| node.0)).bytes(failure.message.as_bytes());
}

fn decode_failure(r: &mut Reader) -> Result<Failure, DecodeError> {
    let code = r.varint("failure code")?;
    let code = u16::try_from(code)
        .ok()
        .and_then(Code::from_u16)
        .ok_or_else(|| unknown("failure code", code))?;
    let happened = match r.u8("failure happened")? {
        0 => Happened::No,
        1 => Happened::Maybe,
        2 => Happened::Yes,
        other => return Err(unknown("failure happened", other)),
    };
    let retry = match r.u8("failure retry")? {
        0 => Retry::Never,
        1 => Retry::Now,
        2 => Retry::After(Duration::from_millis(r.varint("failure retry")?)),
        other => return Err(unknown("failure retry", other)),
    };
    let leader = Some(r.varint("failure leader")?).filter(|node| *node != 0).map(NodeId);
    let message = r.bytes("failure message")?;
    let message = String::from_utf8_lossy(&message).into_owned();
    Ok(Failure { code, happened, retry, leader, message })
}
