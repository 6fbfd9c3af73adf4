//! A node: its disk, its state, and, once it belongs to a cluster, its Raft member. The services
//! see it as [`Database`], peers as [`PeerHost`]; neither knows the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use helios_proto::v1::{
    AwaitReplicasRequest, ErrorCode, ForwardRequest, Handshake, Member, Membership, PeerReceipt,
    PublishRequest, Reply,
};

use tokio::sync::Notify;

use crate::channels::Channels;
use crate::config::{Bootstrap, Settings};
use crate::disk;
use crate::error::Error;
use crate::lifecycle::{Belonging, DataDir, ForceNew, MarkerError};
use crate::metrics::Metrics;
use crate::peer::{Bandwidth, LinkOptions, Links, Local, PeerHost, Standing, Verdict};
use crate::pubsub::Broker;
use crate::raft::{
    self, Fatal, Outbound, Parts, RaftHandle, Recovery, RecoveryError, Runtime, Snapshots, membership,
};
use crate::requests::{Couriers, FreshAt, RequestIds};
use crate::state::{Driven, StateError, Store, StoreOptions};
use crate::wal::{Recovered, Wal, WalError, WalOptions};

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
}

impl NodeError {
    /// Whether the node was pointed at the wrong disk, which is a mistake of configuration.
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

/// What Raft's entry adds to the command in it, with room to spare.
const ENTRY_FRAME_BYTES: usize = 64;

/// How long the process before this one may take to leave the data directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);

/// A cheap, cloneable handle to a node.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

pub(crate) struct Inner {
    settings: RwLock<Arc<Settings>>,
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) started: Instant,
    pub(crate) stopping: AtomicBool,
    pub(crate) channels: Channels,
    /// What its clients listen to.
    pub(crate) broker: Arc<Broker>,
    pub(crate) couriers: Couriers,
    /// Largest encoded command the log takes.
    pub(crate) max_command_bytes: usize,
    /// Of the embedding program.
    machine: Option<Arc<dyn Driven>>,
    snapshots: Arc<Snapshots>,
    disk_id: String,
    boot_epoch: u64,
    initial_members_digest: String,
    pub(crate) fatal: Fatal,
    /// What `fatal` was raised for is done by the next start.
    pub(crate) must_restart: AtomicBool,
    runtime: tokio::runtime::Handle,
    member: OnceLock<ActiveMember>,
    removed: AtomicBool,
    /// A peer said that this member was removed.
    pub(crate) told_removed: Notify,
    /// What only the way into a cluster changes.
    pub(crate) entry: Mutex<Entry>,
    threads: Mutex<Option<Runtime>>,
}

pub(crate) struct Entry {
    pub(crate) data_dir: DataDir,
    /// Taken by the member when there is one.
    log: Option<(Wal, Recovered)>,
}

pub(crate) struct ActiveMember {
    pub(crate) id: u64,
    pub(crate) cluster_id: String,
    /// How often the cluster was forced new.
    pub(crate) incarnation: u64,
    pub(crate) raft: RaftHandle,
    pub(crate) request_ids: RequestIds,
    pub(crate) fresh_at: FreshAt,
    links: Arc<Links>,
}

impl Node {
    /// Opens the disk and, where the node belongs to a cluster or may begin one, starts its member.
    /// Must be called within a tokio runtime.
    pub fn open(
        settings: Settings,
        machine: Option<Arc<dyn Driven>>,
        metrics: Arc<Metrics>,
        fatal: Fatal,
    ) -> Result<Self, NodeError> {
        let disk = disk::real();
        let static_cluster = static_cluster(&settings);
        let expected = static_cluster.as_ref().map(|membership| membership.cluster_id.clone());
        let data_dir = DataDir::open(
            Arc::clone(&disk),
            &settings.data_dir,
            &settings.name,
            expected.as_deref(),
            LOCK_PATIENCE,
        )?;
        let wal_options = WalOptions { segment_bytes: settings.segment_bytes, ..WalOptions::default() };
        let max_command_bytes = wal_options.max_entry_bytes() as usize - ENTRY_FRAME_BYTES;
        let (wal, recovered) = Wal::open(Arc::clone(&disk), &settings.wal_dir, wal_options)?;
        let store = Store::open_with(
            Arc::clone(&disk),
            &settings.data_dir.join("state"),
            StoreOptions { engine: settings.engine, ..StoreOptions::default() },
        )?;
        let snapshots =
            Snapshots::open(disk, &settings.data_dir.join("snapshots")).map_err(NodeError::Snapshots)?;
        let marker = data_dir.marker().clone();
        let initial_members_digest = expected.clone().unwrap_or_default();
        let node = Self(Arc::new(Inner {
            store,
            machine,
            metrics,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            channels: Channels::default(),
            broker: Arc::default(),
            couriers: Couriers::default(),
            snapshots: Arc::new(snapshots),
            disk_id: marker.disk_id,
            boot_epoch: marker.boot_epoch,
            initial_members_digest,
            max_command_bytes,
            fatal,
            must_restart: AtomicBool::new(false),
            runtime: tokio::runtime::Handle::current(),
            member: OnceLock::new(),
            removed: AtomicBool::new(marker.member.as_ref().is_some_and(|member| member.removed)),
            told_removed: Notify::new(),
            entry: Mutex::new(Entry { data_dir, log: Some((wal, recovered)) }),
            threads: Mutex::default(),
            settings: RwLock::new(Arc::new(settings)),
        }));
        match (marker.member, static_cluster) {
            (Some(member), _) if member.removed => {
                tracing::warn!(
                    "this disk belongs to a removed member; empty the data directory to join anew"
                );
            }
            (Some(member), _) => node.start_member(&member, None)?,
            (None, Some(membership)) => node.begin_static(&membership)?,
            (None, None) => tracing::info!(disk_id = %node.0.disk_id, "no cluster yet; waiting to be told"),
        }
        Ok(node)
    }

    fn begin_static(&self, membership: &Membership) -> Result<(), NodeError> {
        let own =
            membership.members.iter().find(|member| member.name == self.settings().name).ok_or_else(
                || NodeError::Start("this node is not in its own list of initial members".into()),
            )?;
        let belonging = Belonging {
            cluster_id: membership.cluster_id.clone(),
            member_id: own.id,
            ..Belonging::default()
        };
        tracing::info!(members = membership.members.len(), "beginning a cluster; waiting for quorum");
        self.start_member(&belonging, Some(membership))
    }

    /// Creates a cluster of this node alone. Repeating the same call is the same call (M-2).
    /// `fencing_token` as in [`Expected`](raft::Expected).
    pub fn initialize(
        &self,
        cluster_id: &str,
        expected_disk_id: &str,
        fencing_token: u64,
    ) -> Result<Arc<Membership>, Error> {
        if cluster_id.is_empty() {
            return Err(Error::invalid("cluster_id is empty: choose one, record it, then call again"));
        }
        if !expected_disk_id.is_empty() && expected_disk_id != self.0.disk_id {
            return Err(Error::new(
                ErrorCode::WrongMember,
                format!("the disk here is {}, not {expected_disk_id}", self.0.disk_id),
            ));
        }
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
        self.start_member(&belonging, Some(&membership))
            .map_err(|error| Error::new(ErrorCode::StorageUnavailable, error.to_string()))?;
        Ok(self.0.store.membership())
    }

    fn own_record(&self) -> Member {
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

    /// From blank to member, once. `begin` holds the first membership when this node begins the
    /// cluster. The marker is written last: a crash before it leaves a blank node that may be told
    /// again, a crash after it a member that finds its log.
    fn start_member(&self, belonging: &Belonging, begin: Option<&Membership>) -> Result<(), NodeError> {
        let mut entry = self.0.entry.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.member.get().is_some() {
            return Ok(());
        }
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
            // Only now, so that a crash before it does it again.
            entry.data_dir.forced_new()?;
            tracing::error!(member = belonging.member_id, "made the only member of its cluster");
        }
        let belonging = &entry.data_dir.marker().member.clone().unwrap_or_else(|| belonging.clone());
        self.start_threads(belonging, wal, recovery)?;
        drop(entry);
        tracing::info!(cluster = %belonging.cluster_id, member = belonging.member_id, "member started");
        crate::chores::spawn(self.clone());
        Ok(())
    }

    fn start_threads(&self, belonging: &Belonging, wal: Wal, recovery: Recovery) -> Result<(), NodeError> {
        let settings = self.settings();
        let parts = Parts {
            settings: raft::Settings {
                id: belonging.member_id,
                heartbeat: settings.heartbeat,
                election_min: settings.election_min,
                election_max: settings.election_max,
                snapshot_entries: settings.snapshot_entries,
                snapshot_interval: settings.snapshot_interval,
                trailing_entries: settings.trailing_entries,
                held_bytes: raft::MAX_HELD_BYTES,
                lease: settings.lease,
            },
            wal,
            store: self.0.store.clone(),
            snapshots: Arc::clone(&self.0.snapshots),
            recovery,
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
            request_ids: RequestIds::new(belonging.member_id, rand::random()),
            fresh_at: FreshAt::default(),
            links,
        };
        drop(self.0.member.set(member));
        *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner) = Some(threads);
        Ok(())
    }

    fn link_options(&self, belonging: &Belonging, raft: &RaftHandle) -> LinkOptions {
        let inner = Arc::downgrade(&self.0);
        LinkOptions {
            cluster_id: belonging.cluster_id.clone(),
            member_id: belonging.member_id,
            name: self.settings().name.clone(),
            addr: self.settings().advertise_addr.clone(),
            disk_id: self.0.disk_id.clone(),
            boot_epoch: self.0.boot_epoch,
            incarnation: belonging.incarnation,
            initial_members_digest: self.0.initial_members_digest.clone(),
            no_leases: self.settings().lease.is_none(),
            raft: raft.clone(),
            snapshots: Arc::clone(&self.0.snapshots),
            bandwidth: Bandwidth::new(self.settings().snapshot_bytes_per_second),
            metrics: Arc::clone(&self.0.metrics),
            on_removed: Box::new(move || {
                if let Some(inner) = inner.upgrade() {
                    inner.told_removed.notify_one();
                }
            }),
            runtime: self.0.runtime.clone(),
        }
    }

    /// The cluster has removed this member: it says so on its disk and falls silent.
    pub(crate) fn retire(&self, reason: &str) {
        let mut entry = self.0.entry.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_removed() {
            return;
        }
        tracing::warn!(%reason, "removed from the cluster");
        if let Some(member) = entry.data_dir.marker().member.clone()
            && let Err(error) = entry.data_dir.join(Belonging { removed: true, ..member })
        {
            tracing::error!(%error, "the removal could not be recorded on disk");
        }
        // Told to others only now, so that a crash cannot take it back.
        self.0.removed.store(true, Ordering::SeqCst);
        if let Some(member) = self.0.member.get() {
            member.links.close();
            member.raft.stop();
        }
    }

    /// As of now: some of it changes when the configuration is read again.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.0.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From the next request on. What a running node cannot change must be as it was.
    pub(crate) fn reconfigure(&self, settings: Settings) {
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    pub(crate) fn member(&self) -> Option<&ActiveMember> {
        self.0.member.get()
    }

    /// The member, or why there is none to ask.
    pub(crate) fn active(&self) -> Result<&ActiveMember, Error> {
        if self.is_removed() {
            return Err(Error::new(ErrorCode::MemberRemoved, "this node was removed from its cluster"));
        }
        self.member().ok_or_else(|| Error::new(ErrorCode::NotStarted, "this node belongs to no cluster yet"))
    }

    /// The member, if it belongs to the cluster that a peer believes it to be in.
    pub(crate) fn active_in(&self, cluster_id: &str) -> Result<&ActiveMember, Error> {
        let member = self.active()?;
        if member.cluster_id == cluster_id {
            return Ok(member);
        }
        let message = format!("this is cluster {}, not {cluster_id}", member.cluster_id);
        Err(Error::new(ErrorCode::WrongCluster, message))
    }

    /// Whether a program embeds this node with a state machine of its own.
    pub(crate) fn has_machine(&self) -> bool {
        self.0.machine.is_some()
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.0.removed.load(Ordering::SeqCst)
    }

    pub(crate) fn identity(&self) -> (&str, u64) {
        (&self.0.disk_id, self.0.boot_epoch)
    }

    /// Resolves once this node is ready to serve; never, when it belongs to no cluster.
    pub async fn ready(&self) {
        let Some(member) = self.member() else { return std::future::pending().await };
        let mut status = member.raft.watch_status();
        while !crate::status::of(self).ready {
            if status.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Resolves with the reason when this node cannot go on.
    pub async fn failed(&self) -> String {
        self.0.fatal.raised().await
    }

    pub(crate) fn shutdown_delay(&self) -> Duration {
        self.settings().shutdown_delay
    }

    /// Clean end: not ready any more, leadership handed over, threads stopped after what they hold.
    pub async fn stop(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        if let Some(member) = self.member() {
            hand_over(member).await;
        }
    }

    /// Stops the threads; after the services, so that what was accepted is answered.
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

impl PeerHost for Node {
    fn admit(&self, handshake: &Handshake) -> Result<RaftHandle, Error> {
        if self.is_removed() {
            return Err(Error::new(ErrorCode::WrongMember, "this node was removed from its cluster"));
        }
        let standing = match self.member() {
            Some(member) => Standing::Member {
                cluster_id: member.cluster_id.clone(),
                member_id: member.id,
                incarnation: member.incarnation,
            },
            None => Standing::Blank,
        };
        let local = Local {
            name: self.settings().name.clone(),
            disk_id: self.0.disk_id.clone(),
            boot_epoch: self.0.boot_epoch,
            initial_members_digest: self.0.initial_members_digest.clone(),
            standing,
        };
        match crate::peer::check(&local, &self.0.store.membership(), handshake)? {
            Verdict::Accept => {}
            Verdict::Adopt { cluster_id, member_id, incarnation } => {
                self.start_member(&Belonging { cluster_id, member_id, incarnation, removed: false }, None)
                    .map_err(|error| Error::new(ErrorCode::StorageUnavailable, error.to_string()))?;
            }
        }
        let member = self.active()?;
        if membership::member(&self.0.store.membership(), handshake.from_id).is_none() {
            member.links.introduce(handshake);
        }
        Ok(member.raft.clone())
    }

    fn receipt(&self) -> PeerReceipt {
        PeerReceipt {
            disk_id: self.0.disk_id.clone(),
            name: self.settings().name.clone(),
            boot_epoch: self.0.boot_epoch,
        }
    }

    fn link_ended(&self, from: &Handshake) {
        // A lease is the leader's, so its word counts, not the setting here.
        if let Some(member) = self.member()
            && from.no_leases
            && !self.0.stopping.load(Ordering::SeqCst)
        {
            member.raft.link_lost(from.from_id);
        }
    }

    fn is_member(&self, id: u64) -> bool {
        !membership::was_removed(&self.0.store.membership(), id)
    }

    fn snapshots(&self) -> &Arc<Snapshots> {
        &self.0.snapshots
    }

    fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    fn publish(&self, request: &PublishRequest) -> Result<Vec<u64>, Error> {
        self.take_publications(request)
    }

    async fn write_forwarded(&self, request: ForwardRequest) -> Result<Vec<Result<Reply, Error>>, Error> {
        self.take_forwarded(request).await
    }

    async fn await_replicas(&self, request: AwaitReplicasRequest) -> Result<u64, Error> {
        self.take_await_replicas(request).await
    }
}

/// A leader that stops gives way first, so that writes pause for a round trip instead of an
/// election timeout. Three tries, then the election does it.
async fn hand_over(member: &ActiveMember) {
    const TRY: Duration = Duration::from_millis(1_000);
    /// For a follower to catch up or come back.
    const PAUSE: Duration = Duration::from_millis(200);
    for _ in 0..3 {
        let status = member.raft.status();
        if status.role != raft::Role::Leader || status.membership.voters.len() < 2 {
            return;
        }
        match member.raft.transfer(None, TRY, 0).await {
            Ok((leader, term)) => {
                let leader = membership::name_of(&status.membership, leader).unwrap_or_default();
                tracing::info!(%leader, term, "leadership handed over");
                return;
            }
            Err(error) => tracing::warn!(%error, "leadership not handed over"),
        }
        let pause = tokio::time::Instant::now() + PAUSE;
        drop(member.raft.wait_status(pause, |status| status.role != raft::Role::Leader).await);
    }
}

/// The membership that a static or single bootstrap begins with. Every node of a static cluster
/// computes the same from the same list, ids by name order; what only one of them knows (disks,
/// client addresses) comes later, through the log.
fn static_cluster(settings: &Settings) -> Option<Membership> {
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
