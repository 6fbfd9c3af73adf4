//! Metrics of the Redis listener; the registry adds the prefix `helios_`.

use std::net::SocketAddr;
use std::time::Duration;

use helios_service::rejections::Rejections;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds in seconds: a local read takes microseconds, a write up to a few round trips.
const DURATION_BUCKETS: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// Metric families. Cheap to clone; all clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    commands: Family<CommandOutcome, Counter>,
    durations: Family<CommandName, Histogram, fn() -> Histogram>,
    connections: Family<ProtocolName, Gauge>,
    rejections: Rejections,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandOutcome {
    command: &'static str,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
enum Outcome {
    ok,
    error,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandName {
    command: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolName {
    protocol: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Rejections::default())
    }
}

impl Metrics {
    /// Creates the metrics; rejections are counted in `refusals`, with those of the other ports.
    pub fn new(rejections: Rejections) -> Self {
        Self {
            commands: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
            connections: Family::default(),
            rejections,
        }
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register("commands", "Commands answered, by name and outcome", self.commands.clone());
        registry.register_with_unit(
            "command_duration",
            "Time from a command's arrival to its reply",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register("connections", "Client connections open now", self.connections.clone());
        self.rejections.register(registry);
    }

    /// Counts an answered command. `command` is a name of the command table, or `unknown`: never text from a
    /// client.
    pub(super) fn command(&self, command: &'static str, is_error: bool, took: Duration) {
        let outcome = if is_error { Outcome::error } else { Outcome::ok };
        self.commands.get_or_create(&CommandOutcome { command, outcome }).inc();
        self.durations.get_or_create(&CommandName { command }).observe(took.as_secs_f64());
    }

    pub(super) fn connected(&self) {
        self.connections.get_or_create(&ProtocolName { protocol: "resp" }).inc();
    }

    pub(super) fn disconnected(&self) {
        self.connections.get_or_create(&ProtocolName { protocol: "resp" }).dec();
    }

    pub(super) fn rejected(&self, reason: &'static str) {
        self.rejections.count(reason);
    }

    /// Counts a rejected client and logs it, unless the same was logged a moment ago.
    pub(super) fn refused(&self, reason: &'static str, from: SocketAddr, why: &str) {
        self.rejections.report("client", reason, from, why);
    }

    pub(super) fn rejections(&self) -> &Rejections {
        &self.rejections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_their_documented_names() {
        let (metrics, mut registry) = (Metrics::default(), Registry::with_prefix("helios"));
        metrics.register(&mut registry);
        metrics.command("get", false, Duration::from_micros(80));
        metrics.connected();
        metrics.rejected("max_clients");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"helios_commands_total{command="get",outcome="ok"} 1"#,
            r#"helios_command_duration_seconds_count{command="get"} 1"#,
            r#"helios_command_duration_seconds_bucket{le="0.0001",command="get"} 1"#,
            r#"helios_connections{protocol="resp"} 1"#,
            r#"helios_rejected_total{reason="max_clients"} 1"#,
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }
}
