//! Wire and log formats of HeliosDB: what nodes say to each other, to the operator and to
//! clients, and what a log entry holds. Knows nothing of the other crates.

/// Package `helios.v1`.
#[allow(clippy::all, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("helios.v1");
}

mod error;

pub use error::{detail_of, status_of};
