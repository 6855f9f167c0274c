//! What clients asked and what they were told.
//!
//! Every call and every return gets the next *stamp*, so that "before" is never a tie. Values are
//! unique per write (the write's own number), so that a reader's answer names its writer.

use std::fmt;

use atoll_base::{Revision, ShardId, Time};

/// The position of a call or return among all calls and returns of a run, from 1.
pub type Stamp = u64;

/// A write's number, unique in a run and never 0; also the value that it leaves.
pub type Value = u64;

/// A key of the workload, numbered over all shards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KeyNumber(pub u32);

/// What a client asked of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// Leave this value.
    Put(Value),
    /// Remove the key.
    Delete(Value),
    /// Leave `value` if the key holds `expect` (`None`: does not exist).
    Swap {
        /// What must be there.
        expect: Option<Value>,
        /// What to leave.
        value: Value,
    },
    /// Read, linearizably.
    Get,
}

impl Call {
    /// The write's number, if it writes.
    #[must_use]
    pub fn write(self) -> Option<Value> {
        match self {
            Self::Put(value) | Self::Delete(value) | Self::Swap { value, .. } => Some(value),
            Self::Get => None,
        }
    }
}

/// What a client was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Return {
    /// The put stands.
    Put,
    /// The delete stands; whether there was a key.
    Deleted(Found),
    /// The swap took place or not.
    Swapped(Found),
    /// What the key holds.
    Got(Option<Value>),
}

/// Whether a write met what it looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// It did.
    Yes,
    /// It did not, and nothing changed.
    No,
}

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Answered.
    Done {
        /// When.
        stamp: Stamp,
        /// With what.
        returned: Return,
        /// The shard's revision that the answer names.
        revision: Revision,
    },
    /// Refused without effect, or a read that failed.
    Refused {
        /// When.
        stamp: Stamp,
    },
    /// Nobody knows: the answer never came or says so.
    Unknown,
}

/// One call and its end.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who asked.
    pub client: u32,
    /// The shard asked.
    pub shard: ShardId,
    /// The key asked about.
    pub key: KeyNumber,
    /// What was asked.
    pub call: Call,
    /// When, among all calls and returns.
    pub called: Stamp,
    /// When, in virtual time.
    pub called_at: Time,
    /// How it ended.
    pub outcome: Outcome,
}

impl Operation {
    /// Answered, and it changed something.
    #[must_use]
    pub fn changed(&self) -> bool {
        match self.outcome {
            Outcome::Done { returned, .. } => matches!(
                returned,
                Return::Put | Return::Deleted(Found::Yes) | Return::Swapped(Found::Yes)
            ),
            Outcome::Refused { .. } | Outcome::Unknown => false,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shard, key) = (self.shard, self.key.0);
        write!(
            f,
            "client {} shard {shard} key {key} {:?} at {}",
            self.client, self.call, self.called
        )?;
        match self.outcome {
            Outcome::Done { stamp, returned, revision } => {
                write!(f, " -> {returned:?} at {stamp}, revision {revision}")
            }
            Outcome::Refused { stamp } => write!(f, " -> refused at {stamp}"),
            Outcome::Unknown => write!(f, " -> unknown"),
        }
    }
}

/// The operations of a run, in the order of their calls.
#[derive(Default, Debug)]
pub struct History {
    stamp: Stamp,
    operations: Vec<Operation>,
}

/// One operation of a [`History`] while it is open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OperationNumber(usize);

impl History {
    /// Takes the next stamp, for something that is not an operation.
    pub fn stamp(&mut self) -> Stamp {
        self.stamp += 1;
        self.stamp
    }

    /// A client calls.
    pub fn call(
        &mut self,
        at: Time,
        client: u32,
        (shard, key): (ShardId, KeyNumber),
        call: Call,
    ) -> OperationNumber {
        let called = self.stamp();
        let outcome = Outcome::Unknown;
        self.operations.push(Operation {
            client,
            shard,
            key,
            call,
            called,
            called_at: at,
            outcome,
        });
        OperationNumber(self.operations.len() - 1)
    }

    /// A call was answered.
    pub fn done(&mut self, number: OperationNumber, returned: Return, revision: Revision) {
        let stamp = self.stamp();
        self.operations[number.0].outcome = Outcome::Done { stamp, returned, revision };
    }

    /// A call was refused without effect.
    pub fn refused(&mut self, number: OperationNumber) {
        let stamp = self.stamp();
        self.operations[number.0].outcome = Outcome::Refused { stamp };
    }

    /// The shard and key that an operation is about.
    #[must_use]
    pub fn target(&self, number: OperationNumber) -> (ShardId, KeyNumber) {
        let op = &self.operations[number.0];
        (op.shard, op.key)
    }

    /// True when the operation was answered.
    #[must_use]
    pub fn is_done(&self, number: OperationNumber) -> bool {
        matches!(self.operations[number.0].outcome, Outcome::Done { .. })
    }

    /// All operations.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }
}
