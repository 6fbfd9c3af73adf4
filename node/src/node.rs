//! A node: its disk, its state, and, once it belongs to a cluster, its Raft member. Services for clients use it as
//! [`Database`](helios_service::database::Database), the peer service as `peer::PeerHost`.

mod host;
mod restore;
mod start;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use helios_proto::v1::{ErrorCode, Handshake};
use helios_service::auth::Access;
use helios_service::idle::IdleTimeout;
use helios_service::pubsub::Broker;
use helios_service::sessions::Sessions;
use helios_service::tls::Certificates;

use tokio::sync::Notify;

pub(crate) use self::restore::{Begun, Restoring};
use self::start::static_cluster;
use crate::archive::Reports;
use crate::channels::Channels;
use crate::clock::{Clock, Look};
use crate::config::{Bootstrap, Settings};
use crate::disk;
use crate::error::Error;
use crate::lifecycle::{Belonging, DataDir, MarkerError};
use crate::memory;
use crate::metrics::Metrics;
use crate::peer::{Bandwidth, Dialer, Links};
use crate::raft::{self, Fatal, RaftHandle, RaftStatus, RecoveryError, Runtime, Snapshots, membership};
use crate::repair::{self, Repair};
use crate::requests::{Couriers, FreshAt, Names};
use crate::state::{Driven, EngineKind, StateError, Store, StoreOptions};
use crate::wal::{Reader, Recovered, Wal, WalError, WalOptions};

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Marker(#[from] MarkerError),
    #[error("write-ahead log: {0}")]
    Wal(#[from] WalError),
    #[error("state: {0}")]
    State(#[from] StateError),
    #[error("snapshots: {0}")]
    Snapshots(std::io::Error),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error("{0}")]
    Start(String),
    /// A restore is under way.
    #[error("{}", _0.message)]
    Restoring(Error),
}

impl NodeError {
    /// Whether the error is one of configuration, such as a path to another node's disk.
    pub fn is_config(&self) -> bool {
        matches!(
            self,
            NodeError::Marker(
                MarkerError::OtherNode { .. }
                    | MarkerError::OtherCluster { .. }
                    | MarkerError::Unreadable { .. }
            ) | NodeError::Wal(WalError::Version { .. } | WalError::Locked { .. } | WalError::Options(_))
        )
    }
}

impl From<NodeError> for Error {
    fn from(error: NodeError) -> Self {
        let code = match &error {
            NodeError::Restoring(error) => error.code,
            NodeError::Recovery(RecoveryError::Gap(_) | RecoveryError::Entry { .. }) => {
                ErrorCode::LogInconsistent
            }
            NodeError::Wal(wal) | NodeError::Recovery(RecoveryError::Wal(wal)) => match wal {
                WalError::Refused(_) => ErrorCode::LogInconsistent,
                WalError::Corrupt { .. } => ErrorCode::Corruption,
                _ => ErrorCode::StorageUnavailable,
            },
            _ => ErrorCode::StorageUnavailable,
        };
        Error::new(code, error.to_string())
    }
}

/// Upper bound of the bytes that a Raft entry adds to its command.
const ENTRY_FRAME_BYTES: usize = 64;

/// Name of the state's directory in the data directory.
const STATE_DIR: &str = "state";
/// Name of the directory of the snapshots in the data directory.
const SNAPSHOTS_DIR: &str = "snapshots";

/// Time to wait for an earlier process to release the lock of the data directory.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);

/// A cheap, cloneable handle to a node.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

pub(crate) struct Inner {
    settings: RwLock<Arc<Settings>>,
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sessions: Sessions,
    pub(crate) idle_timeout: IdleTimeout,
    pub(crate) started: Instant,
    pub(crate) stopping: AtomicBool,
    pub(crate) dialer: Dialer,
    pub(crate) certificates: Certificates,
    /// Users of the clients' ports; set before the ports are served.
    pub(crate) access: OnceLock<Arc<Access>>,
    pub(crate) channels: Channels,
    /// Channels that this node's clients subscribe to.
    pub(crate) broker: Arc<Broker>,
    pub(crate) couriers: Couriers,
    pub(crate) archivers: Reports,
    pub(crate) clock: Clock,
    /// Limit of an encoded command, bytes.
    pub(crate) max_command_bytes: usize,
    /// State machine that the embedding application supplies.
    machine: Option<Arc<dyn Driven>>,
    pub(crate) snapshots: Arc<Snapshots>,
    disk_id: String,
    boot_epoch: u64,
    initial_members_digest: String,
    pub(crate) fatal: Fatal,
    /// Whether the process should restart after `fatal` was raised, as the next start completes the operation.
    pub(crate) must_restart: AtomicBool,
    /// Runtime of background tasks.
    pub(crate) runtime: tokio::runtime::Handle,
    /// Runtime of the links to other members.
    links_runtime: tokio::runtime::Handle,
    member: OnceLock<ActiveMember>,
    /// Notified when `member` is set.
    member_started: Notify,
    /// Set if the start found a damaged state that has to come from another member.
    pub(crate) repair: OnceLock<Arc<Repair>>,
    /// The restore of a backup that is under way.
    restoring: Mutex<Option<Arc<Restoring>>>,
    /// Bandwidth limit of all snapshots that this member sends.
    snapshot_bandwidth: Arc<Bandwidth>,
    removed: AtomicBool,
    /// Notified when a peer reports that this member was removed.
    pub(crate) removal_reported: Notify,
    /// Data directory and log; locked by operations that change to which cluster, and how, the node belongs.
    pub(crate) entry: Mutex<Entry>,
    threads: Mutex<Option<Runtime>>,
}

pub(crate) struct Entry {
    pub(crate) data_dir: DataDir,
    /// The opened log; `None` once the member has taken it.
    log: Option<(Wal, Recovered)>,
}

pub(crate) struct ActiveMember {
    pub(crate) id: u64,
    pub(crate) cluster_id: String,
    /// Number of times that force-new-cluster was executed.
    pub(crate) incarnation: u64,
    pub(crate) raft: RaftHandle,
    /// Entries of the log on disk.
    pub(crate) log: Reader,
    pub(crate) names: Names,
    pub(crate) fresh_at: FreshAt,
    links: Arc<Links>,
}

impl Node {
    /// Opens the disk and, if the node belongs to a cluster or may bootstrap one, starts its member. Must be called
    /// within a tokio runtime.
    pub fn open(
        settings: Settings,
        machine: Option<Arc<dyn Driven>>,
        certificates: Certificates,
        metrics: Arc<Metrics>,
        fatal: Fatal,
        links_runtime: &tokio::runtime::Handle,
    ) -> Result<Self, NodeError> {
        let disk = disk::real();
        let static_cluster = static_cluster(&settings);
        let expected = static_cluster.as_ref().map(|membership| membership.cluster_id.clone());
        let mut data_dir = DataDir::open(
            Arc::clone(&disk),
            &settings.data_dir,
            &settings.name,
            expected.as_deref(),
            LOCK_TIMEOUT,
        )?;
        if data_dir.marker().member.is_none() {
            restore::discard(&settings)?;
        }
        let wal_options = wal_options(&settings);
        let max_command_bytes = wal_options.max_entry_bytes() as usize - ENTRY_FRAME_BYTES;
        let (wal, recovered) = Wal::open(Arc::clone(&disk), &settings.wal_dir, wal_options)?;
        let state_dir = settings.data_dir.join(STATE_DIR);
        // Operators leave sled out, which was the only default when they began to.
        let default = match settings.bootstrap {
            Bootstrap::Operator => Some(EngineKind::Sled),
            Bootstrap::Single | Bootstrap::Static(_) => Store::engine_of(disk.as_ref(), &state_dir),
        };
        let options = StoreOptions {
            engine: settings.engine.or(default).unwrap_or(EngineKind::Runs),
            cache_bytes: settings.cache_bytes.unwrap_or_else(memory::default_cache_bytes),
            read_limits: settings.read_limits,
            ..StoreOptions::default()
        };
        let has_runs = options.engine == EngineKind::Runs;
        if has_runs {
            data_dir.record_runs(true)?;
        }
        let store = Store::open_with(Arc::clone(&disk), &state_dir, options)?;
        if !has_runs {
            data_dir.record_runs(false)?;
        }
        let mark = data_dir.format_mark();
        store.before_chunks(Box::new(move || mark.record_chunks().map_err(|error| error.to_string())));
        let snapshots = Snapshots::open(disk, &settings.data_dir.join(SNAPSHOTS_DIR), has_runs)
            .map_err(NodeError::Snapshots)?;
        let marker = data_dir.marker();
        let initial_members_digest = expected.clone().unwrap_or_default();
        let dialer = Dialer::new(certificates.peer.clone());
        let node = Self(Arc::new(Inner {
            store,
            machine,
            metrics,
            sessions: Sessions::default(),
            idle_timeout: IdleTimeout::new(settings.idle_timeout),
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            channels: Channels::new(dialer.clone()),
            dialer,
            certificates,
            access: OnceLock::new(),
            broker: Arc::default(),
            couriers: Couriers::default(),
            archivers: Reports::default(),
            clock: Clock::default(),
            snapshots: Arc::new(snapshots),
            disk_id: marker.disk_id,
            boot_epoch: marker.boot_epoch,
            initial_members_digest,
            max_command_bytes,
            fatal,
            must_restart: AtomicBool::new(false),
            runtime: tokio::runtime::Handle::current(),
            links_runtime: links_runtime.clone(),
            member: OnceLock::new(),
            member_started: Notify::new(),
            repair: OnceLock::new(),
            restoring: Mutex::default(),
            snapshot_bandwidth: Arc::new(Bandwidth::new(settings.snapshot_bytes_per_second)),
            removed: AtomicBool::new(marker.member.as_ref().is_some_and(|member| member.removed)),
            removal_reported: Notify::new(),
            entry: Mutex::new(Entry { data_dir, log: Some((wal, recovered)) }),
            threads: Mutex::default(),
            settings: RwLock::new(Arc::new(settings)),
        }));
        match (marker.member, static_cluster) {
            (Some(member), _) if member.removed => {
                tracing::warn!("this disk belongs to a removed member; empty the data directory to rejoin");
            }
            (Some(member), _) => match node.find_gap() {
                Some(gap) if !node.is_alone() => repair::begin(&node, member, gap),
                _ => node.start_member(&member, None)?,
            },
            (None, Some(membership)) => node.begin_static(&membership)?,
            (None, None) => {
                tracing::info!(disk_id = %node.0.disk_id, "not initialized; waiting for Initialize or AddLearner")
            }
        }
        Ok(node)
    }

    /// Decommissions this member after its removal: records it on the disk and stops the member.
    pub(crate) fn decommission(&self, reason: &str) {
        let mut entry = self.0.entry.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_removed() {
            return;
        }
        tracing::warn!(%reason, "removed from the cluster");
        if let Some(member) = entry.data_dir.marker().member
            && let Err(error) = entry.data_dir.join(Belonging { removed: true, ..member })
        {
            tracing::error!(%error, "the removal could not be recorded on disk");
        }
        // Visible to others only once it is on disk, so that a crash cannot revert it.
        self.0.removed.store(true, Ordering::SeqCst);
        if let Some(member) = self.0.member.get() {
            member.links.close();
            member.raft.stop();
        }
    }

    /// Returns the current settings; a reload of the configuration changes some of them.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.0.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Applies new settings from the next request on. Settings that need a restart have to be unchanged.
    pub(crate) fn reconfigure(&self, settings: Settings) {
        // A value that a client has set (CONFIG SET) holds until the configured one changes.
        if settings.idle_timeout != self.settings().idle_timeout {
            self.0.idle_timeout.set(settings.idle_timeout);
        }
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    pub(crate) fn member(&self) -> Option<&ActiveMember> {
        self.0.member.get()
    }

    /// Returns the member.
    ///
    /// # Errors
    /// The node belongs to no cluster or was removed.
    pub(crate) fn active(&self) -> Result<&ActiveMember, Error> {
        if self.is_removed() {
            return Err(Error::new(ErrorCode::MemberRemoved, "this node was removed from its cluster"));
        }
        self.member().ok_or_else(|| match (self.repairing(), self.restoring()) {
            (Some(repair), _) => repair.error(),
            (None, Some(restoring)) => restoring.error(),
            (None, None) => Error::new(ErrorCode::NotStarted, "this node belongs to no cluster yet"),
        })
    }

    /// Returns the repair of this member's state, if it is not complete.
    pub(crate) fn repairing(&self) -> Option<&Arc<Repair>> {
        self.0.repair.get().filter(|_| self.member().is_none())
    }

    /// Returns the gap between state and log, if the state is lost.
    fn find_gap(&self) -> Option<raft::Gap> {
        let entry = self.0.entry.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, recovered) = entry.log.as_ref()?;
        raft::find_gap(recovered, &self.0.store, &self.0.snapshots)
    }

    /// Whether the configuration says that there is no other member.
    fn is_alone(&self) -> bool {
        match &self.settings().bootstrap {
            Bootstrap::Single => true,
            Bootstrap::Static(members) => members.len() == 1,
            Bootstrap::Operator => false,
        }
    }

    /// Returns the member if it belongs to the cluster that a peer expects.
    pub(crate) fn active_in(&self, cluster_id: &str) -> Result<&ActiveMember, Error> {
        let member = self.active()?;
        if member.cluster_id == cluster_id {
            return Ok(member);
        }
        let message = format!("this is cluster {}, not {cluster_id}", member.cluster_id);
        Err(Error::new(ErrorCode::WrongCluster, message))
    }

    /// Returns the wall clock, bounded by the log's clock and the clocks of a majority; ms since the Unix epoch.
    pub(crate) fn bounded_ms(&self) -> u64 {
        let wall_ms = helios_service::time::wall_ms();
        let Some(member) = self.member() else { return wall_ms };
        self.0.clock.now_ms(wall_ms, |judge| {
            let (status, log_ms, now) = (member.raft.status(), self.0.store.clock_ms(), Instant::now());
            let RaftStatus { term, membership, .. } = &*status;
            judge(&Look { wall_ms, now, log_ms, term: *term, own_id: member.id, membership });
        })
    }

    /// Returns the handshake of this member to member `id`.
    pub(crate) fn handshake_to(&self, status: &RaftStatus, id: u64) -> Option<Handshake> {
        let record = membership::member(&status.membership, id)?;
        Some(self.active().ok()?.links.handshake_to(record))
    }

    /// Whether the embedding application supplies a state machine.
    pub(crate) fn has_machine(&self) -> bool {
        self.0.machine.is_some()
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.0.removed.load(Ordering::SeqCst)
    }

    pub(crate) fn identity(&self) -> (&str, u64) {
        (&self.0.disk_id, self.0.boot_epoch)
    }

    /// Resolves once this node is ready to serve; not before it belongs to a cluster.
    pub async fn ready(&self) {
        let member = loop {
            let started = self.0.member_started.notified();
            match self.member() {
                Some(member) => break member,
                None => started.await,
            }
        };
        let mut status = member.raft.watch_status();
        while !crate::status::of(self).ready {
            if status.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Resolves with the reason when this node has failed and has to end.
    pub async fn failed(&self) -> String {
        self.0.fatal.raised().await
    }

    /// Returns the newest snapshot on this disk.
    pub(crate) fn newest_snapshot(&self) -> Option<raft::Newest> {
        self.0.snapshots.newest_reported()
    }

    /// Returns the free bytes on the volume of the data directory; `None` if that cannot be determined.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        self.0.snapshots.free_bytes()
    }

    /// Returns the size of the volume of the data directory; `None` if it cannot be determined.
    pub(crate) fn volume_bytes(&self) -> Option<u64> {
        disk::real().volume_bytes(&self.settings().data_dir).ok()
    }

    pub(crate) fn shutdown_delay(&self) -> Duration {
        self.settings().shutdown_delay
    }

    /// Begins a clean shutdown: the node is no longer ready, and transfers leadership.
    pub async fn stop(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        if let Some(member) = self.member() {
            transfer_leadership(member).await;
        }
    }

    /// Stops the threads. To be called after the services have stopped, so that accepted requests are answered.
    pub async fn close(&self) {
        if let Some(member) = self.member() {
            member.links.close();
        }
        let threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(threads) = threads {
            drop(tokio::task::spawn_blocking(move || threads.stop()).await);
        }
    }
}

fn wal_options(settings: &Settings) -> WalOptions {
    WalOptions { segment_bytes: settings.segment_bytes, ..WalOptions::default() }
}

/// Transfers leadership before the leader stops, so that writes pause for a round trip instead of an election timeout.
/// Gives up after three attempts; an election then follows.
async fn transfer_leadership(member: &ActiveMember) {
    const TRY: Duration = Duration::from_millis(1_000);
    /// Pause in which a follower may catch up or return.
    const PAUSE: Duration = Duration::from_millis(200);
    for _ in 0..3 {
        let status = member.raft.status();
        if status.role != raft::Role::Leader || status.membership.voters.len() < 2 {
            return;
        }
        match member.raft.transfer(None, TRY, 0).await {
            Ok((leader, term)) => {
                let leader = membership::name_of(&status.membership, leader).unwrap_or_default();
                tracing::info!(%leader, term, "leadership transferred");
                return;
            }
            Err(error) => tracing::warn!(%error, "leadership not transferred"),
        }
        let pause = tokio::time::Instant::now() + PAUSE;
        drop(member.raft.wait_status(pause, |status| status.role != raft::Role::Leader).await);
    }
}
