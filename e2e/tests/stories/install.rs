//! From `kubectl apply` of six lines to a key read through every Service and pod; and rejection of invalid
//! specs.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use helios_e2e::cluster::Cluster;
use helios_e2e::operator::Operator;
use helios_e2e::story::{Story, within};
use helios_e2e::writer::set_get;
use serde_json::{Value, json};

const SIX_LINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/kubernetes/demo.yaml");

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = Cluster::named(&story.kubectl, "demo");
    let began = Instant::now();
    story.kubectl.run(&["apply", "--filename", SIX_LINES])?;
    cluster.await_ready()?;
    let took = began.elapsed();
    story.took("Ready after kubectl apply", took);
    within("kubectl apply until Ready", took, Duration::from_secs(60))?;

    printed_columns_show_readiness_leader_and_phase(story, &cluster)?;
    set_get(&story.kubectl, &story.images.writer, "demo", "demo:6379").context("through the Service")?;
    set_get(&story.kubectl, &story.images.writer, "demo", "demo-leader:6379")
        .context("through the leader's Service")?;
    every_pod_reads_the_writes_of_all(&cluster)?;
    Operator::installed()?.helm_test()?;
    invalid_specs_are_rejected_with_a_reason(story, &cluster)
}

fn printed_columns_show_readiness_leader_and_phase(story: &Story, cluster: &Cluster) -> anyhow::Result<()> {
    let table = story.kubectl.run(&["get", &cluster.object()])?;
    table.lines().for_each(|line| story.say(line));
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let [header, row] = rows.as_slice() else { anyhow::bail!("kubectl get hc printed {table}") };
    ensure!(*header == ["NAME", "READY", "LEADER", "VERSION", "STATUS", "AGE"], "columns: {header:?}");
    let (leader, _) = cluster.leader()?;
    ensure!(
        row[..3] == ["demo", "3/3", leader.as_str()] && row[4] == "Healthy",
        "{leader} leads, and the row is {row:?}"
    );
    Ok(())
}

fn every_pod_reads_the_writes_of_all(cluster: &Cluster) -> anyhow::Result<()> {
    let names: Vec<String> = cluster.pods()?.into_keys().collect();
    ensure!(names == ["demo-0", "demo-1", "demo-2"], "pods: {names:?}");
    let pods = names.iter().map(|name| cluster.connect(name)).collect::<Result<Vec<_>, _>>()?;
    for (writer, name) in pods.iter().zip(&names) {
        let key = format!("written-by-{name}");
        let answer: String = writer.query(&["SET", &key, name])?;
        ensure!(answer == "OK", "SET on {name}: {answer}");
        for (reader, other) in pods.iter().zip(&names) {
            let value: Option<String> = reader.query(&["GET", &key])?;
            ensure!(value.as_deref() == Some(name), "{other} reads {value:?} after a write on {name}");
        }
    }
    Ok(())
}

fn invalid_specs_are_rejected_with_a_reason(story: &Story, cluster: &Cluster) -> anyhow::Result<()> {
    let before = cluster.resource()?.spec;
    let four = Cluster::named(&story.kubectl, "four").manifest(json!({"replicas": 4}));
    let shrunk = cluster.manifest(json!({"replicas": 3, "storage": {"size": "1Gi"}}));
    let unknown = Cluster::named(&story.kubectl, "quick").manifest(json!({"raft": {"preset": "turbo"}}));
    let mistakes: [(Value, &[&str]); 3] = [
        (four, &["spec.replicas", "write 1, 3, 5 or 7"]),
        (shrunk, &["spec.storage.size", "a volume cannot shrink; write the old size or a larger one"]),
        (unknown, &["spec.raft.preset", "turbo", r#""lan", "fast", "wan""#]),
    ];
    for (mistake, words) in mistakes {
        let refusal =
            story.kubectl.apply(&mistake).err().with_context(|| format!("not refused: {mistake}"))?.message();
        for word in words {
            ensure!(
                refusal.contains(word),
                "the refusal of {} does not say {word:?}: {refusal}",
                mistake["spec"]
            );
        }
    }
    let clusters: Vec<Value> = story.kubectl.list("hc", "")?;
    ensure!(
        clusters.len() == 1 && cluster.resource()?.spec == before,
        "a refused resource left something behind"
    );
    Ok(())
}
