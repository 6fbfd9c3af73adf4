//! A base: the whole state at one index, as parts in order and a manifest that is written last. Without a manifest there is no
//! base, so an interrupted write leaves garbage, which the next write of the same bytes resumes.

mod read;
mod write;

use serde::{Deserialize, Serialize};

use crate::layout::BaseId;

pub use read::BaseReader;
pub use write::{BaseRequest, BaseWriter, Begun, Options};

pub(crate) const FORMAT: u32 = 1;

/// The manifest of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub format: u32,
    pub cluster_id: String,
    pub incarnation: u64,
    pub index: u64,
    pub term: u64,
    /// The log's clock at this index: the maximum `now_ms` of the entries up to it.
    pub now_ms: u64,
    /// Format of the content: the version of the snapshot.
    pub snapshot_version: u32,
    /// Checksum by which members identify the snapshot. It does not cover all bytes of every version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_crc32c: Option<u32>,
    /// Name of the member that sent it.
    pub member: String,
    pub started_ms: u64,
    pub finished_ms: u64,
    /// Length of the content.
    pub bytes: u64,
    /// Length of all parts in the store.
    pub stored_bytes: u64,
    /// SHA-256 of the content.
    pub sha256: String,
    /// Keys in the state, for a check after a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// Digest of the state, for the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_digest: Option<String>,
    pub parts: Vec<Part>,
}

/// A part as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Length of its content.
    pub bytes: u64,
    pub stored_bytes: u64,
    /// SHA-256 of its bytes in the store.
    pub sha256: String,
}

impl Manifest {
    pub fn id(&self) -> BaseId {
        BaseId { index: self.index, term: self.term }
    }
}

/// The identity of the bytes that a base is written from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    source: String,
    part_bytes: u64,
}
