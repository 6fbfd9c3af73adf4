//! The loop that asks for passes: when something of a cluster changes, when a pass wants another one, and
//! some time after one that failed.

use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::runtime::controller::{Action, Config as ControllerConfig, Controller, Error as LoopError};
use kube::runtime::events::Recorder;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::events;
use crate::lease::Fence;
use crate::metrics::Metrics;
use crate::names::Key;
use crate::observe::Hosts;
use crate::pace::Pace;
use crate::pass::{Pass, Settled};
use crate::quiet::Quiet;
use crate::validate::Defaults;
use crate::watches::{self, Watched};

/// Passes at the same time, each over another cluster.
const CONCURRENCY: u16 = 16;
/// A pass that takes longer is ended: what it has seen is old by then, and its place is another cluster's.
const DEADLINE: Duration = Duration::from_secs(30);
/// Several events about one change make one pass.
const DEBOUNCE: Duration = Duration::from_millis(100);

pub struct Context {
    pub client: Client,
    pub recorder: Recorder,
    pub metrics: Metrics,
    pub defaults: Defaults,
    pub fence: Fence,
    pub hosts: Hosts,
}

/// What the passes of one controller share.
struct Worker {
    context: Arc<Context>,
    quiet: Arc<Quiet<Settled>>,
    backoff: Backoff,
    pace: Pace,
}

/// Reconciles the clusters of `namespace`, of all namespaces when `None`, until `stop`; returns when the
/// passes that had begun by then have ended.
pub async fn run(context: Arc<Context>, namespace: Option<String>, stop: CancellationToken) {
    let quiet = Arc::new(Quiet::default());
    let (reader, clusters) = watches::clusters(&context.client, namespace.as_deref());
    let changes = watches::changes(&context.client, namespace.as_deref(), &quiet);
    let hosts = context.hosts.changes();
    let worker = Arc::new(Worker { context, quiet, backoff: Backoff::default(), pace: Pace::default() });
    Controller::for_stream(clusters, reader)
        .with_config(ControllerConfig::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .reconcile_on(changes)
        .reconcile_all_on(hosts)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(
            reconcile,
            |watched, _, worker| Action::requeue(worker.backoff.failed(&key(&watched))),
            worker.clone(),
        )
        .for_each(|result| {
            worker.note(result);
            ready(())
        })
        .await;
}

async fn reconcile(watched: Arc<Watched>, worker: Arc<Worker>) -> Result<Action, Error> {
    let Worker { context, quiet, backoff, pace } = &*worker;
    let cluster = key(&watched);
    let began = Instant::now();
    let pass = async {
        match &watched.0 {
            Ok(cached) => Pass { context, quiet, pace, key: &cluster }.run(cached).await,
            Err(unreadable) => {
                leave_alone(context, &watched, &unreadable.error).await;
                Ok(("unreadable", Action::await_change()))
            }
        }
    };
    let result = tokio::time::timeout(DEADLINE, pass).await.unwrap_or(Err(Error::Overdue(DEADLINE)));
    let name = result.as_ref().map_or_else(Error::reason, |(name, _)| name);
    context.metrics.pass(name, began.elapsed());
    match result {
        Ok((_, action)) => {
            backoff.forget(&cluster);
            Ok(action)
        }
        Err(error) => {
            tracing::warn!(cluster = cluster.name, namespace = cluster.namespace, %error, "pass failed; trying again");
            Err(error)
        }
    }
}

/// For a HeliosCluster of a version that this operator does not know: its members go on without it.
async fn leave_alone(context: &Context, watched: &Watched, why: &str) {
    let (name, namespace) = (watched.name_any(), watched.namespace());
    tracing::error!(cluster = name, namespace, why, "cannot read the HeliosCluster; leaving it alone");
    let published = context.recorder.publish(&events::unreadable(why), &watched.object_ref(&())).await;
    if let Err(error) = published {
        tracing::warn!(%error, "cannot publish an event");
    }
}

impl Worker {
    fn note<T>(&self, result: Result<T, LoopError<Error, watcher::Error>>) {
        match result {
            // Failed passes were told of by `reconcile`.
            Ok(_) | Err(LoopError::ReconcilerFailed(..)) => {}
            Err(LoopError::ObjectNotFound(gone)) => {
                self.forget(&Key { namespace: gone.namespace.unwrap_or_default(), name: gone.name });
            }
            Err(error) => tracing::warn!(%error, "a watch failed and is begun again"),
        }
    }

    fn forget(&self, cluster: &Key) {
        self.backoff.forget(cluster);
        self.pace.forget(cluster);
        self.quiet.touch(cluster);
        self.context.metrics.clusters.forget(cluster);
    }
}

fn key(watched: &Watched) -> Key {
    Key { namespace: watched.namespace().unwrap_or_default(), name: watched.name_any() }
}
