//! What a command answers. A refusal that is a function of the state is a reply too: it stands in
//! the log's history like any other and is repeated to a retry.

use atoll_base::{Failure, Revision};

use crate::lease_op::LeaseReply;
use crate::lock_op::LockReply;
use crate::query::RangePage;
use crate::record::KeyValue;

/// The answer to one command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// To a put.
    Put {
        /// The revision of the change.
        revision: Revision,
        /// What was there before, if asked for.
        previous: Option<KeyValue>,
    },
    /// To a delete.
    Delete {
        /// The revision of the change; the current one when nothing was there.
        revision: Revision,
        /// How many keys went.
        deleted: u64,
        /// What was there before, if asked for, in key order.
        previous: Vec<KeyValue>,
    },
    /// To a transaction.
    Txn {
        /// The revision of the change; the current one when nothing changed.
        revision: Revision,
        /// Whether the compares held.
        succeeded: bool,
        /// One result per step that was done, in order.
        results: Vec<TxnResult>,
    },
    /// To a compaction.
    Compact {
        /// The current revision.
        revision: Revision,
        /// The oldest revision that is still readable.
        compacted: Revision,
    },
    /// To an expiry of sessions.
    SessionsExpired {
        /// How many went.
        count: u64,
    },
    /// To a command about leases.
    Lease(LeaseReply),
    /// To a command about locks.
    Lock(LockReply),
    /// A refusal.
    Failed(Failure),
}

impl Reply {
    /// The revision that the reply speaks of, if it has one.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        match self {
            Self::Put { revision, .. }
            | Self::Delete { revision, .. }
            | Self::Txn { revision, .. }
            | Self::Compact { revision, .. }
            | Self::Lease(LeaseReply::Ended { revision, .. }) => Some(*revision),
            Self::SessionsExpired { .. } | Self::Lease(_) | Self::Lock(_) | Self::Failed(_) => None,
        }
    }
}

/// The result of one step of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TxnResult {
    /// Of a put.
    Put {
        /// What was there before, if asked for.
        previous: Option<KeyValue>,
    },
    /// Of a delete.
    Delete {
        /// How many keys went.
        deleted: u64,
        /// What was there before, if asked for, in key order.
        previous: Vec<KeyValue>,
    },
    /// Of a range.
    Range(RangePage),
    /// Of a nested transaction.
    Txn {
        /// Whether its compares held.
        succeeded: bool,
        /// One result per step that was done, in order.
        results: Vec<TxnResult>,
    },
}
