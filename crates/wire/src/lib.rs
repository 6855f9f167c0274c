//! The protobuf schema: what travels between clients and nodes ([`v1`]), between nodes
//! ([`peer_v1`], converted by [`peer`]), and between etcd's clients and nodes ([`etcd`]).
//!
//! Messages only; the services' stubs need an async runtime and live in the transport. Every
//! `bytes` field is a [`bytes::Bytes`], so decoding from a shared buffer copies no value.
//!
//! Compatibility: fields are only ever added, numbers never reused, unknown fields ignored; the
//! golden bytes in [`peer`]'s tests fail when somebody forgets.

pub mod peer;

/// The client API, package `atoll.v1`, as generated from `proto/atoll/v1/atoll.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    rustdoc::all,
    reason = "generated; documented in the schema"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/atoll.v1.rs"));
}

/// What nodes say to each other, package `atoll.peer.v1`, as generated from
/// `proto/atoll/peer/v1/peer.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    rustdoc::all,
    reason = "generated; documented in the schema"
)]
pub mod peer_v1 {
    include!(concat!(env!("OUT_DIR"), "/atoll.peer.v1.rs"));
}

/// etcd's client API, as generated from `proto/etcd`: etcd's packages, messages and field numbers,
/// declared by us from what its documentation says of the wire.
pub mod etcd {
    /// Package `mvccpb`: keys and events.
    #[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all, reason = "generated")]
    pub mod mvccpb {
        include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
    }
    /// Package `etcdserverpb`: everything but locks and elections.
    #[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all, reason = "generated")]
    pub mod etcdserverpb {
        include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));

        impl WatchResponse {
            /// The events, which the message keeps encoded because one goes to many watchers.
            ///
            /// # Errors
            /// When they are no events.
            pub fn decoded_events(&self) -> Result<Vec<super::mvccpb::Event>, prost::DecodeError> {
                self.events.iter().map(|event| prost::Message::decode(event.clone())).collect()
            }
        }
    }
    /// Package `v3lockpb`: locks.
    #[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all, reason = "generated")]
    pub mod v3lockpb {
        include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
    }
    /// Package `v3electionpb`: elections.
    #[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all, reason = "generated")]
    pub mod v3electionpb {
        include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
    }
}

/// The schema itself, an encoded `google.protobuf.FileDescriptorSet`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
