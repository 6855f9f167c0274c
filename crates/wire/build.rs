//! Compiles the schema: message types for the crate, and the descriptor set that reflection serves.

#![allow(clippy::disallowed_methods, reason = "a build script, not the core it builds")]

use std::error::Error;
use std::path::PathBuf;

use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;

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
    let mut descriptors = descriptors;
    keep_encoded(&mut descriptors, ("atoll.v1", "ClientFrame", "calls"));
    keep_encoded(&mut descriptors, ("atoll.v1", "Answer", "range"));
    // One event goes to many watchers.
    keep_encoded(&mut descriptors, ("etcdserverpb", "WatchResponse", "events"));
    config.compile_fds(descriptors)?;
    Ok(())
}

/// Makes a message field, named with its package and message, appear in the generated code as its
/// bytes, which are the same on the wire: who fills it encodes once, and nobody measures it again
/// at each level of nesting. Reflection tells the schema as it is written.
fn keep_encoded(
    descriptors: &mut FileDescriptorSet,
    (package, message, field): (&str, &str, &str),
) {
    let files = descriptors.file.iter_mut().filter(|file| file.package() == package);
    let messages = files.flat_map(|file| &mut file.message_type);
    let fields = messages.filter(|m| m.name() == message).flat_map(|m| &mut m.field);
    for field in fields.filter(|f| f.name() == field) {
        field.set_type(Type::Bytes);
        field.type_name = None;
    }
}
