//! Force-new-cluster: makes the survivor of a lost majority the only member of its cluster (ADR 0009).
//!
//! The request is written to the disk first and executed by the next start, before the member runs: a crash at any
//! point leaves either the old member or a start that completes the request.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use helios_proto::v1::{ErrorCode, ForceNewRequest, Membership};

use crate::error::Error;
use crate::lifecycle::ForceNew;
use crate::node::Node;
use crate::raft::{LastEntry, Verdict};

impl Node {
    /// Returns the membership that this node will have after the restart that [`Node::failed`] then requests; or the
    /// current one if the node is the only member already.
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
            "FORCED NEW CLUSTER: this is the only member, all others are removed, and writes that only they hold are lost"
        );
        self.inner().must_restart.store(true, Ordering::SeqCst);
        self.inner()
            .fatal
            .raise("made the only member of its cluster; restart the process to continue".into());
        Ok(alone)
    }

    fn mark_forced(&self, mark: ForceNew) -> Result<(), Error> {
        let mut entry = self.inner().entry.lock().unwrap_or_else(PoisonError::into_inner);
        let marked = entry.data_dir.force_new(mark);
        marked.map_err(|error| Error::new(ErrorCode::StorageUnavailable, error.to_string()))
    }

    /// Whether this process should restart rather than end.
    pub fn must_restart(&self) -> bool {
        self.inner().must_restart.load(Ordering::SeqCst)
    }
}
