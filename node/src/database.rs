//! What the client-facing services see of a node: replicated writes, a read barrier, the local
//! state and the status. Implemented by the Raft handle; a unit test may apply straight to a store.

use std::future::Future;
use std::time::Duration;

use helios_proto::v1::{AckLevel, Reply, RequestId, StatusResponse, command::Op};

use crate::error::Error;
use crate::state::Store;

/// A write as a client asks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteRequest {
    pub op: Op,
    /// Makes it safe to send again.
    pub request_id: Option<RequestId>,
}

/// How many voters must hold a write on disk before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Ack {
    #[default]
    Majority,
    All,
}

impl Ack {
    pub fn name(self) -> &'static str {
        match self {
            Self::Majority => "majority",
            Self::All => "all",
        }
    }

    /// In any case of letters.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Majority, Self::All].into_iter().find(|ack| ack.name().eq_ignore_ascii_case(name))
    }
}

impl From<AckLevel> for Ack {
    fn from(level: AckLevel) -> Self {
        match level {
            AckLevel::AckDefault | AckLevel::AckMajority => Self::Majority,
            AckLevel::AckAll => Self::All,
        }
    }
}

impl From<Ack> for AckLevel {
    fn from(ack: Ack) -> Self {
        match ack {
            Ack::Majority => Self::AckMajority,
            Ack::All => Self::AckAll,
        }
    }
}

impl From<Op> for WriteRequest {
    fn from(op: Op) -> Self {
        Self { op, request_id: None }
    }
}

pub trait Database: Clone + Send + Sync + 'static {
    /// Replicates `writes` in this order and answers each once it is applied, on whichever member
    /// leads, and is on as many disks as `ack` and the configuration ask for, whichever is more.
    ///
    /// An error of code `OUTCOME_UNKNOWN` means proposed and perhaps applied, `REPLICATION_SHORTFALL`
    /// applied but not known to be on enough disks; every other error means not applied. What was
    /// proposed is tried again only under a request id.
    fn submit(
        &self,
        writes: Vec<WriteRequest>,
        ack: Ack,
    ) -> impl Future<Output = Vec<Result<Reply, Error>>> + Send;

    /// [`Database::submit`] of writes that a client has no name for and no wish.
    fn write(&self, ops: Vec<Op>) -> impl Future<Output = Vec<Result<Reply, Error>>> + Send {
        self.submit(ops.into_iter().map(WriteRequest::from).collect(), Ack::default())
    }

    /// Resolves once [`Database::store`] covers every write acknowledged, by any member, before
    /// the call (ReadIndex, Raft thesis section 6.4).
    fn read_barrier(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Waits until `replicas` voters beside the leader hold log index `index` on disk, at most
    /// `timeout` (zero: without limit); answers how many do.
    fn wait_replicas(
        &self,
        index: u64,
        replicas: u64,
        timeout: Duration,
    ) -> impl Future<Output = Result<u64, Error>> + Send;

    /// The applied state of this node.
    fn store(&self) -> &Store;

    fn status(&self) -> StatusResponse;
}
