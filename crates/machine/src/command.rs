//! What a client may ask of a shard, as it stands in the log.

use atoll_base::{ClientId, LeaseId, Revision, Sequence, Timestamp};
use bytes::Bytes;

use crate::lease_op::LeaseOp;
use crate::lock_op::{Guard, LockOp};
use crate::query::{KeyEnd, RangeQuery};

/// Names a request for ever, so that a retry of it is known (RIFL 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandId {
    /// Who asks.
    pub client: ClientId,
    /// Its count of mutating requests, from 1.
    pub sequence: Sequence,
    /// Every reply below this one has arrived; at most `sequence`.
    pub first_unacknowledged: Sequence,
}

/// One request of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Makes retries safe; `None` for requests that may happen twice.
    pub id: Option<CommandId>,
    /// What to do.
    pub op: Op,
}

impl Command {
    /// A command without an id.
    #[must_use]
    pub fn anonymous(op: Op) -> Self {
        Self { id: None, op }
    }
}

/// What to do. The numbers in the log are those of the codec.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Sets one key.
    Put(PutOp),
    /// Removes a key or a range of keys.
    Delete(DeleteOp),
    /// Compares, then does one list of steps or the other, all in one revision.
    Txn(TxnOp),
    /// Forgets history below a revision.
    Compact {
        /// The oldest revision that stays readable.
        revision: Revision,
    },
    /// Forgets the sessions of clients that have been silent. Proposed by the leader.
    ExpireSessions {
        /// Sessions last used before this log time go.
        unused_since: Timestamp,
    },
    /// About leases.
    Lease(LeaseOp),
    /// About locks, semaphores and elections.
    Lock(LockOp),
    /// A write on condition that locks are held.
    Guarded(GuardedOp),
}

/// A put, delete or transaction that is refused unless every guard's lock is held with its token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuardedOp {
    /// The conditions.
    pub guards: Vec<Guard>,
    /// A put, a delete or a transaction.
    pub op: Box<Op>,
}

/// Sets one key.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PutOp {
    /// Not empty.
    pub key: Bytes,
    /// The new value; must be empty with `ignore_value`.
    pub value: Bytes,
    /// The lease to attach; replaces the one before, `None` detaches.
    pub lease: Option<LeaseId>,
    /// Answer with what was there before.
    pub prev_kv: bool,
    /// Keep the value that is there; fails if the key does not exist.
    pub ignore_value: bool,
    /// Keep the lease that is there; fails if the key does not exist.
    pub ignore_lease: bool,
}

/// Removes a key or a range of keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteOp {
    /// The key, or the first of the range.
    pub key: Bytes,
    /// Where the range ends.
    pub end: KeyEnd,
    /// Answer with what was there before.
    pub prev_kv: bool,
}

/// Compares, then does one list of steps or the other.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TxnOp {
    /// All must hold, against the state before the transaction. Holds when empty.
    pub compares: Vec<Compare>,
    /// Done, in order, when all compares hold.
    pub then: Vec<TxnStep>,
    /// Done, in order, when one does not.
    pub otherwise: Vec<TxnStep>,
}

/// One step of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TxnStep {
    /// Sets a key; a transaction may set a key once.
    Put(PutOp),
    /// Removes keys; not those that the same transaction sets.
    Delete(DeleteOp),
    /// Reads, seeing the steps before it.
    Range(RangeQuery),
    /// A transaction inside; its compares too look at the state before the outermost one.
    Txn(TxnOp),
}

/// One condition: `what the key has` `relation` `target`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compare {
    /// The key, or the first of a range.
    pub key: Bytes,
    /// With a range, the condition must hold for every key that exists in it.
    pub end: KeyEnd,
    /// What is compared, and with what.
    pub target: CompareTarget,
    /// How.
    pub relation: Relation,
}

/// What is compared, and with what. A key that does not exist has 0 everywhere and no value: a
/// comparison of its value never holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CompareTarget {
    /// Changes since creation.
    Version(u64),
    /// The revision of creation.
    Create(Revision),
    /// The revision of the last change.
    Mod(Revision),
    /// The value, byte by byte.
    Value(Bytes),
    /// The lease; 0 is none.
    Lease(u64),
}

/// How two values are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `>`
    Greater,
}

impl Relation {
    /// Whether `ordering` (of the key's to the target's) satisfies this relation.
    #[must_use]
    pub fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::Greater => ordering.is_gt(),
        }
    }
}
