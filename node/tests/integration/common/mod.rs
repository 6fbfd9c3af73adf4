//! The harness: ports that no other test uses, processes that end with the test, clients with timeouts, a
//! load that records the acknowledged writes, clients that record a history, and a network that can be cut.

mod certificates;
mod client;
mod clients;
mod clock;
mod cluster;
mod load;
mod network;
mod node;
mod operator;
mod ports;

use std::time::Duration;

use tokio::time::Instant;

pub use certificates::{Authority, Leaf, Mounted, begin_of};
pub use client::{connect, error_code, http, http_with, info_field};
pub use clients::Clients;
pub use clock::WallClock;
pub use cluster::{Cluster, temporary_directory};
pub use helios_history::redis::is_outcome_unknown;
pub use load::Load;
pub use network::Network;
pub use node::{Node, free_standing};
pub use operator::{CLUSTER_ID, Operator};
pub use ports::{NodePorts, Ports, is_free};

/// Longest time for anything that a healthy cluster does within a second or two; generous, because other
/// tests share the cores.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two polls of a condition.
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// Polls until `poll` returns a value; panics with `what` when it does not within [`PATIENCE`].
pub async fn eventually<T>(what: &str, poll: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, poll).await
}

pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut poll: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = poll().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// Polls for `period` and panics as soon as `poll` returns true.
pub async fn never(period: Duration, what: &str, mut poll: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + period;
    while Instant::now() < end {
        assert!(!poll().await, "{what}");
        tokio::time::sleep(POLL_PAUSE).await;
    }
}
