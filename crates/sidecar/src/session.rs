//! State of one client's connection that a member keeps for it, and that another member does not have (pure).

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::level::{Level, is_session};
use crate::request::Setting;

/// A read that every user may run.
const LINEARIZABLE_READ: [&[u8]; 3] = [b"EVAL_RO", b"return", b"0"];

/// State of a transaction as of the last request that was accepted from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transaction {
    #[default]
    None,
    /// Between `MULTI` and `EXEC`.
    Open,
    /// The member that had the queue is lost: nothing of it is executed.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Watch {
    #[default]
    None,
    Held,
    /// The member that watched is lost: the next `EXEC` executes nothing, as if a key had changed.
    Lost,
}

#[derive(Debug, Default)]
pub struct Session {
    /// Requests that set the connection up on another member.
    pub settings: BTreeMap<Setting, Vec<Bytes>>,
    pub transaction: Transaction,
    pub watch: Watch,
    /// Number of subscriptions, by the last reply about them.
    pub subscriptions: i64,
    pub is_resp3: bool,
    /// Replies that are suppressed: all, or this number of next ones.
    pub is_silent: bool,
    pub skipped: u8,
    /// Whether a write of this connection was acknowledged.
    pub has_written: bool,
    /// Whether the member that took the last write is lost: only it knew the write's token.
    pub last_write_lost: bool,
}

impl Session {
    /// Records a request that a member accepted. Its words are copied: they may be slices of a large chunk.
    pub fn record(&mut self, setting: Setting, words: &[Bytes]) {
        let owned = words.iter().map(|word| Bytes::copy_from_slice(word)).collect();
        self.settings.insert(setting, owned);
    }

    /// Returns the level of reads; `None`: only members know it.
    pub fn level(&self, default: Level) -> Option<Level> {
        match self.settings.get(&Setting::Freshness) {
            Some(words) => Level::chosen(words, default),
            None => Some(default),
        }
    }

    /// Records an accepted `HELLO`.
    pub fn record_hello(&mut self, words: &[Bytes]) {
        let Some(version) = words.get(1) else { return };
        self.is_resp3 = &version[..] == b"3";
        self.record(Setting::Protocol, &words[..2]);
        if let Some(at) = words.iter().skip(2).position(|word| word.eq_ignore_ascii_case(b"setname"))
            && let Some(name) = words.get(at + 3)
        {
            let named = ["CLIENT".into(), "SETNAME".into(), name.clone()];
            self.record(Setting::Name, &named);
        }
    }

    /// Records that the member reset the connection.
    pub fn reset(&mut self) {
        let Self { has_written, last_write_lost, .. } = *self;
        *self = Self { has_written, last_write_lost, ..Self::default() };
    }

    /// Returns the requests that set up a connection to another member.
    ///
    /// If reads may be stale, a linearizable read precedes them: the member's state then has all that the lost member
    /// acknowledged to this client. It has no key, so that a user with prefixes may run it whatever these are.
    pub fn replay(&self) -> Vec<Vec<Bytes>> {
        let mut requests = Vec::new();
        // A new connection to a member has the level that it gets for a session.
        let settings = self.settings.iter().filter(|(_, words)| !is_session(words));
        for (setting, words) in settings {
            if *setting == Setting::Freshness && self.has_written {
                requests.push(LINEARIZABLE_READ.map(Bytes::from_static).to_vec());
            }
            requests.push(words.clone());
        }
        requests
    }

    /// Whether the connection to the member has no state that another member cannot be given.
    pub fn can_move(&self) -> bool {
        self.transaction != Transaction::Open && self.watch != Watch::Held && self.subscriptions == 0
    }

    /// Whether `AUTH` may be sent on the connection to the member.
    pub fn can_authenticate(&self) -> bool {
        self.transaction != Transaction::Open && (self.is_resp3 || self.subscriptions == 0)
    }

    /// Records that the connection to the member is lost.
    pub fn lose(&mut self) {
        if self.watch == Watch::Held {
            self.watch = Watch::Lost;
        }
        if self.transaction == Transaction::Open {
            self.transaction = Transaction::Lost;
        }
        self.last_write_lost |= self.has_written;
    }

    /// Whether the reply to the next request is suppressed; counts that reply.
    pub fn next_is_silent(&mut self) -> bool {
        let is_skipped = self.skipped > 0;
        self.skipped = self.skipped.saturating_sub(1);
        self.is_silent || is_skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::words;

    #[test]
    fn settings_are_replayed_in_an_order_in_which_a_member_accepts_them() {
        let mut session = Session::default();
        session.record(Setting::Freshness, &words("READONLY"));
        session.record(Setting::Name, &words("CLIENT SETNAME early"));
        session.record_hello(&words("HELLO 3 SETNAME app"));
        session.record_hello(&words("HELLO"));
        let expected = ["HELLO 3", "CLIENT SETNAME app", "READONLY"].map(words);
        assert_eq!(session.replay(), expected);
        assert!(session.is_resp3);
        assert_eq!(session.level(Level::Session), Some(Level::Stale(None)));
        session.has_written = true;
        let expected = ["HELLO 3", "CLIENT SETNAME app", "EVAL_RO return 0", "READONLY"].map(words);
        assert_eq!(session.replay(), expected, "a stale read must see the own writes");
        session.reset();
        assert!(session.replay().is_empty() && !session.is_resp3 && session.has_written);
        session.record(Setting::Freshness, &words("HELIOS.READ SESSION"));
        assert_eq!((session.replay(), session.level(Level::Bounded)), (Vec::new(), Some(Level::Session)));
    }

    #[test]
    fn a_lost_member_takes_watches_transactions_and_the_last_write_with_it() {
        let mut session = Session {
            transaction: Transaction::Open,
            watch: Watch::Held,
            has_written: true,
            ..Session::default()
        };
        assert!(!session.can_move());
        session.lose();
        assert_eq!((session.transaction, session.watch), (Transaction::Lost, Watch::Lost));
        assert!(session.can_move() && session.last_write_lost);
    }
}
