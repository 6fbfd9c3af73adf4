//! A node embedded in another application: one object that starts it, replicates commands, reads, and reports the
//! leader.
//!
//! The node is the one that `heliosd` runs, with services only where they are configured. An application that supplies
//! a [`StateMachine`] has its commands replicated beside the keys.

mod config;
mod state;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Apply, ErrorCode, Member, Reply, Set};
use helios_service::database::{Database, Freshness};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::app::{App, AppError};
use crate::config::{ConfigError, Settings};
use crate::error::Error;
use crate::management::disk_of;
use crate::node::{ActiveMember, Node};
use crate::raft::{ChangeRequest, Expected, RaftStatus, membership};
use crate::state::{Driven, LogEntry, Shared, StateMachine, Value, commands};

pub use config::ClusterConfig;
pub use state::{
    Cause, ClusterMetrics, ClusterState, ConsensusMetrics, FailoverMetrics, HealthMetrics, LastElection,
    NodeInfo, NodeStatus, PeerHealth,
};

/// Deadline of a membership change, a leadership transfer, a snapshot, and a learner's catching up.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two attempts to promote a learner that still catches up.
const PROMOTE_PAUSE: Duration = Duration::from_millis(50);
/// Limit of a learner's lag at its promotion, in entries.
const MAX_LAG: u64 = 100;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error("this node was started before: create a new coordinator to start it again")]
    AlreadyStarted,
}

/// The state machine of a coordinator without one: it rejects every command.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMachine;

impl StateMachine for NoMachine {
    type Query = ();
    type Answer = ();

    fn apply(&mut self, entry: LogEntry<'_>) -> Result<Vec<u8>, String> {
        Err(format!("this application has no state machine for the command {:?}", entry.kind))
    }

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _snapshot: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn query(&self, _query: &()) {}
}

/// Result of an applied command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub index: u64,
    pub term: u64,
    /// Answer of [`StateMachine::apply`].
    pub answer: Bytes,
}

pub struct ClusterCoordinator<M: StateMachine = NoMachine> {
    settings: Settings,
    machine: Arc<Shared<M>>,
    node: OnceLock<Node>,
    /// The running application; `None` before the start and once it was stopped.
    app: Mutex<Option<App>>,
}

impl ClusterCoordinator {
    /// Creates a node whose state is the keys. Nothing runs before [`ClusterCoordinator::start`].
    pub async fn new(config: ClusterConfig) -> Result<Self, StartError> {
        Self::with_machine(config, NoMachine).await
    }
}

impl<M: StateMachine> ClusterCoordinator<M> {
    /// Creates a node that applies commands to `machine`, which is blank at first, beside the keys. Every member has to
    /// run the same state machine.
    pub async fn with_machine(config: ClusterConfig, machine: M) -> Result<Self, StartError> {
        let settings = config.try_into()?;
        let machine = Arc::new(Shared::new(machine));
        Ok(Self { settings, machine, node: OnceLock::new(), app: Mutex::default() })
    }

    /// Opens disk and ports and joins the cluster. Does not wait for a leader; see [`ClusterCoordinator::wait_leader`].
    pub async fn start(&self) -> Result<(), StartError> {
        let mut app = self.app.lock().await;
        if self.node.get().is_some() {
            return Err(StartError::AlreadyStarted);
        }
        let machine = Arc::clone(&self.machine) as Arc<dyn Driven>;
        let started = App::start_with(self.settings.clone(), machine).await?;
        drop(self.node.set(started.node().clone()));
        *app = Some(started);
        Ok(())
    }

    /// Transfers leadership, then stops the node. A second call does nothing. The data directory is free for another
    /// node once this coordinator is dropped.
    pub async fn stop(&self) {
        let app = self.app.lock().await.take();
        if let Some(app) = app {
            app.stop().await;
        }
    }

    /// Resolves with the reason once the node has failed; the application should end then.
    pub async fn failed(&self) -> Result<String, Error> {
        Ok(self.node()?.failed().await)
    }

    /// Replicates a command; returns once a majority holds it (or all, see `replication_factor`) and the leader has
    /// applied it. May be called on any member.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with the state machine's message if it rejected the command. After `OUTCOME_UNKNOWN` the
    /// command may have been applied or may still be.
    pub async fn apply(&self, kind: &str, data: impl Into<Vec<u8>>) -> Result<Applied, Error> {
        self.apply_by(kind, data, None).await
    }

    /// [`ClusterCoordinator::apply`] with the deadline `limit` instead of the request timeout.
    pub async fn apply_within(
        &self,
        kind: &str,
        data: impl Into<Vec<u8>>,
        limit: Duration,
    ) -> Result<Applied, Error> {
        self.apply_by(kind, data, Some(limit)).await
    }

    async fn apply_by(
        &self,
        kind: &str,
        data: impl Into<Vec<u8>>,
        limit: Option<Duration>,
    ) -> Result<Applied, Error> {
        let command = Apply { kind: kind.to_owned(), data: Bytes::from(data.into()) };
        let Reply { kind, index, term } = self.write(Op::Apply(command), limit).await?;
        let answer = match kind {
            Some(Answer::Bytes(answer)) => answer,
            _ => Bytes::new(),
        };
        Ok(Applied { index, term, answer })
    }

    /// Queries the local state machine. Linearizable: sees every command acknowledged by any member before this call.
    pub async fn read(&self, query: &M::Query) -> Result<M::Answer, Error> {
        self.node()?.await_fresh(Freshness::Linearizable, None).await?;
        Ok(self.machine.query(query))
    }

    /// Queries the local state machine, however stale. Needs no majority.
    pub fn read_stale(&self, query: &M::Query) -> M::Answer {
        self.machine.query(query)
    }

    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<(), Error> {
        let set = Set { key: key.into(), value: value.into(), ..Set::default() };
        self.write(commands::set(set), None).await.map(drop)
    }

    /// Deletes a key; returns whether it existed.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool, Error> {
        let reply = self.write(commands::delete(vec![key.into()]), None).await?;
        Ok(reply.kind == Some(Answer::Integer(1)))
    }

    /// Reads a key. Linearizable: sees every write acknowledged by any member before this call.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let node = self.node()?;
        node.await_fresh(Freshness::Linearizable, None).await?;
        let value = node.store().get(key, node.bounded_ms())?;
        Ok(value.map(Value::into_string).transpose()?.map(|value| value.data))
    }

    pub fn is_leader(&self) -> bool {
        self.member().is_ok_and(|member| member.raft.status().leader_id == member.id)
    }

    /// Waits until a leader is known that `accept` accepts; returns its id. Cancel safe.
    pub async fn wait_leader(&self, mut accept: impl FnMut(&str) -> bool) -> Result<String, Error> {
        let mut status = self.member()?.raft.watch_status();
        loop {
            let leader = leader_of(&status.borrow_and_update());
            if let Some(leader) = leader.filter(|leader| accept(leader)) {
                return Ok(leader);
            }
            status.changed().await.map_err(|_| stopped())?;
        }
    }

    /// Transfers leadership to the member `node_id`. Leader only.
    pub async fn transfer_leadership(&self, node_id: &str) -> Result<(), Error> {
        let member = self.member()?;
        let target = id_of(&member.raft.status(), node_id)?;
        member.raft.transfer(Some(target), CHANGE_TIMEOUT, 0).await.map(drop)
    }

    /// Transfers leadership to the most caught-up other voter; returns its id. Leader only.
    pub async fn step_down(&self) -> Result<String, Error> {
        let member = self.member()?;
        let (id, _) = member.raft.transfer(None, CHANGE_TIMEOUT, 0).await?;
        Ok(membership::name_of(&member.raft.status().membership, id).unwrap_or_default())
    }

    /// Adds the node that runs with `join` at `peer_addr`; returns once it has caught up and is a voter. Leader only.
    /// May be retried after an error.
    pub async fn add_node(&self, node_id: &str, peer_addr: &str) -> Result<(), Error> {
        let member = self.member()?;
        let dialer = &self.node()?.inner().dialer;
        let record = Member {
            name: node_id.to_owned(),
            peer_addr: peer_addr.to_owned(),
            disk_id: disk_of(dialer, node_id, peer_addr, Instant::now() + CHANGE_TIMEOUT).await?,
            ..Member::default()
        };
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        change(member, ChangeRequest::AddLearner(record)).await?;
        let id = id_of(&member.raft.status(), node_id)?;
        loop {
            match change(member, ChangeRequest::Promote { id, max_lag: MAX_LAG }).await {
                Err(error) if error.code == ErrorCode::LearnerLagging && Instant::now() < deadline => {
                    // The leader does not notify when the learner has caught up.
                    tokio::time::sleep(PROMOTE_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Removes a member for good. Leader only.
    pub async fn remove_node(&self, node_id: &str) -> Result<(), Error> {
        let member = self.member()?;
        let id = id_of(&member.raft.status(), node_id)?;
        change(member, ChangeRequest::Remove { id }).await
    }

    /// Takes a snapshot of the state, so that the log before it can be compacted; returns its index.
    pub async fn snapshot(&self) -> Result<u64, Error> {
        let taken = self.member()?.raft.take_snapshot(Instant::now() + CHANGE_TIMEOUT).await?;
        Ok(taken.snapshot_index)
    }

    async fn write(&self, op: Op, limit: Option<Duration>) -> Result<Reply, Error> {
        match self.node()?.write_own(op, limit).await? {
            Reply { kind: Some(Answer::Error(error)), .. } => Err(error.into()),
            reply => Ok(reply),
        }
    }

    fn node(&self) -> Result<&Node, Error> {
        let not_started = || Error::new(ErrorCode::NotStarted, "this node was not started: call start first");
        self.node.get().ok_or_else(not_started)
    }

    fn member(&self) -> Result<&ActiveMember, Error> {
        self.node()?.active()
    }
}

async fn change(member: &ActiveMember, request: ChangeRequest) -> Result<(), Error> {
    let unknown = "the membership change was not committed in time and may still be committed; check the membership \
                   before a retry";
    match timeout(CHANGE_TIMEOUT, member.raft.change(request, Expected::default())).await {
        Ok(outcome) => outcome.map(drop),
        Err(_) => Err(Error::new(ErrorCode::OutcomeUnknown, unknown)),
    }
}

fn id_of(status: &RaftStatus, node_id: &str) -> Result<u64, Error> {
    let found = status.membership.members.iter().find(|member| member.name == node_id);
    found
        .map(|member| member.id)
        .ok_or_else(|| Error::new(ErrorCode::NodeNotFound, format!("the cluster has no member {node_id}")))
}

fn leader_of(status: &RaftStatus) -> Option<String> {
    membership::name_of(&status.membership, status.leader_id)
}

fn stopped() -> Error {
    Error::new(ErrorCode::NotStarted, "this node was stopped")
}

#[cfg(test)]
mod tests;
