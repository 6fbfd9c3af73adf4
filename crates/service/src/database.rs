//! The node as the client-facing services see it: replicated writes, a read barrier, the local
//! state and the status. Implemented by the Raft handle; a unit test may apply straight to a store.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub use helios_config::Ack;
use helios_proto::Error;
use helios_proto::v1::{Reply, RequestId, StatusResponse, Token, command::Op};
use helios_state::Store;

use crate::pubsub::Broker;

/// A client's write.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteRequest {
    pub op: Op,
    /// Makes a retry safe.
    pub request_id: Option<RequestId>,
    /// Identity of the user or the address that sent it, for its share of the clients that are remembered by their request
    /// ids: at most 32 bytes, the same on every member. Of no use without a request id.
    pub identity: Bytes,
}

/// Freshness of the state that a read sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freshness {
    /// It covers every write acknowledged, by any member, before the read (ReadIndex, Raft thesis 6.4).
    #[default]
    Linearizable,
    /// The same promise, without asking a majority while the leader's lease lasts (`reads.lease`): on
    /// the leader, and only as long as clocks run at about the same speed.
    Lease,
    /// This node's own, at most this old; `None`: however old.
    Stale(Option<Duration>),
}

impl From<Op> for WriteRequest {
    fn from(op: Op) -> Self {
        Self { op, request_id: None, identity: Bytes::new() }
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

    /// [`Database::submit`] of writes without request ids, with the default ack level.
    fn write(&self, ops: Vec<Op>) -> impl Future<Output = Vec<Result<Reply, Error>>> + Send {
        self.submit(ops.into_iter().map(WriteRequest::from).collect(), Ack::default())
    }

    /// Resolves once [`Database::store`] is as fresh as asked and covers the write `after`.
    ///
    /// `TOO_STALE` and `NOT_CAUGHT_UP` say that this member is not, in time; `WRONG_CLUSTER` that `after` is of
    /// another cluster or another history of this one.
    fn await_fresh(
        &self,
        freshness: Freshness,
        after: Option<&Token>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// The id of the cluster this node belongs to, empty when to none.
    fn cluster_id(&self) -> String;

    /// The token of the write that `reply` answers.
    fn token_of(&self, reply: &Reply) -> Token {
        Token { cluster_id: self.cluster_id(), term: reply.term, index: reply.index }
    }

    /// Waits until `replicas` voters beside the leader hold log index `index` on disk, at most
    /// `timeout` (zero: without limit); answers how many do.
    fn wait_replicas(
        &self,
        index: u64,
        replicas: u64,
        timeout: Duration,
    ) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Sends a message to the subscribers of `channel` on all members, at most once; returns the number of clients that are
    /// known to have received it.
    fn publish(&self, channel: Bytes, payload: Bytes) -> impl Future<Output = u64> + Send;

    /// The channels of this node's clients.
    fn broker(&self) -> &Arc<Broker>;

    /// Redis clients see a follower as a master, since it forwards writes.
    fn reports_followers_as_masters(&self) -> bool {
        false
    }

    /// The time at which a key counts as expired for a read, ms since the Unix epoch, if the log's clock is not later: this
    /// node's wall clock, unless it is ahead of the others'.
    fn now_ms(&self) -> u64 {
        crate::time::wall_ms()
    }

    /// The applied state of this node.
    fn store(&self) -> &Store;

    fn status(&self) -> StatusResponse;
}
