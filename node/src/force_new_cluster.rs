//! Makes the survivor of a lost majority the only member of its cluster (ADR 0009).
//!
//! The request is written to the disk first, and executed by the next start before the member runs: after a crash at any
//! point there is either the old member or a start that continues with the request.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use helios_proto::v1::{ErrorCode, ForceNewRequest, Membership};

use crate::error::Error;
use crate::lifecycle::ForceNew;
use crate::node::Node;
use crate::raft::{LastEntry, Verdict};

impl Node {
    /// The membership of this node after the restart of its process, which this call triggers; or the present one if the
    /// node is the only member already.
    pub async fn force_new(&self, request: ForceNewRequest) -> Result<Membership, Error> {
        let ForceNewRequest {
            cluster_id,
            expected_disk_id,
            expected_term,
            expected_last_index,
            fencing_token,
        } = request;
        let member = self.active_in(&cluster_id)?;
        let (disk_id, _) = self.identity();
        if expected_disk_id != disk_id {
            return Err(Error::new(
                ErrorCode::WrongMember,
                format!("the disk here is {disk_id}, not {expected_disk_id}"),
            ));
        }
        let expected = LastEntry { term: expected_term, index: expected_last_index };
        let alone = match member.raft.force_new(expected, fencing_token).await? {
            Verdict::Done => return Ok((*member.raft.status().membership).clone()),
            Verdict::Possible(alone) => alone,
        };
        let node = self.clone();
        tokio::task::spawn_blocking(move || node.mark_forced(ForceNew { fencing_token }))
            .await
            .map_err(|error| Error::new(ErrorCode::Internal, error.to_string()))??;
        tracing::error!(
            disk_id,
            term = expected_term,
            last_index = expected_last_index,
            "FORCED into a cluster of its own: all other members are removed, and what only they hold is lost"
        );
        self.inner().must_restart.store(true, Ordering::SeqCst);
        self.inner()
            .fatal
            .raise("made the only member of its cluster; it goes on when it is started again".into());
        Ok(alone)
    }

    fn mark_forced(&self, mark: ForceNew) -> Result<(), Error> {
        let mut entry = self.inner().entry.lock().unwrap_or_else(PoisonError::into_inner);
        let marked = entry.data_dir.force_new(mark);
        marked.map_err(|error| Error::new(ErrorCode::StorageUnavailable, error.to_string()))
    }

    /// The process has to start again instead of ending.
    pub fn must_restart(&self) -> bool {
        self.inner().must_restart.load(Ordering::SeqCst)
    }
}
