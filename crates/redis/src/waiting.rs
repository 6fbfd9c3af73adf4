//! Clients of this node that wait in blocking commands: a queue for each key.
//!
//! Changes are taken from the applied entries, so they are seen whichever member accepted the write. Only the
//! first client of a key's queue is notified; when it leaves, the next is notified, since there may be more to
//! take.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use helios_state::{Lost, Store};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Waiting {
    queues: Mutex<Queues>,
    is_listening: AtomicBool,
}

#[derive(Debug, Default)]
struct Queues {
    last_number: u64,
    /// Waiters of each key by number; the lowest is first. Keys without waiters have no entry.
    keys: HashMap<Bytes, BTreeMap<u64, Arc<Notify>>>,
    count: usize,
}

/// Place of one client in the queues of some keys; given up on drop.
#[derive(Debug)]
pub struct Place {
    waiting: Arc<Waiting>,
    number: u64,
    keys: Vec<Bytes>,
    called: Arc<Notify>,
}

impl Waiting {
    /// Appends a client to the queues of `keys`.
    pub fn enter(self: &Arc<Self>, keys: &[Bytes], store: &Store) -> Place {
        if !self.is_listening.swap(true, Ordering::Relaxed) {
            tokio::spawn(listen(Arc::downgrade(self), store.clone()));
        }
        let called = Arc::new(Notify::new());
        let mut queues = self.lock();
        queues.last_number += 1;
        queues.count += 1;
        let number = queues.last_number;
        for key in keys {
            queues.keys.entry(key.clone()).or_default().insert(number, called.clone());
        }
        drop(queues);
        Place { waiting: self.clone(), number, keys: keys.to_vec(), called }
    }

    /// Returns the number of waiting clients.
    pub fn count(&self) -> usize {
        self.lock().count
    }

    fn notify_key(&self, key: &Bytes) {
        if let Some(queue) = self.lock().keys.get(key) {
            notify_first(queue);
        }
    }

    fn notify_all(&self) {
        self.lock().keys.values().for_each(notify_first);
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Every critical section here leaves its data consistent.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn notify_first(queue: &BTreeMap<u64, Arc<Notify>>) {
    if let Some(first) = queue.values().next() {
        // The notification is stored if the client is not awaiting it now.
        first.notify_one();
    }
}

impl Place {
    /// Whether the client is first in the queue of at least one of its keys.
    pub fn is_first(&self) -> bool {
        let queues = self.waiting.lock();
        let first = |key| queues.keys.get(key).and_then(|queue| queue.keys().next());
        self.keys.iter().any(|key| first(key) == Some(&self.number))
    }

    /// Resolves when one of the keys was changed or the client became first in a queue. Cancel safe.
    pub async fn called(&self) {
        self.called.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.waiting.lock();
        queues.count -= 1;
        for key in &self.keys {
            let Some(queue) = queues.keys.get_mut(key) else { continue };
            queue.remove(&self.number);
            if queue.is_empty() {
                queues.keys.remove(key);
            } else {
                notify_first(queue);
            }
        }
    }
}

/// Follows the applied entries and notifies waiters while `waiting` exists.
async fn listen(waiting: Weak<Waiting>, store: Store) {
    let mut changes = store.watch_changes();
    let mut seen = store.changes_through();
    // A client that entered before this task subscribed may have missed a change.
    if let Some(waiting) = waiting.upgrade() {
        waiting.notify_all();
    }
    while changes.changed().await.is_ok() {
        let Some(waiting) = waiting.upgrade() else { return };
        // Read before the count: a client that enters after the count was 0 checks its keys itself, and finds
        // all these changes.
        let through = store.changes_through();
        if waiting.count() == 0 {
            seen = through;
            continue;
        }
        loop {
            let page = match store.changes_after(seen) {
                Ok(page) => page,
                Err(Lost { .. }) => {
                    seen = store.changes_through();
                    waiting.notify_all();
                    continue;
                }
            };
            seen = page.through;
            let changed = page.entries.iter().flat_map(|entry| entry.keys());
            changed.filter(|(_, value)| value.is_some()).for_each(|(key, _)| waiting.notify_key(&key));
            if page.is_last {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn first_waiter_is_notified_and_next_waiter_when_it_leaves() {
        let (waiting, store) = (Arc::new(Waiting::default()), Store::in_memory());
        // This test notifies waiters itself; the listening task must not start.
        waiting.is_listening.store(true, Ordering::Relaxed);
        let (a, b) = (Bytes::from("a"), Bytes::from("b"));
        let first = waiting.enter(&[a.clone(), b.clone(), a.clone()], &store);
        let second = waiting.enter(std::slice::from_ref(&a), &store);
        let third = waiting.enter(std::slice::from_ref(&b), &store);
        assert!(first.is_first() && !second.is_first() && !third.is_first());
        waiting.notify_key(&a);
        assert!(poll!(std::pin::pin!(first.called())).is_ready());
        assert!(poll!(std::pin::pin!(second.called())).is_pending());
        drop(first);
        assert!(poll!(std::pin::pin!(second.called())).is_ready());
        assert!(poll!(std::pin::pin!(third.called())).is_ready());
        assert_eq!(waiting.count(), 2);
        drop((second, third));
        assert!(waiting.lock().keys.is_empty());
    }
}
