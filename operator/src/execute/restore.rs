//! Creates the Job of a restore, and its NetworkPolicy.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};

use super::Outcome;
use crate::apply::ensure;
use crate::build::backup::{Restore, restore_job, restore_policy};
use crate::error::Error;
use crate::names::FIELD_MANAGER;
use crate::observe::{Observed, slot};
use crate::validate::ValidatedCluster;

/// Creates it; one that exists is left as it is.
///
/// # Errors
/// When the API server rejects it.
pub async fn create(
    client: &Client,
    cluster: &ValidatedCluster,
    observed: &Observed,
    cluster_id: &str,
    disk_id: &str,
    fencing_token: u64,
) -> Result<Outcome, Error> {
    let bootstrap = cluster.spec.bootstrap.as_ref();
    let recovery = bootstrap.and_then(|bootstrap| bootstrap.recovery.as_ref());
    let (Some(recovery), Some(store)) = (recovery, &observed.backup.restore_store) else {
        return Ok(Outcome::NotYet("the store of the backup was not read".to_owned()));
    };
    let has_admin = observed.snapshot.security.has_admin;
    let restore = Restore { cluster_id, disk_id, fencing_token, has_admin };
    // Before the Job, whose pod must not have more access for a moment.
    if let Some(policy) = restore_policy(cluster, store) {
        let found =
            slot::<NetworkPolicy>(client, &cluster.namespace, &policy.name_any(), &cluster.owner).await?;
        ensure(client, policy, &found).await?;
    }
    let job = restore_job(cluster, store, recovery, &restore);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let jobs = Api::<Job>::namespaced(client.clone(), &cluster.namespace);
    match jobs.create(&params, &job).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Ok(Outcome::NotYet("another Job of its name was created meanwhile".to_owned()))
        }
        Err(error) => Err(Error::kube("create", "the Job of the restore")(error)),
        Ok(_) => Ok(Outcome::Done),
    }
}
