//! One shard's state machine: what it keeps in memory, how it opens, how it is read.
//!
//! Whoever owns a machine drives it so: [`ShardMachine::begin`](crate::ShardMachine::begin), then
//! [`ApplyBatch::apply`](crate::ApplyBatch::apply) for every committed entry in order, then
//! [`ApplyBatch::finish`](crate::ApplyBatch::finish), then write the engine batch, then replies,
//! events and reads. Reads between `finish` and the engine's write would see the old state under
//! the new revision: don't. After any error, from the machine or from the engine's write, the
//! machine in memory may be ahead of the engine: drop it and open it again.

use atoll_base::{
    Code, Failure, KeyspaceId, LogIndex, Revision, ShardId, Term, Timestamp, codec::DecodeError,
};
use atoll_storage::{Direction, Engine, EngineError, ReadView, Tree};
use bytes::Bytes;

use crate::counters::Counters;
use crate::error::MachineError;
use crate::keys::{self, Scope};
use crate::kv::{self, Stop};
use crate::lease::LeaseTable;
use crate::limits::MachineLimits;
use crate::lock::LockTable;
use crate::query::{KeyRange, RangePage, RangeQuery};
use crate::record::KeyValue;
use crate::session::SessionTable;
use crate::state::State;

/// The state machine of one replica of a shard.
#[derive(Debug)]
pub struct ShardMachine {
    pub(crate) scope: Scope,
    pub(crate) limits: MachineLimits,
    pub(crate) state: State,
    pub(crate) sessions: SessionTable,
    pub(crate) counters: Counters,
    pub(crate) leases: LeaseTable,
    pub(crate) locks: LockTable,
    /// The limits are in the engine.
    pub(crate) limits_kept: bool,
    /// A batch was begun and not finished, so memory and engine differ.
    pub(crate) in_batch: bool,
}

impl ShardMachine {
    /// Opens the machine of `shard`, whose user data are the keys `range` of `keyspace`, as the
    /// engine has it; empty if it has nothing. `limits` count only for a shard that is new.
    ///
    /// # Errors
    /// [`MachineError::SnapshotUnfinished`] when an install was cut off, [`MachineError::Record`]
    /// and [`MachineError::Engine`] when the engine's content can't be read.
    pub fn open(
        shard: ShardId,
        keyspace: KeyspaceId,
        range: KeyRange,
        limits: MachineLimits,
        engine: &dyn Engine,
    ) -> Result<Self, MachineError> {
        let scope = Scope { shard, keyspace, range };
        let get = |tag| engine.get(Tree::Meta, &scope.meta_key(tag)).map_err(|e| scope.engine(e));
        if get(keys::INSTALLING)?.is_some() {
            return Err(MachineError::SnapshotUnfinished { shard });
        }
        let state = match get(keys::STATE)? {
            Some(bytes) => State::decode(bytes).map_err(|e| scope.record("state", e))?,
            None => State::default(),
        };
        let (limits, limits_kept) = match get(keys::LIMITS)? {
            Some(bytes) => {
                (MachineLimits::decode(bytes).map_err(|e| scope.record("limits", e))?, true)
            }
            None => (limits, false),
        };
        let mut sessions = SessionTable::default();
        let view = engine.view();
        let span = scope.meta_span(keys::SESSION..keys::FORGOTTEN + 1);
        for pair in view.scan(Tree::Meta, keys::borrowed(&span), Direction::Forward) {
            let (key, value) = pair.map_err(|e| scope.engine(e))?;
            sessions.load(&key, value).map_err(|e| scope.record("session", e))?;
        }
        let counters = match get(keys::COUNTERS)? {
            Some(bytes) => Counters::decode(bytes).map_err(|e| scope.record("counters", e))?,
            None => Counters::default(),
        };
        let (mut leases, mut locks) = (LeaseTable::default(), LockTable::default());
        let span = scope.meta_span(keys::LEASE..keys::CLAIM + 1);
        for pair in view.scan(Tree::Meta, keys::borrowed(&span), Direction::Forward) {
            let (key, value) = pair.map_err(|e| scope.engine(e))?;
            let loaded = match key.get(8) {
                Some(&(keys::LEASE | keys::ATTACHED)) => leases.load(&key, value),
                _ => locks.load(&key, value),
            };
            loaded.map_err(|e| scope.record("lease or lock", e))?;
        }
        let in_batch = false;
        Ok(Self { scope, limits, state, sessions, counters, leases, locks, limits_kept, in_batch })
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.scope.shard
    }

    /// The keyspace that its data belongs to.
    #[must_use]
    pub fn keyspace(&self) -> KeyspaceId {
        self.scope.keyspace
    }

    /// The keys that it holds.
    #[must_use]
    pub fn range_held(&self) -> &KeyRange {
        &self.scope.range
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.state.applied
    }

    /// The term of the last entry applied.
    #[must_use]
    pub fn applied_term(&self) -> Term {
        self.state.term
    }

    /// The shard's last change; 1 before the first.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    /// The oldest revision that can be read.
    #[must_use]
    pub fn compact_revision(&self) -> Revision {
        self.state.compacted
    }

    /// The latest stamp of a batch: the log's clock.
    #[must_use]
    pub fn clock(&self) -> Timestamp {
        self.state.clock
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &MachineLimits {
        &self.limits
    }

    /// Whether history below the compact revision is left to clear away. Every entry clears a
    /// little; on an idle shard the leader may propose empty batches.
    #[must_use]
    pub fn must_collect(&self) -> bool {
        self.state.must_collect()
    }

    /// Clients whose replies are kept.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// The oldest last use of a session, if there is one: when to propose
    /// [`Op::ExpireSessions`](crate::Op::ExpireSessions).
    #[must_use]
    pub fn oldest_session_use(&self) -> Option<Timestamp> {
        self.sessions.oldest_use()
    }

    /// The pair of `key` at revision `at`, or now.
    ///
    /// # Errors
    /// `StaleEpoch` for a key that is not the shard's, `Compacted` and `FutureRevision` for a
    /// revision that can't be read, `Damaged` when the engine fails.
    pub fn get(
        &self,
        engine: &dyn Engine,
        key: &[u8],
        at: Option<Revision>,
    ) -> Result<Option<KeyValue>, Failure> {
        kv::check_readable(&self.state, at)?;
        kv::check_holds(&self.scope, key)?;
        let found = match at {
            Some(at) if at < self.state.revision => {
                let view = engine.view();
                kv::read_at(&&*view, &self.scope, key, at)
            }
            _ => match engine.get(self.scope.current(), key) {
                Ok(None) => Ok(None),
                Ok(Some(bytes)) => kv::decode_current(&self.scope, bytes).map(Some),
                Err(e) => Err(self.scope.engine(e)),
            },
        };
        let found = found.map_err(|e| damaged(&e))?;
        Ok(found.map(|record| record.with_key(Bytes::copy_from_slice(key))))
    }

    /// One page of a range. Pages of one scan that must see one state carry the first page's
    /// `revision` as their `at`; the view then need not be the same.
    ///
    /// # Errors
    /// As [`ShardMachine::get`].
    pub fn range(&self, view: &dyn ReadView, query: &RangeQuery) -> Result<RangePage, Failure> {
        kv::check_readable(&self.state, query.at)?;
        let found = kv::read_range(&view, &self.scope, &self.limits, self.state.revision, query);
        found.map_err(|stop| match stop {
            Stop::Refused(failure) => failure,
            Stop::Broken(error) => damaged(&error),
        })
    }
}

impl Scope {
    pub(crate) fn engine(&self, source: EngineError) -> MachineError {
        MachineError::Engine { shard: self.shard, source }
    }

    pub(crate) fn record(&self, what: &'static str, source: DecodeError) -> MachineError {
        MachineError::Record { shard: self.shard, what, source }
    }

    pub(crate) fn inconsistent(&self, what: impl Into<String>) -> MachineError {
        MachineError::Inconsistent { shard: self.shard, what: what.into() }
    }
}

/// What a reader is told when the replica can't read its own data.
pub(crate) fn damaged(error: &MachineError) -> Failure {
    use std::error::Error;
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    Failure::new(Code::Damaged, format!("{error}{cause}"))
}
