//! A watch as a stream that the client pulls, so that nothing is queued for a slow client. Changes that it has not read
//! yet stay in the state's history, whose bound is shared by all watches.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use helios_proto::v1::event::Kind;
use helios_proto::v1::{Entry, Event, WatchEnd, WatchRequest, WatchResponse};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use crate::state::{Changed, Lost, Store, Value};

/// Interval at which an idle watch reports its revision.
const PROGRESS: Duration = Duration::from_secs(10);

pub struct Watcher {
    store: Store,
    changes: watch::Receiver<u64>,
    key: Bytes,
    prefix: bool,
    /// Revision up to which all changes were processed.
    revision: u64,
    /// Revision that the client was last sent.
    reported: Option<u64>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    pub fn new(store: Store, request: WatchRequest, permit: OwnedSemaphorePermit) -> Self {
        let WatchRequest { key, prefix, start_revision } = request;
        // Subscribed before the position is read, so that a concurrent change is noticed.
        let changes = store.watch_changes();
        let revision = match start_revision {
            0 => store.changes_through(),
            first => first - 1,
        };
        Self { store, changes, key, prefix, revision, reported: None, ended: false, _permit: permit }
    }

    pub fn into_stream(self) -> impl Stream<Item = Result<WatchResponse, Status>> + Send {
        stream::unfold(self, |mut watcher| async move {
            let response = watcher.next().await?;
            Some((Ok(response), watcher))
        })
    }

    async fn next(&mut self) -> Option<WatchResponse> {
        if self.ended {
            return None;
        }
        let progress = Instant::now() + PROGRESS;
        loop {
            // Marked before the read, so that later changes are noticed.
            self.changes.mark_unchanged();
            let page = match self.store.changes_after(self.revision) {
                Ok(page) => page,
                Err(lost) => return Some(self.end(lost)),
            };
            let events: Vec<_> = page.entries.iter().flat_map(|entry| self.events_of(entry)).collect();
            self.revision = page.through;
            if !events.is_empty() || self.reported.is_none() {
                return Some(self.report(events));
            }
            if page.is_last {
                tokio::select! {
                    changed = self.changes.changed() => changed.ok()?,
                    () = sleep_until(progress) => return Some(self.report(Vec::new())),
                }
            }
        }
    }

    fn report(&mut self, events: Vec<Event>) -> WatchResponse {
        self.reported = Some(self.revision);
        WatchResponse { events, revision: self.revision, end: None }
    }

    fn end(&mut self, lost: Lost) -> WatchResponse {
        self.ended = true;
        let reason = format!(
            "changes after revision {} are no longer kept: read the keys, then watch from the revision after \
             the answer's",
            self.revision
        );
        let end = Some(WatchEnd { reason, oldest_revision: lost.oldest });
        WatchResponse { events: Vec::new(), revision: self.revision, end }
    }

    fn events_of(&self, entry: &Arc<Changed>) -> Vec<Event> {
        let flushed = entry.flushed.then(|| Event { kind: Kind::DeleteAll.into(), ..Event::default() });
        let changed = entry.keys().filter(|(key, _)| self.is_watched(key)).map(|(key, value)| match value {
            Some(value) => self.put_of(entry, key, value),
            None => {
                let entry = Entry { key, revision: entry.revision, ..Entry::default() };
                Event { kind: Kind::Delete.into(), entry: Some(entry), value_omitted: false }
            }
        });
        flushed.into_iter().chain(changed).collect()
    }

    fn put_of(&self, changed: &Changed, key: Bytes, value: Value) -> Event {
        let (revision, expire_at_ms) = (value.revision, value.expire_at_ms);
        // After an error the store has failed, and the process ends.
        let seen = self.store.value_of_change(changed, &key, value).ok().flatten();
        let value_omitted = seen.is_none();
        let string = seen.filter(|seen| seen.kind == crate::state::Kind::String);
        let value = string.map(|string| string.data).unwrap_or_default();
        let entry = Some(Entry { key, value, revision, expire_at_ms });
        Event { kind: Kind::Put.into(), entry, value_omitted }
    }

    fn is_watched(&self, key: &[u8]) -> bool {
        if self.prefix { key.starts_with(&self.key) } else { key == self.key }
    }
}
