//! gRPC services: cluster management on the peer port; key-value, watches, followers, status, backups, health and reflection
//! on the client port.

mod archive;
mod cluster;
mod follow;
mod guard;
mod health;
mod kv;
mod manager;
mod restore;
mod transaction;
mod watch;

pub use archive::ArchiveService;
pub use cluster::ClusterService;
pub use follow::FollowService;
pub use guard::GuardLayer;
pub use health::{HealthService, InfoService};
pub use kv::KvService;
pub use manager::Admission;
pub use restore::RestoreService;
