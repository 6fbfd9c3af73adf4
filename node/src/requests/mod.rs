//! Reads and writes of a node: its implementation of [`Database`] for the services.

mod acks;
mod names;
mod publish;
mod reads;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use helios_proto::v1::command::Op;
use helios_proto::v1::{ErrorCode, StatusResponse, Token};
use helios_service::database::{Ack, Database, Freshness, WriteRequest};
use helios_service::pubsub::Broker;
use tokio::time::Instant;

use crate::error::Error;
use crate::node::Node;
use crate::raft::{RaftStatus, membership};
use crate::state::Store;
use crate::trace::Span;

#[cfg(test)]
pub(crate) use names::MAX_FORWARDED;
pub(crate) use names::Names;
pub(crate) use publish::Couriers;
pub(crate) use reads::FreshAt;
pub(crate) use writes::forward_error;
use writes::{Outcome, Terms};

impl Database for Node {
    async fn submit(&self, writes: Vec<WriteRequest>, ack: Ack) -> Vec<Outcome> {
        let settings = self.settings();
        let deadline = Instant::now() + settings.request_timeout;
        let terms = Terms { ack, forwards: settings.forwards_writes, deadline };
        Span::begin("write").around(self.write_batch(writes, terms)).await
    }

    async fn await_fresh(&self, freshness: Freshness, after: Option<&Token>) -> Result<(), Error> {
        Span::begin("read").around(self.await_state(freshness, after)).await
    }

    fn cluster_id(&self) -> String {
        self.member().map(|member| member.cluster_id.clone()).unwrap_or_default()
    }

    async fn wait_replicas(&self, index: u64, replicas: u64, timeout: Duration) -> Result<u64, Error> {
        self.await_replicas(index, replicas, timeout).await
    }

    async fn publish(&self, channel: Bytes, payload: Bytes) -> u64 {
        self.publish_to_all(channel, payload).await
    }

    fn broker(&self) -> &Arc<Broker> {
        &self.inner().broker
    }

    fn reports_followers_as_masters(&self) -> bool {
        let settings = self.settings();
        settings.reports_writable && settings.forwards_writes
    }

    fn store(&self) -> &Store {
        &self.inner().store
    }

    fn now_ms(&self) -> u64 {
        self.bounded_ms()
    }

    fn status(&self) -> StatusResponse {
        crate::status::of(self)
    }
}

impl Node {
    /// Executes a write of this process itself. It is always forwarded to the leader, and ends within `limit`, or the
    /// request timeout.
    pub(crate) async fn write_own(&self, op: Op, limit: Option<Duration>) -> Outcome {
        let deadline = Instant::now() + limit.unwrap_or_else(|| self.settings().request_timeout);
        let terms = Terms { ack: Ack::default(), forwards: true, deadline };
        let outcome = self.write_batch(vec![op.into()], terms).await.pop();
        outcome.unwrap_or_else(|| Err(Error::outcome_unknown()))
    }

    /// Returns the channel to another member. Cached, as a connection for each request would dominate its cost.
    pub(crate) fn channel_to(
        &self,
        status: &RaftStatus,
        id: u64,
    ) -> Result<tonic::transport::Channel, Error> {
        let record = membership::member(&status.membership, id).ok_or_else(no_leader)?;
        self.inner().channels.get(&record.peer_addr)
    }
}

fn leader_unreachable() -> Error {
    Error::new(ErrorCode::PeerUnreachable, "the leader cannot be reached; try again")
}

fn no_leader() -> Error {
    Error::new(
        ErrorCode::NoLeader,
        "the cluster has no leader: check that most members run and reach each other",
    )
}
