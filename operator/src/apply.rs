//! Server-side apply of a cluster's objects. What is already as wanted is not written, so a settled
//! cluster costs the API server reads only.

use helios_crds::{IN_SERVICE_LABEL, READS_LABEL, ROLE_LABEL};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::build::Objects;
use crate::error::Error;
use crate::names::{self, FIELD_MANAGER};
use crate::plan::PodLabels;
use crate::validate::ValidatedCluster;

/// Digest of what was last applied. A field that is no longer rendered is not seen by comparing
/// what is rendered with what is live; the digest sees it.
const APPLIED: &str = "heliosdb.io/applied";

/// Applies everything, the StatefulSet last, and answers whether the StatefulSet was changed.
///
/// # Errors
/// On the first object that the API server does not take.
pub async fn apply(
    client: &Client,
    cluster: &ValidatedCluster,
    objects: Objects,
    live: Option<&StatefulSet>,
) -> Result<bool, Error> {
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
    ensure(client, service_account).await?;
    ensure(client, config_map).await?;
    for service in [peers, any, leader, read] {
        ensure(client, service).await?;
    }
    match budget {
        Some(budget) => _ = ensure(client, budget).await?,
        None => delete_owned::<PodDisruptionBudget>(client, cluster).await?,
    }
    match network_policy {
        Some(policy) => _ = ensure(client, policy).await?,
        None => delete_owned::<NetworkPolicy>(client, cluster).await?,
    }
    ensure_seen(client, stateful_set, live).await
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

async fn ensure<K>(client: &Client, wanted: K) -> Result<bool, Error>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api = Api::<K>::namespaced(client.clone(), &wanted.namespace().unwrap_or_default());
    let live = api.get_opt(&wanted.name_any()).await.map_err(Error::kube("read", describe(&wanted)))?;
    ensure_seen(client, wanted, live.as_ref()).await
}

async fn ensure_seen<K>(client: &Client, wanted: K, live: Option<&K>) -> Result<bool, Error>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let what = describe(&wanted);
    let encode = |source| Error::Encode { what: what.clone(), source };
    let mut document = serde_json::to_value(&wanted).map_err(encode)?;
    let digest = format!("{:08x}", crc32c::crc32c(document.to_string().as_bytes()));
    document["metadata"]["annotations"][APPLIED] = digest.into();
    if let Some(live) = live
        && is_within(&document, &serde_json::to_value(live).map_err(encode)?)
    {
        return Ok(false);
    }
    let api = Api::<K>::namespaced(client.clone(), &wanted.namespace().unwrap_or_default());
    // Forced: these objects are ours, and a field that someone else took is taken back.
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&wanted.name_any(), &params, &Patch::Apply(&document))
        .await
        .map_err(Error::kube("apply", what))?;
    Ok(true)
}

/// The one that has the cluster's name, unless it is somebody else's.
async fn delete_owned<K>(client: &Client, cluster: &ValidatedCluster) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api = Api::<K>::namespaced(client.clone(), &cluster.namespace);
    let what = || format!("{} {}", K::kind(&()), cluster.name);
    let found = api.get_opt(&cluster.name).await.map_err(Error::kube("read", what()))?;
    let Some(found) = found.filter(|found| found.owner_references().contains(&cluster.owner)) else {
        return Ok(());
    };
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: found.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(&cluster.name, &params).await {
        Err(error) if !is_gone(&error) => Err(Error::kube("delete", what())(error)),
        _ => Ok(()),
    }
}

fn describe<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{} {}", K::kind(&()), object.name_any())
}

/// Whether every field of `wanted` is in `live` with the same value; `live` may hold more, which
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
    fn what_the_api_server_fills_in_is_no_difference() {
        let wanted = json!({"spec": {"replicas": 3, "ports": [{"port": 1}], "affinity": {}}});
        let live =
            json!({"spec": {"replicas": 3, "ports": [{"port": 1, "protocol": "TCP"}], "x": 1}, "status": {}});
        assert!(is_within(&wanted, &live));
    }

    #[test]
    fn a_changed_missing_or_additional_element_is_a_difference() {
        let wanted = json!({"a": [{"b": 1}]});
        for live in
            [json!({"a": [{"b": 2}]}), json!({"a": []}), json!({}), json!({"a": [{"b": 1}, {"b": 2}]})]
        {
            assert!(!is_within(&wanted, &live), "{live}");
        }
    }
}
