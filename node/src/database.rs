//! What the client-facing services see of a node: replicated writes, a read barrier, the local
//! state and the status. Implemented by the Raft handle; a unit test may apply straight to a store.

use std::future::Future;
use std::time::Duration;

use helios_proto::v1::{Reply, StatusResponse, command::Op};

use crate::error::Error;
use crate::state::Store;

pub trait Database: Clone + Send + Sync + 'static {
    /// Replicates `ops` in this order and answers each once it is applied, on whichever member leads.
    ///
    /// An error of code `OUTCOME_UNKNOWN` means proposed and perhaps applied; every other error
    /// means not applied. Nothing is retried after it was proposed.
    fn write(&self, ops: Vec<Op>) -> impl Future<Output = Vec<Result<Reply, Error>>> + Send;

    /// Resolves once [`Database::store`] covers every write acknowledged, by any member, before
    /// the call (ReadIndex, Raft thesis section 6.4).
    fn read_barrier(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Waits until `replicas` members beside the leader hold log index `index` on disk, at most
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
