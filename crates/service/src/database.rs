//! The interface of a node to the services for clients: replicated writes, a read barrier, the local state and the
//! status. `Node` implements it; unit tests may apply directly to a store.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub use helios_config::Ack;
use helios_proto::Error;
use helios_proto::v1::{Reply, RequestId, StatusResponse, Token, command::Op};
use helios_state::Store;

use crate::pubsub::Broker;

/// A write that a client requests.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteRequest {
    pub op: Op,
    /// Request id for deduplication: makes a retry safe.
    pub request_id: Option<RequestId>,
    /// Identity of the user or the address that sent the write, at most 32 bytes, the same on every member. Bounds the
    /// sender's share of the clients whose request ids are remembered; without effect if there is no request id.
    pub identity: Bytes,
}

/// Freshness of the state that a read sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freshness {
    /// The state covers every write that any member acknowledged before the read (ReadIndex, Raft thesis 6.4).
    #[default]
    Linearizable,
    /// The same guarantee without a round to a majority while the leader's lease lasts (`reads.lease`): on the leader
    /// only, and only while clocks run at about the same rate.
    Lease,
    /// The local state, at most this old; `None`: of any age.
    Stale(Option<Duration>),
}

impl From<Op> for WriteRequest {
    fn from(op: Op) -> Self {
        Self { op, request_id: None, identity: Bytes::new() }
    }
}

pub trait Database: Clone + Send + Sync + 'static {
    /// Replicates `writes` in this order and answers each once the leader has applied it and it is on as many disks as
    /// `ack` or the configuration requires, whichever is more.
    ///
    /// The error `OUTCOME_UNKNOWN` means that the write was proposed and may be applied, `REPLICATION_SHORTFALL` that
    /// it is applied but not known to be on enough disks; with any other error it was not applied. A proposed write is
    /// retried only if it has a request id.
    fn submit(
        &self,
        writes: Vec<WriteRequest>,
        ack: Ack,
    ) -> impl Future<Output = Vec<Result<Reply, Error>>> + Send;

    /// [`Database::submit`] of writes without request ids, with the default ack level.
    fn write(&self, ops: Vec<Op>) -> impl Future<Output = Vec<Result<Reply, Error>>> + Send {
        self.submit(ops.into_iter().map(WriteRequest::from).collect(), Ack::default())
    }

    /// Resolves once [`Database::store`] has the freshness requested and covers the write `after`.
    ///
    /// The errors `TOO_STALE` and `NOT_CAUGHT_UP` mean that this member does not get there in time, `WRONG_CLUSTER`
    /// that `after` is of another cluster or another history of this one.
    fn await_fresh(
        &self,
        freshness: Freshness,
        after: Option<&Token>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns the id of the cluster that this node belongs to; empty if none.
    fn cluster_id(&self) -> String;

    /// Returns the token of the write that `reply` answers.
    fn token_of(&self, reply: &Reply) -> Token {
        Token { cluster_id: self.cluster_id(), term: reply.term, index: reply.index }
    }

    /// Waits until `replicas` voters besides the leader hold the log up to `index` on disk, at most `timeout` (zero: no
    /// limit); returns the number that do.
    fn wait_replicas(
        &self,
        index: u64,
        replicas: u64,
        timeout: Duration,
    ) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Publishes a message to the subscribers of `channel` on all members, at most once; returns the number of clients
    /// that are known to have received it.
    fn publish(&self, channel: Bytes, payload: Bytes) -> impl Future<Output = u64> + Send;

    /// Returns the broker of the channels that this node's clients subscribe to.
    fn broker(&self) -> &Arc<Broker>;

    /// Whether a follower is reported to Redis clients as a master, since it accepts writes and forwards them.
    fn reports_followers_as_masters(&self) -> bool {
        false
    }

    /// Returns the time against which a read checks expiry unless the log's clock is later, ms since the Unix epoch:
    /// this node's wall clock, bounded by the other members' clocks.
    fn now_ms(&self) -> u64 {
        crate::time::wall_ms()
    }

    /// Returns the applied state of this node.
    fn store(&self) -> &Store;

    fn status(&self) -> StatusResponse;
}
