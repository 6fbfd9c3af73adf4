//! Generates the types of `helios/v1/*.proto` with protox: no system protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["error", "log", "session", "raft", "cluster", "kv"].map(|name| format!("helios/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=helios");
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
