//! Claims, and for members that are not ready the PersistentVolumes behind them.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{Api, Client, ResourceExt};

use super::affinity::{Fate, Homes};
use super::{Backing, Volume};
use crate::error::Error;
use crate::names;
use crate::validate;

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

/// Reads the PersistentVolume behind each of `claims`.
///
/// # Errors
/// When the API server does not answer; a refusal is part of the result.
pub async fn backings(
    client: &Client,
    cluster: &str,
    claims: Vec<&PersistentVolumeClaim>,
    homes: Option<&Homes>,
) -> Result<BTreeMap<u32, Backing>, Error> {
    let all = Api::<PersistentVolume>::all(client.clone());
    let reads = claims.into_iter().filter_map(|claim| {
        let all = all.clone();
        let (ordinal, _) = volume_of(cluster, claim)?;
        Some(async move {
            let Some(name) = bound_to(claim) else { return Ok((ordinal, Backing::Unbound)) };
            let backing = match all.get_opt(name).await {
                Ok(None) => Backing::Unbound,
                // Hosts that may not be read are not gone.
                Ok(Some(volume)) => match homes.map(|homes| homes.fate(&volume, Instant::now())) {
                    Some(Fate::Stranded) => Backing::Bound { stranded: true },
                    Some(Fate::Uncertain) => Backing::Uncertain,
                    Some(Fate::Usable) | None => Backing::Bound { stranded: false },
                },
                Err(kube::Error::Api(status)) if status.code == 403 => Backing::Forbidden,
                Err(error) => return Err(Error::kube("read PersistentVolume", name)(error)),
            };
            Ok((ordinal, backing))
        })
    });
    join_all(reads).await.into_iter().collect()
}
