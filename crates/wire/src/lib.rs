//! The protobuf schema: what travels between clients and nodes ([`v1`]) and between nodes
//! ([`peer_v1`], converted by [`peer`]).
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

/// The schema itself, an encoded `google.protobuf.FileDescriptorSet`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
