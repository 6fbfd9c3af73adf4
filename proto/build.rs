//! Generates the types of `helios/v1/*.proto` with protox: no system protoc is needed.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["error", "log", "session", "raft", "archive", "follow", "cluster", "kv"]
        .map(|name| format!("helios/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=helios");
    let descriptors = protox::compile(files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("helios.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
