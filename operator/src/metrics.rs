//! Metrics of the operator, under `helios_operator_`.

mod clusters;
mod requests;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use helios_crds::{Open, OperationKind};
use hyper::Request;
use jiff::SignedDuration;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use clusters::{BackupFacts, Clusters, Facts};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabel {
    kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabel {
    verb: &'static str,
    resource: String,
}

#[derive(Clone)]
pub struct Metrics {
    reconciles: Family<ResultLabel, Counter>,
    reconcile_duration: Histogram,
    steps: Family<KindLabel, Counter>,
    operation_duration: Family<OperationLabel, Histogram>,
    status_writes: Counter,
    api_requests: Family<RequestLabel, Counter>,
    pub clusters: Arc<Clusters>,
    leading: Gauge<u64, AtomicU64>,
    injections: Family<ResultLabel, Counter>,
    pods_without_sidecar: Gauge<u64, AtomicU64>,
    sidecar_evictions: Counter,
    registry: Arc<Registry>,
}

impl Metrics {
    pub fn new() -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            reconcile_duration: pass_durations(),
            steps: Family::default(),
            operation_duration: Family::new_with_constructor(operation_durations),
            status_writes: Counter::default(),
            api_requests: Family::default(),
            clusters: Arc::default(),
            leading: Gauge::default(),
            injections: Family::default(),
            pods_without_sidecar: Gauge::default(),
            sidecar_evictions: Counter::default(),
            registry: Arc::default(),
        };
        Self { registry: Arc::new(metrics.registry()), ..metrics }
    }

    fn registry(&self) -> Registry {
        let mut all = Registry::with_prefix("helios_operator");
        all.register("reconcile", "Reconciles of a cluster, by result", self.reconciles.clone());
        let help = "Time of one reconcile of a cluster";
        all.register_with_unit("reconcile_duration", help, Unit::Seconds, self.reconcile_duration.clone());
        all.register("steps", "Steps taken, by kind of operation and outcome", self.steps.clone());
        let help = "Time from an operation's beginning to its end, by kind";
        all.register_with_unit("operation_duration", help, Unit::Seconds, self.operation_duration.clone());
        all.register("status_writes", "Writes of a HeliosCluster's status", self.status_writes.clone());
        let help = "Requests to the API server, by verb and resource";
        all.register("api_requests", help, self.api_requests.clone());
        all.register("leading", "1 while this process holds the lease", self.leading.clone());
        let help = "Pods that the webhook was asked about, by result: injected, skipped, refused";
        all.register("injections", help, self.injections.clone());
        let help = "Pods that ask for a sidecar and have none, at the last look";
        all.register("pods_without_sidecar", help, self.pods_without_sidecar.clone());
        let help = "Pods that were evicted because they were created without their sidecar";
        all.register("sidecar_evictions", help, self.sidecar_evictions.clone());
        all.register_collector(Box::new(self.clusters.clone()));
        all
    }

    pub fn reconciled(&self, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ResultLabel { result }).inc();
        self.reconcile_duration.observe(took.as_secs_f64());
    }

    pub fn step(&self, kind: OperationKind, outcome: &'static str) {
        self.steps.get_or_create(&KindLabel { kind: kind.to_string(), outcome }).inc();
    }

    /// An operation ended, completed or not.
    pub fn operation(&self, kind: &Open<OperationKind>, took: SignedDuration) {
        let label = OperationLabel { kind: kind.to_string() };
        self.operation_duration.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// A request leaves for the API server.
    pub fn request<B>(&self, request: &Request<B>) {
        let (verb, resource) = requests::classify(request);
        self.api_requests.get_or_create(&RequestLabel { verb, resource }).inc();
    }

    /// The webhook decided on a pod.
    pub fn injection(&self, result: &'static str) {
        self.injections.get_or_create(&ResultLabel { result }).inc();
    }

    pub fn set_pods_without_sidecar(&self, pods: usize) {
        self.pods_without_sidecar.set(pods as u64);
    }

    pub fn sidecar_eviction(&self) {
        self.sidecar_evictions.inc();
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

fn pass_durations() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

/// From one restart to a member that has to receive all data.
fn operation_durations() -> Histogram {
    Histogram::new([1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0])
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap};

    use super::*;
    use crate::names::Key;

    const HEAD: &str = "\
# Metrics of the operator

<!-- Generated from the operator's registry by `HELIOS_UPDATE_DOCS=1 cargo test -p helios-operator reference_of_metrics`. -->

`GET /metrics` on port 8080, in the OpenMetrics text format. Names, types, units and labels do not change within a major version; the
alerts and dashboards of the chart are held to this page. `namespace` and `cluster` are those of the HeliosCluster, so scrape with
`honor_labels`. The members' are in [metrics.md](metrics.md).

| name | type | unit | labels | meaning |
|---|---|---|---|---|
";

    /// Each metric as a row of the page, in order of their names.
    fn rows(text: &str) -> BTreeMap<String, String> {
        let (mut described, mut rows) = (HashMap::new(), BTreeMap::new());
        for line in text.lines() {
            let words: Vec<_> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", name, help] => {
                    described.insert(name, (help.trim_end_matches('.'), ""));
                }
                ["#", "TYPE", name, kind] => described.entry(name).or_default().1 = kind,
                ["#", ..] => {}
                _ => {
                    let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
                    let family = ["_bucket", "_sum", "_count", "_total", ""].iter();
                    let mut family =
                        family.filter_map(|end| described.get_key_value(name.strip_suffix(end)?));
                    let (family, (help, kind)) = family.next().unwrap();
                    let name = if *kind == "histogram" { family } else { name };
                    let labels = rest.split('}').next().unwrap().trim_start_matches('{').split(',');
                    let labels: Vec<_> = labels.filter_map(|label| Some(label.split_once('=')?.0)).collect();
                    let labels = labels.iter().filter(|label| **label != "le");
                    let labels: Vec<_> = labels.map(|label| format!("`{label}`")).collect();
                    let stem = name.trim_end_matches("_total");
                    let unit = ["seconds", "bytes"].iter().find(|unit| stem.ends_with(**unit));
                    let (unit, labels) = (unit.copied().unwrap_or_default(), labels.join(", "));
                    rows.insert(
                        name.to_owned(),
                        format!("| `{name}` | {kind} | {unit} | {labels} | {help} |"),
                    );
                }
            }
        }
        rows
    }

    /// Dashboards and alerts use these names; a change of one belongs into the changelog. `HELIOS_UPDATE_DOCS=1` writes the
    /// page instead.
    #[test]
    fn reference_of_metrics_has_what_the_registry_has() {
        let metrics = Metrics::new();
        // A metric with labels is registered once it has some.
        metrics.reconciled("ok", Duration::ZERO);
        metrics.step(OperationKind::AddMember, "done");
        metrics.operation(&OperationKind::AddMember.into(), SignedDuration::ZERO);
        metrics.request(&Request::get("/api/v1/pods").body(()).unwrap());
        let demo = Key { namespace: "team".to_owned(), name: "demo".to_owned() };
        let facts =
            Facts { faults_tolerated: 1, faults_designed: 1, ghost_voters: 0, learners: BTreeSet::new() };
        let moment = jiff::Timestamp::from_second(1_800_000_000).ok();
        metrics.clusters.seen(&demo, Some(facts), moment);
        let backup = BackupFacts {
            is_archiving: Some(true),
            is_base_overdue: Some(false),
            last_base: moment,
            lag: Some(1.0),
            is_drill_failed: Some(false),
            last_verified_restore: moment,
            restore_seconds: Some(42.0),
        };
        metrics.clusters.backup(&demo, backup);
        let rows = rows(&metrics.encode().unwrap());
        let page = HEAD.to_owned() + &rows.into_values().map(|row| row + "\n").collect::<String>();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics-operator.md");
        if std::env::var_os("HELIOS_UPDATE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let current = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            current == page,
            "metrics-operator.md is out of date; run HELIOS_UPDATE_DOCS=1 cargo test reference_of_metrics"
        );
    }

    #[test]
    fn metrics_have_only_the_age_when_there_is_no_leader() {
        let metrics = Metrics::new();
        let demo = Key { namespace: "team".to_owned(), name: "demo".to_owned() };
        let facts =
            Facts { faults_tolerated: 0, faults_designed: 1, ghost_voters: 1, learners: BTreeSet::from([4]) };
        let expires = jiff::Timestamp::from_second(1_800_000_000).ok();
        metrics.clusters.seen(&demo, Some(facts), expires);
        let labels = r#"{namespace="team",cluster="demo"}"#;
        let text = metrics.encode().unwrap();
        assert!(text.contains(&format!("helios_operator_cluster_faults_tolerated{labels} 0")), "{text}");
        assert!(text.contains(&format!("helios_operator_cluster_ghost_voters{labels} 1")), "{text}");
        let expiry = format!("helios_operator_cluster_cert_expiry_timestamp_seconds{labels} 1800000000");
        assert!(text.contains(&expiry), "{text}");

        assert!(!text.contains("cluster_archiving{"), "a cluster without backups: {text}");
        let backup = BackupFacts {
            is_archiving: Some(false),
            is_base_overdue: Some(true),
            is_drill_failed: Some(true),
            ..BackupFacts::default()
        };
        metrics.clusters.backup(&demo, backup);
        let text = metrics.encode().unwrap();
        for metric in ["archiving{} 0", "base_overdue{} 1", "drill_failed{} 1"] {
            let line = format!("cluster_{}", metric.replace("{}", labels));
            assert!(text.contains(&line), "{text}");
        }

        metrics.clusters.seen(&demo, None, None);
        let text = metrics.encode().unwrap();
        assert!(!text.contains(&format!("faults_tolerated{labels}")), "{text}");
        assert!(text.contains(&format!("observation_age_seconds{labels}")), "{text}");
        assert!(text.contains("helios_operator_clusters 1"), "{text}");

        metrics.clusters.forget(&demo);
        let text = metrics.encode().unwrap();
        assert!(!text.contains("demo") && text.contains("helios_operator_clusters 0"), "{text}");
    }
}
