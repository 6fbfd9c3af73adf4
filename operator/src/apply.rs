//! Applies a cluster's objects: creates those whose name is free, and changes those that belong to the cluster by
//! server-side apply. An object that is as desired is not written, so a settled cluster costs the API server reads only.

use std::fmt::Debug;

use helios_crds::{IN_SERVICE_LABEL, READS_LABEL, ROLE_LABEL};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::build::{Objects, backup};
use crate::error::Error;
use crate::names::{self, FIELD_MANAGER};
use crate::observe::{BackupObjects, Owned, Slot, Snapshot};
use crate::plan::PodLabels;
use crate::validate::ValidatedCluster;

/// Digest of what was last applied. A field that is no longer rendered is not seen by comparing
/// what is rendered with what is live; the digest sees it.
const APPLIED: &str = "heliosdb.io/applied";

/// Applies all objects, the StatefulSet last; true if the StatefulSet was changed. `found` are the objects that have these
/// names now; foreign ones stay as they are.
///
/// # Errors
/// On the first object that the API server rejects.
pub async fn apply(client: &Client, objects: Objects, found: &Owned) -> Result<bool, Error> {
    let Objects {
        service_account,
        config_map,
        peers,
        client: any,
        leader,
        read,
        budget,
        network_policy,
        stateful_set,
    } = objects;
    ensure(client, service_account, &found.service_account).await?;
    ensure(client, config_map, &found.config_map).await?;
    for (service, slot) in
        [(peers, &found.peers), (any, &found.client), (leader, &found.leader), (read, &found.read)]
    {
        ensure(client, service, slot).await?;
    }
    match budget {
        Some(budget) => _ = ensure(client, budget, &found.budget).await?,
        None => delete(client, &found.budget).await?,
    }
    match network_policy {
        Some(policy) => _ = ensure(client, policy, &found.network_policy).await?,
        None => delete(client, &found.network_policy).await?,
    }
    ensure(client, stateful_set, &found.stateful_set).await
}

/// Applies the archiver of `cluster`, and deletes it when there is to be none. It changes nothing while the store cannot be
/// used, and before there is a cluster to archive.
///
/// # Errors
/// When the API server rejects a write.
pub async fn apply_archiver(
    client: &Client,
    cluster: &ValidatedCluster,
    found: &BackupObjects,
    seen: &Snapshot,
) -> Result<(), Error> {
    if !cluster.spec.backup.as_ref().is_some_and(|backup| backup.archive) {
        delete(client, &found.archiver).await?;
        return delete(client, &found.archiver_policy).await;
    }
    let Some(store) = found.store.as_ref().filter(|_| seen.status.bootstrapped) else { return Ok(()) };
    // Of a hibernating cluster, it has archived the end when the last member has stopped.
    let replicas = i32::from(!(cluster.spec.hibernate && seen.pods.is_empty()));
    match backup::archiver_policy(cluster, store) {
        Some(policy) => _ = ensure(client, policy, &found.archiver_policy).await?,
        None => delete(client, &found.archiver_policy).await?,
    }
    if let Some(archiver) = backup::archiver(cluster, store, replicas) {
        ensure(client, archiver, &found.archiver).await?;
    }
    Ok(())
}

/// Sets the role labels that Services select by.
///
/// # Errors
/// When the API server refuses; a pod that is gone is not an error.
pub async fn label(client: &Client, cluster: &ValidatedCluster, labels: &[PodLabels]) -> Result<(), Error> {
    let pods = Api::<Pod>::namespaced(client.clone(), &cluster.namespace);
    for PodLabels { ordinal, role, reads, in_service } in labels {
        let name = names::pod(&cluster.name, *ordinal);
        let patch = json!({"metadata": {"labels": {
            (ROLE_LABEL): role,
            (READS_LABEL): reads.then_some("true"),
            (IN_SERVICE_LABEL): in_service.to_string(),
        }}});
        match pods.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if !is_gone(&error) => return Err(Error::kube("label pod", name)(error)),
            _ => {}
        }
    }
    Ok(())
}

pub fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Creates `wanted`, or changes the existing object; true if it was written.
///
/// # Errors
/// When the API server rejects it.
pub async fn ensure<K>(client: &Client, wanted: K, found: &Slot<K>) -> Result<bool, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + Debug,
{
    let what = describe(&wanted);
    let encode = |source| Error::Encode { what: what.clone(), source };
    let mut document = serde_json::to_value(&wanted).map_err(encode)?;
    let digest = format!("{:08x}", crc32c::crc32c(document.to_string().as_bytes()));
    document["metadata"]["annotations"][APPLIED] = digest.into();
    let api = Api::<K>::namespaced(client.clone(), &wanted.namespace().unwrap_or_default());
    match found {
        Slot::Taken(_) => Ok(false),
        Slot::Ours(live) if is_within(&document, &serde_json::to_value(live).map_err(encode)?) => Ok(false),
        Slot::Ours(live) => change(&api, &**live, document).await.map(|()| true),
        // A create, not an apply: an apply would take over what somebody has made of that name since it was looked for.
        Slot::Free => {
            let params =
                PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            let wanted = serde_json::from_value(document).map_err(encode)?;
            api.create(&params, &wanted).await.map_err(Error::kube("create", what))?;
            Ok(true)
        }
    }
}

/// Applies `document` to the very object that was found.
async fn change<K>(api: &Api<K>, live: &K, mut document: Value) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let (name, what) = (live.name_any(), describe(live));
    if let Some(managed) = as_applied(live.managed_fields()) {
        let metadata = json!({
            "uid": live.uid(), "resourceVersion": live.resource_version(), "managedFields": managed,
        });
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let patched = api.patch_metadata(&name, &PatchParams::default(), &patch).await;
        patched.map_err(Error::kube("take over the fields of", &what))?;
    }
    // With the UID, the API server refuses it for another object of this name.
    document["metadata"]["uid"] = json!(live.uid());
    // Forced: the object is ours, and a field that someone else took is taken back.
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(&document)).await.map_err(Error::kube("apply", what))?;
    Ok(())
}

/// A field that was set by creating an object counts as an update, and an apply removes only what an earlier apply has set: the
/// entry becomes one of an apply. `None` when there is none to change.
fn as_applied(entries: &[ManagedFieldsEntry]) -> Option<Vec<ManagedFieldsEntry>> {
    let is = |entry: &ManagedFieldsEntry, operation: &str| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.operation.as_deref() == Some(operation)
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
    };
    if entries.iter().any(|entry| is(entry, "Apply")) || !entries.iter().any(|entry| is(entry, "Update")) {
        return None;
    }
    let mut entries = entries.to_vec();
    for entry in entries.iter_mut().filter(|entry| is(entry, "Update")) {
        entry.operation = Some("Apply".to_owned());
    }
    Some(entries)
}

/// Deletes the object that was found with its dependents, if it is ours and unchanged since.
///
/// # Errors
/// If the API server refuses the call, or does not answer.
pub async fn delete<K>(client: &Client, found: &Slot<K>) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let Slot::Ours(live) = found else { return Ok(()) };
    let api = Api::<K>::namespaced(client.clone(), &live.namespace().unwrap_or_default());
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: live.uid(), resource_version: live.resource_version() }),
        // Without it, pods of a deleted Job stay (default of batch/v1).
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    match api.delete(&live.name_any(), &params).await {
        Err(error) if !is_gone(&error) => Err(Error::kube("delete", describe(&**live))(error)),
        _ => Ok(()),
    }
}

fn describe<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{} {}", K::kind(&()), object.name_any())
}

/// Every field of `wanted` is in `live` with the same value; `live` may hold more, which
/// the API server filled in. Lists must agree in length and order.
fn is_within(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            wanted.iter().all(|(key, value)| match live.get(key) {
                Some(found) => is_within(value, found),
                None => value.is_null() || *value == json!({}) || *value == json!([]),
            })
        }
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.len() == live.len()
                && wanted.iter().zip(live).all(|(wanted, live)| is_within(wanted, live))
        }
        _ => wanted == live,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_equal_when_the_api_server_filled_in_fields() {
        let wanted = json!({"spec": {"replicas": 3, "ports": [{"port": 1}], "affinity": {}}});
        let live =
            json!({"spec": {"replicas": 3, "ports": [{"port": 1, "protocol": "TCP"}], "x": 1}, "status": {}});
        assert!(is_within(&wanted, &live));
    }

    #[test]
    fn field_entry_becomes_applied_only_when_the_operator_set_it_by_creating() {
        let entry = |manager: &str, operation: &str, subresource: &str| ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            operation: Some(operation.to_owned()),
            subresource: Some(subresource.to_owned()),
            ..ManagedFieldsEntry::default()
        };
        let others = [entry("kubectl", "Update", ""), entry(FIELD_MANAGER, "Update", "status")];
        assert_eq!(as_applied(&others), None);
        let created = [others.as_slice(), &[entry(FIELD_MANAGER, "Update", "")]].concat();
        let applied = [others.as_slice(), &[entry(FIELD_MANAGER, "Apply", "")]].concat();
        assert_eq!(as_applied(&created).as_ref(), Some(&applied));
        assert_eq!(as_applied(&applied), None, "as an earlier operator made it");
    }

    #[test]
    fn objects_differ_when_an_element_is_changed_missing_or_added() {
        let wanted = json!({"a": [{"b": 1}]});
        for live in
            [json!({"a": [{"b": 2}]}), json!({"a": []}), json!({}), json!({"a": [{"b": 1}, {"b": 2}]})]
        {
            assert!(!is_within(&wanted, &live), "{live}");
        }
    }
}
