//! HeliosBackupStore: its status, from what the archivers of its clusters report.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use helios_crds::ConditionStatus::{False, True, Unknown};
use helios_crds::{
    ClusterBackupStatus, ConditionType, HeliosBackupStore, HeliosBackupStoreStatus, HeliosCluster, Reason,
    RecoverableCluster,
};
use jiff::Timestamp;
use kube::api::ListParams;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::{RETRY, drive, scoped, set_condition, watch_config, within_deadline, write_status};
use crate::build::backup::url;
use crate::controller::Context;
use crate::error::Error;
use crate::names::Key;
use crate::observe::StoreProblem;
use crate::observe::backup::store;

const CONCURRENCY: u16 = 2;
/// While a Secret is missing, which is not watched.
const WHILE_WAITING: Duration = Duration::from_secs(30);

pub async fn run(context: Arc<Context>, namespace: Option<&str>, stop: CancellationToken) {
    let client = &context.client;
    // A status of a cluster that was written with another state of its backups.
    let reports = stream::unfold(context.stores.subscribe(), |mut reports| async {
        loop {
            match reports.recv().await {
                Ok(key) => return Some((key, reports)),
                // Another report follows within a minute.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let own = namespace.map(str::to_owned);
    let reports = reports.filter_map(move |key: Key| {
        let is_here = own.as_ref().is_none_or(|own| *own == key.namespace);
        futures::future::ready(is_here.then(|| ObjectRef::new(&key.name).within(&key.namespace)))
    });
    let results = Controller::new(scoped::<HeliosBackupStore>(client, namespace), watch_config())
        .with_config(Config::default().concurrency(CONCURRENCY))
        .reconcile_on(reports)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(
            |store, context| async move { within_deadline(&*store, reconcile(&store, &context)).await },
            |_, _, _| Action::requeue(RETRY),
            context.clone(),
        );
    drive(results).await;
}

async fn reconcile(cached: &HeliosBackupStore, context: &Context) -> Result<Action, Error> {
    let client = &context.client;
    let (name, namespace) = (cached.name_any(), cached.namespace().ok_or(Error::Incomplete("namespace"))?);
    let api = Api::<HeliosBackupStore>::namespaced(client.clone(), &namespace);
    let found = api.get_opt(&name).await.map_err(Error::kube("read HeliosBackupStore", &name))?;
    let Some(resource) = found.filter(|store| store.metadata.deletion_timestamp.is_none()) else {
        return Ok(Action::await_change());
    };
    let problem = store(client, &namespace, &name).await?.err();
    let clusters = Api::<HeliosCluster>::namespaced(client.clone(), &namespace);
    let clusters = clusters
        .list(&ListParams::default())
        .await
        .map_err(Error::kube("list HeliosClusters in", &namespace))?;
    let status = status(&resource, &clusters.items, problem.as_ref(), Timestamp::now());
    write_status(client, &resource, resource.status.as_ref(), &status).await?;
    Ok(if problem.is_some() { Action::requeue(WHILE_WAITING) } else { Action::await_change() })
}

/// Status of `resource`, which `clusters` may use.
fn status(
    resource: &HeliosBackupStore,
    clusters: &[HeliosCluster],
    problem: Option<&StoreProblem>,
    now: Timestamp,
) -> HeliosBackupStoreStatus {
    let generation = resource.metadata.generation;
    let name = resource.name_any();
    let reports: Vec<_> = clusters
        .iter()
        .filter_map(|cluster| Some((cluster, cluster.status.as_ref()?.backup.as_ref()?)))
        .filter(|(_, backup)| backup.store == name)
        .collect();
    let mut status = HeliosBackupStoreStatus {
        observed_generation: generation,
        url: Some(url(resource)),
        recoverable: reports.iter().filter_map(|(cluster, backup)| recoverable(cluster, backup)).collect(),
        last_gc: reports.iter().filter_map(|(_, backup)| backup.last_gc.clone()).max_by_key(|time| time.0),
        ..resource.status.clone().unwrap_or_default()
    };
    status.recoverable.sort_by(|one, other| one.cluster.cmp(&other.cluster));
    let ready = ready(&reports, problem);
    status.reachable = match ready.0 {
        True => Some(true),
        False if problem.is_none() => Some(false),
        _ => status.reachable,
    };
    set_condition(&mut status.conditions, ConditionType::Ready, ready, generation, now);
    let encrypted = match &resource.spec.encryption {
        Some(encryption) => {
            (True, Reason::KeyConfigured, format!("with the current key of Secret {}", encryption.key_secret))
        }
        None => {
            (False, Reason::NoKey, "write spec.encryption.keySecret; older backups stay readable".to_owned())
        }
    };
    set_condition(&mut status.conditions, ConditionType::Encrypted, encrypted, generation, now);
    status
}

fn ready(
    reports: &[(&HeliosCluster, &ClusterBackupStatus)],
    problem: Option<&StoreProblem>,
) -> (helios_crds::ConditionStatus, Reason, String) {
    if let Some(problem) = problem {
        return (False, Reason::SecretMissing, problem.message().to_owned());
    }
    let states = reports
        .iter()
        .filter_map(|(cluster, backup)| Some((cluster, backup.state.as_ref()?.parse::<Reason>().ok()?)));
    let states: Vec<_> = states.collect();
    let refused = |reason: &Reason| {
        use Reason::{Damaged, Forked, StoreFull, StoreRefused, StoreUnavailable, WrongKey};
        [StoreRefused, StoreFull, StoreUnavailable, WrongKey, Forked, Damaged].contains(reason)
    };
    if let Some((cluster, reason)) = states.iter().find(|(_, reason)| refused(reason)) {
        let message = format!("see the condition Archiving of HeliosCluster {}", cluster.name_any());
        return (False, *reason, message);
    }
    match states.iter().any(|(_, reason)| [Reason::Archiving, Reason::TakingBase].contains(reason)) {
        true => (True, Reason::Healthy, String::new()),
        false => (Unknown, Reason::NotUsed, "no archiver has used it yet".to_owned()),
    }
}

fn recoverable(cluster: &HeliosCluster, backup: &ClusterBackupStatus) -> Option<RecoverableCluster> {
    let cluster_id = cluster.status.as_ref()?.cluster_id.clone()?;
    let ranges = &backup.recoverable;
    let (first, last) = (ranges.first()?, ranges.last()?);
    Some(RecoverableCluster {
        cluster_id,
        cluster: cluster.name_any(),
        from: first.from.clone(),
        to: last.to.clone(),
        bases: ranges.iter().map(|range| range.bases).sum(),
        bytes: ranges.iter().map(|range| range.bytes).sum(),
    })
}

#[cfg(test)]
mod tests {
    use helios_crds::{HeliosClusterStatus, RecoverableRange};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;

    fn nightly() -> HeliosBackupStore {
        let spec = json!({"s3": {"bucket": "acme"}, "encryption": {"keySecret": "keys"}});
        HeliosBackupStore::new("nightly", serde_json::from_value(spec).unwrap())
    }

    fn cluster(name: &str, store: &str, state: &str) -> HeliosCluster {
        let mut cluster = HeliosCluster::new(name, Default::default());
        let range = |second| RecoverableRange {
            from: Some(Time(Timestamp::from_second(second).unwrap())),
            to: Some(Time(Timestamp::from_second(second + 9).unwrap())),
            bases: 2,
            bytes: 100,
            ..RecoverableRange::default()
        };
        let backup = ClusterBackupStatus {
            store: store.to_owned(),
            state: Some(state.to_owned()),
            recoverable: vec![range(100), range(200)],
            ..ClusterBackupStatus::default()
        };
        cluster.status = Some(HeliosClusterStatus {
            cluster_id: Some(format!("id-{name}")),
            backup: Some(backup),
            ..HeliosClusterStatus::default()
        });
        cluster
    }

    fn found(clusters: &[HeliosCluster], problem: Option<&StoreProblem>) -> HeliosBackupStoreStatus {
        status(&nightly(), clusters, problem, Timestamp::from_second(1_800_000_000).unwrap())
    }

    fn ready_of(status: &HeliosBackupStoreStatus) -> (&str, &str) {
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        (&ready.status, &ready.reason)
    }

    #[test]
    fn status_has_what_the_clusters_of_the_store_can_be_restored_to() {
        let clusters = [
            cluster("b", "nightly", "Archiving"),
            cluster("a", "nightly", "TakingBase"),
            cluster("c", "other", "Forked"),
        ];
        let status = found(&clusters, None);
        assert_eq!((ready_of(&status), status.reachable), (("True", "Healthy"), Some(true)));
        let names: Vec<_> = status.recoverable.iter().map(|it| it.cluster.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let first = &status.recoverable[0];
        assert_eq!((&*first.cluster_id, first.bases, first.bytes), ("id-a", 4, 200));
        let range = (first.from.as_ref().unwrap().0.as_second(), first.to.as_ref().unwrap().0.as_second());
        assert_eq!((range, status.url.as_deref()), ((100, 209), Some("s3://acme")));
        assert!(status.conditions.iter().any(|it| it.type_ == "Encrypted" && it.status == "True"));
    }

    #[test]
    fn store_is_not_ready_when_one_archiver_is_refused_or_a_secret_is_missing() {
        let clusters = [cluster("a", "nightly", "Archiving"), cluster("b", "nightly", "StoreRefused")];
        let status = found(&clusters, None);
        assert_eq!((ready_of(&status), status.reachable), (("False", "StoreRefused"), Some(false)));
        let missing = StoreProblem::SecretMissing("create it".to_owned());
        assert_eq!(ready_of(&found(&clusters, Some(&missing))), ("False", "SecretMissing"));
        assert_eq!(ready_of(&found(&[], None)), ("Unknown", "NotUsed"));
    }
}
