//! Clients of this node that wait for a key to hold something: who is first in line for which key.
//!
//! Changes are read from the applied entries, so it does not matter which member wrote it. Only the first in
//! queue of a key is notified; a client that leaves the queue makes the next one check, since there may be more to take.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use helios_state::{Lost, Store};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Waiting {
    lines: Mutex<Lines>,
    is_listening: AtomicBool,
}

#[derive(Debug, Default)]
struct Lines {
    last_number: u64,
    /// The waiting clients of each key, the first with the lowest number. A key without one has no entry.
    keys: HashMap<Bytes, BTreeMap<u64, Arc<Notify>>>,
    count: usize,
}

/// A place in the lines for some keys; dropped, it is given up.
#[derive(Debug)]
pub struct Place {
    waiting: Arc<Waiting>,
    number: u64,
    keys: Vec<Bytes>,
    called: Arc<Notify>,
}

impl Waiting {
    /// At the end of the lines for `keys`.
    pub fn enter(self: &Arc<Self>, keys: &[Bytes], store: &Store) -> Place {
        if !self.is_listening.swap(true, Ordering::Relaxed) {
            tokio::spawn(listen(Arc::downgrade(self), store.clone()));
        }
        let called = Arc::new(Notify::new());
        let mut lines = self.lock();
        lines.last_number += 1;
        lines.count += 1;
        let number = lines.last_number;
        for key in keys {
            lines.keys.entry(key.clone()).or_default().insert(number, called.clone());
        }
        drop(lines);
        Place { waiting: self.clone(), number, keys: keys.to_vec(), called }
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.lock().count
    }

    fn call_for(&self, key: &Bytes) {
        if let Some(line) = self.lock().keys.get(key) {
            call_first(line);
        }
    }

    fn call_all(&self) {
        self.lock().keys.values().for_each(call_first);
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // Every critical section here leaves its data whole.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn call_first(line: &BTreeMap<u64, Arc<Notify>>) {
    if let Some(first) = line.values().next() {
        // Kept for it, if it is busy looking.
        first.notify_one();
    }
}

impl Place {
    /// The client is the first of the queue of at least one key.
    pub fn is_first(&self) -> bool {
        let lines = self.waiting.lock();
        let first = |key| lines.keys.get(key).and_then(|line| line.keys().next());
        self.keys.iter().any(|key| first(key) == Some(&self.number))
    }

    /// Resolves when a key was changed, or the client in front has left. Cancel safe.
    pub async fn called(&self) {
        self.called.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.waiting.lock();
        lines.count -= 1;
        for key in &self.keys {
            let Some(line) = lines.keys.get_mut(key) else { continue };
            line.remove(&self.number);
            if line.is_empty() {
                lines.keys.remove(key);
            } else {
                call_first(line);
            }
        }
    }
}

/// Follows the applied entries for as long as there is anybody to tell.
async fn listen(waiting: Weak<Waiting>, store: Store) {
    let mut news = store.watch_changes();
    let mut seen = store.changes_through();
    // Whoever came before this began to listen may have missed something.
    if let Some(waiting) = waiting.upgrade() {
        waiting.call_all();
    }
    while news.changed().await.is_ok() {
        let Some(waiting) = waiting.upgrade() else { return };
        // Read first: whoever enters after the line was seen to be empty looks for itself, and finds all of these.
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
                    waiting.call_all();
                    continue;
                }
            };
            seen = page.through;
            let changed = page.entries.iter().flat_map(|entry| entry.keys());
            changed.filter(|(_, value)| value.is_some()).for_each(|(key, _)| waiting.call_for(&key));
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
    async fn the_first_in_line_is_called_and_whoever_leaves_has_the_next_look() {
        let (waiting, store) = (Arc::new(Waiting::default()), Store::in_memory());
        // It is not this test that listens.
        waiting.is_listening.store(true, Ordering::Relaxed);
        let (a, b) = (Bytes::from("a"), Bytes::from("b"));
        let first = waiting.enter(&[a.clone(), b.clone(), a.clone()], &store);
        let second = waiting.enter(std::slice::from_ref(&a), &store);
        let third = waiting.enter(std::slice::from_ref(&b), &store);
        assert!(first.is_first() && !second.is_first() && !third.is_first());
        waiting.call_for(&a);
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
