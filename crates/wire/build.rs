//! Compiles the schema: message types for the crate, and the descriptor set that reflection serves.

#![allow(clippy::disallowed_methods, reason = "a build script, not the core it builds")]

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(
        [
            "atoll/v1/atoll.proto",
            "atoll/peer/v1/peer.proto",
            "etcd/rpc.proto",
            "etcd/lock.proto",
            "etcd/election.proto",
        ],
        ["proto"],
    )?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    config.compile_fds(descriptors)?;
    Ok(())
}
