//! Keeps the contents of a volume for the user, before its claim is deleted (ADR 0010).

use helios_crds::{CLUSTER_LABEL, QUARANTINED};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::error::Error;
use crate::names;
use crate::observe::bound_to;
use crate::validate::ValidatedCluster;

/// From here on only a user deletes the PersistentVolume behind the claim `uid`. A claim that
/// is gone, or another by now, or bound to nothing, leaves nothing to keep.
///
/// # Errors
/// When the API server refuses; the claim must not be deleted then.
pub async fn keep(
    client: &Client,
    cluster: &ValidatedCluster,
    ordinal: u32,
    uid: &str,
    reason: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let claim = names::volume(&cluster.name, ordinal);
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &cluster.namespace);
    let found = claims.get_opt(&claim).await.map_err(Error::kube("read volume", &claim))?;
    let found = found.filter(|found| found.uid().as_deref() == Some(uid));
    let Some(volume) = found.as_ref().and_then(bound_to) else { return Ok(()) };
    let patch = json!({
        "metadata": {
            "labels": {(CLUSTER_LABEL): cluster.name},
            "annotations": {(QUARANTINED): format!("{}/{claim}, {reason}, {now}", cluster.namespace)},
        },
        "spec": {"persistentVolumeReclaimPolicy": "Retain"},
    });
    let volumes = Api::<PersistentVolume>::all(client.clone());
    match volumes.patch(volume, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(error) if !crate::apply::is_gone(&error) => {
            Err(Error::kube("keep PersistentVolume", volume)(error))
        }
        _ => Ok(()),
    }
}
