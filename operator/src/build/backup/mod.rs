//! Objects of a cluster's backups: the archiver, the Jobs of a backup and of a restore, a drill. **No pod that uses the store has
//! credentials of Kubernetes**; all but a user's Job run the members' image.

mod archiver;
mod drill;
mod jobs;
mod pod;
mod policy;
mod store;

pub use archiver::archiver;
pub use drill::{drill_cluster, drill_job};
pub use jobs::{Restore, backup_job, restore_job};
pub use policy::{archiver_policy, backup_policy, drill_policy, restore_policy};
pub use store::{secrets, url};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::validate::ValidatedCluster;

/// Port of the archiver's `/healthz`, `/metrics` and `/status`.
pub const STATUS_PORT: i32 = crate::names::METRICS_PORT;
/// Container of all these pods.
pub const CONTAINER: &str = "heliosd";

/// Metadata of an object of `component`.
fn metadata(cluster: &ValidatedCluster, name: String, component: &str) -> ObjectMeta {
    let mut metadata = super::metadata(cluster, name);
    let labels = metadata.labels.get_or_insert_default();
    labels.insert("app.kubernetes.io/component".to_owned(), component.to_owned());
    metadata
}
