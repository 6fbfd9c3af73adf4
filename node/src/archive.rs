//! Backups of this member, for archivers (`Archive` in `archive.proto`): the state at one index, the log that follows it,
//! and the hold of that log. Nothing here changes the database.

mod base;
mod log;
mod reports;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use helios_proto::v1::{ErrorCode, HoldRequest, HoldResponse};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;
use crate::node::{ActiveMember, Node};
use crate::raft::{Pinned, RaftHandle, Role};

pub use reports::Reports;

/// Limit of the bases that are sent at once.
pub const MAX_BASES: usize = 2;
/// Limit of the logs that are sent at once.
pub const MAX_LOGS: usize = 4;
/// Limit of the name of a holder, bytes.
const MAX_HOLDER_BYTES: usize = 256;

pub struct Archive {
    node: Node,
    bases: Arc<Semaphore>,
    logs: Arc<Semaphore>,
    /// Snapshot of the last base whose transfer was interrupted: it may be resumed.
    interrupted: Mutex<Option<Arc<Pinned>>>,
}

impl Archive {
    pub fn new(node: Node) -> Self {
        Self {
            node,
            bases: Arc::new(Semaphore::new(MAX_BASES)),
            logs: Arc::new(Semaphore::new(MAX_LOGS)),
            interrupted: Mutex::default(),
        }
    }

    /// Keeps the log of this member for a holder; see [`crate::raft::RaftHandle::hold`].
    ///
    /// # Errors
    /// The history is another one, the request is invalid, or there are too many holders.
    pub async fn hold(&self, request: HoldRequest) -> Result<HoldResponse, Error> {
        let HoldRequest { holder, from_index, cluster_id, incarnation, report } = request;
        if holder.is_empty() || holder.len() > MAX_HOLDER_BYTES {
            return Err(Error::invalid(format!("holder: write a name of 1 to {MAX_HOLDER_BYTES} bytes")));
        }
        let member = self.member_in(&cluster_id, incarnation)?;
        let limit_bytes = self.node.settings().archive_hold_bytes;
        let first_index = member.raft.hold(holder.clone(), from_index, limit_bytes).await?;
        if let Some(report) = report {
            self.node.inner().archivers.put(holder, report, Instant::now())?;
        }
        Ok(HoldResponse { first_index })
    }

    /// Returns the member if it has this history.
    fn member_in(&self, cluster_id: &str, incarnation: u64) -> Result<&ActiveMember, Error> {
        let member = self.node.active_in(cluster_id)?;
        if member.incarnation == incarnation {
            return Ok(member);
        }
        let message = format!(
            "this is incarnation {} of cluster {cluster_id}, not {incarnation}: its history is another one",
            member.incarnation
        );
        Err(Error::new(ErrorCode::WrongCluster, message))
    }

    fn sent(&self, member: &ActiveMember) -> Sent {
        let as_leader = self.node.inner().metrics.archive_sent_as_leader_bytes.clone();
        Sent { raft: member.raft.clone(), as_leader }
    }

    fn slot(&self, slots: &Arc<Semaphore>, limit: usize, what: &str) -> Result<Slot, Error> {
        let permit = Arc::clone(slots).try_acquire_owned().map_err(|_| {
            let message = format!("this member sends {limit} {what} already (fixed): use another member");
            Error::new(ErrorCode::Overloaded, message)
        })?;
        let open = self.node.inner().metrics.archive_streams.clone();
        open.inc();
        Ok(Slot { _permit: permit, open })
    }
}

/// Counts what is sent while this member is the leader.
struct Sent {
    raft: RaftHandle,
    as_leader: Counter,
}

impl Sent {
    fn count(&self, bytes: usize) {
        if self.raft.status().role == Role::Leader {
            self.as_leader.inc_by(bytes as u64);
        }
    }
}

/// One of a limited number of streams; counted while it exists.
struct Slot {
    _permit: OwnedSemaphorePermit,
    open: Gauge,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.dec();
    }
}
