//! Restore of a backup into this node, which is blank and becomes the only member of a new cluster (ADR 0027).

use std::sync::{Arc, PoisonError};

use helios_proto::v1::{ErrorCode, RestoreHeader, Restored};

use super::{Node, STATE_DIR, wal_options};
use crate::disk;
use crate::error::Error;
use crate::lifecycle::Belonging;
use crate::raft::membership;
use crate::raft::restore::{self, Parts, Plan, Progress, Restore, Sizes};
use crate::state::EngineKind;

/// Name of the directory of a restore in the data directory.
pub(super) const RESTORE_DIR: &str = "restore";

/// A restore that is under way, as the status shows it.
pub(crate) struct Restoring {
    cluster_id: String,
    progress: Arc<Progress>,
}

impl Restoring {
    /// Returns the reason why this node is not ready.
    pub fn describe(&self) -> String {
        self.progress.describe()
    }

    /// Returns the error for calls that would make this node a member of another cluster, or that need a member.
    pub fn error(&self) -> Error {
        Error::new(ErrorCode::NotStarted, format!("this node is no member yet: {self}"))
    }
}

impl std::fmt::Display for Restoring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a backup is restored into it as cluster {} ({})", self.cluster_id, self.describe())
    }
}

/// The answer to the header of a restore.
pub(crate) enum Begun {
    /// The same restore was completed before.
    Before(Box<Restored>),
    Now(Box<Restore>),
}

impl Node {
    /// Begins a restore. Until [`Node::finish_restore`] or [`Node::abandon_restore`] this node refuses to become a member
    /// in another way.
    ///
    /// # Errors
    /// The header is wrong, the node is a member, or another restore is under way. Nothing is changed.
    pub(crate) fn begin_restore(&self, header: &RestoreHeader) -> Result<Begun, Error> {
        let plan = Plan::of(header)?;
        self.check_disk(&header.expected_disk_id)?;
        let mut entry = self.0.entry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(belonging) = &entry.data_dir.marker().member {
            return self.restored_before(belonging, &plan).map(|restored| Begun::Before(Box::new(restored)));
        }
        if let Some(restoring) = self.restoring() {
            let message = format!("wait for the end of the restore that is under way: {restoring}");
            return Err(Error::new(ErrorCode::Overloaded, message));
        }
        let Some(log) = entry.log.take() else {
            let message = "an earlier attempt to start the member failed, see the log: restart this node";
            return Err(Error::new(ErrorCode::StorageUnavailable, message));
        };
        let settings = self.settings();
        let parts = Parts {
            disk: disk::real(),
            dir: settings.data_dir.join(RESTORE_DIR),
            wal_dir: settings.wal_dir.clone(),
            wal_options: wal_options(&settings),
            store: self.0.store.clone(),
            snapshots: Arc::clone(&self.0.snapshots),
            links_sets: self.0.store.engine() == EngineKind::Runs,
            machine: self.0.machine.clone(),
            metrics: Arc::clone(&self.0.metrics),
            sizes: Sizes::default(),
            threads: true,
        };
        tracing::warn!(
            cluster = %plan.cluster_id, source = %plan.source, base = plan.base.index, bytes = plan.base.size_bytes,
            last = plan.last_index, "restoring a backup"
        );
        let cluster_id = plan.cluster_id.clone();
        let restore = Restore::new(parts, plan, log);
        self.set_restoring(Some(Restoring { cluster_id, progress: restore.progress() }));
        Ok(Begun::Now(Box::new(restore)))
    }

    /// Answers a restore of a node whose disk belongs to a cluster.
    fn restored_before(&self, belonging: &Belonging, plan: &Plan) -> Result<Restored, Error> {
        let cluster_id = &belonging.cluster_id;
        let already = |message| Err(Error::new(ErrorCode::AlreadyStarted, message));
        if belonging.removed {
            return already(format!("this disk belongs to a removed member of cluster {cluster_id}"));
        }
        if *cluster_id != plan.cluster_id {
            return already(format!("this node already belongs to cluster {cluster_id}"));
        }
        let dir = self.settings().data_dir.join(RESTORE_DIR);
        let Some(restored) = restore::restored(disk::real().as_ref(), &dir, cluster_id) else {
            return already(format!("this node already belongs to cluster {cluster_id}, without a restore"));
        };
        if restored.index != plan.last_index {
            let message = format!(
                "cluster {cluster_id} was restored here up to entry {}, not {}",
                restored.index, plan.last_index
            );
            return already(message);
        }
        let known = self.0.store.membership();
        membership::check_token(&known, plan.fencing_token)?;
        Ok(Restored { membership: Some(Arc::unwrap_or_clone(known)), ..restored })
    }

    /// Completes `restore` and starts the member.
    ///
    /// # Errors
    /// Before this node is a member: [`Node::abandon_restore`] makes it blank again.
    pub(crate) fn finish_restore(&self, restore: &mut Restore) -> Result<Restored, Error> {
        let (log, restored) = restore.finish(self.own_record())?;
        let membership = restored.membership.as_ref();
        let cluster_id = membership.map(|membership| membership.cluster_id.clone()).unwrap_or_default();
        let belonging = Belonging { cluster_id, member_id: restore::MEMBER_ID, ..Belonging::default() };
        let mut entry = self.0.entry.lock().unwrap_or_else(PoisonError::into_inner);
        entry.log = Some(log);
        let started = self.start_locked(&mut entry, &belonging, None);
        self.set_restoring(None);
        drop(entry);
        if let Err(error) = started {
            self.0.fatal.raise(format!("starting the restored member: {error}"));
            return Err(error.into());
        }
        self.begin_tasks(&belonging);
        tracing::warn!(cluster = %belonging.cluster_id, index = restored.index, keys = restored.keys, "restored");
        Ok(restored)
    }

    /// Makes this node blank again after a failed restore; the received bytes stay for the next one.
    pub(crate) fn abandon_restore(&self, restore: &mut Restore, reason: &Error) {
        let mut entry = self.0.entry.lock().unwrap_or_else(PoisonError::into_inner);
        if self.restoring().is_none() {
            // It failed after its end, in the start of the member.
            return;
        }
        tracing::warn!(%reason, "the restore failed");
        match restore.abandon() {
            Ok(log) => entry.log = Some(log),
            // The next start makes the node blank.
            Err(error) => {
                self.0.fatal.raise(format!("removing what a failed restore has written: {error}"));
            }
        }
        self.set_restoring(None);
    }

    /// Returns the restore that is under way.
    pub(crate) fn restoring(&self) -> Option<Arc<Restoring>> {
        self.0.restoring.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_restoring(&self, restoring: Option<Restoring>) {
        *self.0.restoring.lock().unwrap_or_else(PoisonError::into_inner) = restoring.map(Arc::new);
    }

    /// Removes what interrupted and complete restores left on the disk of a member.
    pub(super) fn clean_restore(&self) {
        let dir = self.settings().data_dir.join(RESTORE_DIR);
        if let Err(error) = restore::clean(disk::real().as_ref(), &dir) {
            tracing::warn!(dir = %dir.display(), %error, "cannot remove the files of a restore; the next start tries again");
        }
    }
}

/// Makes a node that is no member blank, if an interrupted restore left something; called before the disk is opened.
pub(super) fn discard(settings: &crate::config::Settings) -> Result<(), super::NodeError> {
    let data_dir = &settings.data_dir;
    let owned = [data_dir.join(STATE_DIR), data_dir.join(super::SNAPSHOTS_DIR)];
    let dirs = [owned[0].as_path(), owned[1].as_path()];
    match restore::discard(&disk::real(), &data_dir.join(RESTORE_DIR), &settings.wal_dir, dirs) {
        Ok(is_discarded) => {
            if is_discarded {
                tracing::warn!("a restore was interrupted: this node is blank again");
            }
            Ok(())
        }
        Err(error) => Err(super::NodeError::Start(format!("removing an interrupted restore: {error}"))),
    }
}
