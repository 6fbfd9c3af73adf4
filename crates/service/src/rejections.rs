//! Rejected connections and requests: counted by reason, and logged without filling the log.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Time in which the same reason at one port is not logged again.
const LOG_AGAIN: Duration = Duration::from_secs(10);
/// Lines about one reason at one port in that time; a client chooses the text of some of them.
const MAX_LINES: usize = 8;

/// The rejections of one node; clones count into the same family. Reasons and ports are literals, so both are few.
#[derive(Debug, Clone, Default)]
pub struct Rejections {
    counted: Family<Reason, Counter>,
    logged: Arc<Mutex<HashMap<(&'static str, &'static str), Logged>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug)]
struct Logged {
    since: Instant,
    lines: Vec<String>,
    /// Rejections since then without a line.
    unlogged: u64,
}

impl Rejections {
    pub fn register(&self, registry: &mut Registry) {
        let help = "Connections and requests refused, by reason";
        registry.register("rejected", help, self.counted.clone());
    }

    pub fn count(&self, reason: &'static str) {
        self.counted.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a rejection and logs it, unless the same was logged for `port` within `LOG_AGAIN`.
    pub fn report(&self, port: &'static str, reason: &'static str, from: impl Display, why: impl Display) {
        self.count(reason);
        let why = why.to_string();
        if let Some(unlogged) = self.turn(port, reason, &why, Instant::now()) {
            tracing::warn!(port, reason, %from, why, unlogged, "refused");
        }
    }

    /// Rejections without a line until now, if this one is to be logged.
    fn turn(&self, port: &'static str, reason: &'static str, why: &str, now: Instant) -> Option<u64> {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let logged = logged.entry((port, reason)).or_insert_with(|| Logged {
            since: now,
            lines: Vec::new(),
            unlogged: 0,
        });
        if now.saturating_duration_since(logged.since) >= LOG_AGAIN {
            (logged.since, logged.lines) = (now, Vec::new());
        }
        if logged.lines.len() >= MAX_LINES || logged.lines.iter().any(|line| line == why) {
            logged.unlogged += 1;
            return None;
        }
        logged.lines.push(why.to_owned());
        Some(std::mem::take(&mut logged.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejection_is_logged_once_in_a_while_for_each_port() {
        let (rejections, now) = (Rejections::default(), Instant::now());
        let turn = |port, why: &str, at| rejections.turn(port, "tls_handshake", why, at);
        assert_eq!(turn("peer", "expired", now), Some(0));
        assert_eq!(turn("peer", "expired", now + LOG_AGAIN / 2), None);
        assert_eq!(turn("peer", "foreign", now), Some(1));
        assert_eq!(turn("grpc", "expired", now), Some(0));
        for stranger in 0..100 {
            let _ = turn("peer", &format!("I am {stranger}"), now);
        }
        assert_eq!(turn("peer", "expired", now + LOG_AGAIN), Some(94));
    }
}
