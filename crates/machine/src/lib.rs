//! What one shard does with the commands that its replicas agreed on.
//!
//! A [`ShardMachine`] is a function of its log: it takes entries in order, through an
//! [`ApplyBatch`], and leaves replies, watch events, effects for the leader and one
//! [`WriteBatch`](atoll_storage::WriteBatch) for the engine. It owns no thread, clock or file; the
//! lane that owns the replica drives it.
//!
//! Invariants, named by asserts, checks and tests:
//! - **M1** The same log gives the same bytes in the engine and the same replies, whatever the
//!   batch boundaries, restarts and snapshots on the way.
//! - **M2** A command that changes keys adds one revision; one that does not adds none. A refused
//!   one changes nothing but its client's session.
//! - **M3** A command that carries an id takes effect at most once; a retry gets the first reply,
//!   byte for byte, or is told that it is no longer kept.
//! - **M4** Every change from the compact revision on can be told again, in revision order, with
//!   the value before it.
//! - **M5** Nothing grows without a limit of [`MachineLimits`].
//! - **M6** The applied index is in the same engine batch as what was applied.
//!
//! Reading order: [`command`] and [`reply`] (what comes in and goes out), [`machine`] and [`apply`]
//! (the loop), `kv` (the data model), `session` (exactly once), [`watch`], [`snapshot`];
//! `lease` and `lock`, and `coordinate` where they meet keys.

pub mod apply;
pub mod batch;
mod check;
pub mod command;
mod command_codec;
mod coordinate;
mod counters;
mod effect;
mod error;
mod event;
mod keys;
mod kv;
mod lease;
mod lease_op;
mod limits;
mod lock;
mod lock_codec;
mod lock_op;
pub mod machine;
mod overlay;
pub mod query;
mod record;
pub mod refusal;
pub mod reply;
mod reply_codec;
mod session;
pub mod snapshot;
mod state;
pub mod watch;

pub use apply::{Applied, ApplyBatch};
pub use batch::{BatchReader, BatchWriter};
pub use command::{
    Command, CommandId, Compare, CompareTarget, DeleteOp, GuardedOp, Op, PutOp, Relation, TxnOp,
    TxnStep,
};
pub use effect::{Effect, Left};
pub use error::MachineError;
pub use event::{Event, EventKind};
pub use lease::Lease;
pub use lease_op::{LeaseOp, LeaseReply};
pub use limits::MachineLimits;
pub use lock_op::{
    AcquireOp, Busy, Claim, Guard, Leadership, LockHolder, LockInfo, LockOp, LockReply, Mode,
    Place, Token, Wait,
};
pub use machine::ShardMachine;
pub use query::{KeyEnd, KeyRange, RangePage, RangeQuery};
pub use record::{KeyValue, Record};
pub use reply::{Reply, TxnResult};
pub use snapshot::{Chunk, SnapshotHead, SnapshotReader, SnapshotWriter};
pub use watch::{
    Poll, PollLimits, WatchBatch, WatchEnd, WatchHub, WatchId, WatchLimits, WatchRequest,
};
