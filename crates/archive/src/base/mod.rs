//! A base: the whole state at one index, as parts in order and a manifest that is written last. Without a manifest there is no
//! base, so an interrupted write leaves garbage, which the next write of the same bytes resumes.

mod read;
mod write;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::archive::blocking;
use crate::crypto::{hex, sha256};
use crate::layout::BaseId;

pub use read::BaseReader;
pub use write::{BaseRequest, BaseWriter, Begun, Options};

pub(crate) const FORMAT: u32 = 1;

/// Limit of the content of the parts that are in flight, bytes, unless it is one part.
const IN_FLIGHT_BYTES: u64 = 12 << 20;

/// Returns the number of parts of this size that are sealed and stored, or read and opened, at the same time. Each is in
/// memory up to three times: as content, compressed, and sealed.
fn in_flight(part_bytes: u64) -> usize {
    (IN_FLIGHT_BYTES / part_bytes.max(4 << 20)).max(1) as usize
}

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

impl Part {
    async fn of(content: &Bytes, stored: &Bytes) -> Result<Self> {
        Ok(Self {
            bytes: content.len() as u64,
            stored_bytes: stored.len() as u64,
            sha256: sha256_of(stored).await?,
        })
    }
}

/// Hashes a stored part on a blocking thread: it takes milliseconds, in which the source or the store would wait.
async fn sha256_of(stored: &Bytes) -> Result<String> {
    let stored = stored.clone();
    blocking(move || Ok(hex::encode(&sha256(&[&stored])))).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_of_the_parts_in_flight_is_bounded_whatever_the_size_of_a_part() {
        assert_eq!([4 << 20, 8 << 20, 16 << 20].map(in_flight), [3, 1, 1]);
        for part_bytes in [0, 1, 100 << 10, 3 << 20, 5 << 20, 13 << 20, 1 << 30] {
            let content = in_flight(part_bytes) as u64 * part_bytes;
            assert!((1..=4).contains(&in_flight(part_bytes)) && content <= IN_FLIGHT_BYTES.max(part_bytes));
        }
    }
}
