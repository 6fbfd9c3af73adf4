//! Metrics of the sidecar, and the section `sidecar` of `INFO`.

use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use helios_service::rejections::Rejections;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::members::Members;
use crate::queue::Lost;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    pub rejections: Rejections,
    pub connections: Gauge,
    forwarded: Family<Reason, Counter>,
    /// Requests that the sidecar answered without a member.
    pub local: Counter,
    errors: Family<Reason, Counter>,
    /// Requests sent to another member after a loss or a refusal.
    pub retries: Counter,
    connects: Family<Outcome, Counter>,
    bytes: Family<Direction, Counter>,
    since_contact: Gauge<f64, AtomicU64>,
    ready: Gauge,
    /// Counters that every request changes: without the lookup of their labels.
    pub to_members: Counter,
    pub received: Counter,
    pub sent: Counter,
}

impl Metrics {
    pub fn new() -> Self {
        let (forwarded, bytes) =
            (Family::<Reason, Counter>::default(), Family::<Direction, Counter>::default());
        let of = |direction| bytes.get_or_create(&Direction { direction }).clone();
        let to_members = forwarded.get_or_create(&Reason { reason: "proxy_mode" }).clone();
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("helios_sidecar")),
            rejections: Rejections::default(),
            connections: Gauge::default(),
            to_members,
            received: of("received"),
            sent: of("sent"),
            forwarded,
            local: Counter::default(),
            errors: Family::default(),
            retries: Counter::default(),
            connects: Family::default(),
            bytes,
            since_contact: Gauge::default(),
            ready: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("connections", "Open connections of the application", self.connections.clone());
        registry.register("forwarded", "Requests sent to a member, by reason", self.forwarded.clone());
        registry.register("local", "Requests answered without a member", self.local.clone());
        registry.register("errors", "Errors that the sidecar answered with, by reason", self.errors.clone());
        registry.register("retries", "Requests sent to another member after the first", self.retries.clone());
        registry.register(
            "upstream_connects",
            "Attempts to connect to the cluster, by result",
            self.connects.clone(),
        );
        registry.register("bytes", "Bytes received from and sent to the application", self.bytes.clone());
        let help = "Seconds since the last reply of a member";
        registry.register("since_contact_seconds", help, self.since_contact.clone());
        registry.register("ready", "1 while the sidecar has contact to a member", self.ready.clone());
        self.rejections.register(&mut registry);
    }

    pub fn error(&self, reason: &'static str, count: u64) {
        if count > 0 {
            self.errors.get_or_create(&Reason { reason }).inc_by(count);
        }
    }

    pub fn lost(&self, lost: Lost) {
        self.error("outcome_unknown", lost.unknown);
        self.error("transaction_lost", lost.transactions);
        self.retries.inc_by(lost.repeated);
    }

    pub fn connected(&self, is_open: bool) {
        let result = if is_open { "open" } else { "failed" };
        self.connects.get_or_create(&Outcome { result }).inc();
    }

    /// Returns all metrics in the text format of OpenMetrics.
    pub fn text(&self, members: &Members) -> String {
        self.since_contact.set(members.since_contact().as_secs_f64());
        self.ready.set(i64::from(members.is_ready()));
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }

    /// Returns the section `sidecar` of `INFO`.
    pub fn info(&self, members: &Members) -> String {
        let member = members.in_order().first().map(|member| member.address.to_string()).unwrap_or_default();
        let counted =
            |family: &Family<Reason, Counter>, reason| family.get_or_create(&Reason { reason }).get();
        let mut text = String::from("# Sidecar\r\n");
        let fields = [
            ("sidecar_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("sidecar_mode", "proxy".to_owned()),
            ("sidecar_ready", u8::from(members.is_ready()).to_string()),
            ("sidecar_member", member),
            ("sidecar_since_contact_ms", members.since_contact().as_millis().to_string()),
            ("sidecar_connections", self.connections.get().to_string()),
            ("sidecar_forwarded", self.to_members.get().to_string()),
            ("sidecar_local", self.local.get().to_string()),
            ("sidecar_retries", self.retries.get().to_string()),
            ("sidecar_outcome_unknown", counted(&self.errors, "outcome_unknown").to_string()),
            ("sidecar_cut_off", counted(&self.errors, "cut_off").to_string()),
        ];
        for (name, value) in fields {
            // Writing to a String cannot fail.
            let _ = write!(text, "{name}:{value}\r\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn guide_names_every_metric() {
        let metrics = Metrics::new();
        metrics.rejections.count("max_clients");
        metrics.error("cut_off", 1);
        metrics.connected(true);
        let text = metrics.text(&Members::new(Vec::new(), Duration::from_secs(3)));
        let guide = include_str!("../../../docs/guide/sidecar.md");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let names: Vec<_> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
        assert!(names.len() >= 9, "{text}");
        for name in names {
            assert!(guide.contains(&format!("`{name}")), "{name} is not in the guide");
        }
    }
}
