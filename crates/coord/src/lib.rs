//! What spans shards, still pure: requests, the catalog, routing, retries, placement.

pub mod descriptor;
pub mod request;

pub use descriptor::{Descriptor, Protocol, ReplicaMember, ShardOptions};
pub use request::{
    Answer, AnswerBody, Consistency, FollowerStatus, Origin, ReplicaStatus, Request, RequestBody,
    WatchSpec,
};
