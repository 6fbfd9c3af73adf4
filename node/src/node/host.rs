//! The interface of the node to the peer service.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use helios_proto::v1::{
    AwaitReplicasRequest, ErrorCode, ForwardRequest, Handshake, PeerReceipt, PublishRequest, Reply,
};

use tokio::time::Instant;

use super::Node;
use crate::error::Error;
use crate::lifecycle::Belonging;
use crate::metrics::Metrics;
use crate::peer::{Bandwidth, Local, PeerHost, Standing, Verdict};
use crate::raft::{RaftHandle, Snapshots, membership};
use crate::wal::Base;

/// Time for a snapshot that another member requests: an engine that writes its whole state may need minutes.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

impl PeerHost for Node {
    fn admit(&self, handshake: &Handshake) -> Result<RaftHandle, Error> {
        if self.is_removed() {
            return Err(Error::new(ErrorCode::WrongMember, "this node was removed from its cluster"));
        }
        let local = self.local();
        match crate::peer::check(&local, &self.0.store.membership(), handshake)? {
            Verdict::Accept => {
                if let Some(repair) = self.repairing() {
                    repair.heard(handshake);
                }
            }
            Verdict::Adopt { cluster_id, member_id, incarnation } => {
                self.start_member(&Belonging { cluster_id, member_id, incarnation, removed: false }, None)?;
            }
        }
        let member = self.active()?;
        if membership::member(&self.0.store.membership(), handshake.from_id).is_none() {
            member.links.introduce(handshake);
        }
        Ok(member.raft.clone())
    }

    fn check_call(&self, from: Option<&Handshake>) -> Result<(), Error> {
        crate::peer::check_call(&self.local(), &self.0.store.membership(), from)
    }

    fn heard_clock(&self, from: u64, wall_ms: Option<u64>) {
        self.0.clock.heard(from, wall_ms);
    }

    fn receipt(&self) -> PeerReceipt {
        PeerReceipt {
            disk_id: self.0.disk_id.clone(),
            name: self.settings().name.clone(),
            boot_epoch: self.0.boot_epoch,
        }
    }

    fn link_ended(&self, from: &Handshake) {
        // The lease is the leader's, so its handshake counts, not the local setting.
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

    fn bandwidth(&self) -> &Arc<Bandwidth> {
        &self.0.snapshot_bandwidth
    }

    fn learn_commit(&self, known: Base) {
        if let Ok(member) = self.active() {
            member.raft.committed(known);
        }
    }

    async fn take_snapshot(&self) -> Result<u64, Error> {
        let deadline = Instant::now() + SNAPSHOT_TIMEOUT;
        Ok(self.active()?.raft.take_snapshot(deadline).await?.snapshot_index)
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

impl Node {
    /// Returns the facts about this node that a handshake is checked against.
    fn local(&self) -> Local {
        let standing = match (self.member(), self.repairing()) {
            (Some(member), _) => Standing::Member {
                cluster_id: member.cluster_id.clone(),
                member_id: member.id,
                incarnation: member.incarnation,
            },
            (None, Some(repair)) => Standing::Member {
                cluster_id: repair.belonging.cluster_id.clone(),
                member_id: repair.belonging.member_id,
                incarnation: repair.belonging.incarnation,
            },
            (None, None) => Standing::Blank,
        };
        Local {
            name: self.settings().name.clone(),
            disk_id: self.0.disk_id.clone(),
            boot_epoch: self.0.boot_epoch,
            initial_members_digest: self.0.initial_members_digest.clone(),
            standing,
        }
    }
}
