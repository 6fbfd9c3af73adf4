//! Handle of the Raft thread for the rest of the node: its queue is bounded, and sending never blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};
use helios_proto::v1::{Command, ErrorCode, Membership};
use prost::Message as _;
use raft::eraftpb::Message;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::force_new_cluster::{LastEntry, Verdict};
use super::format;
use super::types::*;
use helios_proto::Error;
use helios_storage::wal::Base;

#[derive(Clone)]
pub struct RaftHandle {
    pub(super) inbox: Sender<Input>,
    pub(super) status: watch::Receiver<Arc<RaftStatus>>,
    pub(super) applied: watch::Receiver<u64>,
    /// Bytes of writes that are not proposed yet.
    pub(super) waiting: Arc<AtomicU64>,
}

/// Limit of the bytes of writes that wait for the Raft thread or, during a transfer or while the leader slows down
/// writes, in it.
pub const MAX_WAITING_BYTES: u64 = 64 << 20;

impl RaftHandle {
    pub fn status(&self) -> Arc<RaftStatus> {
        Arc::clone(&self.status.borrow())
    }

    pub fn watch_status(&self) -> watch::Receiver<Arc<RaftStatus>> {
        self.status.clone()
    }

    pub fn applied_index(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Returns the index of the last applied entry as it advances, whether or not entries change a key. The state and
    /// its history have an index before it is seen here.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied.clone()
    }

    /// Queues commands in this order and returns a receiver of the reply for each.
    ///
    /// # Errors
    /// This build does not know one of the commands, or too many bytes wait; then no command is queued.
    pub fn propose(
        &self,
        commands: &[Command],
    ) -> Result<Vec<oneshot::Receiver<Result<helios_proto::v1::Reply, Error>>>, Error> {
        let mut proposals = Vec::with_capacity(commands.len());
        let mut receivers = Vec::with_capacity(commands.len());
        self.check_waiting(commands)?;
        for command in commands {
            let (waiter, receiver) = oneshot::channel();
            let format = format::of(command)?;
            let data = command.encode_to_vec();
            let charge = Charge::new(&self.waiting, data.len() as u64);
            proposals.push(Proposal { data, format, waiter: waiter.into(), charge });
            receivers.push(receiver);
        }
        self.submit(Input::Propose(proposals))?;
        Ok(receivers)
    }

    /// Returns an error if too many bytes wait. A batch of any size is accepted if no other waits.
    fn check_waiting(&self, commands: &[Command]) -> Result<(), Error> {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let wanted: usize = commands.iter().map(prost::Message::encoded_len).sum();
        if waiting == 0 || waiting + wanted as u64 <= MAX_WAITING_BYTES {
            return Ok(());
        }
        let message = format!(
            "writes of {waiting} bytes wait for this member's log, the limit is {MAX_WAITING_BYTES} (fixed); try again"
        );
        Err(Error::new(ErrorCode::Overloaded, message))
    }

    /// Returns the index that the applied state must reach for a linearizable read.
    ///
    /// `by_lease`: without a round to a majority, while this member is the leader and has a lease.
    pub async fn read_index(&self, by_lease: bool) -> Result<u64, Error> {
        let (waiter, receiver) = oneshot::channel();
        self.submit(if by_lease { Input::LeaseRead(waiter) } else { Input::Read(waiter) })?;
        receiver.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Resolves once entry `index` is applied here. Returns an error if it cannot be applied until an admin skips an
    /// entry.
    pub async fn wait_applied(&self, index: u64) -> Result<(), Error> {
        let (mut applied, mut status) = (self.applied.clone(), self.status.clone());
        tokio::select! {
            biased;
            reached = applied.wait_for(|at| *at >= index) => reached.map(drop).map_err(|_| stopped()),
            held = status.wait_for(|status| status.holds(index)) => {
                let held = held.map_err(|_| stopped())?.unappliable.clone();
                held.map_or(Ok(()), |held| Err(held.error()))
            }
        }
    }

    /// Resolves once the published status satisfies `condition`, or with `None` at the deadline.
    pub async fn wait_status(
        &self,
        deadline: Instant,
        condition: impl FnMut(&Arc<RaftStatus>) -> bool,
    ) -> Option<Arc<RaftStatus>> {
        let mut status = self.status.clone();
        let found = tokio::time::timeout_at(deadline, status.wait_for(condition)).await;
        found.ok()?.ok().map(|status| Arc::clone(&status))
    }

    pub async fn change(&self, request: ChangeRequest, expected: Expected) -> Result<Arc<Membership>, Error> {
        let (waiter, receiver) = oneshot::channel();
        self.submit(Input::Change { request, expected, waiter })?;
        receiver.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Transfers leadership to `target`, or to the most caught-up voter. Returns the new leader's id
    /// and term. `fencing_token` as in [`Expected`].
    pub async fn transfer(
        &self,
        target: Option<u64>,
        timeout: Duration,
        fencing_token: u64,
    ) -> Result<(u64, u64), Error> {
        let (waiter, receiver) = oneshot::channel();
        self.submit(Input::Transfer { target, timeout, fencing_token, waiter })?;
        receiver.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Whether this member may be made the only one of its cluster; changes nothing.
    pub async fn force_new(&self, expected: LastEntry, fencing_token: u64) -> Result<Verdict, Error> {
        let (waiter, receiver) = oneshot::channel();
        self.submit(Input::ForceNew { expected, fencing_token, waiter })?;
        receiver.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Queues messages from a peer. They are dropped if the queue is full, which Raft tolerates.
    pub fn messages(&self, messages: Vec<Message>) {
        if self.submit(Input::Messages(messages)).is_err() {
            tracing::debug!("raft queue full: messages dropped");
        }
    }

    pub fn unreachable(&self, id: u64) {
        drop(self.submit(Input::Unreachable(id)));
    }

    /// Reports that the connection from member `id` was closed. Do not call for a peer that may hold a read lease.
    pub fn link_lost(&self, id: u64) {
        drop(self.submit(Input::LinkLost(id)));
    }

    /// Reports that member `id` is connected again, with the same process.
    pub fn link_found(&self, id: u64) {
        drop(self.submit(Input::LinkFound(id)));
    }

    pub fn peer_disk(&self, id: u64, is_bad: bool) {
        drop(self.submit(Input::PeerDisk { id, is_bad }));
    }

    pub fn peer_format(&self, id: u64, format: u32) {
        drop(self.submit(Input::PeerFormat { id, format }));
    }

    pub fn peer_priority(&self, id: u64, priority: u32) {
        drop(self.submit(Input::PeerPriority { id, priority }));
    }

    /// Reports that the entry at `known` is committed. A member that lags, and has it in its log, learns it so without a
    /// leader.
    pub fn committed(&self, known: Base) {
        drop(self.submit(Input::Committed(known)));
    }

    pub fn snapshot_sent(&self, to: u64, ok: bool) {
        drop(self.submit(Input::SnapshotSent { to, ok }));
    }

    /// Reports, instead of `snapshot_sent`, that the snapshot is no longer on disk.
    pub fn snapshot_gone(&self, to: u64) {
        drop(self.submit(Input::SnapshotGone(to)));
    }

    /// Requests a snapshot that covers everything applied here so far. Returns the status that reports it.
    pub async fn take_snapshot(&self, deadline: Instant) -> Result<Arc<RaftStatus>, Error> {
        let (wanted, failures) = (self.applied_index(), self.status().snapshot_failures);
        self.submit(Input::BuildSnapshot)?;
        let is_over =
            |status: &Arc<RaftStatus>| status.snapshot_index >= wanted || status.snapshot_failures > failures;
        let ended = self.wait_status(deadline, is_over).await;
        ended.filter(|status| status.snapshot_index >= wanted).ok_or_else(|| {
            Error::new(ErrorCode::SnapshotFailed, "no snapshot was taken; this node's log says why")
        })
    }

    /// Keeps the log from `from_index` on for `holder`, at most `limit_bytes` of it; 0 ends that. To be repeated within
    /// [`HOLD_TIME`](super::HOLD_TIME). Returns the first index of the log.
    ///
    /// # Errors
    /// `Overloaded`: there are too many holders.
    pub async fn hold(&self, holder: String, from_index: u64, limit_bytes: u64) -> Result<u64, Error> {
        let (waiter, receiver) = oneshot::channel();
        self.submit(Input::Hold { holder, from_index, limit_bytes, waiter })?;
        receiver.await.unwrap_or_else(|_| Err(stopped()))
    }

    pub fn stop(&self) {
        drop(self.inbox.send(Input::Stop));
    }

    fn submit(&self, input: Input) -> Result<(), Error> {
        self.inbox.try_send(input).map_err(|error| match error {
            TrySendError::Full(_) => {
                Error::new(ErrorCode::Overloaded, "this member is overloaded; try again")
            }
            TrySendError::Disconnected(_) => stopped(),
        })
    }
}

fn stopped() -> Error {
    Error::new(ErrorCode::NotStarted, "this member is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_inbox_refuses_instead_of_waiting() {
        let (inbox, _raft) = crossbeam_channel::bounded(1);
        let (_status, status) = watch::channel(Arc::new(RaftStatus::default()));
        let (_applied, applied) = watch::channel(0);
        let handle = RaftHandle { inbox, status, applied, waiting: Arc::default() };
        assert!(handle.propose(&[]).is_ok());
        assert_eq!(handle.propose(&[]).unwrap_err().code, ErrorCode::Overloaded);
    }

    #[test]
    fn writes_that_wait_are_bounded_by_their_bytes() {
        let (inbox, raft) = crossbeam_channel::bounded(16_384);
        let (_status, status) = watch::channel(Arc::new(RaftStatus::default()));
        let (_applied, applied) = watch::channel(0);
        let handle = RaftHandle { inbox, status, applied, waiting: Arc::default() };
        let set = |bytes: usize| {
            let set = helios_proto::v1::Set { value: vec![7; bytes].into(), ..Default::default() };
            Command { op: Some(helios_proto::v1::command::Op::Set(set)), ..Command::default() }
        };
        let mut taken = 0;
        let refused = loop {
            match handle.propose(&[set(8 << 20)]) {
                Ok(_) => taken += 1,
                Err(error) => break error,
            }
            assert!(taken < 100, "nothing is refused");
        };
        assert_eq!((taken, refused.code), (7, ErrorCode::Overloaded), "{refused}");
        assert!(refused.message.contains("67108864"), "{refused}");
        drop(raft.recv());
        assert!(handle.propose(&[set(8 << 20)]).is_ok(), "a write that left the queue still counts");
    }
}
