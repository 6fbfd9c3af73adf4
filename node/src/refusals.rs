//! Whom the ports turned away: counted by reason, and told in the log without filling it.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// For so long, the same is not said again of one port.
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// Lines about one reason at one port in that time; a stranger decides what some of them hold.
const MAX_LINES: usize = 8;

/// Of one node; clones count into the same family. Reasons and ports are literals, so both are few.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    counted: Family<Reason, Counter>,
    said: Arc<Mutex<HashMap<(&'static str, &'static str), Said>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug)]
struct Said {
    since: Instant,
    lines: Vec<String>,
    /// Refusals since then that nothing was said of.
    untold: u64,
}

impl Refusals {
    pub fn register(&self, registry: &mut Registry) {
        let help = "Connections and requests refused, by reason";
        registry.register("rejected", help, self.counted.clone());
    }

    pub fn count(&self, reason: &'static str) {
        self.counted.get_or_create(&Reason { reason }).inc();
    }

    /// Counts it and says it, unless the same was said of `port` a moment ago.
    pub fn tell(&self, port: &'static str, reason: &'static str, from: impl Display, why: impl Display) {
        self.count(reason);
        let why = why.to_string();
        if let Some(untold) = self.turn(port, reason, &why, Instant::now()) {
            tracing::warn!(port, reason, %from, why, untold, "refused");
        }
    }

    /// How many went untold, if this one is to be told.
    fn turn(&self, port: &'static str, reason: &'static str, why: &str, now: Instant) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said =
            said.entry((port, reason)).or_insert_with(|| Said { since: now, lines: Vec::new(), untold: 0 });
        if now.saturating_duration_since(said.since) >= SAY_AGAIN {
            (said.since, said.lines) = (now, Vec::new());
        }
        if said.lines.len() >= MAX_LINES || said.lines.iter().any(|line| line == why) {
            said.untold += 1;
            return None;
        }
        said.lines.push(why.to_owned());
        Some(std::mem::take(&mut said.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_in_a_while_and_each_port_speaks_for_itself() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let turn = |port, why: &str, at| refusals.turn(port, "tls_handshake", why, at);
        assert_eq!(turn("peer", "expired", now), Some(0));
        assert_eq!(turn("peer", "expired", now + SAY_AGAIN / 2), None);
        assert_eq!(turn("peer", "foreign", now), Some(1));
        assert_eq!(turn("grpc", "expired", now), Some(0));
        for stranger in 0..100 {
            let _ = turn("peer", &format!("I am {stranger}"), now);
        }
        assert_eq!(turn("peer", "expired", now + SAY_AGAIN), Some(94));
    }
}
