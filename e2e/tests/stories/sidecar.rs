//! Applications with a sidecar of mode Replica, from examples/sidecar: they start after it, see their writes, and complete, with an
//! injected and with a pasted one. One that is cut off from the network reads from memory, then gets errors and no wrong
//! value, and recovers.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use helios_crds::{INJECT_LABEL, SIDECAR, SIDECAR_PROBE_PORT};
use helios_e2e::cluster::{PATIENCE, eventually};
use helios_e2e::heliosctl::Heliosctl;
use helios_e2e::nodes::Nodes;
use helios_e2e::operator::Operator;
use helios_e2e::story::{Story, within};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

const CLIENT: &str = include_str!("../../../examples/sidecar/client.yaml");
const INJECTED: &str = include_str!("../../../examples/sidecar/injected.yaml");
const PASTED: &str = include_str!("../../../examples/sidecar/pasted.yaml");
/// Images in the examples.
const REDIS: &str = "docker.io/library/redis:8-alpine";
const NODE: &str = "heliosd:0.1.0";

const WATCHER: &str = "watcher";
/// Longer than the limit of age, the time after which the sidecar is cut off, and one request.
const CUT: Duration = Duration::from_secs(9);
/// As docs/guide/sidecar.md says.
const RECOVERY: Duration = Duration::from_secs(10);

pub fn run(story: &Story) -> anyhow::Result<()> {
    story.cluster(json!({}))?;
    story.kubectl.run_with_input(&["apply", "--filename", "-"], CLIENT)?;
    story.kubectl.wait("hcl/orders", "condition=Ready", PATIENCE)?;
    let began = Instant::now();
    for manifest in [INJECTED, PASTED] {
        let manifest = manifest.replace(REDIS, &story.images.client).replace(NODE, &story.images.node);
        story.kubectl.run_with_input(&["apply", "--filename", "-"], &manifest)?;
    }
    for job in ["orders-injected", "orders-pasted"] {
        application_completes(story, job)?;
        story.took(&format!("{job} complete after kubectl apply"), began.elapsed());
    }
    let Some(nodes) = Nodes::of_local_cluster(&story.kubectl)? else {
        story.say("no node of this cluster is cut off; it is not the local one");
        return Ok(());
    };
    let busy = Operator::installed()?.nodes()?;
    let node = nodes
        .names()?
        .into_iter()
        .find(|node| !busy.contains(node))
        .context("a node without the operator")?;
    let watcher = watcher(story, &node)?;
    reads_are_local(story)?;
    sidecars_are_listed(story)?;
    application_that_is_cut_off_gets_errors_and_recovers(story, &nodes, &node)?;
    ensure!(
        restarts(&story.kubectl.get(&format!("pod/{WATCHER}"))?) == restarts(&watcher),
        "a container was restarted"
    );
    Ok(())
}

fn application_completes(story: &Story, job: &str) -> anyhow::Result<()> {
    story.kubectl.wait(&format!("job/{job}"), "condition=Complete", PATIENCE)?;
    let pods: Vec<Pod> = story.kubectl.list("pods", &format!("job-name={job}"))?;
    ensure!(pods.len() == 1, "the application had to be started {} times", pods.len());
    let log = story.kubectl.run(&["logs", &format!("job/{job}"), "--container", "app"])?;
    for line in ["sidecar_mode:replica", "sidecar_ready:1"] {
        ensure!(log.contains(line), "no {line} in {log}");
    }
    Ok(())
}

/// Starts an application that reads a key ten times a second, on `node`.
fn watcher(story: &Story, node: &str) -> anyhow::Result<Pod> {
    story.kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": WATCHER, "labels": {INJECT_LABEL: "orders"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "app", "image": story.images.client,
                "args": ["-r", "-1", "-i", "0.1", "GET", "orders:1"],
                "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
            }],
        },
    }))?;
    story.kubectl.wait(&format!("pod/{WATCHER}"), "condition=Ready", PATIENCE)?;
    let pod: Pod = story.kubectl.get(&format!("pod/{WATCHER}"))?;
    let status = pod.status.as_ref().context("a status")?;
    let sidecar = status.init_container_statuses.iter().flatten().find(|status| status.name == SIDECAR);
    ensure!(sidecar.is_some_and(|sidecar| sidecar.started == Some(true)), "no sidecar in {status:?}");
    Ok(pod)
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let all =
        status.into_iter().flat_map(|it| it.container_statuses.iter().chain(&it.init_container_statuses));
    all.flatten().map(|container| container.restart_count).sum()
}

fn metric(story: &Story, name: &str) -> anyhow::Result<f64> {
    let text = story.kubectl.http_get(WATCHER, SIDECAR_PROBE_PORT, "metrics")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.with_context(|| format!("no metric {name}"))?.trim().parse().context("a number")
}

fn reads_are_local(story: &Story) -> anyhow::Result<()> {
    let local = || metric(story, "helios_sidecar_local_reads_total");
    let before = eventually(PATIENCE, || {
        let reads = local()?;
        ensure!(reads > 0.0, "no read was answered from memory");
        Ok(reads)
    })?;
    eventually(PATIENCE, || {
        ensure!(local()? >= before + 10.0, "reads are not answered from memory any more");
        Ok(())
    })
}

/// Also as a user who may not read metrics of pods.
fn sidecars_are_listed(story: &Story) -> anyhow::Result<()> {
    let ctl = Heliosctl::new(&story.kubectl)?;
    let listed = ctl.ask_as_plugin(&["sidecars"])?;
    ensure!(listed.code == 0 && listed.err.is_empty(), "{listed:?}");
    listed.out.lines().for_each(|line| story.say(line));
    let rows: Vec<Vec<&str>> = listed.out.lines().map(|line| line.split_whitespace().collect()).collect();
    ensure!(rows.len() == 2 && rows[1][..5] == ["orders", WATCHER, "Replica", "yes", "0"], "{rows:?}");
    ensure!(rows[1][5] == "following" && listed.out.contains(" ms"), "{rows:?}");

    story.kubectl.run(&["create", "role", "reader", "--verb=list", "--resource=pods"])?;
    story.kubectl.run(&["create", "rolebinding", "reader", "--role=reader", "--user=reader"])?;
    let config = story.kubectl.run(&["config", "view", "--raw", "--minify", "--flatten", "--output=json"])?;
    let mut config: Value = serde_json::from_str(&config)?;
    config["users"][0]["user"]["as"] = json!("reader");
    let kubeconfig = tempfile::NamedTempFile::new()?;
    std::fs::write(kubeconfig.path(), config.to_string())?;
    let path = kubeconfig.path().to_str().context("a path of text")?;
    let few = ctl.ask(&["sidecars", "--kubeconfig", path])?;
    ensure!(few.code == 0 && few.out.contains(WATCHER) && !few.out.contains("following"), "{few:?}");
    for right in ["get pods/proxy", "HeliosClients"] {
        ensure!(few.err.contains(right), "{few:?}");
    }
    Ok(())
}

/// A line that the application printed, and when.
type Line = (Timestamp, String);

fn lines(story: &Story) -> anyhow::Result<Vec<Line>> {
    let log = story.kubectl.run(&["logs", WATCHER, "--container", "app", "--timestamps"])?;
    let parsed = log.lines().filter_map(|line| line.split_once(' ')).filter(|(_, text)| !text.is_empty());
    parsed.map(|(at, text)| Ok((at.parse()?, text.to_owned()))).collect()
}

fn application_that_is_cut_off_gets_errors_and_recovers(
    story: &Story,
    nodes: &Nodes,
    node: &str,
) -> anyhow::Result<()> {
    let cut = Timestamp::now();
    let mended = nodes.while_cut_off(node, || {
        // Nothing of the node can be observed meanwhile.
        std::thread::sleep(CUT);
        Ok(Timestamp::now())
    })?;
    let is_value = |(_, text): &&Line| text == "accepted";
    let (all, value) = eventually(PATIENCE, || {
        let all = lines(story)?;
        let errors =
            all.iter().rposition(|line| line.0 > cut && !is_value(&line)).context("no error in the cut")?;
        let value = all.get(errors + 1).context("no value after the cut")?.clone();
        Ok((all, value))
    })?;
    for (at, text) in &all {
        ensure!(text == "accepted" || text.starts_with("CLUSTERDOWN "), "{at}: {text}");
        ensure!(text == "accepted" || *at > cut, "{at}, before the cut: {text}");
    }
    let first = all.iter().find(|line| !is_value(line)).context("an error")?;
    story.say(&first.1);
    let seconds =
        |from: Timestamp, to: Timestamp| Duration::try_from(to.duration_since(from)).unwrap_or_default();
    story.took("cut off: first error", seconds(cut, first.0));
    story.took("network restored: reads answered", seconds(mended, value.0));
    within("reads after the network is back", seconds(mended, value.0), RECOVERY)?;
    reads_are_local(story)
}
