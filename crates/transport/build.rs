//! Generates the services' stubs from the schema, on top of the message types of `atoll-wire`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../wire/proto");
    let descriptors = protox::compile(
        [
            "atoll/v1/atoll.proto",
            "atoll/peer/v1/peer.proto",
            "etcd/rpc.proto",
            "etcd/lock.proto",
            "etcd/election.proto",
        ],
        ["../wire/proto"],
    )?;
    tonic_prost_build::configure()
        .extern_path(".atoll.v1", "::atoll_wire::v1")
        .extern_path(".atoll.peer.v1", "::atoll_wire::peer_v1")
        .extern_path(".mvccpb", "::atoll_wire::etcd::mvccpb")
        .extern_path(".etcdserverpb", "::atoll_wire::etcd::etcdserverpb")
        .extern_path(".v3lockpb", "::atoll_wire::etcd::v3lockpb")
        .extern_path(".v3electionpb", "::atoll_wire::etcd::v3electionpb")
        .compile_fds(descriptors)?;
    Ok(())
}
