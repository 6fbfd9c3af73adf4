//! Session of one connection: the state that its commands set.

use helios_proto::v1::{Guard, Token};
use helios_service::auth::Identity;
use helios_service::database::{Ack, Freshness};
use helios_service::pubsub::Subscriber;

use super::frame::Protocol;
use super::transaction::Queue;

#[derive(Debug)]
pub struct Session {
    pub protocol: Protocol,
    /// Authenticated identity; `None` before authentication.
    pub identity: Option<Identity>,
    /// Consistency level of reads (`HELIOS.READ`, `READONLY`).
    pub freshness: Freshness,
    /// Acknowledgement level of writes (`HELIOS.ACK`): the voters that must hold a write on disk before it is
    /// acknowledged.
    pub ack: Ack,
    /// Token of the connection's last write, or a later one that it passed to `HELIOS.TOKEN`. Reads see that
    /// write whatever their consistency level, and `WAIT` counts the members that hold it.
    pub after: Option<Token>,
    /// Queue between `MULTI` and `EXEC`; else `None`.
    pub queue: Option<Queue>,
    /// Watched keys with their revisions at the time of `WATCH`.
    pub watched: Vec<Guard>,
    pub watched_bytes: usize,
    /// Subscriptions; `None` before the first `SUBSCRIBE` or `PSUBSCRIBE`.
    pub subscriber: Option<Subscriber>,
    /// Replies that are suppressed (`CLIENT REPLY`).
    pub silence: Silence,
    /// Whether the connection is closed after the pending replies are sent (`QUIT`).
    pub closing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Silence {
    #[default]
    Never,
    /// This number of next replies.
    Next(u8),
    Always,
}

impl Session {
    pub fn new(identity: Option<Identity>) -> Self {
        Self {
            protocol: Protocol::default(),
            identity,
            freshness: Freshness::default(),
            ack: Ack::default(),
            after: None,
            queue: None,
            watched: Vec::new(),
            watched_bytes: 0,
            subscriber: None,
            silence: Silence::default(),
            closing: false,
        }
    }
}

impl Session {
    /// Whether the next reply is suppressed; counts that reply.
    pub fn is_silent(&mut self) -> bool {
        let was = self.silence;
        if let Silence::Next(count) = was {
            self.silence = if count > 1 { Silence::Next(count - 1) } else { Silence::Never };
        }
        was != Silence::Never
    }

    /// Removes and returns the watched keys.
    pub fn unwatch(&mut self) -> Vec<Guard> {
        self.watched_bytes = 0;
        std::mem::take(&mut self.watched)
    }

    /// Makes later reads see the write of `token`, unless they must see a newer one already.
    pub fn follow(&mut self, token: Token) {
        let is_behind = |known: &Token| known.cluster_id != token.cluster_id || known.index < token.index;
        if self.after.as_ref().is_none_or(is_behind) {
            self.after = Some(token);
        }
    }
}
