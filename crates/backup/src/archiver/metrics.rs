//! Metrics of the archiver.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::view::View;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;
type Number = Gauge<i64, AtomicI64>;

pub struct Metrics {
    registry: Registry,
    archived_index: Number,
    applied_index: Number,
    lag_seconds: Seconds,
    last_base_timestamp: Seconds,
    state: Family<StateLabel, Number>,
    pub segments: Counter,
    pub bytes: Counter,
    pub bases: Counter,
    pub gaps: Counter,
    pub removed_objects: Counter,
    errors: Family<Reason, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: String,
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            archived_index: Number::default(),
            applied_index: Number::default(),
            lag_seconds: Seconds::default(),
            last_base_timestamp: Seconds::default(),
            state: Family::default(),
            segments: Counter::default(),
            bytes: Counter::default(),
            bases: Counter::default(),
            gaps: Counter::default(),
            removed_objects: Counter::default(),
            errors: Family::default(),
        };
        let mut registry = Registry::with_prefix("helios_archiver");
        registry.register(
            "archived_index",
            "Last entry of the log that the store has",
            metrics.archived_index.clone(),
        );
        registry.register(
            "applied_index",
            "Last entry that a member has applied, as far as the archiver knows",
            metrics.applied_index.clone(),
        );
        registry.register(
            "lag_seconds",
            "Time since the oldest entry that the store does not have was applied, or since the last contact to a member",
            metrics.lag_seconds.clone(),
        );
        registry.register(
            "last_base_timestamp_seconds",
            "Time at which the newest base was completed, seconds since 1970; 0: there is none",
            metrics.last_base_timestamp.clone(),
        );
        registry.register("state", "State of the archiver: 1 for the one it is in", metrics.state.clone());
        registry.register(
            "segments",
            "Segments of the log that this process wrote",
            metrics.segments.clone(),
        );
        registry.register(
            "bytes",
            "Bytes of segments and bases that this process wrote to the store",
            metrics.bytes.clone(),
        );
        registry.register("bases", "Bases that this process completed", metrics.bases.clone());
        registry.register(
            "gaps",
            "Gaps of the log: entries that no member had any more when the archiver needed them",
            metrics.gaps.clone(),
        );
        registry.register(
            "removed_objects",
            "Objects that retention removed",
            metrics.removed_objects.clone(),
        );
        registry.register(
            "errors",
            "Failed calls of the store and of members, by reason",
            metrics.errors.clone(),
        );
        metrics.registry = registry;
        metrics
    }

    pub fn failed(&self, reason: &'static str) {
        self.errors.get_or_create(&Reason { reason }).inc();
    }

    pub fn text(&self, view: &View, lag: f64) -> String {
        let number = |index: u64| i64::try_from(index).unwrap_or(i64::MAX);
        self.archived_index.set(number(view.archived_index));
        self.applied_index.set(number(view.applied_index));
        self.lag_seconds.set(lag);
        let finished = view.last_base.as_ref().and_then(|base| base["finishedMs"].as_f64());
        self.last_base_timestamp.set(finished.unwrap_or_default() / 1000.0);
        self.state.clear();
        self.state.get_or_create(&StateLabel { state: format!("{:?}", view.state().0) }).set(1);
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# the metrics cannot be written: {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_metrics_are_those_that_alerts_use() {
        let metrics = Metrics::new();
        metrics.failed("Full");
        metrics.segments.inc();
        let text = metrics.text(&View { archived_index: 7, ..View::default() }, 1.5);
        for line in [
            "helios_archiver_archived_index 7",
            "helios_archiver_applied_index 0",
            "helios_archiver_lag_seconds 1.5",
            "helios_archiver_last_base_timestamp_seconds 0.0",
            "helios_archiver_state{state=\"Archiving\"} 1",
            "helios_archiver_segments_total 1",
            "helios_archiver_bytes_total 0",
            "helios_archiver_bases_total 0",
            "helios_archiver_gaps_total 0",
            "helios_archiver_removed_objects_total 0",
            "helios_archiver_errors_total{reason=\"Full\"} 1",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line} is not in\n{text}");
        }
        for metric in text.lines().filter(|line| line.starts_with("# HELP")) {
            assert!(metric.split(' ').count() > 6, "{metric}");
        }
    }
}
