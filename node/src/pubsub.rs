//! Who of this node's clients listens to which channels, and their messages on the way: at most once, in the
//! order in which a publisher sent them, and kept nowhere.
//!
//! Called by whoever serves clients, and by `requests` for what members publish to one another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::client_memory::{Account, Cause};
use crate::glob;

/// Messages that one client may have waiting; one that is slower is cut off, as Redis does. Their bytes are limited by
/// its account.
const MAX_WAITING: usize = 16_384;
/// Channels and patterns of one client.
pub const MAX_TOPICS: usize = 10_000;

/// What a client hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// That led to it; `None`: the channel itself.
    pub pattern: Option<Bytes>,
    pub channel: Bytes,
    pub payload: Bytes,
}

impl Delivery {
    fn bytes(&self) -> usize {
        self.pattern.as_ref().map_or(0, Bytes::len) + self.channel.len() + self.payload.len()
    }
}

/// The channels of one node.
#[derive(Debug, Default)]
pub struct Broker {
    last_id: AtomicU64,
    /// Clients cut off for being too slow.
    cuts: Arc<AtomicU64>,
    topics: RwLock<Topics>,
}

/// Nobody listens to a topic that is not in here.
#[derive(Debug, Default)]
struct Topics {
    channels: HashMap<Bytes, HashMap<u64, Inbox>>,
    patterns: BTreeMap<Bytes, HashMap<u64, Inbox>>,
}

#[derive(Debug, Clone)]
struct Inbox {
    sender: mpsc::Sender<Delivery>,
    account: Arc<Account>,
    cuts: Arc<AtomicU64>,
}

/// One client that listens; dropped, it listens to nothing.
#[derive(Debug)]
pub struct Subscriber {
    id: u64,
    broker: Arc<Broker>,
    inbox: Inbox,
    receiver: mpsc::Receiver<Delivery>,
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
    topic_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    Channel,
    Pattern,
}

impl Broker {
    /// A client that listens to nothing yet. What waits for it is charged to `account`.
    pub fn subscriber(self: &Arc<Self>, account: Arc<Account>) -> Subscriber {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        Subscriber {
            id: self.last_id.fetch_add(1, Ordering::Relaxed),
            broker: self.clone(),
            inbox: Inbox { sender, account, cuts: Arc::clone(&self.cuts) },
            receiver,
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
            topic_bytes: 0,
        }
    }

    /// Hands a message to this node's clients; answers how many times.
    pub fn publish(&self, channel: &Bytes, payload: &Bytes) -> u64 {
        let topics = self.read();
        let mut count = 0;
        // Slices would hold the chunks that they were read in for as long as the slowest subscriber takes.
        let mut own = None;
        let mut delivery = |pattern| {
            let copied = || (Bytes::copy_from_slice(channel), Bytes::copy_from_slice(payload));
            let (channel, payload) = own.get_or_insert_with(copied).clone();
            Delivery { pattern, channel, payload }
        };
        for inbox in topics.channels.get(channel).into_iter().flat_map(HashMap::values) {
            count += u64::from(inbox.put(delivery(None)));
        }
        for (pattern, inboxes) in &topics.patterns {
            if glob::matches(pattern, channel) {
                for inbox in inboxes.values() {
                    count += u64::from(inbox.put(delivery(Some(pattern.clone()))));
                }
            }
        }
        count
    }

    /// Channels that somebody listens to by name, in order.
    pub fn channels(&self, pattern: Option<&[u8]>) -> Vec<Bytes> {
        let topics = self.read();
        let matches = |channel: &&Bytes| pattern.is_none_or(|pattern| glob::matches(pattern, channel));
        let mut found: Vec<_> = topics.channels.keys().filter(matches).cloned().collect();
        found.sort_unstable();
        found
    }

    /// Clients that listen to a channel by name.
    pub fn listeners(&self, channel: &[u8]) -> usize {
        self.read().channels.get(channel).map_or(0, HashMap::len)
    }

    /// How many clients were cut off since the start because they did not read fast enough.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

    pub fn pattern_count(&self) -> usize {
        self.read().patterns.len()
    }

    // Every critical section leaves the topics whole.
    fn read(&self) -> RwLockReadGuard<'_, Topics> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Topics> {
        self.topics.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    fn put(&self, delivery: Delivery) -> bool {
        let bytes = delivery.bytes();
        let was_closed = self.account.is_closed();
        let is_taken = self.account.add_message(bytes) && self.sender.try_send(delivery).is_ok();
        if !is_taken {
            self.account.remove_message(bytes);
            self.account.close(Cause::PubsubLimit);
            self.cuts.fetch_add((!was_closed).into(), Ordering::Relaxed);
        }
        is_taken
    }
}

impl Subscriber {
    /// Listens to one more, if it does not yet; false if that were too many.
    pub fn subscribe(&mut self, topic: Topic, name: Bytes) -> bool {
        if self.count() >= MAX_TOPICS {
            return false;
        }
        // A slice would hold the chunk that it was read in.
        let name = Bytes::copy_from_slice(&name);
        let inbox = self.inbox.clone();
        let mut topics = self.broker.write();
        let listeners = match topic {
            Topic::Channel => topics.channels.entry(name.clone()).or_default(),
            Topic::Pattern => topics.patterns.entry(name.clone()).or_default(),
        };
        listeners.insert(self.id, inbox);
        drop(topics);
        let bytes = topic_bytes(&name);
        if self.names(topic).insert(name) {
            self.topic_bytes += bytes;
        }
        true
    }

    /// True if it listened to it.
    pub fn unsubscribe(&mut self, topic: Topic, name: &[u8]) -> bool {
        self.broker.write().forget(topic, name, self.id);
        let listened = self.names(topic).remove(name);
        if listened {
            self.topic_bytes -= topic_bytes(name);
        }
        listened
    }

    /// What the names cost that it listens to.
    pub fn topic_bytes(&self) -> usize {
        self.topic_bytes
    }

    /// What it listens to, in order.
    pub fn topics(&self, topic: Topic) -> Vec<Bytes> {
        match topic {
            Topic::Channel => self.channels.iter().cloned().collect(),
            Topic::Pattern => self.patterns.iter().cloned().collect(),
        }
    }

    /// Channels, and patterns.
    pub fn counts(&self) -> (usize, usize) {
        (self.channels.len(), self.patterns.len())
    }

    pub fn count(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// The next message. Cancel safe.
    pub async fn next(&mut self) -> Delivery {
        match self.receiver.recv().await {
            Some(delivery) => self.taken(delivery),
            // It holds a sender itself.
            None => std::future::pending().await,
        }
    }

    /// The next message, if there is one already.
    pub fn try_next(&mut self) -> Option<Delivery> {
        let delivery = self.receiver.try_recv().ok()?;
        Some(self.taken(delivery))
    }

    fn taken(&self, delivery: Delivery) -> Delivery {
        self.inbox.account.remove_message(delivery.bytes());
        delivery
    }

    fn names(&mut self, topic: Topic) -> &mut BTreeSet<Bytes> {
        match topic {
            Topic::Channel => &mut self.channels,
            Topic::Pattern => &mut self.patterns,
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let mut topics = self.broker.write();
        for channel in &self.channels {
            topics.forget(Topic::Channel, channel, self.id);
        }
        for pattern in &self.patterns {
            topics.forget(Topic::Pattern, pattern, self.id);
        }
    }
}

/// A name in the list of its subscriber and in that of all.
fn topic_bytes(name: &[u8]) -> usize {
    name.len() + 2 * size_of::<Bytes>() + size_of::<Inbox>()
}

impl Topics {
    fn forget(&mut self, topic: Topic, name: &[u8], id: u64) {
        let forget = |listeners: &mut HashMap<u64, Inbox>| {
            listeners.remove(&id);
            listeners.is_empty()
        };
        match topic {
            Topic::Channel => {
                if self.channels.get_mut(name).is_some_and(forget) {
                    self.channels.remove(name);
                }
            }
            Topic::Pattern => {
                if self.patterns.get_mut(name).is_some_and(forget) {
                    self.patterns.remove(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_memory::MemoryLimits;
    use crate::client_memory::tests::account;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn broker() -> Arc<Broker> {
        Arc::default()
    }

    #[test]
    fn a_message_goes_to_those_who_listen_once_for_each_way_they_do() {
        let broker = broker();
        let mut one = broker.subscriber(account(MemoryLimits::default()).0);
        let mut other = broker.subscriber(account(MemoryLimits::default()).0);
        assert!(one.subscribe(Topic::Channel, bytes("news")));
        assert!(one.subscribe(Topic::Pattern, bytes("n*")));
        assert!(other.subscribe(Topic::Channel, bytes("old")));
        assert_eq!(broker.publish(&bytes("news"), &bytes("hi")), 2);
        let heard =
            [one.try_next(), one.try_next(), one.try_next()].map(|heard| heard.map(|heard| heard.pattern));
        assert_eq!(heard, [Some(None), Some(Some(bytes("n*"))), None]);
        assert_eq!(other.try_next(), None);
        assert_eq!(broker.channels(None), [bytes("news"), bytes("old")]);
        assert_eq!(broker.channels(Some(b"o*")), [bytes("old")]);
    }

    #[test]
    fn nothing_is_left_of_one_that_is_gone() {
        let broker = broker();
        let mut client = broker.subscriber(account(MemoryLimits::default()).0);
        client.subscribe(Topic::Channel, bytes("a"));
        client.subscribe(Topic::Channel, bytes("b"));
        client.subscribe(Topic::Pattern, bytes("*"));
        assert!(client.unsubscribe(Topic::Channel, b"a"));
        assert!(!client.unsubscribe(Topic::Channel, b"a"));
        assert_eq!((client.count(), broker.listeners(b"a"), broker.listeners(b"b")), (2, 0, 1));
        drop(client);
        assert_eq!((broker.channels(None).len(), broker.pattern_count()), (0, 0));
    }

    #[test]
    fn one_that_does_not_read_is_cut_off() {
        let broker = broker();
        let (account, cut) = account(MemoryLimits::default());
        let mut client = broker.subscriber(account);
        client.subscribe(Topic::Channel, bytes("a"));
        let large = Bytes::from(vec![0; MemoryLimits::default().pubsub_bytes / 4]);
        let taken: u64 = (0..4).map(|_| broker.publish(&bytes("a"), &large)).sum();
        assert_eq!((taken, cut.is_cancelled(), broker.cuts()), (3, true, 1));
    }
}
