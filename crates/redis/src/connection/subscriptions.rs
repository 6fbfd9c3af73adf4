//! Subscriptions of a connection, and the messages that they deliver.

use std::sync::Arc;

use bytes::Bytes;
use helios_service::database::Database;
use helios_service::pubsub::{Delivery, MAX_TOPIC_BYTES, MAX_TOPICS, Subscriber, Topic};

use super::super::error::Refusal;
use super::super::frame::{Frame, Protocol};
use super::super::session::Session;
use super::super::table::Spec;
use super::Connection;

/// Commands that a RESP2 client may send while it has subscriptions: it could not distinguish other replies
/// from messages.
const WHILE_LISTENING: [&str; 7] =
    ["ping", "psubscribe", "punsubscribe", "quit", "reset", "subscribe", "unsubscribe"];

impl<D: Database> Connection<D> {
    /// Subscribes to `names`; the reply has one part for each name.
    pub(super) fn subscribe(&mut self, topic: Topic, names: Vec<Bytes>) -> Frame {
        let subscriber = self
            .session
            .subscriber
            .get_or_insert_with(|| self.db.broker().subscriber(Arc::clone(&self.client.account)));
        let word = if topic == Topic::Channel { "subscribe" } else { "psubscribe" };
        let answers = names.into_iter().map(|name| match subscriber.subscribe(topic, name.clone()) {
            true => answer(word, Frame::Bulk(name), subscriber.count()),
            false => Frame::error(format!(
                "ERR this connection may subscribe to {MAX_TOPICS} channels and patterns of {MAX_TOPIC_BYTES} bytes \
                 in total; UNSUBSCRIBE from some"
            )),
        });
        let answers = answers.collect();
        self.record_topics();
        Frame::Sequence(answers)
    }

    /// Records the counts that `CLIENT LIST` shows.
    fn record_topics(&self) {
        let (channels, patterns) = self.session.subscriber.as_ref().map_or((0, 0), Subscriber::counts);
        let mut profile = self.client.profile();
        (profile.channels, profile.patterns) = (channels, patterns);
    }

    /// Unsubscribes from `names`, or from all topics if there are no names.
    pub(super) fn unsubscribe(&mut self, topic: Topic, names: Vec<Bytes>) -> Frame {
        let word = if topic == Topic::Channel { "unsubscribe" } else { "punsubscribe" };
        let known = self.session.subscriber.as_ref().map(|subscriber| subscriber.topics(topic));
        let names = if names.is_empty() { known.unwrap_or_default() } else { names };
        let subscriber = &mut self.session.subscriber;
        let mut answers = Vec::with_capacity(names.len());
        for name in names {
            if let Some(subscriber) = subscriber {
                subscriber.unsubscribe(topic, &name);
            }
            answers.push(answer(word, Frame::Bulk(name), subscriber.as_ref().map_or(0, Subscriber::count)));
        }
        if answers.is_empty() {
            answers.push(answer(word, Frame::Null, subscriber.as_ref().map_or(0, Subscriber::count)));
        }
        self.record_topics();
        Frame::Sequence(answers)
    }

    /// Sends a message, and further messages that wait already, up to a bound.
    pub(super) async fn hear(&mut self, first: Delivery) -> std::io::Result<()> {
        let mut next = Some(first);
        while let Some(delivery) = next {
            self.wire.output.reply(message(delivery), self.session.protocol);
            let is_full = self.wire.output.len() >= super::UNSENT_BYTES;
            let waiting = self.session.subscriber.as_mut().filter(|_| !is_full);
            next = waiting.and_then(Subscriber::try_next);
        }
        self.flush().await
    }
}

/// Waits for the next message; for ever if the connection has no subscriptions. Cancel safe.
pub(super) async fn next_message(subscriber: &mut Option<Subscriber>) -> Delivery {
    match subscriber {
        Some(subscriber) => subscriber.next().await,
        None => std::future::pending().await,
    }
}

pub(super) fn check_while_listening(session: &Session, spec: &Spec) -> Result<(), Refusal> {
    if !listens(session) || session.protocol == Protocol::Resp3 || WHILE_LISTENING.contains(&spec.name) {
        return Ok(());
    }
    Err(Refusal::other(format!(
        "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
         context",
        spec.name
    )))
}

pub(super) fn listens(session: &Session) -> bool {
    session.subscriber.as_ref().is_some_and(|subscriber| subscriber.count() > 0)
}

fn answer(word: &'static str, name: Frame, count: usize) -> Frame {
    Frame::Push(vec![Frame::text(word), name, Frame::Integer(count as i64)])
}

fn message(delivery: Delivery) -> Frame {
    let Delivery { pattern, channel, payload } = delivery;
    let (channel, payload) = (Frame::Bulk(channel), Frame::Bulk(payload));
    Frame::Push(match pattern {
        Some(pattern) => vec![Frame::text("pmessage"), Frame::Bulk(pattern), channel, payload],
        None => vec![Frame::text("message"), channel, payload],
    })
}
