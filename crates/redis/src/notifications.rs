//! Keyspace notifications: events of applied entries, published on channels to the clients of this node.
//!
//! Each node publishes the events of its own applied state to its own clients; nothing is sent between members.
//! As in Redis a notification is sent at most once: events are dropped if the node is too far behind. While
//! they are off, they cost the apply thread one check of a flag.

use bytes::Bytes;
use helios_service::database::Database;
use helios_service::pubsub::Broker;
use helios_state::{Changed, Event, EventFilter, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Publisher of keyspace events, with the filter that `CONFIG SET notify-keyspace-events` changes.
#[derive(Debug)]
pub struct Notifications {
    selection: watch::Sender<Selection>,
}

#[derive(Debug, Clone, Copy)]
struct Selection {
    filter: EventFilter,
    /// Last revision whose events are not published.
    after: u64,
}

impl Notifications {
    pub fn new(filter: EventFilter, store: &Store) -> Self {
        store.record_events(filter.is_on());
        Self { selection: watch::Sender::new(Selection { filter, after: store.changes_through() }) }
    }

    pub fn filter(&self) -> EventFilter {
        self.selection.borrow().filter
    }

    /// Publishes the events that `filter` selects, from the current revision on.
    pub fn set(&self, filter: EventFilter, store: &Store) {
        store.record_events(filter.is_on());
        self.selection.send_replace(Selection { filter, after: store.changes_through() });
    }

    /// Publishes events until `shutdown`.
    pub async fn run(&self, db: impl Database, shutdown: CancellationToken) {
        let mut selections = self.selection.subscribe();
        let mut changes = db.store().watch_changes();
        let Selection { mut filter, mut after } = *selections.borrow_and_update();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                // Neither sender is dropped while this runs.
                _ = selections.changed() => Selection { filter, after } = *selections.borrow_and_update(),
                _ = changes.changed(), if filter.is_on() => {
                    changes.borrow_and_update();
                    after = publish_page(&db, filter, after);
                    if after < db.store().changes_through() {
                        changes.mark_changed();
                    }
                }
            }
        }
    }
}

/// Publishes the events of a bounded number of entries after revision `after`; returns the revision that the
/// next call continues from.
fn publish_page(db: &impl Database, filter: EventFilter, after: u64) -> u64 {
    match db.store().changes_after(after) {
        Ok(page) => {
            page.entries.iter().for_each(|entry| publish_events(db.broker(), filter, entry));
            page.through
        }
        Err(lost) => {
            tracing::warn!(
                after,
                oldest = lost.oldest,
                "keyspace notifications fell behind; some were dropped"
            );
            lost.oldest - 1
        }
    }
}

fn publish_events(broker: &Broker, filter: EventFilter, entry: &Changed) {
    for Event { name, key, .. } in entry.events.iter().filter(|event| filter.wants(event)) {
        if filter.by_key() {
            broker.publish(
                &[b"__keyspace@0__:", &key[..]].concat().into(),
                &Bytes::from_static(name.as_bytes()),
            );
        }
        if filter.by_event() {
            broker.publish(&format!("__keyevent@0__:{name}").into(), key);
        }
    }
}
