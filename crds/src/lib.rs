//! The resources HeliosCluster, HeliosBackupStore, HeliosBackup, HeliosScheduledBackup and HeliosClient: their specs,
//! statuses and manifests. This crate uses no other crate of this repository, and no clock.

mod backup;
mod client;
mod condition;
mod manifest;
mod open;
mod sidecar;
mod spec;
mod status;
mod values;

pub use backup::*;
pub use client::*;
pub use condition::{ConditionStatus, ConditionType, Reason};
pub use manifest::{Manifest, manifests};
pub use open::{MemberRole, Open, OperationKind};
pub use sidecar::*;
pub use spec::*;
pub use status::*;
pub use values::values_schema;

/// Label on every object of a cluster; its value is the name of the HeliosCluster.
pub const CLUSTER_LABEL: &str = "heliosdb.io/cluster";
/// Label that, together with [`CLUSTER_LABEL`], hands an existing object over to a HeliosCluster; its value is the UID
/// of that HeliosCluster.
pub const CLUSTER_UID_LABEL: &str = "heliosdb.io/cluster-uid";
/// Label on a pod: `leader`, `follower` or `learner`.
pub const ROLE_LABEL: &str = "heliosdb.io/role";
/// Label on a pod, `true` from the start; `false` takes it out of the client Services before it leaves.
pub const IN_SERVICE_LABEL: &str = "heliosdb.io/in-service";
/// Label on the pods behind the `<cluster>-read` Service.
pub const READS_LABEL: &str = "heliosdb.io/serves-reads";
/// Annotation on a PersistentVolume that is kept for the user: its cluster, the reason, and the time.
pub const QUARANTINED: &str = "heliosdb.io/quarantined";
/// Annotation on a HeliosCluster; a new value has the operator issue a new certificate of the members.
pub const RENEW_CERTIFICATES: &str = "heliosdb.io/renew-certificates";
