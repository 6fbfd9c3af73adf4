//! The step "report": status, events, metrics, and when to requeue.

use std::time::Instant;

use helios_crds::{ConditionStatus, ConditionType, HeliosCluster, HeliosClusterStatus};
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::Event;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use super::carry_out::Effects;
use super::{AFTER_CHANGE, AFTER_WRITE, Reconciler, Settled, WHILE_BLOCKED, is_settled};
use crate::error::Error;
use crate::events::{self, Effect};
use crate::names::{FIELD_MANAGER, Key};
use crate::observe::Observed;
use crate::plan::Plan;
use crate::report::{self, News};
use crate::validate::ValidatedCluster;

impl Reconciler<'_> {
    /// Reports the plan and its effects; returns the failure of an effect after it was reported.
    ///
    /// # Errors
    /// When the status cannot be written, or an effect has failed.
    pub async fn report(
        &self,
        cluster: ValidatedCluster,
        observed: Observed,
        plan: &Plan,
        effects: Result<Effects, Error>,
    ) -> Result<Action, Error> {
        let (resource, seen) = (&observed.cluster, &observed.snapshot);
        let changed = effects.as_ref().is_ok_and(|effects| effects.changed);
        let mut status = report::report(&cluster, seen, plan, changed);
        if let Some(why) = effects.as_ref().map_or_else(|e| Some(e.to_string()), |e| e.held.clone()) {
            append_to_step(&mut status, &why);
        }
        let effect = match &effects {
            Ok(Effects { held: None, .. }) => Effect::Done,
            Ok(Effects { held: Some(_), .. }) => Effect::Held,
            Err(error) => Effect::Failed(error),
        };
        // Before the status, whose old content says whether the operation is new.
        if let Some(event) = events::operation_event(resource, plan, effect) {
            self.publish(resource, &event).await;
        }
        let written = self.write_status(resource, &status).await;
        let written = written.map_err(Error::during("report the status"))?;
        // After the status, so that no other reconcile finds the same difference.
        if written.is_some() {
            for change in events::status_diff(&seen.status, &status) {
                self.publish(resource, &events::diff_event(resource, &change)).await;
            }
        }
        if let Some((operation, took)) = events::finished(resource, plan, seen.now) {
            self.context.metrics.operation(&operation.kind, took);
            self.publish(resource, &events::finished_event(resource, operation, took)).await;
        }
        effects.map_err(Error::during("apply the plan"))?;
        let all_free = observed.taken.is_empty();
        let action = Action::requeue(match () {
            () if changed => AFTER_CHANGE,
            () if written.is_some() => AFTER_WRITE,
            () if all_free && !seen.security.is_blocked() => plan.requeue_after,
            // Foreign objects and user-supplied Secrets are not watched.
            () => WHILE_BLOCKED,
        });
        if !changed && all_free && is_settled(plan, seen) {
            self.keep(cluster, observed, written.map(|version| (version, status)));
        }
        Ok(action)
    }

    /// Keeps the observation of a cluster that needs no change, in the version that was read, or `written` since.
    fn keep(
        &self,
        cluster: ValidatedCluster,
        observed: Observed,
        written: Option<(String, HeliosClusterStatus)>,
    ) {
        let Observed { cluster: resource, snapshot: mut read, tls, homes, .. } = observed;
        // Members are asked in every reconcile, and their answers are half of what would be kept; keys are not kept at all.
        read.nodes.clear();
        read.security.forget_contents();
        let version = match written {
            None => resource.resource_version().unwrap_or_default(),
            Some((version, status)) => {
                read.status = status;
                version
            }
        };
        self.idle_cache.keep(self.key, version, Settled { cluster, read, tls, homes }, Instant::now());
    }

    async fn publish(&self, cluster: &HeliosCluster, event: &Event) {
        if let Err(error) = self.context.recorder.publish(event, &cluster.object_ref(&())).await {
            tracing::warn!(%error, "cannot publish an event");
        }
    }

    /// The object's version afterwards, if the status was written.
    ///
    /// # Errors
    /// When the API server refuses it, or another version of the object exists by now.
    pub async fn write_status(
        &self,
        cluster: &HeliosCluster,
        status: &HeliosClusterStatus,
    ) -> Result<Option<String>, Error> {
        // If it is withheld, a later reconcile finds the same news, as long as they last.
        let news = cluster.status.as_ref().map_or(News::Decision, |old| report::news(old, status));
        if !self.pace.may_write(self.key, news, Instant::now()) {
            return Ok(None);
        }
        let name = cluster.name_any();
        // With the version that was read, so that no decision is latched over one that was not seen; on a conflict the
        // next reconcile sees it.
        let patch = json!({
            "apiVersion": HeliosCluster::api_version(&()),
            "kind": HeliosCluster::kind(&()),
            "metadata": {"name": name, "resourceVersion": cluster.resource_version()},
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let api = Api::<HeliosCluster>::namespaced(self.context.client.clone(), &self.key.namespace);
        let written = api
            .patch_status(&name, &params, &Patch::Apply(patch))
            .await
            .map_err(Error::kube("write status of", &name))?;
        self.context.metrics.status_written();
        let backup = |status: Option<&HeliosClusterStatus>| status.and_then(|status| status.backup.clone());
        if let Some(new) =
            backup(Some(status)).filter(|new| backup(cluster.status.as_ref()).as_ref() != Some(new))
        {
            // Without a receiver there is no controller of stores.
            _ = self.context.stores.send(Key { namespace: self.key.namespace.clone(), name: new.store });
        }
        Ok(written.resource_version())
    }
}

/// Appends why the step was not executed to its message and to the condition that repeats it.
fn append_to_step(status: &mut HeliosClusterStatus, why: &str) {
    if let Some(operation) = &mut status.operation {
        operation.step = format!("{}: {why}", operation.step);
    }
    for condition in &mut status.conditions {
        if condition.type_ == ConditionType::Progressing && condition.status == ConditionStatus::True {
            condition.message = format!("{}: {why}", condition.message);
        }
    }
}
