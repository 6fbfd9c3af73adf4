//! One pass over one cluster: observe, validate, plan, apply, execute, report.

use std::sync::Arc;
use std::time::{Duration, Instant};

use helios_crds::{ConditionStatus, ConditionType, HeliosCluster, HeliosClusterStatus, RENEW_CERTIFICATES};
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
use crate::events::{self, Effect};
use crate::execute::{Outcome, execute};
use crate::locks;
use crate::locks::Kept;
use crate::metrics::Facts;
use crate::names::{FIELD_MANAGER, Key};
use crate::observe::{self, Backing, Homes, Owned, Snapshot, members};
use crate::ownership;
use crate::pace::Pace;
use crate::plan::{Plan, Step, View, plan};
use crate::quiet::Quiet;
use crate::report::{self, News};
use crate::validate::{ValidatedCluster, validate};

const AFTER_CHANGE: Duration = Duration::from_secs(1);
/// What was decided and is on record now is acted upon by the next pass. `pace` bounds how often.
const AFTER_WRITE: Duration = Duration::from_millis(100);
const AFTER_INVALID: Duration = Duration::from_secs(60);
/// While a person has to give a name or a Secret free, or mend it.
const WHILE_BLOCKED: Duration = Duration::from_secs(5);

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
    homes: Option<Arc<Homes>>,
}

/// What a pass has read beside the snapshot that plans are made from.
struct Found {
    owned: Owned,
    nothing_is_taken: bool,
    tls: Option<ClientTls>,
    homes: Option<Arc<Homes>>,
}

pub struct Pass<'a> {
    pub context: &'a Context,
    pub quiet: &'a Quiet<Settled>,
    pub pace: &'a Pace,
    pub key: &'a Key,
}

impl Pass<'_> {
    /// How it went, as the label of a metric, and when to look again.
    ///
    /// # Errors
    /// When the API server or a member does not do what it has to.
    pub async fn run(&self, cached: &HeliosCluster) -> Result<(&'static str, Action), Error> {
        if let Some(requeue_after) = self.is_quiet(cached).await {
            return Ok(("quiet", Action::requeue(requeue_after)));
        }
        let action = self.look_and_act().await?;
        Ok(("ok", action))
    }

    /// Whether nothing has changed since the last pass found nothing to do, as far as Kubernetes and the
    /// members tell; then, when to look again.
    async fn is_quiet(&self, cached: &HeliosCluster) -> Option<Duration> {
        let version = cached.metadata.resource_version.as_deref()?;
        let settled = self.quiet.get(self.key, version, Instant::now())?;
        let Settled { cluster, read, tls, homes } = &*settled;
        let hosts = self.context.hosts.seen();
        // What was read of volumes says which hosts they can be used on.
        let has_read_volumes = read.volumes.values().any(|volume| volume.backing != Backing::Unread);
        if has_read_volumes && !is_same(homes.as_ref(), hosts.as_ref().map(|hosts| &hosts.homes)) {
            return None;
        }
        let nodes = members::statuses(&self.key.name, &self.key.namespace, &read.pods, tls.as_ref()).await;
        let hosts = hosts.map(|hosts| hosts.by_name);
        let seen = Snapshot { now: Timestamp::now(), nodes, hosts, ..read.clone() };
        let plan = plan(cluster, &seen);
        let status = report::report(cluster, &seen, &plan, false);
        if !wants_nothing(&plan, &seen) || report::news(&seen.status, &status) != News::Nothing {
            return None;
        }
        self.note(cluster, &seen);
        Some(plan.requeue_after)
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
        let (now, client, hosts) = (Timestamp::now(), &self.context.client, self.context.hosts.seen());
        let mut validated = match validate(&cluster, &self.context.defaults) {
            Ok(validated) => validated,
            Err(invalid) => {
                let live = observe::look(client, &cluster, None, &Kept::default(), hosts, now).await?;
                self.write_status(&api, &cluster, &report::report_invalid(&live.snapshot, &invalid)).await?;
                return Ok(Action::requeue(AFTER_INVALID));
            }
        };
        let owned = observe::owned(client, &validated).await?;
        let mut taken = owned.taken(&validated);
        let runs = owned.stateful_set().is_some();
        let old = locks::as_it_began(&mut validated, owned.stateful_set());
        let mut kept = Kept::default();
        // Where nothing runs yet and nothing can be begun, no Secrets are made either.
        if runs || taken.is_empty() {
            let wish = cluster.annotations().get(RENEW_CERTIFICATES).map(String::as_str);
            kept = locks::keep(client, &validated, wish, now).await?;
            kept.locks.trouble = kept.locks.trouble.or(old);
        }
        let homes = hosts.as_ref().map(|hosts| hosts.homes.clone());
        let live = observe::look(client, &cluster, owned.stateful_set(), &kept, hosts, now).await?;
        taken.extend(kept.taken);
        taken.extend(live.taken);
        let mut seen = live.snapshot;
        if let Some(trouble) = ownership::trouble(&taken, &validated.owner, runs) {
            seen.locks.note(trouble);
        }
        let found = Found { owned, nothing_is_taken: taken.is_empty(), tls: kept.tls, homes };
        self.act(&api, &cluster, &validated, seen, found).await
    }

    async fn act(
        &self,
        api: &Api<HeliosCluster>,
        cluster: &HeliosCluster,
        validated: &ValidatedCluster,
        read: Snapshot,
        found: Found,
    ) -> Result<Action, Error> {
        let seen = &read;
        self.note(validated, seen);
        let plan = plan(validated, seen);
        let effects = self.take_effect(validated, seen, &found, &plan).await;
        let changed = effects.as_ref().is_ok_and(|effects| effects.changed);
        let mut status = report::report(validated, seen, &plan, changed);
        if let Some(trouble) = effects.as_ref().map_or_else(|e| Some(e.to_string()), |e| e.held.clone()) {
            say(&mut status, &trouble);
        }
        let effect = match &effects {
            Ok(Effects { held: None, .. }) => Effect::Done,
            Ok(Effects { held: Some(_), .. }) => Effect::Held,
            Err(error) => Effect::Failed(error),
        };
        if let Some(event) = events::operation_event(cluster, &plan, effect) {
            self.publish(cluster, &event).await;
        }
        let written = self.write_status(api, cluster, &status).await?;
        // Once it is written, so that no other pass tells the same again.
        if written.is_some() {
            for change in events::status_diff(&seen.status, &status) {
                self.publish(cluster, &events::diff_event(cluster, &change)).await;
            }
        }
        if let Some((operation, took)) = events::finished(cluster, &plan, seen.now) {
            self.context.metrics.operation(&operation.kind, took);
            self.publish(cluster, &events::finished_event(cluster, operation, took)).await;
        }
        effects?;
        let action = Action::requeue(match () {
            () if changed => AFTER_CHANGE,
            () if written.is_some() => AFTER_WRITE,
            () if found.nothing_is_taken && !seen.locks.is_blocked() => plan.requeue_after,
            // What has a name of ours is not watched, nor is a person's own Secret.
            () => WHILE_BLOCKED,
        });
        if !changed && found.nothing_is_taken && wants_nothing(&plan, seen) {
            let mut read = read;
            // They are asked anew in every pass, and their answers are half of what would be kept.
            read.nodes.clear();
            let version = match written {
                None => cluster.resource_version(),
                Some(version) => {
                    read.status = status;
                    Some(version)
                }
            };
            let Found { tls, homes, .. } = found;
            let settled = Settled { cluster: validated.clone(), read, tls, homes };
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
        found: &Found,
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
        let changed = apply::apply(client, objects, &found.owned).await?;
        apply::label(client, cluster, &plan.labels).await?;
        let Some((step, operation)) = plan.step.as_ref().zip(plan.operation.as_ref()) else {
            return Ok(Effects { changed, held: None });
        };
        // The plan compared pods with the template as it was before.
        if changed && matches!(step, Step::Evict { .. } | Step::DeletePod { .. } | Step::Transfer { .. }) {
            return Ok(Effects { changed, held: Some("waiting for the changed StatefulSet".to_owned()) });
        }
        let tls = found.tls.as_ref();
        let outcome = match self.is_still_wanted(cluster, seen, tls, step).await {
            Ok(true) => execute(client, cluster, seen, tls, self.context.fence.token(), step).await,
            Ok(false) => Ok(Outcome::NotYet("the members have changed since it was planned".to_owned())),
            Err(error) => Err(error),
        };
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

    /// Before a member is stopped, its pods and members are looked at once more: since they were read, objects were
    /// applied and pods labelled, and the one to be stopped may lead by now, or another one may be down (I1, I2, I5).
    async fn is_still_wanted(
        &self,
        cluster: &ValidatedCluster,
        seen: &Snapshot,
        tls: Option<&ClientTls>,
        step: &Step,
    ) -> Result<bool, Error> {
        if !matches!(step, Step::Evict { .. } | Step::DeletePod { .. }) {
            return Ok(true);
        }
        let Key { namespace, name } = self.key;
        let pods = observe::pods(&self.context.client, namespace, name).await?;
        let nodes = members::statuses(name, namespace, &pods, tls).await;
        let hosts = self.context.hosts.seen().map(|hosts| hosts.by_name);
        let again = Snapshot { now: Timestamp::now(), pods, nodes, hosts, ..seen.clone() };
        Ok(plan(cluster, &again).step.as_ref() == Some(step))
    }

    async fn publish(&self, cluster: &HeliosCluster, event: &Event) {
        if let Err(error) = self.context.recorder.publish(event, &cluster.object_ref(&())).await {
            tracing::warn!(%error, "cannot publish an event");
        }
    }

    /// The object's version afterwards, if anything was written.
    async fn write_status(
        &self,
        api: &Api<HeliosCluster>,
        cluster: &HeliosCluster,
        status: &HeliosClusterStatus,
    ) -> Result<Option<String>, Error> {
        // If it is withheld, a later pass finds the same news, as long as they last.
        let news = cluster.status.as_ref().map_or(News::Decision, |old| report::news(old, status));
        if !self.pace.may_write(self.key, news, Instant::now()) {
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

fn is_same(one: Option<&Arc<Homes>>, other: Option<&Arc<Homes>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// A plan for a cluster that is as it should be, as far as was `seen`.
fn wants_nothing(plan: &Plan, seen: &Snapshot) -> bool {
    let Plan { replicas, operation, step, latch, labels, requeue_after: _ } = plan;
    let has_replicas = seen.workload.as_ref().is_some_and(|workload| workload.replicas == *replicas);
    let is_certain = seen.volumes.values().all(|volume| volume.backing != Backing::Uncertain);
    has_replicas
        && is_certain
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
        if condition.type_ == ConditionType::Progressing && condition.status == ConditionStatus::True {
            condition.message = format!("{}: {trouble}", condition.message);
        }
    }
}
