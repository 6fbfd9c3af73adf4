//! Claims, and for members in trouble the PersistentVolumes behind them.

use std::collections::BTreeMap;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{Api, Client, ResourceExt};

use super::{Backing, HostsByName, Volume};
use crate::error::Error;
use crate::names;
use crate::validate;

const HOSTNAME: &str = "kubernetes.io/hostname";

pub fn volume_of(cluster: &str, claim: &PersistentVolumeClaim) -> Option<(u32, Volume)> {
    let name = claim.name_any();
    let ordinal = names::ordinal(cluster, name.strip_prefix(names::VOLUME)?.strip_prefix('-')?)?;
    // A size in a unit that we never write was asked for by someone else: never grow over it.
    let requested_bytes =
        requested(claim).and_then(|text| validate::quantity("", &text).ok()).unwrap_or(u64::MAX);
    let volume = Volume {
        uid: claim.uid()?,
        created: claim.creation_timestamp()?.0,
        requested_bytes,
        terminating: claim.metadata.deletion_timestamp.is_some(),
        backing: Backing::Unread,
    };
    Some((ordinal, volume))
}

pub fn requested(claim: &PersistentVolumeClaim) -> Option<String> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    resources.requests.as_ref()?.get("storage").map(|quantity| quantity.0.clone())
}

/// Name of the PersistentVolume that `claim` is bound to.
pub fn bound_to(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Reads what is behind each of `claims`.
///
/// # Errors
/// When the API server does not answer; that it refuses is an answer.
pub async fn backings(
    client: &Client,
    cluster: &str,
    claims: Vec<&PersistentVolumeClaim>,
    hosts: Option<&HostsByName>,
) -> Result<BTreeMap<u32, Backing>, Error> {
    let all = Api::<PersistentVolume>::all(client.clone());
    let reads = claims.into_iter().filter_map(|claim| {
        let all = all.clone();
        let (ordinal, _) = volume_of(cluster, claim)?;
        Some(async move {
            let Some(name) = bound_to(claim) else { return Ok((ordinal, Backing::Unbound)) };
            let backing = match all.get_opt(name).await {
                Ok(None) => Backing::Unbound,
                Ok(Some(volume)) => Backing::Bound { stranded: is_stranded(&volume, hosts) },
                Err(kube::Error::Api(status)) if status.code == 403 => Backing::Forbidden,
                Err(error) => return Err(Error::kube("read PersistentVolume", name)(error)),
            };
            Ok((ordinal, backing))
        })
    });
    join_all(reads).await.into_iter().collect()
}

/// The volume is on certain hosts only, and none of them exists any more.
fn is_stranded(volume: &PersistentVolume, hosts: Option<&HostsByName>) -> bool {
    let Some(hosts) = hosts else { return false };
    let required = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref())
        .and_then(|affinity| affinity.required.as_ref());
    let Some(required) = required else { return false };
    // One of the terms must hold; a term that names no host can hold anywhere.
    required.node_selector_terms.iter().all(|term| {
        let mut wanted = term.match_expressions.iter().flatten();
        wanted.any(|wanted| {
            let named = wanted.values.iter().flatten();
            wanted.key == HOSTNAME
                && wanted.operator == "In"
                && named.clone().all(|name| !hosts.contains_key(name))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Host;
    use super::*;

    fn on(names: &[&str]) -> PersistentVolume {
        let term =
            serde_json::json!({"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": names}]});
        let spec = serde_json::json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}});
        serde_json::from_value(serde_json::json!({"spec": spec})).unwrap()
    }

    #[test]
    fn a_volume_is_stranded_only_when_all_its_hosts_are_known_to_be_gone() {
        let hosts: HostsByName = Arc::new(BTreeMap::from([("a".to_owned(), Host::default())]));
        assert!(is_stranded(&on(&["b"]), Some(&hosts)));
        assert!(!is_stranded(&on(&["a", "b"]), Some(&hosts)));
        assert!(!is_stranded(&on(&["b"]), None), "hosts that may not be read are not gone");
        assert!(!is_stranded(&PersistentVolume::default(), Some(&hosts)), "a network volume");
    }
}
