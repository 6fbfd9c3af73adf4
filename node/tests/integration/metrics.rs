//! All metrics of running nodes, compared with the reference page that is generated from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use helios_proto::v1::SnapshotRequest;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::common::{Authority, Cluster, eventually, http};
use super::locks::Locked;

/// Description of one metric.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// Metrics by the name of their samples, without the suffixes of histograms.
type Families = BTreeMap<String, Family>;

/// Adds the metrics in one node's text; names without samples are left out.
fn read(text: &str, families: &mut Families) {
    let (mut kind, mut help) = ("", "");
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(described) = line.strip_prefix("# TYPE ") {
            kind = described.split_once(' ').map_or("", |(_, kind)| kind);
        } else if !line.starts_with('#') {
            let (name, labels) = sample(line);
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).filter(|_| kind == "histogram"));
            let name = name.unwrap_or(sample(line).0);
            let family = families.entry(name.to_owned()).or_default();
            (family.kind, family.help) = (kind.to_owned(), help.trim_end_matches('.').to_owned());
            family.labels.extend(labels.into_iter().filter(|label| label != "le"));
        }
    }
}

/// Returns the name and the label names of a line like `name{label="value"} 1`; no label value here contains
/// a comma.
fn sample(line: &str) -> (&str, Vec<String>) {
    let Some((name, rest)) = line.split_once('{') else {
        return (line.split(' ').next().unwrap_or_default(), Vec::new());
    };
    let labels = rest.split('}').next().unwrap_or_default().split(',');
    (name, labels.filter_map(|label| Some(label.split_once('=')?.0.to_owned())).collect())
}

fn unit(name: &str) -> &'static str {
    let stem = name.strip_suffix("_total").unwrap_or(name);
    ["seconds", "bytes"].into_iter().find(|unit| stem.ends_with(unit)).unwrap_or_default()
}

fn page(families: &Families) -> String {
    let mut page = HEAD.to_owned();
    for (name, Family { kind, help, labels }) in families {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(page, "| `{name}` | {kind} | {} | {} | {help} |", unit(name), labels.join(", ")).unwrap();
    }
    page
}

const HEAD: &str = "\
# Metrics of a node

<!-- Generated from the `/metrics` of running nodes by `HELIOS_UPDATE_DOCS=1 cargo test -p helios-node reference_of_metrics`. -->

`GET /metrics` on the metrics port, in the OpenMetrics text format. Names, types, units and labels do not change within a major version.
Labels are few and bounded: none is ever a key or a client's address. A name with the label `peer` has no samples on a node that speaks
to no other. With TLS there is also `helios_cert_expiry_timestamp_seconds{for}`, a gauge: when the certificate that the node shows for
its `peer` or `client` port expires. The operator's are in [metrics-operator.md](metrics-operator.md).

| name | type | unit | labels | meaning |
|---|---|---|---|---|
";

/// Compares the page; `HELIOS_UPDATE_DOCS=1` writes it instead.
#[tokio::test]
async fn reference_of_metrics_matches_running_nodes() {
    let authority = Authority::new("ours");
    let locked = Locked::started(&authority, &authority.leaf(2081)).await;
    let cluster = &locked.cluster;
    let leader = cluster.leader().await;
    let mut redis = cluster[leader].redis().await;
    let () = redis::cmd("SET").arg("key").arg("value").query_async(&mut redis).await.unwrap();
    // A malformed command, so that one rejection is counted.
    let mut stranger = TcpStream::connect(("127.0.0.1", cluster[leader].ports.client)).await.unwrap();
    stranger.write_all(b"*1\r\n$x\r\n").await.unwrap();
    cluster[leader].cluster().snapshot(SnapshotRequest {}).await.unwrap();

    let mut families = Families::new();
    eventually("heartbeats were answered and a client was refused", async || {
        for node in cluster.nodes() {
            read(&http(node.ports.metrics, "GET", "/metrics", "").await?.1, &mut families);
        }
        let is_there = |name| families.contains_key(name);
        (is_there("helios_peer_rtt_seconds") && is_there("helios_rejected_total")).then_some(())
    })
    .await;

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
    let made = page(&families);
    if std::env::var_os("HELIOS_UPDATE_DOCS").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let current = std::fs::read_to_string(path).unwrap_or_default();
    let differs = |line: &&str| !current.lines().any(|known| known == *line);
    let news: Vec<_> = made.lines().filter(differs).collect();
    assert!(
        current == made,
        "metrics.md is out of date; run HELIOS_UPDATE_DOCS=1 cargo test reference_of_metrics; new: {news:#?}"
    );
}

/// Checks the values of the metrics by which users watch leadership and quorum (docs/checklist.md, S2-13,
/// S4-16, S4-19, S4-21).
#[tokio::test]
async fn metrics_of_a_leader_report_term_peers_and_quorum() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
    let status = cluster[leader].status().await;
    assert_eq!(cluster[leader].metric("helios_raft_is_leader").await, Some(1));
    assert_eq!(cluster[one].metric("helios_raft_is_leader").await, Some(0));
    assert_eq!(cluster[leader].metric("helios_raft_term").await, Some(status.term));
    assert!(cluster[leader].metric("helios_raft_leader_changes_total").await >= Some(1));

    cluster[one].kill();
    let peer = format!("{{peer=\"{}\"}}", cluster[one].name);
    eventually("the leader reports the inactive peer", async || {
        let active = cluster[leader].metric(&format!("helios_peer_active{peer}")).await?;
        let healthy = cluster[leader].metric("helios_healthy_members").await?;
        ((active, healthy) == (0, 2)).then_some(())
    })
    .await;
    assert_eq!(cluster[leader].metric("helios_raft_has_quorum").await, Some(1));
    let mut redis = cluster[leader].redis().await;
    let () = redis::cmd("SET").arg("key").arg("value").query_async(&mut redis).await.unwrap();
    assert!(cluster[leader].metric(&format!("helios_peer_match_lag_entries{peer}")).await >= Some(1));

    cluster[two].kill();
    eventually("the leader reports no quorum", async || {
        (cluster[leader].metric("helios_raft_has_quorum").await? == 0).then_some(())
    })
    .await;
}
