//! Cluster management: one implementation behind the gRPC service and the HTTP gateway, independent of both protocols.
//! Every call is idempotent.

use std::sync::Arc;
use std::time::Duration;

use helios_proto::v1::{
    AddLearnerRequest, ChangeMembershipRequest, Command, ErrorCode, ForceNewRequest, InitializeRequest,
    Member, Membership, PromoteRequest, RemoveRequest, SkipEntry, SkipEntryRequest, SkipEntryResponse,
    SnapshotResponse, StepDownRequest, TransferRequest, TransferResponse, command::Op,
};
use tokio::time::{Instant, timeout_at};

use crate::error::Error;
use crate::node::Node;
use crate::peer::Dialer;
use crate::raft::{ChangeRequest, Expected, RaftStatus, Role, membership};

mod anywhere;

pub use anywhere::sent_on_by;

/// Deadline for a membership change to be committed and applied.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Management(Node);

impl Management {
    pub fn new(node: Node) -> Self {
        Self(node)
    }

    pub fn node(&self) -> &Node {
        &self.0
    }

    pub async fn initialize(&self, request: InitializeRequest) -> Result<Membership, Error> {
        let InitializeRequest { cluster_id, expected_disk_id, fencing_token } = request;
        let node = self.0.clone();
        let begun = tokio::task::spawn_blocking(move || {
            node.initialize(&cluster_id, &expected_disk_id, fencing_token)
        });
        begun.await.map_err(|error| Error::new(ErrorCode::Internal, error.to_string()))?.map(owned)
    }

    pub async fn add_learner(&self, request: AddLearnerRequest) -> Result<Membership, Error> {
        let AddLearnerRequest {
            name,
            peer_addr,
            client_addr,
            disk_id,
            expected_membership_index,
            fencing_token,
        } = request;
        let record = Member { name, peer_addr, client_addr, disk_id, ..Member::default() };
        let expected = Expected { index: expected_membership_index, fencing_token };
        self.change(ChangeRequest::AddLearner(record), expected).await
    }

    pub async fn promote(&self, request: PromoteRequest) -> Result<Membership, Error> {
        let PromoteRequest { id, max_lag_entries, expected_membership_index, fencing_token } = request;
        let expected = Expected { index: expected_membership_index, fencing_token };
        self.change(ChangeRequest::Promote { id, max_lag: max_lag_entries }, expected).await
    }

    pub async fn remove(&self, request: RemoveRequest) -> Result<Membership, Error> {
        let RemoveRequest { id, expected_membership_index, fencing_token } = request;
        self.give_way_if_among(&[id], fencing_token).await?;
        let expected = Expected { index: expected_membership_index, fencing_token };
        self.change(ChangeRequest::Remove { id }, expected).await
    }

    pub async fn change_membership(&self, request: ChangeMembershipRequest) -> Result<Membership, Error> {
        let ChangeMembershipRequest {
            promote,
            remove,
            max_lag_entries,
            expected_membership_index,
            fencing_token,
        } = request;
        self.give_way_if_among(&remove, fencing_token).await?;
        let request = ChangeRequest::Several { promote, remove, max_lag: max_lag_entries };
        self.change(request, Expected { index: expected_membership_index, fencing_token }).await
    }

    pub async fn force_new(&self, request: ForceNewRequest) -> Result<Membership, Error> {
        self.0.force_new(request).await
    }

    pub async fn transfer(&self, request: TransferRequest) -> Result<TransferResponse, Error> {
        let TransferRequest { target_id, timeout_ms, fencing_token } = request;
        if target_id == 0 {
            return Err(Error::invalid("target_id is empty: name the member to transfer leadership to"));
        }
        self.transfer_to(Some(target_id), timeout_ms, fencing_token).await
    }

    pub async fn step_down(&self, request: StepDownRequest) -> Result<TransferResponse, Error> {
        let StepDownRequest { timeout_ms, fencing_token } = request;
        self.transfer_to(None, timeout_ms, fencing_token).await
    }

    pub async fn snapshot(&self) -> Result<SnapshotResponse, Error> {
        let raft = &self.0.active()?.raft;
        let status = raft.take_snapshot(Instant::now() + SNAPSHOT_TIMEOUT).await?;
        Ok(SnapshotResponse { index: status.snapshot_index, term: status.term })
    }

    /// Makes the entry at `index`, which members hold because they cannot apply it, a no-op on all members.
    pub async fn skip_entry(&self, request: SkipEntryRequest) -> Result<SkipEntryResponse, Error> {
        let SkipEntryRequest { index, crc, fencing_token } = request;
        let raft = &self.0.active()?.raft;
        membership::check_token(&raft.status().membership, fencing_token)?;
        let op = Op::SkipEntry(SkipEntry { index, crc });
        let command = Command { now_ms: helios_service::time::wall_ms(), op: Some(op), ..Command::default() };
        tracing::warn!(index, "skip of this entry requested, with crc {crc:08x}");
        let answer = raft.propose(&[command])?.pop().ok_or_else(|| skip_unknown(index))?;
        let answered = timeout_at(Instant::now() + CHANGE_TIMEOUT, answer).await;
        let reply = answered.map_err(|_| skip_unknown(index))?.map_err(|_| skip_unknown(index))??;
        Ok(SkipEntryResponse { index: reply.index, term: reply.term })
    }

    async fn change(&self, request: ChangeRequest, expected: Expected) -> Result<Membership, Error> {
        let raft = &self.0.active()?.raft;
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        let changed = timeout_at(deadline, raft.change(request, expected)).await;
        let mut membership = changed.map_err(|_| unknown())??;
        if membership::is_joint(&membership) {
            let is_over = |status: &Arc<RaftStatus>| {
                status.membership.index > membership.index && !membership::is_joint(&status.membership)
            };
            let status = raft.wait_status(deadline, is_over).await.ok_or_else(unknown)?;
            membership = Arc::clone(&status.membership);
        }
        Ok(owned(membership))
    }

    /// Transfers leadership if this member is the leader and among `removed`, while another voter could lead. The error
    /// `NOT_LEADER` then directs the client to the next leader, which removes this member.
    async fn give_way_if_among(&self, removed: &[u64], fencing_token: u64) -> Result<(), Error> {
        let member = self.0.active()?;
        let status = member.raft.status();
        let leads = status.role == Role::Leader && status.membership.voters.len() > 1;
        if !leads || !removed.contains(&member.id) {
            return Ok(());
        }
        let (leader, _) = member.raft.transfer(None, DEFAULT_TRANSFER_TIMEOUT, fencing_token).await?;
        Err(Error::not_leader(membership::member(&status.membership, leader)))
    }

    async fn transfer_to(
        &self,
        target: Option<u64>,
        timeout_ms: u32,
        fencing_token: u64,
    ) -> Result<TransferResponse, Error> {
        let timeout = match timeout_ms {
            0 => DEFAULT_TRANSFER_TIMEOUT,
            ms => Duration::from_millis(ms.into()),
        };
        let (leader_id, term) = self.0.active()?.raft.transfer(target, timeout, fencing_token).await?;
        Ok(TransferResponse { leader_id, term })
    }
}

/// Returns the disk id of the node that answers at `peer_addr` by `deadline`.
///
/// # Errors
/// No node answers, or it has another name than `name`.
pub async fn disk_of(
    dialer: &Dialer,
    name: &str,
    peer_addr: &str,
    deadline: Instant,
) -> Result<String, Error> {
    let unreachable = |reason: &dyn std::fmt::Display| {
        Error::new(ErrorCode::PeerUnreachable, format!("{name} does not answer at {peer_addr}: {reason}"))
    };
    let status = timeout_at(deadline, dialer.status_at(peer_addr)).await;
    let status = status.map_err(|error| unreachable(&error))?.map_err(|error| unreachable(&error))?;
    if status.name == name {
        return Ok(status.disk_id);
    }
    Err(Error::invalid(format!("the node at {peer_addr} is {}, not {name}", status.name)))
}

fn unknown() -> Error {
    Error::new(
        ErrorCode::OutcomeUnknown,
        "the membership change was not committed in time and may still be committed; read the status before a retry",
    )
}

fn skip_unknown(index: u64) -> Error {
    let message = format!(
        "the skip of entry {index} was not committed in time and may still be committed; read the status before a retry"
    );
    Error::new(ErrorCode::OutcomeUnknown, message)
}

fn owned(membership: Arc<Membership>) -> Membership {
    Arc::unwrap_or_clone(membership)
}
