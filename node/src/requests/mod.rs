//! How a node answers reads and writes: [`Database`], as the services see it.

mod acks;
mod writes;

use std::time::Duration;

use helios_proto::v1::{ErrorCode, StatusResponse};
use tokio::time::{Instant, timeout_at};

use crate::database::{Ack, Database, WriteRequest};
use crate::error::Error;
use crate::node::Node;
use crate::raft::{RaftStatus, membership};
use crate::state::Store;

use writes::Outcome;
pub(crate) use writes::RequestIds;

impl Database for Node {
    async fn submit(&self, writes: Vec<WriteRequest>, ack: Ack) -> Vec<Outcome> {
        self.write_batch(writes, ack).await
    }

    async fn read_barrier(&self) -> Result<(), Error> {
        let member = self.active()?;
        let deadline = Instant::now() + self.inner().settings.request_timeout;
        let barrier = async {
            let index = member.raft.read_index().await?;
            member.raft.wait_applied(index).await
        };
        match timeout_at(deadline, barrier).await {
            Ok(done) => done,
            Err(_) if member.raft.status().leader_id == 0 => Err(no_leader()),
            Err(_) => Err(Error::new(
                ErrorCode::NoQuorum,
                "no majority confirmed the read in time; check that most members run and reach each other",
            )),
        }
    }

    async fn wait_replicas(&self, index: u64, replicas: u64, timeout: Duration) -> Result<u64, Error> {
        self.await_replicas(index, replicas, timeout).await
    }

    fn store(&self) -> &Store {
        &self.inner().store
    }

    fn status(&self) -> StatusResponse {
        crate::status::of(self)
    }
}

impl Node {
    /// A channel to another member; kept, since a connection per request would be its cost.
    fn channel_to(&self, status: &RaftStatus, id: u64) -> Result<tonic::transport::Channel, Error> {
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
