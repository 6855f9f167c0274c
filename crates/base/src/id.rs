//! Newtypes for everything that is counted or named, so that a term is never taken for an index.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $repr);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

macro_rules! counter {
    ($name:ident, $repr:ty) => {
        impl $name {
            /// The value before anything was counted.
            pub const ZERO: Self = Self(0);

            /// The next value. Panics on overflow, which no real system reaches.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The value `n` steps later.
            #[must_use]
            pub fn plus(self, n: $repr) -> Self {
                Self(self.0 + n)
            }

            /// The previous value, or zero at zero.
            #[must_use]
            pub fn prev(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }
    };
}

id!(/// A process of the cluster. Chosen by the operator, unique for ever, never 0.
    NodeId, u64, "n");
id!(/// A slice of a keyspace. Shard 1 holds the catalog.
    ShardId, u64, "s");
id!(/// A named set of keys. Keyspace 1 is `system`.
    KeyspaceId, u32, "k");
id!(/// A thread of a node that owns some replicas; from 0, dense.
    LaneId, u16, "l");
id!(/// One life of a replica's disk: a replica that lost its data comes back with a larger one.
    Incarnation, u64, "i");
id!(/// Raft leadership counter (Raft thesis 3.3); 0 before the first election.
    Term, u64, "t");
id!(/// Position in a shard's log, from 1; 0 is "before the first entry".
    LogIndex, u64, "#");
id!(/// A shard's count of changes, what readers see: 1 before the first change, 0 where there is
    /// none.
    Revision, u64, "r");
id!(/// Version of a shard's configuration.
    Epoch, u64, "e");
id!(/// A client session for exactly-once requests; random, never 0.
    ClientId, u64, "c");
id!(/// A client's count of its mutating requests, from 1.
    Sequence, u64, "q");
id!(/// A log write of one lane, in the order in which the lane issued it, from 1.
    Ticket, u64, "w");
id!(/// A lease; never 0.
    LeaseId, u64, "L");

counter!(Term, u64);
counter!(LogIndex, u64);
counter!(Revision, u64);
counter!(Epoch, u64);
counter!(Sequence, u64);
counter!(Ticket, u64);
counter!(Incarnation, u64);

impl ShardId {
    /// The catalog's shard.
    pub const SYSTEM: Self = Self(1);
}

impl KeyspaceId {
    /// The catalog's keyspace, `system`.
    pub const SYSTEM: Self = Self(1);
    /// The keyspace used when a request names none, `default`.
    pub const DEFAULT: Self = Self(2);
}
