//! Compiles touchline.v1 with a protoc in Rust, so that nothing needs to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

const FILES: [&str; 5] = [
    "touchline/v1/admin.proto",
    "touchline/v1/change_feed.proto",
    "touchline/v1/components.proto",
    "touchline/v1/events.proto",
    "touchline/v1/feedback.proto",
];

/// The service whose answers a server sends in parts that are encoded already.
const SERVING: &str = "ComponentService";

/// Messages that are made of encoded parts there, and those that hold them.
const ENCODED: [&str; 2] = ["ComponentSet", "EventState"];
const HOLDERS: [&str; 3] = [
    "GetComponentsResponse",
    "BatchGetComponentsResponse",
    "WatchEventResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(
        out.join("touchline_descriptors.bin"),
        descriptors.encode_to_vec(),
    )?;
    compile_serving(descriptors.clone(), out.join("serving"))?;
    tonic_prost_build::configure()
        // Ordered, so that what is printed, hashed or compared is the same every time.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}

/// The same service once more, for a server: all messages are those of `v1` but for the answers, which
/// hold encoded parts.
fn compile_serving(mut descriptors: FileDescriptorSet, out: PathBuf) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(&out)?;
    let mut build = tonic_prost_build::configure()
        .build_client(false)
        .out_dir(out);
    for file in &mut descriptors.file {
        if file.package() != "touchline.v1" {
            continue;
        }
        file.service.retain(|service| service.name() == SERVING);
        let messages = file.message_type.iter().map(DescriptorProto::name);
        let enums = file.enum_type.iter().map(EnumDescriptorProto::name);
        for name in messages.chain(enums) {
            let module = match name {
                name if HOLDERS.contains(&name) => continue,
                name if ENCODED.contains(&name) => "encoded",
                _ => "v1",
            };
            let path = format!(".touchline.v1.{name}");
            build = build.extern_path(path, format!("crate::{module}::{name}"));
        }
    }
    Ok(build.compile_fds(descriptors)?)
}
