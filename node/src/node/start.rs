//! Start of the member: bootstrap of a cluster, join of a cluster, restart.

use std::sync::{Arc, PoisonError};

use helios_proto::v1::{ErrorCode, Member, Membership};

use super::{ActiveMember, Entry, Node, NodeError, STATE_DIR};
use crate::config::{Bootstrap, MAX_RETAINED_LOG_BYTES, Settings};
use crate::disk;
use crate::error::Error;
use crate::lifecycle::{Belonging, ForceNew};
use crate::peer::{Identity, LinkOptions, Links};
use crate::raft::{self, Outbound, Parts, RaftHandle, Recovery, Suspects, membership};
use crate::requests::{FreshAt, Names};
use crate::wal::Wal;

impl Node {
    pub(super) fn begin_static(&self, membership: &Membership) -> Result<(), NodeError> {
        let own =
            membership.members.iter().find(|member| member.name == self.settings().name).ok_or_else(
                || NodeError::Start("this node is not in its own list of initial members".into()),
            )?;
        let belonging = Belonging {
            cluster_id: membership.cluster_id.clone(),
            member_id: own.id,
            ..Belonging::default()
        };
        tracing::info!(members = membership.members.len(), "bootstrapping a cluster; waiting for quorum");
        self.start_member(&belonging, Some(membership))
    }

    /// Bootstraps a cluster of this node alone. Idempotent (M-2). `fencing_token` as in [`Expected`](raft::Expected).
    pub fn initialize(
        &self,
        cluster_id: &str,
        expected_disk_id: &str,
        fencing_token: u64,
    ) -> Result<Arc<Membership>, Error> {
        if cluster_id.is_empty() {
            return Err(Error::invalid("cluster_id is empty: choose one, record it, then call again"));
        }
        self.check_disk(expected_disk_id)?;
        if let Some(member) = self.member() {
            if member.cluster_id != cluster_id {
                return Err(Error::new(
                    ErrorCode::AlreadyStarted,
                    format!("this node already belongs to cluster {}", member.cluster_id),
                ));
            }
            let known = member.raft.status().membership.clone();
            return membership::check_token(&known, fencing_token).map(|()| known);
        }
        let mut own = self.own_record();
        own.id = 1;
        let membership = Membership { fencing_token, ..membership::initial(cluster_id, vec![own]) };
        let belonging = Belonging { cluster_id: cluster_id.to_owned(), member_id: 1, ..Belonging::default() };
        self.start_member(&belonging, Some(&membership))?;
        Ok(self.0.store.membership())
    }

    /// Checks that the disk is the expected one; empty: any.
    pub(super) fn check_disk(&self, expected_disk_id: &str) -> Result<(), Error> {
        if expected_disk_id.is_empty() || expected_disk_id == self.0.disk_id {
            return Ok(());
        }
        let message = format!("the disk here is {}, not {expected_disk_id}", self.0.disk_id);
        Err(Error::new(ErrorCode::WrongMember, message))
    }

    pub(super) fn own_record(&self) -> Member {
        Member {
            id: 0,
            name: self.settings().name.clone(),
            peer_addr: self.settings().advertise_addr.clone(),
            client_addr: self.settings().advertise_client_addr.clone(),
            disk_id: self.0.disk_id.clone(),
            boot_epoch: self.0.boot_epoch,
            format: raft::format::FORMAT,
        }
    }

    /// Starts the member, once. `begin` is the first membership if this node bootstraps the cluster. The marker is
    /// written last: a crash before it leaves a blank node, on which the call may be repeated; a crash after it leaves
    /// a member with its log.
    pub(crate) fn start_member(
        &self,
        belonging: &Belonging,
        begin: Option<&Membership>,
    ) -> Result<(), NodeError> {
        let mut entry = self.0.entry.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.member.get().is_some() {
            return Ok(());
        }
        if let Some(restoring) = self.restoring() {
            return Err(NodeError::Restoring(restoring.error()));
        }
        self.start_locked(&mut entry, belonging, begin)?;
        drop(entry);
        self.begin_tasks(belonging);
        Ok(())
    }

    /// Begins the background tasks of the member.
    pub(super) fn begin_tasks(&self, belonging: &Belonging) {
        tracing::info!(cluster = %belonging.cluster_id, member = belonging.member_id, "member started");
        self.clean_restore();
        crate::background::spawn(self.clone());
    }

    pub(super) fn start_locked(
        &self,
        entry: &mut Entry,
        belonging: &Belonging,
        begin: Option<&Membership>,
    ) -> Result<(), NodeError> {
        let Some((mut wal, mut recovered)) = entry.log.take() else {
            return Err(NodeError::Start(
                "an earlier attempt to start the member failed; see the log".into(),
            ));
        };
        if let Some(membership) = begin {
            recovered = raft::bootstrap(&mut wal, &self.0.store, &self.0.snapshots, membership)?;
        }
        let mut recovery = raft::recover(&mut wal, recovered, &self.0.store, &self.0.snapshots)?;
        if let Some(machine) = &self.0.machine {
            self.0.store.drive(Arc::clone(machine))?;
        }
        if entry.data_dir.marker().member.as_ref() != Some(belonging) {
            entry.data_dir.join(belonging.clone())?;
        }
        if let Some(ForceNew { fencing_token }) = entry.data_dir.marker().force_new {
            recovery.force_new(&mut wal, &self.0.store, belonging.member_id, fencing_token)?;
            // Cleared last, so that the next start repeats it after a crash before this point.
            entry.data_dir.forced_new()?;
            tracing::error!(member = belonging.member_id, "made the only member of its cluster");
        }
        let belonging = &entry.data_dir.marker().member.unwrap_or_else(|| belonging.clone());
        self.start_threads(belonging, wal, recovery)
    }

    fn start_threads(&self, belonging: &Belonging, wal: Wal, recovery: Recovery) -> Result<(), NodeError> {
        let (settings, log) = (self.settings(), wal.reader());
        let mut suspects =
            Suspects::open(&disk::real(), &settings.data_dir.join(STATE_DIR), recovery.last_index())
                .map_err(|error| {
                    NodeError::Start(format!(
                        "opening the record of the entry that is being applied: {error}"
                    ))
                })?;
        recovery.skipped(&self.0.store).into_iter().for_each(|index| suspects.skip(index));
        let parts = Parts {
            settings: raft::Settings {
                id: belonging.member_id,
                heartbeat: settings.heartbeat,
                election_min: settings.election_min,
                election_max: settings.election_max,
                snapshot_entries: settings.snapshot_entries,
                snapshots_on_demand: self.0.store.is_trusted(),
                snapshot_interval: settings.snapshot_interval,
                trailing_entries: settings.trailing_entries,
                held_bytes: held_log_bytes(&settings),
                log_cache_bytes: raft::LOG_CACHE_BYTES,
                max_log_bytes: settings.max_log_bytes,
                max_overlay_bytes: settings.max_overlay_bytes,
                lease: settings.lease,
                priority: settings.priority,
            },
            wal,
            store: self.0.store.clone(),
            snapshots: Arc::clone(&self.0.snapshots),
            recovery,
            suspects,
            scrub_bytes_per_second: settings.scrub_bytes_per_second,
            metrics: Arc::clone(&self.0.metrics),
            fatal: self.0.fatal.clone(),
        };
        self.0.metrics.cluster_incarnation.set(i64::try_from(belonging.incarnation).unwrap_or(i64::MAX));
        let mut links = None;
        let threads = raft::start(parts, |raft| {
            let made = Arc::new(Links::new(self.link_options(belonging, raft)));
            links = Some(Arc::clone(&made));
            made as Arc<dyn Outbound>
        })
        .map_err(NodeError::Start)?;
        let links = links.ok_or_else(|| NodeError::Start("raft started without links".into()))?;
        let member = ActiveMember {
            id: belonging.member_id,
            cluster_id: belonging.cluster_id.clone(),
            incarnation: belonging.incarnation,
            raft: threads.handle().clone(),
            log,
            names: Names::new(belonging.member_id, rand::random()),
            fresh_at: FreshAt::default(),
            links,
        };
        drop(self.0.member.set(member));
        self.0.member_started.notify_waiters();
        *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner) = Some(threads);
        Ok(())
    }

    /// Returns the identity of this node as a member.
    pub(crate) fn identity_in(&self, belonging: &Belonging) -> Identity {
        let settings = self.settings();
        Identity {
            cluster_id: belonging.cluster_id.clone(),
            member_id: belonging.member_id,
            name: settings.name.clone(),
            addr: settings.advertise_addr.clone(),
            disk_id: self.0.disk_id.clone(),
            boot_epoch: self.0.boot_epoch,
            incarnation: belonging.incarnation,
            priority: settings.priority,
            initial_members_digest: self.0.initial_members_digest.clone(),
            no_leases: settings.lease.is_none(),
        }
    }

    fn link_options(&self, belonging: &Belonging, raft: &RaftHandle) -> LinkOptions {
        let inner = Arc::downgrade(&self.0);
        LinkOptions {
            identity: self.identity_in(belonging),
            dialer: self.0.dialer.clone(),
            raft: raft.clone(),
            snapshots: Arc::clone(&self.0.snapshots),
            bandwidth: Arc::clone(&self.0.snapshot_bandwidth),
            metrics: Arc::clone(&self.0.metrics),
            on_removed: Box::new(move || {
                if let Some(inner) = inner.upgrade() {
                    inner.removal_reported.notify_one();
                }
            }),
            runtime: self.0.links_runtime.clone(),
        }
    }
}

/// Returns the first membership of a static or single bootstrap; `None` for `operator`. Every node of a static cluster
/// computes the same one from the same list, with ids in the order of names; facts that only one node knows (disk ids,
/// client addresses) follow through the log.
pub(super) fn static_cluster(settings: &Settings) -> Option<Membership> {
    let members = match &settings.bootstrap {
        Bootstrap::Operator => return None,
        Bootstrap::Single => vec![(settings.name.clone(), settings.advertise_addr.clone())],
        Bootstrap::Static(members) => {
            members.iter().map(|member| (member.name.clone(), member.address.clone())).collect()
        }
    };
    let list: Vec<String> = members.iter().map(|(name, addr)| format!("{name}={addr}")).collect();
    let cluster_id = format!("static-{:08x}", crc32c::crc32c(list.join(",").as_bytes()));
    let records = members.into_iter().zip(1..).map(|((name, peer_addr), id)| Member {
        id,
        name,
        peer_addr,
        ..Member::default()
    });
    Some(membership::initial(&cluster_id, records.collect()))
}

/// Bytes of the log that the member keeps on disk, as a leader, for members that lag.
fn held_log_bytes(settings: &Settings) -> u64 {
    settings.max_retained_log_bytes.unwrap_or_else(|| {
        let volume_bytes = disk::real().volume_bytes(&settings.wal_dir).unwrap_or(0);
        MAX_RETAINED_LOG_BYTES.min(volume_bytes / 10)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn configuration_and_core_agree_on_the_longest_lease() {
        for election_min in (0..20_000).map(Duration::from_millis) {
            assert_eq!(
                helios_config::longest_lease(election_min),
                helios_raft::longest_lease(election_min),
                "{election_min:?}"
            );
        }
        assert_eq!(helios_config::TICK, helios_raft::TICK);
    }
}
