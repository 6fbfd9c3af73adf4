//! gRPC services: cluster management on the peer port, key-value on the client port.

mod cluster;
mod kv;

pub use cluster::ClusterService;
pub use kv::KvService;
