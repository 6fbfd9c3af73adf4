//! What the operator counts, under `helios_operator_`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone)]
pub struct Metrics {
    reconciles: Family<ResultLabel, Counter>,
    reconcile_duration: Histogram,
    steps: Family<KindLabel, Counter>,
    status_writes: Counter,
    leading: Gauge<u64, AtomicU64>,
    registry: Arc<Registry>,
}

impl Metrics {
    pub fn new() -> Self {
        let buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let (reconciles, steps) = (Family::default(), Family::default());
        let reconcile_duration = Histogram::new(buckets);
        let (status_writes, leading) = (Counter::default(), Gauge::default());
        let mut registry = Registry::with_prefix("helios_operator");
        registry.register("reconcile", "Passes over a cluster, by result", Family::clone(&reconciles));
        registry.register_with_unit(
            "reconcile_duration",
            "Time of one pass over a cluster",
            Unit::Seconds,
            reconcile_duration.clone(),
        );
        registry.register("steps", "Steps taken, by kind of operation and outcome", Family::clone(&steps));
        registry.register("status_writes", "Writes of a HeliosCluster's status", status_writes.clone());
        registry.register("leading", "1 while this process holds the lease", leading.clone());
        Self { reconciles, reconcile_duration, steps, status_writes, leading, registry: Arc::new(registry) }
    }

    pub fn pass(&self, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ResultLabel { result }).inc();
        self.reconcile_duration.observe(took.as_secs_f64());
    }

    pub fn step(&self, kind: &'static str, outcome: &'static str) {
        self.steps.get_or_create(&KindLabel { kind, outcome }).inc();
    }

    pub fn status_written(&self) {
        self.status_writes.inc();
    }

    pub fn set_leading(&self, leading: bool) {
        self.leading.set(leading.into());
    }

    /// OpenMetrics text.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
