//! Publish/subscribe: the subscriptions of this node's clients, and delivery of messages to them, at most once, in the
//! order in which a publisher sent them. Messages are not stored.
//!
//! Used by the services for clients, and by `requests` for messages that members forward to one another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::client_memory::{Account, Cause};
use crate::glob::{Exhausted, Pattern, Steps};

/// Limit of messages that wait for one client; a slower client is disconnected, as in Redis. Its account limits their
/// bytes.
const MAX_WAITING: usize = 16_384;
/// Limit of channels and patterns of one client.
pub const MAX_TOPICS: usize = 10_000;
/// Limit of the memory of one client's channel names and compiled patterns, bytes.
pub const MAX_TOPIC_BYTES: usize = 16 << 20;

/// A message for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Pattern that matched the channel; `None`: the client subscribes to the channel itself.
    pub pattern: Option<Bytes>,
    pub channel: Bytes,
    pub payload: Bytes,
}

impl Delivery {
    fn bytes(&self) -> usize {
        self.pattern.as_ref().map_or(0, Bytes::len) + self.channel.len() + self.payload.len()
    }
}

/// Subscriptions of one node's clients.
#[derive(Debug, Default)]
pub struct Broker {
    last_id: AtomicU64,
    /// Number of clients disconnected for being too slow.
    cuts: Arc<AtomicU64>,
    topics: RwLock<Topics>,
}

/// Subscriptions by channel and by pattern; only those with at least one subscriber.
#[derive(Debug, Default)]
struct Topics {
    channels: HashMap<Bytes, HashMap<u64, Inbox>>,
    patterns: BTreeMap<Bytes, Listened>,
}

/// A pattern with its subscribers.
#[derive(Debug)]
struct Listened {
    pattern: Pattern,
    inboxes: HashMap<u64, Inbox>,
}

#[derive(Debug, Clone)]
struct Inbox {
    sender: mpsc::Sender<Delivery>,
    account: Arc<Account>,
    cuts: Arc<AtomicU64>,
}

/// Subscriptions of one client; dropping it removes them.
#[derive(Debug)]
pub struct Subscriber {
    id: u64,
    broker: Arc<Broker>,
    inbox: Inbox,
    receiver: mpsc::Receiver<Delivery>,
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
    /// Memory of channels and patterns as counted by `cost`, bytes.
    topic_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    Channel,
    Pattern,
}

impl Broker {
    /// Creates a subscriber without subscriptions. Its waiting messages are charged to `account`.
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

    /// Delivers a message to this node's subscribers; returns the number of deliveries.
    pub fn publish(&self, channel: &Bytes, payload: &Bytes) -> u64 {
        let topics = self.read();
        let (mut count, mut steps) = (0, Steps::default());
        // Copied once: slices would keep the read chunks in memory until the slowest subscriber has read them.
        let mut own = None;
        let mut delivery = |pattern| {
            let copied = || (Bytes::copy_from_slice(channel), Bytes::copy_from_slice(payload));
            let (channel, payload) = own.get_or_insert_with(copied).clone();
            Delivery { pattern, channel, payload }
        };
        for inbox in topics.channels.get(channel).into_iter().flat_map(HashMap::values) {
            count += u64::from(inbox.put(delivery(None)));
        }
        for (name, Listened { pattern, inboxes }) in &topics.patterns {
            match pattern.matches(channel, &mut steps) {
                Ok(true) => {
                    for inbox in inboxes.values() {
                        count += u64::from(inbox.put(delivery(Some(name.clone()))));
                    }
                }
                Ok(false) => {}
                // With no steps left, this message still reaches patterns that match in one pass.
                Err(exhausted) => inboxes.values().for_each(|inbox| inbox.cut_for(exhausted)),
            }
        }
        count
    }

    /// Returns the channels that have subscribers by name and match `pattern`, sorted.
    ///
    /// # Errors
    /// `pattern` takes too many steps.
    pub fn channels(&self, pattern: Option<&Pattern>) -> Result<Vec<Bytes>, Exhausted> {
        let topics = self.read();
        let (mut found, mut steps) = (Vec::new(), Steps::default());
        for channel in topics.channels.keys() {
            if pattern.map_or(Ok(true), |pattern| pattern.matches(channel, &mut steps))? {
                found.push(channel.clone());
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Returns the number of clients that subscribe to a channel by name.
    pub fn listeners(&self, channel: &[u8]) -> usize {
        self.read().channels.get(channel).map_or(0, HashMap::len)
    }

    /// Returns the number of clients disconnected since the start because they did not read fast enough.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

    pub fn pattern_count(&self) -> usize {
        self.read().patterns.len()
    }

    // Poisoning is ignored: every critical section leaves consistent topics.
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

    fn cut(&self) {
        self.cuts.fetch_add((!self.account.is_closed()).into(), Ordering::Relaxed);
        self.account.close(Cause::PubsubLimit);
    }

    /// Disconnects a client whose pattern costs every publisher too much: it would miss messages without noticing.
    fn cut_for(&self, exhausted: Exhausted) {
        if !self.account.is_closed() {
            tracing::warn!(%exhausted, "a subscriber was disconnected for its pattern");
        }
        self.cut();
    }
}

impl Subscriber {
    /// Adds a subscription; returns false if the client has too many.
    pub fn subscribe(&mut self, topic: Topic, name: Bytes) -> bool {
        // The command has rejected patterns that are too long.
        let Ok(pattern) = Pattern::new(if topic == Topic::Pattern { &name } else { b"" }) else {
            return false;
        };
        let bytes = self.topic_bytes + cost(&name, &pattern);
        if self.count() >= MAX_TOPICS || bytes > MAX_TOPIC_BYTES {
            return false;
        }
        // Copied: a slice would keep the read chunk in memory.
        let name = Bytes::copy_from_slice(&name);
        let inbox = self.inbox.clone();
        let mut topics = self.broker.write();
        let listeners = match topic {
            Topic::Channel => topics.channels.entry(name.clone()).or_default(),
            Topic::Pattern => {
                let listened = topics.patterns.entry(name.clone());
                &mut listened.or_insert_with(|| Listened { pattern, inboxes: HashMap::new() }).inboxes
            }
        };
        listeners.insert(self.id, inbox);
        drop(topics);
        if self.names(topic).insert(name) {
            self.topic_bytes = bytes;
        }
        true
    }

    /// Removes a subscription; returns whether it existed.
    pub fn unsubscribe(&mut self, topic: Topic, name: &[u8]) -> bool {
        let pattern = Pattern::new(if topic == Topic::Pattern { name } else { b"" });
        self.broker.write().forget(topic, name, self.id);
        let was_there = self.names(topic).remove(name);
        if was_there && let Ok(pattern) = pattern {
            self.topic_bytes = self.topic_bytes.saturating_sub(cost(name, &pattern));
        }
        was_there
    }

    /// Returns the memory of the client's channels and patterns, bytes.
    pub fn topic_bytes(&self) -> usize {
        self.topic_bytes
    }

    /// Returns the client's channels or patterns, sorted.
    pub fn topics(&self, topic: Topic) -> Vec<Bytes> {
        match topic {
            Topic::Channel => self.channels.iter().cloned().collect(),
            Topic::Pattern => self.patterns.iter().cloned().collect(),
        }
    }

    /// Returns the numbers of channels and of patterns.
    pub fn counts(&self) -> (usize, usize) {
        (self.channels.len(), self.patterns.len())
    }

    pub fn count(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// Waits for the next message. Cancel safe.
    pub async fn next(&mut self) -> Delivery {
        match self.receiver.recv().await {
            Some(delivery) => self.taken(delivery),
            // Unreachable: the subscriber holds a sender.
            None => std::future::pending().await,
        }
    }

    /// Returns the next message if one waits.
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
                if self.patterns.get_mut(name).is_some_and(|listened| forget(&mut listened.inboxes)) {
                    self.patterns.remove(name);
                }
            }
        }
    }
}

fn cost(name: &[u8], pattern: &Pattern) -> usize {
    name.len() + pattern.bytes() + 2 * size_of::<Bytes>() + size_of::<Inbox>()
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
    fn a_message_is_delivered_once_for_each_matching_subscription() {
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
        assert_eq!(broker.channels(None).unwrap(), [bytes("news"), bytes("old")]);
        let pattern = Pattern::new(b"o*").unwrap();
        assert_eq!(broker.channels(Some(&pattern)).unwrap(), [bytes("old")]);
    }

    #[test]
    fn dropping_a_subscriber_removes_its_subscriptions() {
        let broker = broker();
        let mut client = broker.subscriber(account(MemoryLimits::default()).0);
        client.subscribe(Topic::Channel, bytes("a"));
        client.subscribe(Topic::Channel, bytes("b"));
        client.subscribe(Topic::Pattern, bytes("*"));
        assert!(client.unsubscribe(Topic::Channel, b"a"));
        assert!(!client.unsubscribe(Topic::Channel, b"a"));
        assert_eq!((client.count(), broker.listeners(b"a"), broker.listeners(b"b")), (2, 0, 1));
        drop(client);
        assert_eq!((broker.channels(None).unwrap().len(), broker.pattern_count()), (0, 0));
    }

    #[test]
    fn a_subscriber_with_a_costly_pattern_is_disconnected_and_others_get_the_message() {
        let broker = broker();
        let (costly_account, costly_cut) = account(MemoryLimits::default());
        let (client_account, cut) = account(MemoryLimits::default());
        let mut costly = broker.subscriber(costly_account);
        let pattern = [b"*", &[b'a'; 4_000][..], b"b"].concat();
        assert!(costly.subscribe(Topic::Pattern, pattern.into()));
        let mut client = broker.subscriber(client_account);
        for pattern in ["a*", "z*"] {
            assert!(client.subscribe(Topic::Pattern, bytes(pattern)));
        }
        assert_eq!(broker.publish(&vec![b'a'; 60_000].into(), &bytes("hi")), 1);
        assert_eq!((costly_cut.is_cancelled(), cut.is_cancelled()), (true, false));
        assert_eq!(client.try_next().and_then(|heard| heard.pattern), Some(bytes("a*")));
    }

    #[test]
    fn topics_of_one_client_are_bounded_in_bytes() {
        let broker = broker();
        let mut client = broker.subscriber(account(MemoryLimits::default()).0);
        let name = |number: usize| Bytes::from(format!("{number:0>60000}"));
        let fit =
            (0..MAX_TOPICS).take_while(|number| client.subscribe(Topic::Channel, name(*number))).count();
        assert_eq!(fit, MAX_TOPIC_BYTES / 60_000);
        // Removed subscriptions make room.
        for number in 0..fit {
            assert!(client.unsubscribe(Topic::Channel, &name(number)));
        }
        assert!(client.subscribe(Topic::Channel, name(fit)));
    }

    #[test]
    fn a_subscriber_that_does_not_read_is_disconnected() {
        let broker = broker();
        let (account, cut) = account(MemoryLimits::default());
        let mut client = broker.subscriber(account);
        client.subscribe(Topic::Channel, bytes("a"));
        let large = Bytes::from(vec![0; MemoryLimits::default().pubsub_bytes / 4]);
        let taken: u64 = (0..4).map(|_| broker.publish(&bytes("a"), &large)).sum();
        assert_eq!((taken, cut.is_cancelled(), broker.cuts()), (3, true, 1));
    }
}
