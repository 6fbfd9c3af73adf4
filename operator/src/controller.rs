//! One pass over one cluster, and the loop that asks for passes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use helios_crds::{CLUSTER_LABEL, HeliosCluster, HeliosClusterStatus};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{Action, Config as ControllerConfig, Controller};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::apply;
use crate::build::{self, Shape};
use crate::error::Error;
use crate::execute::{Outcome, execute};
use crate::metrics::Metrics;
use crate::names::{self, FIELD_MANAGER};
use crate::observe::{self, Snapshot};
use crate::plan::{Operation, Plan, Step, plan};
use crate::report;
use crate::validate::{Defaults, ValidatedCluster, validate};

const AFTER_ERROR: Duration = Duration::from_secs(3);
const AFTER_CHANGE: Duration = Duration::from_secs(1);
const AFTER_INVALID: Duration = Duration::from_secs(60);
/// Passes at the same time, each over another cluster.
const CONCURRENCY: u16 = 16;
/// Several events about one change make one pass.
const DEBOUNCE: Duration = Duration::from_millis(100);

pub struct Context {
    pub client: Client,
    pub recorder: Recorder,
    pub metrics: Metrics,
    pub defaults: Defaults,
    pub hosts: observe::Hosts,
}

/// Reconciles the clusters of `namespace`, of all namespaces when `None`, until the process ends.
pub async fn run(context: Arc<Context>, namespace: Option<String>) {
    let client = context.client.clone();
    let clusters = scoped::<HeliosCluster>(&client, namespace.as_deref());
    let stateful_sets = scoped::<StatefulSet>(&client, namespace.as_deref());
    let pods = scoped::<Pod>(&client, namespace.as_deref());
    let ours = watcher::Config::default().labels(CLUSTER_LABEL);
    Controller::new(clusters, watcher::Config::default())
        .with_config(ControllerConfig::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .owns(stateful_sets, ours.clone())
        .watches(pods, ours, |pod| {
            let cluster = pod.labels().get(CLUSTER_LABEL)?;
            Some(ObjectRef::new(cluster).within(&pod.namespace()?))
        })
        .reconcile_all_on(context.hosts.changes())
        .run(reconcile, |_, _, _| Action::requeue(AFTER_ERROR), context)
        .for_each(|result| async {
            if let Err(error @ kube::runtime::controller::Error::QueueError(_)) = result {
                tracing::warn!(%error, "a watch failed and is begun again");
            }
        })
        .await;
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

async fn reconcile(cached: Arc<HeliosCluster>, context: Arc<Context>) -> Result<Action, Error> {
    let began = Instant::now();
    let result = Pass { context: &context }.run(&cached).await;
    context.metrics.pass(result.as_ref().map_or_else(Error::reason, |_| "ok"), began.elapsed());
    if let Err(error) = &result {
        tracing::warn!(
            cluster = cached.name_any(),
            namespace = cached.namespace(),
            %error,
            "pass failed; trying again"
        );
    }
    result
}

#[derive(Debug, Default)]
struct Effects {
    /// The StatefulSet was changed.
    changed: bool,
    /// Why the step could not be taken yet.
    held: Option<String>,
}

struct Pass<'a> {
    context: &'a Context,
}

impl Pass<'_> {
    /// Observe, validate, plan, apply, execute, report.
    async fn run(&self, cached: &HeliosCluster) -> Result<Action, Error> {
        let namespace = cached.namespace().ok_or(Error::Incomplete("namespace"))?;
        let api = Api::<HeliosCluster>::namespaced(self.context.client.clone(), &namespace);
        let name = cached.name_any();
        // Read anew: the status holds decisions that a cache may not have seen yet.
        let Some(cluster) = api.get_opt(&name).await.map_err(Error::kube("read HeliosCluster", &name))?
        else {
            return Ok(Action::await_change());
        };
        // Nothing needs the operator to go: Kubernetes removes what the cluster owns, and its
        // StatefulSet says what becomes of volumes. So there is no finalizer that could hang.
        if cluster.metadata.deletion_timestamp.is_some() {
            return Ok(Action::await_change());
        }
        let live = observe::look(&self.context.client, &cluster, self.context.hosts.seen(), Timestamp::now())
            .await?;
        let seen = &live.snapshot;
        let validated = match validate(&cluster, &self.context.defaults) {
            Ok(validated) => validated,
            Err(invalid) => {
                self.write_status(&api, &cluster, report::report_invalid(seen, &invalid)).await?;
                return Ok(Action::requeue(AFTER_INVALID));
            }
        };
        let plan = plan(&validated, seen);
        let effects = self.take_effect(&validated, seen, &live, &plan).await;
        let changed = effects.as_ref().is_ok_and(|effects| effects.changed);
        let mut status = report::report(&validated, seen, &plan, changed);
        if let Some(trouble) = effects.as_ref().map_or_else(|e| Some(e.to_string()), |e| e.held.clone()) {
            say(&mut status, &trouble);
        }
        self.publish(&cluster, &plan, &effects).await;
        self.write_status(&api, &cluster, status).await?;
        effects?;
        Ok(Action::requeue(if changed { AFTER_CHANGE } else { plan.look_again }))
    }

    /// Applies objects and takes the step.
    async fn take_effect(
        &self,
        cluster: &ValidatedCluster,
        seen: &Snapshot,
        live: &observe::Live,
        plan: &Plan,
    ) -> Result<Effects, Error> {
        if cluster.spec.paused {
            return Ok(Effects::default());
        }
        let shape = Shape {
            replicas: plan.replicas,
            template_volume_size: seen.workload.as_ref().and_then(|workload| workload.volume_size.clone()),
        };
        let objects = build::objects(cluster, &shape)?;
        let client = &self.context.client;
        let changed = apply::apply(client, cluster, objects, live.stateful_set.as_ref()).await?;
        apply::label(client, cluster, &plan.labels).await?;
        let Some((step, operation)) = plan.step.as_ref().zip(plan.operation.as_ref()) else {
            return Ok(Effects { changed, held: None });
        };
        // The plan compared pods with the template as it was before.
        if changed && matches!(step, Step::Evict { .. } | Step::DeletePod { .. } | Step::Transfer { .. }) {
            return Ok(Effects { changed, held: Some("waiting for the changed StatefulSet".to_owned()) });
        }
        let outcome = execute(client, cluster, seen, step).await;
        let kind = operation.kind.name();
        match &outcome {
            Ok(Outcome::Done) => self.context.metrics.step(kind, "done"),
            Ok(Outcome::NotYet(_)) => self.context.metrics.step(kind, "not_yet"),
            Err(_) => self.context.metrics.step(kind, "failed"),
        }
        tracing::info!(cluster = cluster.name, namespace = cluster.namespace, ?step, ?outcome, "step");
        let held = match outcome? {
            Outcome::Done => None,
            Outcome::NotYet(why) => Some(why),
        };
        Ok(Effects { changed, held })
    }

    /// One event for each step that was taken, and one for each new thing to wait for.
    async fn publish(&self, cluster: &HeliosCluster, plan: &Plan, effects: &Result<Effects, Error>) {
        let Some(operation) = &plan.operation else { return };
        let earlier = cluster.status.as_ref().and_then(|status| status.operation.as_ref());
        let (type_, note) = match effects {
            Err(error) => (EventType::Warning, error.to_string()),
            Ok(Effects { held: None, .. })
                if operation.stuck && earlier.is_none_or(|o| o.step != operation.doing) =>
            {
                (EventType::Warning, operation.doing.clone())
            }
            Ok(Effects { held: None, .. }) if plan.step.is_some() => {
                (EventType::Normal, operation.doing.clone())
            }
            Ok(_) => return,
        };
        let event = event(cluster, plan.step.as_ref(), operation, type_, note);
        if let Err(error) = self.context.recorder.publish(&event, &cluster.object_ref(&())).await {
            tracing::warn!(%error, "cannot publish an event");
        }
    }

    async fn write_status(
        &self,
        api: &Api<HeliosCluster>,
        cluster: &HeliosCluster,
        status: HeliosClusterStatus,
    ) -> Result<(), Error> {
        if cluster.status.as_ref().is_some_and(|old| !report::is_news(old, &status)) {
            return Ok(());
        }
        let name = cluster.name_any();
        // With the version that was read, so that no decision is latched over one that was not seen;
        // on a conflict the next pass sees it.
        let patch = json!({
            "apiVersion": HeliosCluster::api_version(&()),
            "kind": HeliosCluster::kind(&()),
            "metadata": {"name": name, "resourceVersion": cluster.resource_version()},
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch_status(&name, &params, &Patch::Apply(patch))
            .await
            .map_err(Error::kube("write status of", &name))?;
        self.context.metrics.status_written();
        Ok(())
    }
}

/// Events of the same action on the same pod are counted as one series, so both are told apart here.
fn event(
    cluster: &HeliosCluster,
    step: Option<&Step>,
    operation: &Operation,
    type_: EventType,
    note: String,
) -> Event {
    const LONGEST_NOTE: usize = 1000;
    Event {
        type_,
        reason: operation.kind.name().to_owned(),
        action: step.map_or("Wait", Step::name).to_owned(),
        note: Some(note.chars().take(LONGEST_NOTE).collect()),
        secondary: operation.target.as_ref().map(|pod| ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.clone()),
            namespace: cluster.namespace(),
            ..ObjectReference::default()
        }),
    }
}

/// Adds why the step was not taken to what the status says of it.
fn say(status: &mut HeliosClusterStatus, trouble: &str) {
    if let Some(operation) = &mut status.operation {
        operation.step = format!("{}: {trouble}", operation.step);
    }
    for condition in &mut status.conditions {
        if condition.type_ == "Progressing" && condition.status == "True" {
            condition.message = format!("{}: {trouble}", condition.message);
        }
    }
}

/// Name under which events of this process appear.
pub fn reporter(identity: &str) -> kube::runtime::events::Reporter {
    kube::runtime::events::Reporter {
        controller: names::FIELD_MANAGER.into(),
        instance: Some(identity.into()),
    }
}
