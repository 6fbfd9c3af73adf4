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
use crate::replica::{Phase, Reason, Replica};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    pub rejections: Rejections,
    pub connections: Gauge,
    forwarded: Family<Label, Counter>,
    /// Requests that the sidecar answered without a member.
    pub local: Counter,
    errors: Family<Label, Counter>,
    /// Requests sent to another member after a loss or a refusal.
    pub retries: Counter,
    connects: Family<Outcome, Counter>,
    bytes: Family<Direction, Counter>,
    since_contact: Gauge<f64, AtomicU64>,
    ready: Gauge,
    staleness: Gauge<f64, AtomicU64>,
    replica_bytes: Gauge,
    replica_keys: Gauge,
    serves_stale: Gauge,
    phase: Family<PhaseLabel, Gauge>,
    /// Counters that every request changes: without the lookup of their labels. By [`Reason`].
    to_members: [Counter; Reason::ALL.len()],
    pub received: Counter,
    pub sent: Counter,
}

impl Metrics {
    pub fn new() -> Self {
        let (forwarded, bytes) =
            (Family::<Label, Counter>::default(), Family::<Direction, Counter>::default());
        let of = |direction| bytes.get_or_create(&Direction { direction }).clone();
        let to_members =
            Reason::ALL.map(|reason| forwarded.get_or_create(&Label { reason: reason.label() }).clone());
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
            staleness: Gauge::default(),
            replica_bytes: Gauge::default(),
            replica_keys: Gauge::default(),
            serves_stale: Gauge::default(),
            phase: Family::default(),
        };
        metrics.register();
        metrics
    }

    /// Adds the metrics of Replica mode.
    pub fn register_replica(&self, replica: &Replica) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("local_reads", "Reads answered by the replica", replica.reads.clone());
        let help = "Reads answered although the state was too old, as no member answered";
        registry.register("stale_reads", help, replica.stale_reads.clone());
        let help = "1 while reads are answered although the state is too old";
        registry.register("serves_stale", help, self.serves_stale.clone());
        registry.register(
            "resyncs",
            "Snapshots that were begun, the first one included",
            replica.resyncs.clone(),
        );
        let help = "Seconds that the state may be old, -1 if there is none or its age is not known";
        registry.register("staleness_seconds", help, self.staleness.clone());
        registry.register("replica_bytes", "Memory of the replica's records", self.replica_bytes.clone());
        registry.register("replica_keys", "Keys of the replica", self.replica_keys.clone());
        registry.register("replica_phase", "1 for the phase that the replica is in", self.phase.clone());
    }

    fn observe(&self, members: &Members, replica: &Replica) {
        self.serves_stale.set(i64::from(serves_stale(members, replica)));
        self.staleness.set(replica.staleness().map_or(-1.0, |age| age.as_secs_f64()));
        self.replica_bytes.set(replica.bytes().cast_signed());
        self.replica_keys.set(replica.size().1.cast_signed());
        let now = replica.phase();
        for phase in Phase::ALL {
            self.phase.get_or_create(&PhaseLabel { phase: phase.label() }).set(i64::from(phase == now));
        }
    }

    /// Counts a request that a member gets.
    pub fn forwarded(&self, reason: Reason) {
        self.to_members[reason as usize].inc();
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
            self.errors.get_or_create(&Label { reason }).inc_by(count);
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
    pub fn text(&self, members: &Members, replica: Option<&Replica>) -> String {
        if let Some(replica) = replica {
            self.observe(members, replica);
        }
        self.since_contact.set(members.since_contact().as_secs_f64());
        self.ready.set(i64::from(members.is_ready()));
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }

    /// Returns the section `sidecar` of `INFO`.
    pub fn info(&self, members: &Members, replica: Option<&Replica>) -> String {
        let member = members.in_order().first().map(|member| member.address.to_string()).unwrap_or_default();
        let counted = |family: &Family<Label, Counter>, reason| family.get_or_create(&Label { reason }).get();
        let mut text = String::from("# Sidecar\r\n");
        let fields = [
            ("sidecar_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("sidecar_mode", if replica.is_some() { "replica" } else { "proxy" }.to_owned()),
            ("sidecar_ready", u8::from(members.is_ready()).to_string()),
            ("sidecar_member", member),
            ("sidecar_since_contact_ms", members.since_contact().as_millis().to_string()),
            ("sidecar_connections", self.connections.get().to_string()),
            ("sidecar_forwarded", self.to_members.iter().map(Counter::get).sum::<u64>().to_string()),
            ("sidecar_local", self.local.get().to_string()),
            ("sidecar_retries", self.retries.get().to_string()),
            ("sidecar_outcome_unknown", counted(&self.errors, "outcome_unknown").to_string()),
            ("sidecar_cut_off", counted(&self.errors, "cut_off").to_string()),
        ];
        let of_replica = replica.map(|replica| {
            let (index, keys) = replica.size();
            let age = replica.staleness().map_or(-1, |age| age.as_millis().cast_signed());
            [
                ("sidecar_replica", replica.phase().label().to_owned()),
                ("sidecar_replica_index", index.to_string()),
                ("sidecar_replica_keys", keys.to_string()),
                ("sidecar_replica_bytes", replica.bytes().to_string()),
                ("sidecar_staleness_ms", age.to_string()),
                ("sidecar_local_reads", replica.reads.get().to_string()),
                ("sidecar_reads", replica.rules.level.name()),
                ("sidecar_serves_stale", u8::from(serves_stale(members, replica)).to_string()),
                ("sidecar_stale_reads", replica.stale_reads.get().to_string()),
                ("sidecar_resyncs", replica.resyncs.get().to_string()),
            ]
        });
        for (name, value) in fields.into_iter().chain(of_replica.into_iter().flatten()) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{name}:{value}\r\n");
        }
        text
    }
}

fn serves_stale(members: &Members, replica: &Replica) -> bool {
    replica.serves_stale(replica.gate.now_us(), !members.patience().is_zero())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    /// The alerts and dashboards of the chart are held to the table in the guide.
    #[test]
    fn guide_names_the_metrics_that_exist() {
        let metrics = Metrics::new();
        metrics.rejections.count("max_clients");
        metrics.error("cut_off", 1);
        metrics.connected(true);
        let replica = Replica::new(crate::args::SidecarArgs::of(&[]).rules());
        metrics.register_replica(&replica);
        let text = metrics.text(&Members::new(Vec::new(), Duration::from_secs(3)), Some(&replica));
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        // Names with the name of their label.
        let exist: BTreeSet<_> = samples
            .filter_map(|line| line.split(['=', ' ']).next())
            .map(|name| name.replace('{', " "))
            .collect();
        let guide = include_str!("../../../docs/guide/sidecar.md");
        let cells =
            guide.lines().filter_map(|line| line.strip_prefix("| `helios_sidecar_")?.split('|').next());
        let named = cells.flat_map(|cell| cell.split('`')).filter(|name| name.len() > 2);
        let named: BTreeSet<_> = named
            .map(|name| format!("helios_sidecar_{}", name.trim_start_matches("helios_sidecar_")))
            .map(|name| name.trim_end_matches('}').replace('{', " "))
            .collect();
        assert_eq!(exist, named);
    }
}
