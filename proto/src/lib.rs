//! Wire and log formats of HeliosDB: the messages between nodes, to the operator and to
//! clients, and the content of log entries. Does not depend on the other crates.

/// Types of the package `helios.v1`.
#[allow(clippy::all, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("helios.v1");
}

/// Encoded descriptor set of all services, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/helios.bin"));

mod error;
mod request_error;
#[cfg(feature = "tls")]
pub mod tls;

pub use error::{detail_of, status_of};
pub use request_error::Error;
