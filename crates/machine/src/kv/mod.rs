//! Keys and values with etcd's revisions, per shard.
//!
//! `Current` holds the newest version of every key that exists. A version that is overwritten or
//! deleted moves, as it is, to `History` under `(key, its revision descending)`; a delete adds a
//! tombstone there at its own revision. A fresh key writes nothing to `History`. So a plain read is
//! one lookup, and what is true at revision R is
//!
//! ```text
//!   the current version, if its revision <= R,
//!   else the newest in History at or below R (a tombstone or nothing: no such key)
//!
//!   put 5, put 7, delete 9, put 12      Current: 12      History: 9 x   7   5
//!   at 4: none   at 6: 5   at 8: 7   at 10: none   at 12: 12
//! ```
//!
//! Every change also writes a change record under `(revision, sub)` with its key and the revision
//! of the version before it. Watches resume from it in order (M4), and it is the worklist of
//! garbage collection: for a change below the compact revision C, the version before it is needed
//! by nobody (reads below C are refused), nor is its tombstone. What is at C stays whole, value
//! before included, so that a watch may start at C. Each entry clears a bounded number of changes,
//! counted by entries and never by batches (M1).

mod change;
mod collect;
mod read;
mod txn;
mod write;

use atoll_base::{Code, Failure, Revision};

pub(crate) use change::{ChangeKind, ChangeRecord};
pub(crate) use read::{decode_current, read_at, read_range, read_version};
pub(crate) use write::KvBatch;

use crate::error::MachineError;
use crate::keys::Scope;
use crate::query::KeyEnd;
use crate::state::State;

/// Why an operation ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A refusal that every replica gives.
    Refused(Failure),
    /// This replica can't go on.
    Broken(MachineError),
}

impl From<MachineError> for Stop {
    fn from(error: MachineError) -> Self {
        Self::Broken(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

pub(crate) fn refuse<T>(code: Code, message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Refused(Failure::new(code, message)))
}

/// Refuses revisions that are gone or not there yet.
pub(crate) fn check_readable(state: &State, at: Option<Revision>) -> Result<(), Failure> {
    let Some(at) = at else { return Ok(()) };
    if at > state.revision {
        let message = format!("revision {at} is in the future, the shard is at {}", state.revision);
        return Err(Failure::new(Code::FutureRevision, message));
    }
    if at < state.compacted {
        let message = format!("revision {at} is compacted, the oldest kept is {}", state.compacted);
        return Err(Failure::new(Code::Compacted, message));
    }
    Ok(())
}

/// Refuses a key outside the shard.
pub(crate) fn check_holds(scope: &Scope, key: &[u8]) -> Result<(), Failure> {
    if scope.range.contains(key) {
        return Ok(());
    }
    Err(Failure::new(Code::StaleEpoch, format!("shard {} does not hold the key", scope.shard)))
}

/// Refuses a range that is not wholly inside the shard: part of an answer would be a lie.
pub(crate) fn check_covers(scope: &Scope, start: &[u8], end: &KeyEnd) -> Result<(), Failure> {
    if scope.range.covers(start, end) {
        return Ok(());
    }
    let message = format!("shard {} does not hold all of the range", scope.shard);
    Err(Failure::new(Code::StaleEpoch, message))
}
