//! Nodes and clients on the network: the gRPC stubs, the links between nodes, and the conversions
//! between the wire's messages and what the cores speak.
//!
//! - [`stub`]: generated services and clients.
//! - [`link`]: what one node sends to its peers and hears from them.
//! - [`call`]: calls, answers and what is in them.
//! - [`status`]: refusals as gRPC statuses and back.
//! - [`accept`](accept()): connections, counted and checked before they cost anything.
//! - [`limits`]: sizes and times that both ends hold to.

pub mod accept;
pub mod call;
pub mod limits;
pub mod link;
pub mod status;

pub use accept::{AcceptLimits, Accepted, Spoken, accept};

/// The generated services and clients; their messages are those of `atoll_wire`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated; documented in the schema"
)]
pub mod stub {
    /// Of package `atoll.v1`.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/atoll.v1.rs"));
    }
    /// Of package `atoll.peer.v1`.
    pub mod peer_v1 {
        include!(concat!(env!("OUT_DIR"), "/atoll.peer.v1.rs"));
    }
    /// Of etcd's package `etcdserverpb`.
    pub mod etcdserverpb {
        include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
    }
    /// Of etcd's package `v3lockpb`.
    pub mod v3lockpb {
        include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
    }
    /// Of etcd's package `v3electionpb`.
    pub mod v3electionpb {
        include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
    }
}
