//! The harness: ports that no other test has, processes that end with the test, clients with
//! deadlines, a writer that remembers what was acknowledged, clients that record a history, and wires
//! that can be cut.

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

/// How long anything may take that a healthy cluster does within a second or two; generous, since
/// other tests share the cores.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until `look` finds something; panics with `what` when it does not in time.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, look).await
}

pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Looks for `period` and panics as soon as `look` finds something that must not be.
pub async fn never(period: Duration, what: &str, mut look: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + period;
    while Instant::now() < end {
        assert!(!look().await, "{what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
