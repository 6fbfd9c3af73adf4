//! The step "apply": Secrets, objects, labels, and the step of the plan.

use std::time::Instant;

use helios_crds::Reason;
use jiff::Timestamp;

use super::Reconciler;
use crate::apply;
use crate::build::{self, Shape};
use crate::error::Error;
use crate::execute::{Executor, Outcome};
use crate::names::Key;
use crate::observe::{self, Observed, Snapshot, StoreProblem, members};
use crate::plan::{Plan, SecretStep, Step, plan};
use crate::security::Problem;
use crate::validate::ValidatedCluster;

pub enum Applied {
    SecretWritten,
    /// The plan that was carried out: another one than was given when a Secret could not be written.
    Plan(Box<Plan>, Result<Effects, Error>),
}

#[derive(Debug, Default)]
pub struct Effects {
    /// The StatefulSet was changed.
    pub changed: bool,
    /// Why the step could not be executed yet.
    pub held: Option<String>,
}

impl Reconciler<'_> {
    /// Carries `plan` out. A Secret comes first and alone (I9); if the API server refuses it, the rest is planned without.
    ///
    /// # Errors
    /// When the API server does not answer the write of a Secret. Other failures are part of the result.
    pub async fn apply(
        &self,
        cluster: &ValidatedCluster,
        observed: &mut Observed,
        mut plan: Plan,
    ) -> Result<Applied, Error> {
        // Giving up removes what the step was planned from, so each of the two kinds is tried once at most.
        while let Some(Step::Secret(step)) = plan.step {
            match self.write_secret(cluster, observed, step).await? {
                None => return Ok(Applied::SecretWritten),
                Some(problem) => observed.snapshot.security.give_up(step, problem),
            }
            plan = crate::plan::plan(cluster, &observed.snapshot);
        }
        let effects = self.take_effect(cluster, observed, &plan).await;
        self.apply_archiver(cluster, observed).await;
        Ok(Applied::Plan(Box::new(plan), effects))
    }

    /// The problem, if the Secret is not written.
    async fn write_secret(
        &self,
        cluster: &ValidatedCluster,
        observed: &Observed,
        step: SecretStep,
    ) -> Result<Option<Problem>, Error> {
        if !self.pace.may_write_secret(self.key, Instant::now()) {
            return Ok(Some(match step {
                SecretStep::Certificates(_) => Problem::blocking(
                    Reason::CertificateInvalid,
                    "the certificates do not settle; see the log",
                ),
                SecretStep::Users => {
                    Problem::warning(Reason::AuthInvalid, "the users do not settle; see the log")
                }
            }));
        }
        match self.executor(cluster, observed).execute(&Step::Secret(step)).await? {
            Outcome::Done => {
                self.pace.secret_written(self.key, Instant::now());
                Ok(None)
            }
            Outcome::Refused(problem) => Ok(Some(problem)),
            Outcome::NotYet(why) => Ok(Some(Problem::warning(Reason::SecretsRefused, why))),
        }
    }

    /// Last, and its failure is one of the backups only: no member waits for it.
    async fn apply_archiver(&self, cluster: &ValidatedCluster, observed: &mut Observed) {
        let seen = &observed.snapshot;
        if cluster.spec.paused || seen.security.is_blocked() {
            return;
        }
        let client = &self.context.client;
        if let Err(error) = apply::apply_archiver(client, cluster, &observed.backup, seen).await {
            let Key { namespace, name } = self.key;
            tracing::warn!(cluster = name, namespace, %error, "cannot apply the archiver");
            observed.snapshot.backup.problem = Some(StoreProblem::Refused(error.to_string()));
        }
    }

    async fn take_effect(
        &self,
        cluster: &ValidatedCluster,
        observed: &Observed,
        plan: &Plan,
    ) -> Result<Effects, Error> {
        let seen = &observed.snapshot;
        if cluster.spec.paused || seen.security.is_blocked() {
            return Ok(Effects::default());
        }
        let shape = Shape {
            replicas: plan.replicas,
            template_volume_size: seen.workload.as_ref().and_then(|workload| workload.volume_size.clone()),
        };
        // Objects before labels and the step: a pod that is restarted comes back with the present template.
        let objects = build::objects(cluster, &shape)?;
        let client = &self.context.client;
        let changed = apply::apply(client, objects, &observed.owned).await?;
        apply::label(client, cluster, &plan.labels).await?;
        let Some((step, operation)) = plan.step.as_ref().zip(plan.operation.as_ref()) else {
            return Ok(Effects { changed, held: None });
        };
        // The plan compared pods with the template as it was before.
        if changed && matches!(step, Step::Evict { .. } | Step::DeletePod { .. } | Step::Transfer { .. }) {
            return Ok(Effects { changed, held: Some("waiting for the changed StatefulSet".to_owned()) });
        }
        let outcome = match self.is_still_planned(cluster, observed, step).await {
            Ok(true) => self.executor(cluster, observed).execute(step).await,
            Ok(false) => Ok(Outcome::NotYet("the members have changed since it was planned".to_owned())),
            Err(error) => Err(error),
        };
        let kind = operation.kind;
        match &outcome {
            Ok(Outcome::Done) => self.context.metrics.step(kind, "done"),
            Ok(Outcome::NotYet(_) | Outcome::Refused(_)) => self.context.metrics.step(kind, "not_yet"),
            Err(_) => self.context.metrics.step(kind, "failed"),
        }
        tracing::info!(cluster = cluster.name, namespace = cluster.namespace, ?step, ?outcome, "step");
        let held = match outcome? {
            Outcome::Done => None,
            Outcome::NotYet(why) => Some(why),
            Outcome::Refused(problem) => Some(problem.message),
        };
        Ok(Effects { changed, held })
    }

    /// Before a member is stopped, its pods and members are observed once more: since they were read, objects were
    /// applied and pods labelled, and the one to be stopped may lead by now, or another one may be down (I1, I2, I5).
    async fn is_still_planned(
        &self,
        cluster: &ValidatedCluster,
        observed: &Observed,
        step: &Step,
    ) -> Result<bool, Error> {
        if !matches!(step, Step::Evict { .. } | Step::DeletePod { .. }) {
            return Ok(true);
        }
        let Key { namespace, name } = self.key;
        let pods = observe::pods(&self.context.client, namespace, name).await?;
        let nodes = members::statuses(name, namespace, &pods, observed.tls.as_ref()).await;
        let hosts = self.context.hosts.seen().map(|hosts| hosts.by_name);
        let again = Snapshot { now: Timestamp::now(), pods, nodes, hosts, ..observed.snapshot.clone() };
        Ok(plan(cluster, &again).step.as_ref() == Some(step))
    }

    fn executor<'a>(&'a self, cluster: &'a ValidatedCluster, observed: &'a Observed) -> Executor<'a> {
        let fencing_token = self.context.fence.token();
        Executor { client: &self.context.client, cluster, observed, fencing_token }
    }
}
