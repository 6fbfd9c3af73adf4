//! One reconcile of one HeliosCluster in five steps: observe, validate, plan, apply, report. An idle cluster is asked for
//! its members only.

mod carry_out;
mod write_status;

use std::sync::Arc;
use std::time::{Duration, Instant};

use helios_crds::HeliosCluster;
use helios_proto::tls::ClientTls;
use jiff::Timestamp;
use kube::Api;
use kube::runtime::controller::Action;

use crate::controller::Context;
use crate::error::Error;
use crate::idle_cache::IdleCache;
use crate::metrics::Facts;
use crate::names::Key;
use crate::observe::{self, Backing, BackupSeen, Homes, RestoreSeen, Snapshot, archiver, members};
use crate::pace::Pace;
use crate::plan::{Plan, View, plan};
use crate::report::{self, News};
use crate::validate::{ValidatedCluster, validate};

use carry_out::Applied;

const AFTER_CHANGE: Duration = Duration::from_secs(1);
/// A decision or a Secret that was written is acted upon by the next reconcile. `pace` bounds how often.
const AFTER_WRITE: Duration = Duration::from_millis(100);
const AFTER_INVALID: Duration = Duration::from_secs(60);
/// While a user has to free a name, or to provide a Secret.
const WHILE_BLOCKED: Duration = Duration::from_secs(5);

/// Observation of a cluster that needs no change.
#[derive(Debug)]
pub struct Settled {
    cluster: ValidatedCluster,
    read: Snapshot,
    tls: Option<ClientTls>,
    homes: Option<Arc<Homes>>,
}

pub struct Reconciler<'a> {
    pub context: &'a Context,
    pub idle_cache: &'a IdleCache<Settled>,
    pub pace: &'a Pace,
    pub key: &'a Key,
}

impl Reconciler<'_> {
    /// The outcome, as the label of a metric, and when to requeue.
    ///
    /// # Errors
    /// When a request to the API server or to a member fails.
    pub async fn run(&self, cached: &HeliosCluster) -> Result<(&'static str, Action), Error> {
        if let Some(requeue_after) = self.check_idle(cached).await {
            return Ok(("quiet", Action::requeue(requeue_after)));
        }
        Ok(("ok", self.reconcile().await?))
    }

    /// The five steps, each with the name of the step in its error.
    async fn reconcile(&self) -> Result<Action, Error> {
        // 1. Observe. The cache is opened first, so that it is invalidated by a change that the reads are too early for. The
        // HeliosCluster is read, not taken from the watch: its status holds decisions that the watch may not have seen yet.
        self.idle_cache.begin(self.key);
        let Some(cluster) = self.read_cluster().await.map_err(Error::during("observe the cluster"))? else {
            self.idle_cache.invalidate(self.key);
            return Ok(Action::await_change());
        };
        let (client, hosts) = (&self.context.client, self.context.hosts.seen());
        let observed = observe::observe(client, cluster, hosts, Timestamp::now()).await;
        let mut observed = observed.map_err(Error::during("observe the cluster"))?;

        // 2. Validate. After the StatefulSet was read, since a cluster stays without TLS or passwords if it was created so.
        let live = observed.owned.stateful_set();
        let cluster = match validate(&observed.cluster, live, &self.context.defaults) {
            Ok(cluster) => cluster,
            Err(invalid) => {
                let status = report::report_invalid(&observed.snapshot, &invalid);
                let written = self.write_status(&observed.cluster, &status).await;
                written.map_err(Error::during("report the invalid spec"))?;
                return Ok(Action::requeue(AFTER_INVALID));
            }
        };
        observed.add_problems(&cluster);

        // 3. Plan: at most one step, from this observation alone.
        self.record(&cluster, &observed.snapshot);
        let plan = plan(&cluster, &observed.snapshot);

        // 4. Apply. Before the report, so that the status says what could not be done.
        let applied = self.apply(&cluster, &mut observed, plan).await;
        match applied.map_err(Error::during("write a Secret"))? {
            // The observation is outdated: the members have to be asked with the new certificate (I9).
            Applied::SecretWritten => Ok(Action::requeue(AFTER_WRITE)),
            // 5. Report. Also after a failure, which it publishes and then returns.
            Applied::Plan(plan, effects) => self.report(cluster, observed, &plan, effects).await,
        }
    }

    /// The HeliosCluster; `None` when it is gone or being deleted. Kubernetes removes what it owns, and its StatefulSet
    /// says what becomes of volumes, so there is no finalizer, which could hang.
    async fn read_cluster(&self) -> Result<Option<HeliosCluster>, Error> {
        let Key { namespace, name } = self.key;
        let api = Api::<HeliosCluster>::namespaced(self.context.client.clone(), namespace);
        let found = api.get_opt(name).await.map_err(Error::kube("read HeliosCluster", name))?;
        Ok(found.filter(|cluster| cluster.metadata.deletion_timestamp.is_none()))
    }

    /// When to requeue, if nothing has changed since the last reconcile found nothing to do, as far as watches and
    /// members report.
    async fn check_idle(&self, cached: &HeliosCluster) -> Option<Duration> {
        let version = cached.metadata.resource_version.as_deref()?;
        let settled = self.idle_cache.get(self.key, version, Instant::now())?;
        let Settled { cluster, read, tls, homes } = &*settled;
        let hosts = self.context.hosts.seen();
        // The hosts on which a volume can be used are part of what was read of it.
        let has_read_volumes = read.volumes.values().any(|volume| volume.backing != Backing::Unread);
        if has_read_volumes && !is_same(homes.as_ref(), hosts.as_ref().map(|hosts| &hosts.homes)) {
            return None;
        }
        let nodes = members::statuses(&self.key.name, &self.key.namespace, &read.pods, tls.as_ref()).await;
        let hosts = hosts.map(|hosts| hosts.by_name);
        let archiver = archiver::status(read.backup.address.as_deref()).await;
        let backup = BackupSeen { archiver, ..read.backup.clone() };
        let seen = Snapshot { now: Timestamp::now(), nodes, hosts, backup, ..read.clone() };
        let plan = plan(cluster, &seen);
        let status = report::report(cluster, &seen, &plan, false);
        if !is_settled(&plan, &seen) || report::news(&seen.status, &status) != News::Nothing {
            return None;
        }
        self.record(cluster, &seen);
        Some(plan.requeue_after)
    }

    /// Hands the members' state to the metrics and their fencing token to the lease.
    fn record(&self, cluster: &ValidatedCluster, seen: &Snapshot) {
        let memberships = seen.nodes.values().filter_map(|node| node.membership.as_ref());
        if let Some(token) = memberships.map(|membership| membership.fencing_token).max() {
            self.context.fence.recorded(token);
        }
        // A drill that waits for its restore is reported by its HeliosScheduledBackup, and wakes nobody.
        if cluster.is_drill {
            return;
        }
        let view = View::new(cluster, seen);
        self.context.metrics.clusters.seen(self.key, Facts::of(&view), seen.security.expires);
        self.context.metrics.clusters.backup(self.key, report::backup_facts(&view));
    }
}

fn is_same(one: Option<&Arc<Homes>>, other: Option<&Arc<Homes>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// The plan changes nothing, and no problem is reported as blocking.
fn is_settled(plan: &Plan, seen: &Snapshot) -> bool {
    let Plan { replicas, operation, step, latch, labels, requeue_after: _ } = plan;
    let has_replicas = seen.workload.as_ref().is_some_and(|workload| workload.replicas == *replicas);
    let is_certain = seen.volumes.values().all(|volume| volume.backing != Backing::Uncertain);
    has_replicas
        && is_certain
        && !seen.security.is_blocked()
        && is_backup_settled(&seen.backup)
        && operation.is_none()
        && step.is_none()
        && latch.is_none()
        && labels.is_empty()
}

/// Nothing of the backups is awaited that no watch reports.
fn is_backup_settled(backup: &BackupSeen) -> bool {
    backup.problem.is_none() && backup.restore == RestoreSeen::Unneeded
}
