//! The members of a switchover, reached through the API server.

use std::time::Duration;

use futures::future::join_all;
use helios_crds::HeliosCluster;
use kube::ResourceExt;

use super::find::{Finder, PEER_PORT};
use super::leadership::await_leader;
use crate::direct::Answer;
use crate::error::Error;
use crate::lock::Lock;
use crate::place::Place;
use crate::switchover::Members;

pub struct Pods<'a> {
    finder: &'a Finder,
    cluster: HeliosCluster,
    names: Vec<String>,
    lock: Lock,
}

impl<'a> Pods<'a> {
    /// Returns the pods of the cluster that `member` belongs to.
    ///
    /// # Errors
    /// When there is no such member, and when the API server does not answer.
    pub async fn of(finder: &'a Finder, member: &str) -> Result<Self, Error> {
        Self::in_cluster(finder, finder.of_member(member).await?).await
    }

    /// Returns the pods of `cluster`.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn in_cluster(finder: &'a Finder, cluster: HeliosCluster) -> Result<Self, Error> {
        let lock = finder.lock(&cluster).await?;
        let names = finder.pods_of(&cluster.name_any()).await?.iter().map(ResourceExt::name_any).collect();
        Ok(Self { finder, cluster, names, lock })
    }

    fn at(&self, pod: &str) -> Place {
        self.finder.place(&self.cluster.name_any(), pod, PEER_PORT, &self.lock)
    }
}

impl Members for Pods<'_> {
    async fn survey(&self) -> Vec<Answer> {
        let asked = self.names.iter().map(async |name| {
            let status = self.at(name).status(self.finder.limit).await;
            Answer { address: name.clone(), status: status.map_err(|error| error.to_string()) }
        });
        join_all(asked).await
    }

    fn place(&self, answer: &Answer) -> Place {
        self.at(&answer.address)
    }

    /// Waits until the operator reports the leader; by then its pod has the label by which the leader's
    /// Service selects it.
    async fn await_reconfigured(&self, name: &str, limit: Duration) -> Result<(), Error> {
        await_leader(self.finder, &self.cluster, name, limit).await
    }
}
