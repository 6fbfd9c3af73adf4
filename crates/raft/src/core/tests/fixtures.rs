//! Settings, log base and members that the tests of one core and of a cluster of cores start from.

use helios_proto::v1::Member;
use helios_storage::wal::Base;

use super::super::*;

/// Base of the log of a new cluster, as in `recovery::bootstrap`.
pub const BASE: Base = Base { index: 1, term: 1 };
/// Log that a leader keeps on disk for members that lag.
pub const HELD_BYTES: u64 = 40 << 20;
pub const ELECTION_MIN: Duration = Duration::from_millis(300);

/// Default settings of member `id`.
pub fn settings(id: u64) -> Settings {
    Settings {
        id,
        heartbeat: Duration::from_millis(100),
        election_min: ELECTION_MIN,
        election_max: 2 * ELECTION_MIN,
        snapshot_entries: 10_000,
        snapshots_on_demand: false,
        snapshot_interval: Duration::from_secs(300),
        trailing_entries: 1_000,
        held_bytes: HELD_BYTES,
        log_cache_bytes: LOG_CACHE_BYTES,
        max_log_bytes: 512 << 20,
        max_overlay_bytes: 256 << 20,
        lease: None,
        priority: 0,
    }
}

/// Record of member `id` in the membership.
pub fn record(id: u64) -> Member {
    Member { id, name: format!("node-{id}"), ..Member::default() }
}

/// Record of a node that is to be added.
pub fn newcomer(name: &str) -> Member {
    Member { name: name.into(), peer_addr: "a:1".into(), disk_id: name.into(), ..Member::default() }
}
