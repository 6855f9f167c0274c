//! Where a shard's records lie. User data is keyed by key alone, so that a split moves no byte;
//! what belongs to the shard itself lies in `Meta` under `(shard, tag)`. Tags from 0x80 on are free
//! for whoever owns the machine.

use std::borrow::Cow;
use std::ops::Bound;

use atoll_base::ordkey::{KeyReader, KeyWriter, prefix_end};
use atoll_base::{ClientId, KeyspaceId, LeaseId, Revision, ShardId};
use atoll_storage::Tree;
use bytes::Bytes;

use crate::lock_op::Guard;
use crate::query::{KeyEnd, KeyRange};

/// `(shard, STATE)`: the machine's counters.
pub(crate) const STATE: u8 = 1;
/// `(shard, LIMITS)`: the bounds that the shard was made with.
pub(crate) const LIMITS: u8 = 2;
/// `(shard, SESSION, client)`: what a client may still ask for.
pub(crate) const SESSION: u8 = 3;
/// `(shard, FORGOTTEN, number)`: a client whose session is gone.
pub(crate) const FORGOTTEN: u8 = 4;
/// `(shard, CHANGE, revision, sub)`: what changed, in order.
pub(crate) const CHANGE: u8 = 5;
/// `(shard, INSTALLING)`: a snapshot is being installed.
pub(crate) const INSTALLING: u8 = 6;

/// `(shard, COUNTERS)`: what leases and locks count.
pub(crate) const COUNTERS: u8 = 7;
/// `(shard, LEASE, lease)`: a lease that lives.
pub(crate) const LEASE: u8 = 8;
/// `(shard, ATTACHED, lease, key)`: a key that goes with its lease.
pub(crate) const ATTACHED: u8 = 9;
/// `(shard, LOCK, name)`: what a lock is, where its claims don't tell.
pub(crate) const LOCK: u8 = 10;
/// `(shard, CLAIM, name, place)`: one that holds a lock or waits for it.
pub(crate) const CLAIM: u8 = 11;
/// `(shard, MARK, key, keyspace, lock)`: the largest token that a key was written under.
pub(crate) const MARK: u8 = 12;
/// `(shard, FLOOR, keyspace, lock)`: the largest token that something was deleted under.
pub(crate) const FLOOR: u8 = 13;
/// Tags from here on are not the machine's.
pub(crate) const FOREIGN: u8 = 0x80;

/// Which shard, and where its user data lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Scope {
    pub(crate) shard: ShardId,
    pub(crate) keyspace: KeyspaceId,
    pub(crate) range: KeyRange,
}

/// An owned range of engine keys.
pub(crate) type Span = (Bound<Bytes>, Bound<Bytes>);

/// A span as scans take it.
pub(crate) fn borrowed(span: &Span) -> (Bound<&[u8]>, Bound<&[u8]>) {
    fn one(bound: &Bound<Bytes>) -> Bound<&[u8]> {
        match bound {
            Bound::Included(key) => Bound::Included(key),
            Bound::Excluded(key) => Bound::Excluded(key),
            Bound::Unbounded => Bound::Unbounded,
        }
    }
    (one(&span.0), one(&span.1))
}

impl Scope {
    pub(crate) fn current(&self) -> Tree {
        Tree::Current(self.keyspace)
    }

    pub(crate) fn history(&self) -> Tree {
        Tree::History(self.keyspace)
    }

    fn meta(&self, tag: u8) -> KeyWriter {
        KeyWriter::with_capacity(24).u64(self.shard.0).u8(tag)
    }

    /// The key of the only record with `tag`.
    pub(crate) fn meta_key(&self, tag: u8) -> Vec<u8> {
        self.meta(tag).finish()
    }

    pub(crate) fn session_key(&self, client: ClientId) -> Vec<u8> {
        self.meta(SESSION).u64(client.0).finish()
    }

    pub(crate) fn forgotten_key(&self, number: u64) -> Vec<u8> {
        self.meta(FORGOTTEN).u64(number).finish()
    }

    pub(crate) fn change_key(&self, revision: Revision, sub: u32) -> Vec<u8> {
        self.write_change_key(revision, sub, Vec::with_capacity(24))
    }

    /// Appends what [`Scope::change_key`] gives.
    pub(crate) fn write_change_key(&self, revision: Revision, sub: u32, out: Vec<u8>) -> Vec<u8> {
        let key = KeyWriter::onto(out).u64(self.shard.0).u8(CHANGE);
        key.u64(revision.0).u32(sub).finish()
    }

    /// The changes from `(revision, sub)` up to and without revision `end`.
    pub(crate) fn change_span(&self, from: (Revision, u32), end: Option<Revision>) -> Span {
        let to = match end {
            Some(end) => self.change_key(end, 0),
            None => self.meta(CHANGE + 1).finish(),
        };
        let from = self.change_key(from.0, from.1);
        (Bound::Included(Bytes::from(from)), Bound::Excluded(Bytes::from(to)))
    }

    pub(crate) fn lease_key(&self, lease: LeaseId) -> Vec<u8> {
        self.meta(LEASE).u64(lease.0).finish()
    }

    pub(crate) fn attached_key(&self, lease: LeaseId, key: &[u8]) -> Vec<u8> {
        self.meta(ATTACHED).u64(lease.0).tail(key)
    }

    /// The keys attached to a lease, behind `after`.
    pub(crate) fn attached_span(&self, lease: LeaseId, after: Option<&[u8]>) -> Span {
        let from = match after {
            None => Bound::Included(Bytes::from(self.attached_key(lease, &[]))),
            Some(after) => Bound::Excluded(Bytes::from(self.attached_key(lease, after))),
        };
        let to = match lease.0.checked_add(1) {
            Some(next) => self.attached_key(LeaseId(next), &[]),
            None => self.meta(ATTACHED + 1).finish(),
        };
        (from, Bound::Excluded(Bytes::from(to)))
    }

    pub(crate) fn lock_key(&self, name: &[u8]) -> Vec<u8> {
        self.meta(LOCK).tail(name)
    }

    pub(crate) fn claim_key(&self, name: &[u8], place: u64) -> Vec<u8> {
        self.meta(CLAIM).string(name).u64(place).finish()
    }

    pub(crate) fn mark_key(&self, key: &[u8], guard: &Guard) -> Vec<u8> {
        self.meta(MARK).string(key).u32(guard.keyspace.0).tail(&guard.lock)
    }

    /// The marks of all keys in `start..end`.
    pub(crate) fn mark_span(&self, start: &[u8], end: &KeyEnd) -> Span {
        let prefix = |key: &[u8]| self.meta(MARK).string(key).finish();
        let to = match end {
            KeyEnd::Single => prefix_end(&prefix(start)).expect("an escaped string ends in 1"),
            KeyEnd::Until(until) => prefix(until),
            KeyEnd::ToEnd => self.meta(MARK + 1).finish(),
        };
        (Bound::Included(Bytes::from(prefix(start))), Bound::Excluded(Bytes::from(to)))
    }

    pub(crate) fn floor_key(&self, guard: &Guard) -> Vec<u8> {
        self.meta(FLOOR).u32(guard.keyspace.0).tail(&guard.lock)
    }

    /// All records with tags in `tags`.
    pub(crate) fn meta_span(&self, tags: std::ops::Range<u8>) -> Span {
        let (from, to) = (self.meta(tags.start).finish(), self.meta(tags.end).finish());
        (Bound::Included(Bytes::from(from)), Bound::Excluded(Bytes::from(to)))
    }

    /// `Current` keys of `start..end`.
    pub(crate) fn current_span(start: &Bytes, end: &KeyEnd) -> Span {
        let to = match end {
            KeyEnd::Single => Bound::Included(start.clone()),
            KeyEnd::Until(until) => Bound::Excluded(until.clone()),
            KeyEnd::ToEnd => Bound::Unbounded,
        };
        (Bound::Included(start.clone()), to)
    }

    /// `History` keys of all versions of the keys in `start..end`.
    pub(crate) fn history_span(start: &Bytes, end: &KeyEnd) -> Span {
        let prefix =
            |key: &[u8]| Bytes::from(KeyWriter::with_capacity(key.len() + 8).string(key).finish());
        let to = match end {
            KeyEnd::Single => Bound::Included(Bytes::from(history_key(start, Revision::ZERO))),
            KeyEnd::Until(until) => Bound::Excluded(prefix(until)),
            KeyEnd::ToEnd => Bound::Unbounded,
        };
        (Bound::Included(prefix(start)), to)
    }

    /// The end of the shard's own range.
    pub(crate) fn range_end(&self) -> KeyEnd {
        match &self.range.end {
            Some(end) => KeyEnd::Until(end.clone()),
            None => KeyEnd::ToEnd,
        }
    }
}

/// Where version `revision` of `key` lies once it is superseded; newer versions sort first.
pub(crate) fn history_key(key: &[u8], revision: Revision) -> Vec<u8> {
    write_history_key(key, revision, Vec::with_capacity(key.len() + 12))
}

/// Appends what [`history_key`] gives.
pub(crate) fn write_history_key(key: &[u8], revision: Revision, out: Vec<u8>) -> Vec<u8> {
    KeyWriter::onto(out).string(key).u64_desc(revision.0).finish()
}

/// Takes a history key apart.
pub(crate) fn parse_history_key(bytes: &Bytes) -> Option<(Bytes, Revision)> {
    let mut r = KeyReader::new(bytes);
    let key = r.string()?;
    let revision = r.u64_desc()?;
    r.tail().is_empty().then(|| (part_of(bytes, key), Revision(revision)))
}

/// A part of `bytes` on its own: shared where it stands there as it is.
fn part_of(bytes: &Bytes, part: Cow<'_, [u8]>) -> Bytes {
    match part {
        Cow::Borrowed(part) => bytes.slice_ref(part),
        Cow::Owned(part) => part.into(),
    }
}

/// Takes `(revision, sub)` out of a change key.
pub(crate) fn parse_change_key(bytes: &[u8]) -> Option<(Revision, u32)> {
    let mut r = KeyReader::new(bytes.get(9..)?);
    let place = (Revision(r.u64()?), r.u32()?);
    r.tail().is_empty().then_some(place)
}

/// Takes the key out of the record of an attached key.
pub(crate) fn parse_attached_key(bytes: &Bytes) -> Option<Bytes> {
    (bytes.len() >= 17).then(|| bytes.slice(17..))
}

/// Takes name and place out of a claim's key.
pub(crate) fn parse_claim_key(bytes: &Bytes) -> Option<(Bytes, u64)> {
    let mut r = KeyReader::new(bytes.get(9..)?);
    let (name, place) = (r.string()?, r.u64()?);
    r.tail().is_empty().then(|| (part_of(bytes, name), place))
}

/// Takes keyspace and name of the lock out of a mark's key.
pub(crate) fn parse_mark_key(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut r = KeyReader::new(bytes.get(9..)?);
    r.string()?;
    let keyspace = r.u32()?;
    Some((keyspace, r.tail()))
}

/// Takes the number that follows the tag out of a session's, forgotten client's or lease's key.
pub(crate) fn parse_number_key(bytes: &[u8]) -> Option<u64> {
    KeyReader::new(bytes.get(9..)?).u64()
}
