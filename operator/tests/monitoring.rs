//! Alerts and dashboards of the chart: every metric and label that one names exists, every alert has its page,
//! and fires when it should and only then.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;
use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Labels that are added by Prometheus or by the chart's PodMonitors; `le` of every histogram.
const TARGET_LABELS: [&str; 6] = ["namespace", "cluster", "client", "instance", "job", "le"];
const TESTS: &str = "operator/tests/alerts.test.yaml";

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The labels of each metric, by its name as a query has it; from the frozen pages, and from the guide for those of sidecars.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let mut known = BTreeMap::new();
    for page in ["docs/reference/metrics.md", "docs/reference/metrics-operator.md"] {
        for row in file(page).lines().filter_map(|line| line.strip_prefix("| `")) {
            let cells: Vec<_> = row.split(" | ").collect();
            let name = cells[0].trim_end_matches('`');
            let labels: BTreeSet<_> =
                cells[3].split(", ").map(|label| label.trim_matches('`').to_owned()).collect();
            let ends: &[&str] = if cells[1] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            known.extend(ends.iter().map(|end| (format!("{name}{end}"), labels.clone())));
        }
    }
    let sidecar = Regex::new(r"`(helios_sidecar_[a-z_]+)(?:\{([a-z_]+)\})?`").unwrap();
    let guide = file("docs/guide/sidecar.md");
    let rows = guide.lines().filter(|line| line.starts_with("| `helios_sidecar_"));
    for found in rows.flat_map(|row| sidecar.captures_iter(row)) {
        let label = found.get(2).map(|label| label.as_str().to_owned());
        known.insert(found[1].to_owned(), label.into_iter().collect());
    }
    known
}

/// Panics if `query` names a metric or a label that does not exist.
fn check(whose: &str, query: &str, known: &BTreeMap<String, BTreeSet<String>>) {
    let names = Regex::new(r"\b(helios_[a-z0-9_]+)(?:\{([^}]*)\})?").unwrap();
    let matchers = Regex::new(r#"([a-z_]+)\s*(?:=~|!~|!=|=)\s*""#).unwrap();
    let groups = Regex::new(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)").unwrap();
    let mut all: BTreeSet<&str> = TARGET_LABELS.into();
    for found in names.captures_iter(query) {
        let labels = known.get(&found[1]).unwrap_or_else(|| panic!("{whose}: no metric {}", &found[1]));
        let wanted = found.get(2).map_or("", |matched| matched.as_str());
        for label in matchers.captures_iter(wanted).map(|label| label.get(1).unwrap().as_str()) {
            let is_known = TARGET_LABELS.contains(&label) || labels.contains(label);
            assert!(is_known, "{whose}: {} has no label {label}", &found[1]);
        }
        all.extend(labels.iter().map(String::as_str));
    }
    for group in groups.captures_iter(query) {
        for label in group[1].split(',').map(str::trim) {
            assert!(all.contains(label), "{whose}: nothing in it has the label {label}");
        }
    }
    assert!(names.is_match(query), "{whose} queries none of our metrics: {query}");
}

fn alerts() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(&file("helm/helios-operator/files/alerts.yaml")).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

#[test]
fn alert_uses_existing_metrics_and_has_a_severity_and_a_runbook() {
    let known = known();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        check(name, alert["expr"].as_str().unwrap(), &known);
        assert!(["warning", "critical"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{name}");
        assert!(!alert["annotations"]["summary"].as_str().unwrap().is_empty(), "{name}");
        let page = alert["annotations"]["runbook_url"].as_str().unwrap();
        assert_eq!(page, format!("docs/runbooks/{name}.md"));
        let page = file(page);
        assert!(page.starts_with(&format!("# {name}\n")), "{name}");
        assert!(page.contains("## Look at") && page.contains("## Do"), "{name}");
    }
}

#[test]
fn runbook_belongs_to_an_alert() {
    let mut names: BTreeSet<_> =
        alerts().iter().map(|alert| format!("{}.md", alert["alert"].as_str().unwrap())).collect();
    let index = file("docs/runbooks/README.md");
    for name in &names {
        assert!(index.contains(&format!("]({name})")), "docs/runbooks/README.md does not list {name}");
    }
    names.insert("README.md".to_owned());
    let pages = std::fs::read_dir(Path::new(ROOT).join("docs/runbooks")).unwrap();
    let pages: BTreeSet<_> = pages.map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(pages, names);
}

#[test]
fn dashboard_panel_uses_existing_metrics() {
    let (known, legend) = (known(), Regex::new(r"\{\{(\w+)\}\}").unwrap());
    for (dashboard, of) in [("nodes", "cluster"), ("operator", "cluster"), ("sidecars", "client")] {
        let path = format!("helm/helios-operator/files/dashboards/{dashboard}.json");
        let dashboard: Value = serde_json::from_str(&file(&path)).unwrap();
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let names: Vec<_> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["datasource", "namespace", of]);
        for variable in &variables[1..] {
            check(&path, variable["query"].as_str().unwrap(), &known);
        }
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap();
                check(&format!("{path}, {title}"), query, &known);
                for label in legend.captures_iter(target["legendFormat"].as_str().unwrap()) {
                    let is_known = query.contains(&label[1]) || TARGET_LABELS.contains(&&label[1]);
                    assert!(is_known, "{path}, {title}: {}", &label[0]);
                }
            }
        }
    }
}

#[test]
fn alert_has_a_test_that_fires_and_one_that_does_not() {
    let tests: Value = serde_saphyr::from_str(&file(TESTS)).unwrap();
    let (mut fires, mut quiet) = (BTreeSet::new(), BTreeSet::new());
    for case in tests["tests"].as_array().unwrap() {
        let case = &case["alert_rule_test"][0];
        let tried = if case["exp_alerts"].as_array().unwrap().is_empty() { &mut quiet } else { &mut fires };
        tried.insert(case["alertname"].as_str().unwrap().to_owned());
    }
    let all: BTreeSet<_> = alerts().iter().map(|alert| alert["alert"].as_str().unwrap().to_owned()).collect();
    assert_eq!((&fires, &quiet), (&all, &all));
}

/// promtool of the PATH, or the one that the test command has brought.
fn promtool() -> Option<PathBuf> {
    let brought = helios_testing::cache().map(|cache| cache.join("promtool/usr/bin/promtool"));
    let all = std::iter::once(PathBuf::from("promtool")).chain(brought);
    all.into_iter().find(|program| Command::new(program).arg("--version").output().is_ok())
}

#[test]
fn alerts_fire_as_their_promtool_tests_expect() {
    let Some(promtool) = promtool() else {
        return helios_testing::skip_or_fail("promtool", "Debian package prometheus");
    };
    for arguments in [["check", "rules", "helm/helios-operator/files/alerts.yaml"], ["test", "rules", TESTS]]
    {
        let output = Command::new(&promtool).args(arguments).current_dir(ROOT).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
    }
}
