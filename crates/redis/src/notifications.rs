//! Keyspace notifications: changes of keys by applied entries, published to this node's clients on channels.
//!
//! Each node notifies its own clients of its own applied state; nothing is sent between members. As in Redis a notification
//! is sent once or, if its node is too far behind, not at all. Off, it costs the apply thread one check of a flag.

use bytes::Bytes;
use helios_service::database::Database;
use helios_service::pubsub::Broker;
use helios_state::{Changed, Event, EventFilter, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The events that are published, and the first revision.
#[derive(Debug)]
pub struct Notifications {
    wish: watch::Sender<Wish>,
}

#[derive(Debug, Clone, Copy)]
struct Wish {
    filter: EventFilter,
    /// The last revision that is not published.
    after: u64,
}

impl Notifications {
    pub fn new(filter: EventFilter, store: &Store) -> Self {
        store.record_events(filter.is_on());
        Self { wish: watch::Sender::new(Wish { filter, after: store.changes_through() }) }
    }

    pub fn filter(&self) -> EventFilter {
        self.wish.borrow().filter
    }

    /// Tells what `filter` wants of all that is applied from now on.
    pub fn set(&self, filter: EventFilter, store: &Store) {
        store.record_events(filter.is_on());
        self.wish.send_replace(Wish { filter, after: store.changes_through() });
    }

    /// Tells until `shutdown`.
    pub async fn run(&self, db: impl Database, shutdown: CancellationToken) {
        let mut wishes = self.wish.subscribe();
        let mut news = db.store().watch_changes();
        let Wish { mut filter, mut after } = *wishes.borrow_and_update();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                // Neither sender is gone while this runs.
                _ = wishes.changed() => Wish { filter, after } = *wishes.borrow_and_update(),
                _ = news.changed(), if filter.is_on() => {
                    news.borrow_and_update();
                    after = publish_page(&db, filter, after);
                    if after < db.store().changes_through() {
                        news.mark_changed();
                    }
                }
            }
        }
    }
}

/// Tells a bounded part of what came after a revision; answers up to which.
fn publish_page(db: &impl Database, filter: EventFilter, after: u64) -> u64 {
    match db.store().changes_after(after) {
        Ok(page) => {
            page.entries.iter().for_each(|entry| tell(db.broker(), filter, entry));
            page.through
        }
        Err(lost) => {
            tracing::warn!(
                after,
                oldest = lost.oldest,
                "keyspace notifications fell behind; some are left out"
            );
            lost.oldest - 1
        }
    }
}

fn tell(broker: &Broker, filter: EventFilter, entry: &Changed) {
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
