//! Slots for the connections of one port. A connection has its slot until it ends. When all are taken, the oldest connection
//! that has sent nothing is evicted for the next.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The slots of one port; clones share them.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    last_number: AtomicU64,
    /// Connections that have not sent a valid request yet, the oldest first.
    newcomers: Mutex<BTreeMap<u64, CancellationToken>>,
}

/// A slot; free again when dropped.
#[derive(Debug)]
pub struct Slot {
    inner: Arc<Inner>,
    number: u64,
    evicted: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    pub fn new(count: usize) -> Self {
        let free = Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Inner { free, last_number: AtomicU64::new(0), newcomers: Mutex::default() }))
    }

    /// A slot for an accepted connection; waits for a connection to end if all slots are taken and none can be evicted.
    /// `None`: the slots are closed, which does not happen while `self` lives.
    pub async fn take(&self) -> Option<Slot> {
        let free = Arc::clone(&self.0.free);
        let permit = match Arc::clone(&free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                if let Some((_, oldest)) = self.0.newcomers().pop_first() {
                    oldest.cancel();
                }
                free.acquire_owned().await.ok()?
            }
        };
        let number = self.0.last_number.fetch_add(1, Ordering::Relaxed);
        let evicted = CancellationToken::new();
        self.0.newcomers().insert(number, evicted.clone());
        Some(Slot { inner: Arc::clone(&self.0), number, evicted, _permit: permit })
    }
}

impl Slot {
    /// The connection has sent a valid request: it is not evicted from now on.
    pub fn prove(&self) {
        self.inner.newcomers().remove(&self.number);
    }

    /// Cancelled when the connection is evicted.
    pub fn evicted(&self) -> CancellationToken {
        self.evicted.clone()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.prove();
    }
}

impl Inner {
    // Every critical section leaves the map whole.
    fn newcomers(&self) -> MutexGuard<'_, BTreeMap<u64, CancellationToken>> {
        self.newcomers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn the_oldest_newcomer_gives_way_and_a_proven_connection_does_not() {
        let slots = Slots::new(2);
        let (proven, newcomer) = (slots.take().await.unwrap(), slots.take().await.unwrap());
        proven.prove();
        let evicted = newcomer.evicted();
        let mut next = Box::pin(slots.take());
        assert!(poll!(&mut next).is_pending() && evicted.is_cancelled() && !proven.evicted().is_cancelled());
        drop(newcomer);
        let next = next.await.unwrap();
        next.prove();
        let mut last = Box::pin(slots.take());
        assert!(poll!(&mut last).is_pending() && !next.evicted().is_cancelled());
        drop(proven);
        assert!(poll!(&mut last).is_ready());
    }
}
