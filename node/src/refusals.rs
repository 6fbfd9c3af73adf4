//! Rejected connections and requests of all ports: counted by reason, and logged at a limited rate.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Time in which the same rejection is not logged again for one port.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Limit of log lines for one reason at one port in that time; strangers control the content of some of them.
const MAX_LINES: usize = 8;

/// Rejections of one node; clones share the counters. Reasons and ports are literals, so both are few.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
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
    /// Rejections since the last log line that were not logged.
    suppressed: u64,
}

impl Refusals {
    pub fn register(&self, registry: &mut Registry) {
        let help = "Connections and requests refused, by reason";
        registry.register("rejected", help, self.counted.clone());
    }

    pub fn count(&self, reason: &'static str) {
        self.counted.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a rejection, and logs it unless the same was logged for `port` within `LOG_INTERVAL`.
    pub fn tell(&self, port: &'static str, reason: &'static str, from: impl Display, why: impl Display) {
        self.count(reason);
        let why = why.to_string();
        if let Some(suppressed) = self.turn(port, reason, &why, Instant::now()) {
            tracing::warn!(port, reason, %from, why, suppressed, "refused");
        }
    }

    /// Returns the number of suppressed rejections if this one is to be logged.
    fn turn(&self, port: &'static str, reason: &'static str, why: &str, now: Instant) -> Option<u64> {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let logged = logged.entry((port, reason)).or_insert_with(|| Logged {
            since: now,
            lines: Vec::new(),
            suppressed: 0,
        });
        if now.saturating_duration_since(logged.since) >= LOG_INTERVAL {
            (logged.since, logged.lines) = (now, Vec::new());
        }
        if logged.lines.len() >= MAX_LINES || logged.lines.iter().any(|line| line == why) {
            logged.suppressed += 1;
            return None;
        }
        logged.lines.push(why.to_owned());
        Some(std::mem::take(&mut logged.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_rejection_is_logged_once_per_interval_and_port() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let turn = |port, why: &str, at| refusals.turn(port, "tls_handshake", why, at);
        assert_eq!(turn("peer", "expired", now), Some(0));
        assert_eq!(turn("peer", "expired", now + LOG_INTERVAL / 2), None);
        assert_eq!(turn("peer", "foreign", now), Some(1));
        assert_eq!(turn("grpc", "expired", now), Some(0));
        for stranger in 0..100 {
            let _ = turn("peer", &format!("I am {stranger}"), now);
        }
        assert_eq!(turn("peer", "expired", now + LOG_INTERVAL), Some(94));
    }
}
