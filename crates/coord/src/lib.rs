//! What spans shards, still pure: requests, the catalog, routing, retries, placement.
//!
//! - [`request`]: what can be asked of a shard and how it answers, on every path.
//! - [`descriptor`], [`catalog`]: what the cluster knows of itself, and a view of it.
//! - [`plan`], [`placement`]: changes of the catalog, as transactions to be carried out.
//! - [`routing`], [`retry`]: how a caller finds a shard's leader and lives with refusals.

pub mod catalog;
pub mod descriptor;
pub mod placement;
pub mod plan;
pub mod request;
pub mod retry;
pub mod routing;

pub use catalog::Catalog;
pub use descriptor::{Descriptor, Protocol, ReplicaMember, ShardOptions};
pub use request::{
    Answer, AnswerBody, Consistency, FollowerStatus, KeptAlive, LeaseStatus, Origin, ReplicaStatus,
    Request, RequestBody, Told, WATCH_CREDIT, WatchEvents, WatchSpec,
};
