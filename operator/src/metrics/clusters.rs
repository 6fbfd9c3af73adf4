//! State of each cluster at the moment of the scrape: ages grow while nothing is observed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::time::Instant;

use crate::names::Key;
use crate::plan::{View, quorum};

/// State of a cluster's members in one observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Voters that may fail before writes stop; negative when they have stopped.
    pub faults_tolerated: i64,
    /// The same, if all members of the spec were healthy.
    pub faults_designed: i64,
    /// Voters that count toward the quorum but have no pod.
    pub ghost_voters: u32,
    /// Member ids.
    pub learners: BTreeSet<u64>,
}

impl Facts {
    /// `None` without a leader: then the membership is unknown.
    pub fn of(view: &View) -> Option<Self> {
        view.leader?;
        let voters = view.voters();
        let unnamed = view.voter_count().saturating_sub(voters.len());
        // A voter that does not answer is no ghost as long as it has a pod.
        let ghosts = voters.iter().filter(|(ordinal, member)| match view.seen.nodes.get(ordinal) {
            Some(node) => node.member_id != member.id,
            None => !view.seen.pods.contains_key(ordinal),
        });
        let count = |members: usize| i64::try_from(members).unwrap_or(i64::MAX);
        let designed = view.cluster.replicas.max(1) as usize;
        Some(Self {
            faults_tolerated: count(view.healthy_voters()) - count(quorum(view.voter_count())),
            faults_designed: count(designed - quorum(designed)),
            ghost_voters: u32::try_from(ghosts.count() + unnamed).unwrap_or(u32::MAX),
            learners: view.learners().iter().map(|(_, member)| member.id).collect(),
        })
    }
}

/// State of a cluster's backups in one observation; all absent for a cluster without.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BackupFacts {
    /// Writes reach the store in time; absent while there is nothing to archive.
    pub is_archiving: Option<bool>,
    /// There is no base, or the last one is older than two intervals.
    pub is_base_overdue: Option<bool>,
    /// When the last base was complete.
    pub last_base: Option<Timestamp>,
    /// Lag of the archive in seconds, as the archiver reports it.
    pub lag: Option<f64>,
    /// The last drill has failed; absent before there was one.
    pub is_drill_failed: Option<bool>,
    /// When the last drill that passed ended.
    pub last_verified_restore: Option<Timestamp>,
    /// Duration of its restore.
    pub restore_seconds: Option<f64>,
}

#[derive(Debug)]
struct Known {
    /// When its leader was last seen; before that, since when it is managed.
    observed: Instant,
    facts: Option<Facts>,
    /// When the members' certificate ends.
    expires: Option<Timestamp>,
    /// Since when each learner is one, as far as this process has seen.
    learners: BTreeMap<u64, Instant>,
    backup: BackupFacts,
}

/// One entry for each existing cluster at most.
#[derive(Debug, Default)]
pub struct Clusters(Mutex<BTreeMap<Key, Known>>);

impl Clusters {
    /// Records an observation; without `facts` it found no leader. `expires` is the end of the members' certificate.
    pub fn seen(&self, cluster: &Key, facts: Option<Facts>, expires: Option<Timestamp>) {
        let now = Instant::now();
        let mut known = self.known();
        let entry = known.entry(cluster.clone()).or_insert_with(|| Known {
            observed: now,
            facts: None,
            expires: None,
            learners: BTreeMap::new(),
            backup: BackupFacts::default(),
        });
        if let Some(facts) = &facts {
            entry.observed = now;
            entry.learners.retain(|id, _| facts.learners.contains(id));
            for id in &facts.learners {
                entry.learners.entry(*id).or_insert(now);
            }
        }
        (entry.facts, entry.expires) = (facts, expires);
    }

    /// Records the backups of a cluster that was observed.
    pub fn backup(&self, cluster: &Key, backup: BackupFacts) {
        if let Some(known) = self.known().get_mut(cluster) {
            known.backup = backup;
        }
    }

    pub fn forget(&self, cluster: &Key) {
        self.known().remove(cluster);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, Known>> {
        // No method can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Name, help, and the value of a cluster; absent while it is not known.
type Column = (&'static str, &'static str, fn(&Known) -> Option<f64>);

const COLUMNS: [Column; 13] = [
    (
        "cluster_faults_tolerated",
        "Voters that may fail before writes stop; negative when they have stopped; absent without a leader",
        |known| Some(known.facts.as_ref()?.faults_tolerated as f64),
    ),
    ("cluster_faults_designed", "The same, if all replicas were voters in service", |known| {
        Some(known.facts.as_ref()?.faults_designed as f64)
    }),
    ("cluster_ghost_voters", "Voters that count towards the quorum but that no pod is", |known| {
        Some(known.facts.as_ref()?.ghost_voters.into())
    }),
    (
        "cluster_learner_age_seconds",
        "How long the oldest learner waits to become a voter; 0 without learners",
        |known| {
            known.facts.as_ref()?;
            Some(known.learners.values().map(Instant::elapsed).max().unwrap_or(Duration::ZERO).as_secs_f64())
        },
    ),
    (
        "cluster_cert_expiry_timestamp_seconds",
        "When the members' certificate ends, in seconds since 1970; absent without TLS",
        |known| Some(known.expires?.as_second() as f64),
    ),
    ("cluster_observation_age_seconds", "Time since the leader was last heard", |known| {
        Some(known.observed.elapsed().as_secs_f64())
    }),
    (
        "cluster_archiving",
        "1 while writes reach the backup store within a minute, else 0; absent without an archive",
        |known| known.backup.is_archiving.map(|archiving| f64::from(u8::from(archiving))),
    ),
    (
        "cluster_archive_lag_seconds",
        "Age of the oldest write that is not in the backup store, as the archiver reported it last",
        |known| known.backup.lag,
    ),
    (
        "cluster_base_overdue",
        "1 when there is no base, or the last one is older than two intervals, else 0; absent without an archive",
        |known| known.backup.is_base_overdue.map(|overdue| f64::from(u8::from(overdue))),
    ),
    (
        "cluster_last_base_timestamp_seconds",
        "When the last base was complete in the backup store, in seconds since 1970; absent without one",
        |known| Some(known.backup.last_base?.as_second() as f64),
    ),
    (
        "cluster_drill_failed",
        "1 when the last drill of a restore has failed, else 0; absent before the first one",
        |known| known.backup.is_drill_failed.map(|failed| f64::from(u8::from(failed))),
    ),
    (
        "cluster_last_verified_restore_timestamp_seconds",
        "When the last drill that passed has ended, in seconds since 1970; absent without one",
        |known| Some(known.backup.last_verified_restore?.as_second() as f64),
    ),
    (
        "cluster_last_verified_restore_duration_seconds",
        "Time from the start of that drill until the restored cluster was ready",
        |known| known.backup.restore_seconds,
    ),
];

impl Collector for Clusters {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let known = self.known();
        let gauge = MetricType::Gauge;
        let clusters =
            encoder.encode_descriptor("clusters", "HeliosClusters that are managed", None, gauge)?;
        ConstGauge::new(i64::try_from(known.len()).unwrap_or(i64::MAX)).encode(clusters)?;
        for (name, help, value) in COLUMNS {
            let mut family = encoder.encode_descriptor(name, help, None, gauge)?;
            for (cluster, known) in known.iter() {
                let Some(value) = value(known) else { continue };
                let labels = [("namespace", cluster.namespace.as_str()), ("cluster", cluster.name.as_str())];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
