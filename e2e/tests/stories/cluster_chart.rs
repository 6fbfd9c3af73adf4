//! A cluster as a Helm release: installed, tested, uninstalled without a hang, and installed again on its
//! retained volumes.

use std::time::Instant;

use anyhow::ensure;
use helios_e2e::cluster::Cluster;
use helios_e2e::kubectl;
use helios_e2e::story::Story;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/helios-cluster");

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = Cluster::named(&story.kubectl, "demo");
    install(story)?;
    ensure!(cluster.resource()?.spec.storage.size == "256Mi", "a value did not reach the spec");
    helm(story, &["test", "demo", "--timeout", "2m"])?;
    let answer: String = cluster.connect("demo-0")?.query(&["SET", "kept", "yes"])?;
    ensure!(answer == "OK", "SET: {answer}");

    let began = Instant::now();
    helm(story, &["uninstall", "demo", "--wait", "--timeout", "2m"])?;
    story.kubectl.run(&[
        "wait",
        "pods",
        "--selector",
        &cluster.selector(),
        "--for=delete",
        "--timeout=120s",
    ])?;
    story.say(&format!("uninstalled, and all pods gone, in {:.1} s", began.elapsed().as_secs_f64()));
    let volumes: Vec<PersistentVolumeClaim> = story.kubectl.list("pvc", "")?;
    ensure!(volumes.len() == 3, "storage.retain keeps volumes, and {} are left", volumes.len());

    install(story)?;
    let value: Option<String> = cluster.connect("demo-1")?.query(&["GET", "kept"])?;
    ensure!(value.as_deref() == Some("yes"), "the data did not come back: {value:?}");
    Ok(())
}

/// Installs the chart with Helm's `--wait`, after which the cluster has to be ready without further waiting.
fn install(story: &Story) -> anyhow::Result<()> {
    let began = Instant::now();
    let image = format!("test.image={}", story.images.writer);
    let command = "test.command={/helios-writer,set-get,--addr,demo:6379}";
    let size = "storage.size=256Mi";
    helm(
        story,
        &[
            &["install", "demo", CHART, "--wait", "--timeout", "2m", "--set", size][..],
            &["--set-string", &image, "--set-string", command],
        ]
        .concat(),
    )?;
    let status = Cluster::named(&story.kubectl, "demo").resource()?.status.unwrap_or_default();
    ensure!(status.ready.as_deref() == Some("3/3"), "helm --wait came back too early: {status:?}");
    story.took("helm install --wait", began.elapsed());
    Ok(())
}

fn helm(story: &Story, words: &[&str]) -> anyhow::Result<()> {
    kubectl::run("helm", &[words, &["--namespace", &story.kubectl.namespace]].concat())?;
    Ok(())
}
