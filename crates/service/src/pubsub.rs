//! The subscribers of this node and their messages: delivered at most once, in the order of their publisher, and stored
//! nowhere. Protocols and the other members publish.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::client_memory::{Account, Cause};
use crate::glob::{Exhausted, Pattern, Steps};

/// Unread messages of one client; a slower client is disconnected, as by Redis. Its account limits their bytes.
const MAX_WAITING: usize = 16_384;
/// Channels and patterns of one client.
pub const MAX_TOPICS: usize = 10_000;
/// Bytes of their names and compiled patterns together.
pub const MAX_TOPIC_BYTES: usize = 16 << 20;

/// A message to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The pattern that matched; `None`: the channel itself.
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
    /// Clients that were disconnected for being too slow.
    cuts: Arc<AtomicU64>,
    topics: RwLock<Topics>,
}

/// Subscriptions; a topic without one has no entry.
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

/// One client that listens; dropped, it listens to nothing.
#[derive(Debug)]
pub struct Subscriber {
    id: u64,
    broker: Arc<Broker>,
    inbox: Inbox,
    receiver: mpsc::Receiver<Delivery>,
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
    /// Cost of both, as counted by `cost`.
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
        let (mut count, mut steps) = (0, Steps::default());
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
        for (name, Listened { pattern, inboxes }) in &topics.patterns {
            match pattern.matches(channel, &mut steps) {
                Ok(true) => {
                    for inbox in inboxes.values() {
                        count += u64::from(inbox.put(delivery(Some(name.clone()))));
                    }
                }
                Ok(false) => {}
                // From here on this message is matched against what takes one pass over it only.
                Err(exhausted) => inboxes.values().for_each(|inbox| inbox.cut_for(exhausted)),
            }
        }
        count
    }

    /// Channels that somebody listens to by name, in order.
    ///
    /// # Errors
    /// When `pattern` takes too many steps.
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

    fn cut(&self) {
        self.cuts.fetch_add((!self.account.is_closed()).into(), Ordering::Relaxed);
        self.account.close(Cause::PubsubLimit);
    }

    /// A client whose pattern costs every publisher too much is not served in part: it would miss messages unawares.
    fn cut_for(&self, exhausted: Exhausted) {
        if !self.account.is_closed() {
            tracing::warn!(%exhausted, "a subscriber was disconnected for its pattern");
        }
        self.cut();
    }
}

impl Subscriber {
    /// Listens to one more, if it does not yet; false if that were too many.
    pub fn subscribe(&mut self, topic: Topic, name: Bytes) -> bool {
        // What is too long for a pattern was refused by the command.
        let Ok(pattern) = Pattern::new(if topic == Topic::Pattern { &name } else { b"" }) else {
            return false;
        };
        let bytes = self.topic_bytes + cost(&name, &pattern);
        if self.count() >= MAX_TOPICS || bytes > MAX_TOPIC_BYTES {
            return false;
        }
        // A slice would hold the chunk that it was read in.
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

    /// True if it listened to it.
    pub fn unsubscribe(&mut self, topic: Topic, name: &[u8]) -> bool {
        let pattern = Pattern::new(if topic == Topic::Pattern { name } else { b"" });
        self.broker.write().forget(topic, name, self.id);
        let was_there = self.names(topic).remove(name);
        if was_there && let Ok(pattern) = pattern {
            self.topic_bytes = self.topic_bytes.saturating_sub(cost(name, &pattern));
        }
        was_there
    }

    /// Cost of the names that it listens to.
    pub fn topic_bytes(&self) -> usize {
        self.topic_bytes
    }

    /// Its channels and patterns, in order.
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
        assert_eq!(broker.channels(None).unwrap(), [bytes("news"), bytes("old")]);
        let pattern = Pattern::new(b"o*").unwrap();
        assert_eq!(broker.channels(Some(&pattern)).unwrap(), [bytes("old")]);
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
        assert_eq!((broker.channels(None).unwrap().len(), broker.pattern_count()), (0, 0));
    }

    #[test]
    fn a_subscriber_whose_pattern_costs_too_much_is_cut_and_others_hear_the_message() {
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
        // What is given up makes room.
        for number in 0..fit {
            assert!(client.unsubscribe(Topic::Channel, &name(number)));
        }
        assert!(client.subscribe(Topic::Channel, name(fit)));
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
