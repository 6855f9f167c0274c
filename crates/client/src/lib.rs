//! The client library: an async handle to a cluster.
//!
//! ```no_run
//! # async fn example() -> Result<(), atoll_client::Failure> {
//! use atoll_client::{Client, Keys};
//!
//! let client = Client::connect(["127.0.0.1:7400"]).await?;
//! let orders = client.keyspace("default");
//! orders.put("order/17", "paid").await?;
//! let order = orders.get("order/17").await?;
//! let all = orders.scan(Keys::prefix("order/")).collect().await?;
//! # let _ = (order, all);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! It knows which shard holds a key and which node leads the shard, and asks that node directly. It
//! learns both from the catalog (read from any node, then watched) and from refusals that say who
//! knows better. Many tasks share few connections: what they ask at the same time travels together.
//!
//! Every change carries an idempotency key, so that it is retried, over whatever node and
//! connection, until its deadline and still happens at most once. Every failure is a [`Failure`]:
//! did it happen, may I ask again, where.
//!
//! ```text
//!   keyspace, scan, txn, batch, watch, admin      what callers see
//!   hold (locks, semaphores, elections, leases)
//!              call (locate, ask, retry)          one call from beginning to end
//!      map + follow            ids                where things are; names for changes
//!              session (slots, watch)             one connection, shared by all
//!              link (remote | local)              the network, or the node in this process
//! ```
//!
//! # Invariants
//! - L1 A change is sent under one name for its whole life; a name is never used for another
//!   change.
//! - L2 A failure says that nothing happened only when no attempt can have had an effect.
//! - L3 Everything that waits is bounded in number or bytes by [`Options`], and ends by its
//!   deadline.
//!
//! `docs/design/client.md` has the reasons.

mod admin;
mod barrier;
mod batch;
mod call;
mod client;
mod coordinate;
mod facts;
mod follow;
mod gateway;
mod hold;
mod ids;
mod keys;
mod keyspace;
pub mod link;
mod map;
mod members;
mod options;
mod scan;
mod session;
mod txn;
mod watch;

pub use admin::{ClusterStatus, KeyspaceInfo, NodeStatus};
pub use atoll_base::{
    Code, Failure, Happened, KeyspaceId, LeaseId, NodeId, Retry, Revision, ShardId,
};
pub use atoll_coord::catalog::{KeyspaceRecord, NodeRecord};
pub use atoll_coord::plan::KeyspaceSpec;
pub use atoll_coord::retry::RetryPolicy;
pub use atoll_coord::{
    Consistency, Descriptor, FollowerStatus, KeptAlive, LeaseStatus, Protocol, ReplicaMember,
    ReplicaStatus, ShardOptions, Told,
};
pub use atoll_machine::{
    AcquireOp, Busy, Claim, Compare, CompareTarget, DeleteOp, Event, EventKind, Guard, KeyEnd,
    KeyValue, Leadership, LeaseOp, LeaseReply, LockHolder, LockInfo, LockOp, LockReply, Mode,
    PutOp, RangePage, RangeQuery, Record, Relation, Token, TxnOp, TxnResult, TxnStep, Wait,
};
pub use atoll_raft::Role;
pub use atoll_storage::Direction;
pub use barrier::{Barrier, Latch};
pub use batch::{Batch, BatchDone};
pub use bytes::Bytes;
pub use client::{Client, ClientBuilder};
pub use facts::NodeFacts;
pub use hold::{
    Attempt, Candidacy, Election, Holding, Leader, Lease, Leases, Lock, Observation, Semaphore,
    Standing,
};
pub use keys::Keys;
pub use keyspace::{Deleted, Keyspace, Previous, Put, Read, ReadOptions};
pub use members::{Joining, MemberChange, MemberProgress};
pub use options::Options;
pub use scan::{Page, Scan};
pub use txn::{Txn, TxnDone, when};
pub use watch::{Changes, Watch, WatchBuilder};
