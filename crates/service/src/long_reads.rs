//! Long reads, which cost more than a connection's thread may spend: they run on blocking threads, a few at once.

use helios_proto::Error;
use helios_proto::v1::ErrorCode;
use helios_state::{Limits, Store};
use tokio::sync::Semaphore;

/// Limit of concurrent long reads of this process. Each may hold `reads.max_bytes` of memory and keep a core busy for
/// seconds.
pub const MAX_LONG_READS: usize = 2;

static PERMITS: Semaphore = Semaphore::const_new(MAX_LONG_READS);

/// Runs `read` under the limits of a short read; if they are exceeded, again under the node's limits, on a blocking
/// thread. The cost of a read is known only while it runs, and a short read is cheap to repeat.
pub async fn run<T: Send + 'static>(
    store: &Store,
    read: impl Fn(&Store, Limits) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let limits = store.read_limits();
    match read(store, limits.short()) {
        Err(error) if error.code == ErrorCode::BudgetExceeded && limits.short() != limits => {}
        answered => return answered,
    }
    // The semaphore is never closed.
    let _permit = PERMITS.acquire().await.map_err(|_| panicked())?;
    let store = store.clone();
    tokio::task::spawn_blocking(move || read(&store, limits)).await.map_err(|_| panicked())?
}

fn panicked() -> Error {
    Error::new(ErrorCode::Internal, "a read panicked")
}
