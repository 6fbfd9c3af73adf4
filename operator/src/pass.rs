//! One pass over one cluster: observe, validate, plan, apply, execute, report.

use std::time::{Duration, Instant};

use helios_crds::{HeliosCluster, HeliosClusterStatus, RENEW_CERTIFICATES};
use helios_proto::tls::ClientTls;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::Event;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use crate::apply;
use crate::build::{self, Shape};
use crate::controller::Context;
use crate::error::Error;
use crate::events::{self, Went};
use crate::execute::{Outcome, execute};
use crate::locks;
use crate::locks::Kept;
use crate::metrics::Facts;
use crate::names::{FIELD_MANAGER, Key};
use crate::observe::{self, Snapshot, members};
use crate::plan::{Plan, Step, View, plan};
use crate::quiet::Quiet;
use crate::report;
use crate::validate::{ValidatedCluster, validate};

const AFTER_CHANGE: Duration = Duration::from_secs(1);
const AFTER_INVALID: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Effects {
    /// The StatefulSet was changed.
    changed: bool,
    /// Why the step could not be taken yet.
    held: Option<String>,
}

/// What is kept of a cluster that is as it should be.
#[derive(Debug)]
pub struct Settled {
    cluster: ValidatedCluster,
    read: Snapshot,
    tls: Option<ClientTls>,
}

pub struct Pass<'a> {
    pub context: &'a Context,
    pub quiet: &'a Quiet<Settled>,
    pub key: &'a Key,
}

impl Pass<'_> {
    /// How it went, as the label of a metric, and when to look again.
    ///
    /// # Errors
    /// When the API server or a member does not do what it has to.
    pub async fn run(&self, cached: &HeliosCluster) -> Result<(&'static str, Action), Error> {
        if let Some(look_again) = self.is_quiet(cached).await {
            return Ok(("quiet", Action::requeue(look_again)));
        }
        let action = self.look_and_act().await?;
        Ok(("ok", action))
    }

    /// Whether nothing has changed since the last pass found nothing to do, as far as Kubernetes and the
    /// members tell; then, when to look again.
    async fn is_quiet(&self, cached: &HeliosCluster) -> Option<Duration> {
        let version = cached.metadata.resource_version.as_deref()?;
        let settled = self.quiet.get(self.key, version, Instant::now())?;
        let Settled { cluster, read, tls } = &*settled;
        let nodes = members::statuses(&self.key.name, &self.key.namespace, &read.pods, tls.as_ref()).await;
        let hosts = self.context.hosts.seen();
        let seen = Snapshot { now: Timestamp::now(), nodes, hosts, ..read.clone() };
        let plan = plan(cluster, &seen);
        let status = report::report(cluster, &seen, &plan, false);
        if !wants_nothing(&plan, &seen) || report::is_news(&seen.status, &status) {
            return None;
        }
        self.note(cluster, &seen);
        Some(plan.look_again)
    }

    async fn look_and_act(&self) -> Result<Action, Error> {
        let Key { namespace, name } = self.key;
        let api = Api::<HeliosCluster>::namespaced(self.context.client.clone(), namespace);
        self.quiet.begin(self.key);
        // Read anew: the status holds decisions that a cache may not have seen yet.
        let found = api.get_opt(name).await.map_err(Error::kube("read HeliosCluster", name))?;
        // Nothing needs the operator to go: Kubernetes removes what the cluster owns, and its
        // StatefulSet says what becomes of volumes. So there is no finalizer that could hang.
        let Some(cluster) = found.filter(|cluster| cluster.metadata.deletion_timestamp.is_none()) else {
            self.quiet.touch(self.key);
            return Ok(Action::await_change());
        };
        let (now, client) = (Timestamp::now(), &self.context.client);
        let stateful_set = observe::stateful_set(client, self.key).await?;
        let mut validated = validate(&cluster, &self.context.defaults);
        let mut kept = Kept::default();
        if let Ok(validated) = &mut validated {
            let old = locks::as_it_began(validated, stateful_set.as_ref());
            let wish = cluster.annotations().get(RENEW_CERTIFICATES).map(String::as_str);
            kept = locks::keep(client, validated, wish, now).await?;
            kept.locks.trouble = kept.locks.trouble.or(old);
        }
        let hosts = self.context.hosts.seen();
        let live = observe::look(client, &cluster, stateful_set, &kept, hosts, now).await?;
        match validated {
            Ok(validated) => self.act(&api, &cluster, &validated, live, kept.tls).await,
            Err(invalid) => {
                self.write_status(&api, &cluster, &report::report_invalid(&live.snapshot, &invalid)).await?;
                Ok(Action::requeue(AFTER_INVALID))
            }
        }
    }

    async fn act(
        &self,
        api: &Api<HeliosCluster>,
        cluster: &HeliosCluster,
        validated: &ValidatedCluster,
        live: observe::Live,
        tls: Option<ClientTls>,
    ) -> Result<Action, Error> {
        let seen = &live.snapshot;
        self.note(validated, seen);
        let plan = plan(validated, seen);
        let effects = self.take_effect(validated, seen, &live, tls.as_ref(), &plan).await;
        let changed = effects.as_ref().is_ok_and(|effects| effects.changed);
        let mut status = report::report(validated, seen, &plan, changed);
        if let Some(trouble) = effects.as_ref().map_or_else(|e| Some(e.to_string()), |e| e.held.clone()) {
            say(&mut status, &trouble);
        }
        let went = match &effects {
            Ok(Effects { held: None, .. }) => Went::Well,
            Ok(Effects { held: Some(_), .. }) => Went::Held,
            Err(error) => Went::Wrong(error),
        };
        if let Some(event) = events::told(cluster, &plan, went) {
            self.publish(cluster, &event).await;
        }
        let written = self.write_status(api, cluster, &status).await?;
        // Once it is written, so that no other pass tells the same again.
        if written.is_some() {
            for noticed in events::noticed(&seen.status, &status) {
                self.publish(cluster, &events::news(cluster, &noticed)).await;
            }
        }
        if let Some((operation, took)) = events::ended(cluster, &plan, seen.now) {
            self.context.metrics.operation(&operation.kind, took);
            self.publish(cluster, &events::farewell(cluster, operation, took)).await;
        }
        effects?;
        let action = Action::requeue(if changed { AFTER_CHANGE } else { plan.look_again });
        if !changed && wants_nothing(&plan, seen) {
            let mut read = live.snapshot;
            // They are asked anew in every pass, and their answers are half of what would be kept.
            read.nodes.clear();
            let version = match written {
                None => cluster.resource_version(),
                Some(version) => {
                    read.status = status;
                    Some(version)
                }
            };
            let settled = Settled { cluster: validated.clone(), read, tls };
            self.quiet.settle(self.key, version.unwrap_or_default(), settled, Instant::now());
        }
        Ok(action)
    }
}

impl Pass<'_> {
    /// Applies objects and takes the step.
    async fn take_effect(
        &self,
        cluster: &ValidatedCluster,
        seen: &Snapshot,
        live: &observe::Live,
        tls: Option<&ClientTls>,
        plan: &Plan,
    ) -> Result<Effects, Error> {
        if cluster.spec.paused || seen.locks.is_blocked() {
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
        let outcome = execute(client, cluster, seen, tls, self.context.fence.token(), step).await;
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

    async fn publish(&self, cluster: &HeliosCluster, event: &Event) {
        if let Err(error) = self.context.recorder.publish(event, &cluster.object_ref(&())).await {
            tracing::warn!(%error, "cannot publish an event");
        }
    }

    /// The object's version afterwards, if there was anything to write.
    async fn write_status(
        &self,
        api: &Api<HeliosCluster>,
        cluster: &HeliosCluster,
        status: &HeliosClusterStatus,
    ) -> Result<Option<String>, Error> {
        if cluster.status.as_ref().is_some_and(|old| !report::is_news(old, status)) {
            return Ok(None);
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
        let written = api
            .patch_status(&name, &params, &Patch::Apply(patch))
            .await
            .map_err(Error::kube("write status of", &name))?;
        self.context.metrics.status_written();
        Ok(written.resource_version())
    }

    /// What the members say of themselves, for the metrics and the fence.
    fn note(&self, cluster: &ValidatedCluster, seen: &Snapshot) {
        let memberships = seen.nodes.values().filter_map(|node| node.membership.as_ref());
        if let Some(token) = memberships.map(|membership| membership.fencing_token).max() {
            self.context.fence.recorded(token);
        }
        self.context.metrics.clusters.seen(
            self.key,
            Facts::of(&View::new(cluster, seen)),
            seen.locks.expires,
        );
    }
}

/// A plan for a cluster that is as it should be, as far as was `seen`.
fn wants_nothing(plan: &Plan, seen: &Snapshot) -> bool {
    let Plan { replicas, operation, step, latch, labels, look_again: _ } = plan;
    let has_replicas = seen.workload.as_ref().is_some_and(|workload| workload.replicas == *replicas);
    has_replicas
        && !seen.locks.is_blocked()
        && operation.is_none()
        && step.is_none()
        && latch.is_none()
        && labels.is_empty()
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
