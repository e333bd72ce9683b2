//! Compiles touchline.v1 with a protoc in Rust, so that nothing needs to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 4] = [
    "touchline/v1/change_feed.proto",
    "touchline/v1/components.proto",
    "touchline/v1/events.proto",
    "touchline/v1/feedback.proto",
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
    tonic_prost_build::configure()
        // Ordered, so that what is printed, hashed or compared is the same every time.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
