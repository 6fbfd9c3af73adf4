//! The loop that requests reconciles: when a watch reports a change of a cluster, when a reconcile requeues, and
//! after the backoff of one that failed.

use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::runtime::controller::{Action, Config as ControllerConfig, Controller, Error as LoopError};
use kube::runtime::events::Recorder;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::events;
use crate::idle_cache::IdleCache;
use crate::lease::Fence;
use crate::metrics::Metrics;
use crate::names::Key;
use crate::observe::Hosts;
use crate::pace::Pace;
use crate::reconcile::{Reconciler, Settled};
use crate::validate::Defaults;
use crate::watches::{self, Watched};

/// Reconciles at the same time, each of another cluster.
const CONCURRENCY: u16 = 16;
/// A reconcile that takes longer is cancelled: its observation is old by then, and other clusters wait for its place.
const DEADLINE: Duration = Duration::from_secs(30);
/// Several events about one change make one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(100);

pub struct Context {
    pub client: Client,
    pub recorder: Recorder,
    pub metrics: Metrics,
    pub defaults: Defaults,
    pub fence: Fence,
    pub hosts: Hosts,
    /// HeliosBackupStores of which an archiver has reported another state.
    pub stores: broadcast::Sender<Key>,
    /// HeliosClusters of whose backups a drill has ended.
    pub drills: broadcast::Sender<Key>,
}

/// State that the reconciles of one controller share.
struct Worker {
    context: Arc<Context>,
    idle_cache: Arc<IdleCache<Settled>>,
    backoff: Backoff,
    pace: Pace,
}

/// Reconciles the clusters of `namespace`, of all namespaces when `None`, until `stop`; returns when the
/// reconciles that had begun by then have ended.
pub async fn run(context: Arc<Context>, namespace: Option<String>, stop: CancellationToken) {
    let idle_cache = Arc::new(IdleCache::default());
    let (reader, clusters) = watches::clusters(&context.client, namespace.as_deref());
    let changes = watches::changes(&context.client, namespace.as_deref(), &idle_cache);
    let stores = watches::stores(&context.client, namespace.as_deref(), reader.clone(), &idle_cache);
    let drills = watches::reports(context.drills.subscribe(), namespace.as_deref(), &idle_cache);
    let hosts = context.hosts.changes();
    let worker = Arc::new(Worker { context, idle_cache, backoff: Backoff::default(), pace: Pace::default() });
    Controller::for_stream(clusters, reader)
        .with_config(ControllerConfig::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .reconcile_on(changes)
        .reconcile_on(stores)
        .reconcile_on(drills)
        .reconcile_all_on(hosts)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(
            reconcile,
            |watched, _, worker| Action::requeue(worker.backoff.failed(&key(&watched))),
            worker.clone(),
        )
        .for_each(|result| {
            worker.handle_result(result);
            ready(())
        })
        .await;
}

async fn reconcile(watched: Arc<Watched>, worker: Arc<Worker>) -> Result<Action, Error> {
    let Worker { context, idle_cache, backoff, pace } = &*worker;
    let cluster = key(&watched);
    let began = Instant::now();
    let reconcile = async {
        match &watched.0 {
            Ok(cached) => Reconciler { context, idle_cache, pace, key: &cluster }.run(cached).await,
            Err(unreadable) => {
                leave_alone(context, &watched, &unreadable.error).await;
                Ok(("unreadable", Action::await_change()))
            }
        }
    };
    let result = tokio::time::timeout(DEADLINE, reconcile).await.unwrap_or(Err(Error::Overdue(DEADLINE)));
    let name = result.as_ref().map_or_else(Error::reason, |(name, _)| name);
    context.metrics.reconciled(name, began.elapsed());
    match result {
        Ok((_, action)) => {
            backoff.forget(&cluster);
            Ok(action)
        }
        Err(error) => {
            tracing::warn!(cluster = cluster.name, namespace = cluster.namespace, %error, "reconcile failed; trying again");
            Err(error)
        }
    }
}

/// Reports a HeliosCluster of a version that this operator does not know; its members run without an operator.
async fn leave_alone(context: &Context, watched: &Watched, why: &str) {
    let (name, namespace) = (watched.name_any(), watched.namespace());
    tracing::error!(cluster = name, namespace, why, "cannot read the HeliosCluster; leaving it alone");
    let published = context.recorder.publish(&events::unreadable(why), &watched.object_ref(&())).await;
    if let Err(error) = published {
        tracing::warn!(%error, "cannot publish an event");
    }
}

impl Worker {
    fn handle_result<T>(&self, result: Result<T, LoopError<Error, watcher::Error>>) {
        match result {
            // `reconcile` has logged its failures.
            Ok(_) | Err(LoopError::ReconcilerFailed(..)) => {}
            Err(LoopError::ObjectNotFound(gone)) => {
                self.forget(&Key { namespace: gone.namespace.unwrap_or_default(), name: gone.name });
            }
            Err(error) => tracing::warn!(%error, "a watch failed and is started again"),
        }
    }

    fn forget(&self, cluster: &Key) {
        self.backoff.forget(cluster);
        self.pace.forget(cluster);
        self.idle_cache.invalidate(cluster);
        self.context.metrics.clusters.forget(cluster);
    }
}

fn key(watched: &Watched) -> Key {
    Key { namespace: watched.namespace().unwrap_or_default(), name: watched.name_any() }
}
