//! The Job of a restore: it needs a few ticks, makes the blank node of its disk the first member, and runs again after a
//! failure that a user has repaired.

use helios_operator::observe::job::RestoreReport;
use helios_operator::observe::{BackupSeen, RestoreSeen};

use super::{Refused, World};

/// Ticks that a restore takes.
const TICKS: u32 = 3;

#[derive(Debug, Clone)]
pub struct SimJob {
    cluster_id: String,
    disk_id: String,
    /// Ticks until it ends.
    pub left: u32,
    pub state: JobState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    Running,
    Failed,
    Completed,
}

/// Answer of the store to a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Store {
    #[default]
    Good,
    Missing,
    /// Restores fail with this reason.
    Failing(&'static str),
}

impl World {
    /// A cluster that begins with a backup.
    pub fn restoring(replicas: i32) -> Self {
        let mut world = Self::new(replicas);
        let recovery = serde_json::json!({"recovery": {"store": "nightly", "cluster": "old"}});
        world.cluster.spec.bootstrap = Some(serde_json::from_value(recovery).unwrap());
        world
    }

    pub(super) fn backup(&self) -> BackupSeen {
        let is_over = self.status().bootstrapped
            && self
                .status()
                .recovery
                .and_then(|recovery| recovery.source)
                .is_none_or(|source| source.phase == "Completed");
        let restore = match &self.job {
            _ if self.cluster.spec.bootstrap.is_none() || is_over => RestoreSeen::Unneeded,
            None if self.store == Store::Missing => RestoreSeen::Blocked("no store".to_owned()),
            None => RestoreSeen::Absent,
            Some(job) => match (job.state, &self.store) {
                (JobState::Running, _) => RestoreSeen::Running(None),
                (JobState::Failed, Store::Failing(reason)) => {
                    RestoreSeen::Failed { reason: (*reason).to_owned(), message: "why".to_owned() }
                }
                (JobState::Failed, _) => {
                    RestoreSeen::Failed { reason: "ProcessFailed".to_owned(), message: "why".to_owned() }
                }
                (JobState::Completed, _) => RestoreSeen::Completed(RestoreReport {
                    source_cluster_id: "old-id".to_owned(),
                    index: 9,
                    keys: 5,
                    ..RestoreReport::default()
                }),
            },
        };
        BackupSeen { restore, ..BackupSeen::default() }
    }

    /// The Job is created; one that is there stays as it is.
    pub(super) fn create_restore(&mut self, cluster_id: &str, disk_id: &str) -> Result<(), Refused> {
        let status = self.status();
        assert_eq!(
            status.cluster_id.as_deref(),
            Some(cluster_id),
            "restored under an id that is not latched"
        );
        assert_eq!(
            status.bootstrap_disk_id.as_deref(),
            Some(disk_id),
            "restored into a disk that is not latched"
        );
        if self.store == Store::Missing || self.job.is_some() {
            return Err(Refused);
        }
        let (cluster_id, disk_id) = (cluster_id.to_owned(), disk_id.to_owned());
        self.job = Some(SimJob { cluster_id, disk_id, left: TICKS, state: JobState::Running });
        Ok(())
    }

    pub(super) fn run_job(&mut self) {
        let Some(mut job) = self.job.clone().filter(|job| job.state == JobState::Running) else { return };
        if !self.runs(0) {
            return;
        }
        job.left -= 1;
        if job.left == 0 {
            let fails = self.store != Store::Good || self.disks[&0].id != job.disk_id;
            job.state = if fails { JobState::Failed } else { JobState::Completed };
            if !fails {
                self.begin(0, &job.cluster_id, &job.disk_id).unwrap();
                self.elect();
            }
        }
        self.job = Some(job);
    }

    /// A user deletes the Job of the restore, to have it tried again.
    pub fn delete_job(&mut self) {
        self.job = None;
    }
}
