//! Wire and log formats of HeliosDB: what nodes say to each other, to the operator and to
//! clients, and what a log entry holds. Knows nothing of the other crates.

/// Package `helios.v1`.
#[allow(clippy::all, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("helios.v1");
}

/// Of all services, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/helios.bin"));

mod error;
mod request_error;
#[cfg(feature = "tls")]
pub mod tls;

pub use error::{detail_of, status_of};
pub use request_error::Error;
