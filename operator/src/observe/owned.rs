//! Objects under the names that the operator uses. Only those of this HeliosCluster are returned; of foreign ones only
//! their owner.

use std::fmt::Debug;

use futures::try_join;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::names;
use crate::ownership::{self, Owner, Taken};
use crate::validate::ValidatedCluster;

/// The object that has a name.
#[derive(Debug)]
pub enum Slot<K> {
    Free,
    Ours(Box<K>),
    Taken(Taken),
}

impl<K> Slot<K> {
    pub fn taken(&self) -> Option<&Taken> {
        match self {
            Self::Taken(taken) => Some(taken),
            Self::Free | Self::Ours(_) => None,
        }
    }
}

/// One slot for each of `build::Objects`.
#[derive(Debug)]
pub struct Owned {
    pub service_account: Slot<ServiceAccount>,
    pub config_map: Slot<ConfigMap>,
    pub peers: Slot<Service>,
    pub client: Slot<Service>,
    pub leader: Slot<Service>,
    pub read: Slot<Service>,
    pub budget: Slot<PodDisruptionBudget>,
    pub network_policy: Slot<NetworkPolicy>,
    pub stateful_set: Slot<StatefulSet>,
}

impl Owned {
    pub fn stateful_set(&self) -> Option<&StatefulSet> {
        match &self.stateful_set {
            Slot::Ours(set) => Some(set),
            Slot::Free | Slot::Taken(_) => None,
        }
    }

    /// Foreign objects in the way of `cluster`. A budget or policy that the spec does not want needs no name either.
    pub fn taken(&self, cluster: &ValidatedCluster) -> Vec<Taken> {
        let Self {
            service_account,
            config_map,
            peers,
            client,
            leader,
            read,
            budget,
            network_policy,
            stateful_set,
        } = self;
        let budget = budget.taken().filter(|_| cluster.has_budget());
        let network_policy = network_policy.taken().filter(|_| cluster.spec.network_policy.enabled);
        let all = [
            stateful_set.taken(),
            service_account.taken(),
            config_map.taken(),
            peers.taken(),
            client.taken(),
            leader.taken(),
            read.taken(),
            budget,
            network_policy,
        ];
        all.into_iter().flatten().cloned().collect()
    }
}

/// Reads all of them concurrently.
///
/// # Errors
/// When the API server does not answer one of the reads.
pub async fn owned(
    client: &Client,
    namespace: &str,
    name: &str,
    owner: &OwnerReference,
) -> Result<Owned, Error> {
    let [any, leader, read] = names::client_services(name);
    let peers = names::peers_service(name);
    let (service_account, config_map, peers, any, leader, read, budget, network_policy, stateful_set) = try_join!(
        slot(client, namespace, name, owner),
        slot(client, namespace, name, owner),
        slot(client, namespace, &peers, owner),
        slot(client, namespace, &any, owner),
        slot(client, namespace, &leader, owner),
        slot(client, namespace, &read, owner),
        slot(client, namespace, name, owner),
        slot(client, namespace, name, owner),
        slot(client, namespace, name, owner),
    )?;
    Ok(Owned {
        service_account,
        config_map,
        peers,
        client: any,
        leader,
        read,
        budget,
        network_policy,
        stateful_set,
    })
}

/// The object of kind `K` that has the name `name`.
///
/// # Errors
/// When the API server does not answer.
pub async fn slot<K>(
    client: &Client,
    namespace: &str,
    name: &str,
    us: &OwnerReference,
) -> Result<Slot<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let kind = K::kind(&());
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await.map_err(Error::kube("read", format!("{kind} {name}")))?;
    let Some(found) = found else { return Ok(Slot::Free) };
    Ok(match ownership::owner(found.meta(), us) {
        Owner::Us => Slot::Ours(Box::new(found)),
        by => Slot::Taken(Taken { kind: kind.into_owned(), name: name.to_owned(), by }),
    })
}

/// Claims of the names that the members at `ordinals` would use and that do not carry the cluster's labels, or are
/// another controller's: the StatefulSet would mount them as if they were ours.
///
/// # Errors
/// When the API server does not answer.
pub async fn taken_claims(
    claims: &Api<PersistentVolumeClaim>,
    cluster: &str,
    ordinals: impl Iterator<Item = u32>,
) -> Result<Vec<Taken>, Error> {
    let mut taken = Vec::new();
    for ordinal in ordinals {
        let name = names::volume(cluster, ordinal);
        let found = claims.get_opt(&name).await.map_err(Error::kube("read volume", &name))?;
        let Some(found) = found else { continue };
        if let Some(by) = ownership::of_another_workload(found.meta(), cluster) {
            taken.push(Taken { kind: "PersistentVolumeClaim".to_owned(), name, by });
        }
    }
    Ok(taken)
}
