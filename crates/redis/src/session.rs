//! The session of a connection: the settings that its client has made.

use helios_proto::v1::{Guard, Token};
use helios_service::auth::Identity;
use helios_service::database::{Ack, Freshness};
use helios_service::pubsub::Subscriber;

use super::frame::Protocol;
use super::transaction::Queue;

#[derive(Debug)]
pub struct Session {
    pub protocol: Protocol,
    /// `None` until it said who it is.
    pub identity: Option<Identity>,
    /// Freshness of its reads (`HELIOS.READ`, `READONLY`).
    pub freshness: Freshness,
    /// Voters that hold a write of this connection on disk before it is acknowledged (`HELIOS.ACK`).
    pub ack: Ack,
    /// The connection's last write, or one that it named (`HELIOS.TOKEN`): its reads see it
    /// whatever their freshness, and `WAIT` counts who holds it.
    pub after: Option<Token>,
    /// Between `MULTI` and `EXEC`.
    pub queue: Option<Queue>,
    /// Keys as they were when this connection said `WATCH`.
    pub watched: Vec<Guard>,
    pub watched_bytes: usize,
    /// Its subscriptions, once it has subscribed.
    pub subscriber: Option<Subscriber>,
    /// Replies that are left out (`CLIENT REPLY`).
    pub silence: Silence,
    /// Close once what was asked so far is answered (`QUIT`).
    pub closing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Silence {
    #[default]
    Never,
    /// For so many replies.
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
    /// The next reply is left out.
    pub fn is_silent(&mut self) -> bool {
        let was = self.silence;
        if let Silence::Next(count) = was {
            self.silence = if count > 1 { Silence::Next(count - 1) } else { Silence::Never };
        }
        was != Silence::Never
    }

    /// Forgets the keys that it watched.
    pub fn unwatch(&mut self) -> Vec<Guard> {
        self.watched_bytes = 0;
        std::mem::take(&mut self.watched)
    }

    /// Reads from now on see the write of `token` too.
    pub fn follow(&mut self, token: Token) {
        let is_behind = |known: &Token| known.cluster_id != token.cluster_id || known.index < token.index;
        if self.after.as_ref().is_none_or(is_behind) {
            self.after = Some(token);
        }
    }
}
