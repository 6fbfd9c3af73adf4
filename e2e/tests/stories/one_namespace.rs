//! An operator with rights in one namespace only: it runs clusters there, under the restricted Pod Security
//! level like everything in a story, and ignores clusters elsewhere.

use anyhow::{Context, ensure};
use helios_e2e::cluster::Cluster;
use helios_e2e::kubectl::Kubectl;
use helios_e2e::operator::Operator;
use helios_e2e::story::Story;
use serde_json::json;

pub fn run(story: &Story) -> anyhow::Result<()> {
    let elsewhere = Cluster::named(&Kubectl::new("default"), "elsewhere");
    Operator::installed()?.without(|| {
        let operator = Operator::install_for_namespace(&story.images, &story.kubectl.namespace)?;
        let result = run_there(story, &elsewhere);
        Kubectl::new("default").run(&["delete", &elsewhere.object(), "--ignore-not-found"])?;
        if result.is_err() {
            story.say(&operator.log());
        }
        let cluster = result?;
        operator.uninstall()?;
        ensure!(
            cluster.pods()?.len() == 3,
            "members need no operator to run, and these are left: {:?}",
            cluster.pods()?
        );
        Ok(())
    })
}

fn run_there(story: &Story, elsewhere: &Cluster) -> anyhow::Result<Cluster> {
    Kubectl::new("default").apply(&elsewhere.manifest(json!({"replicas": 1})))?;
    let cluster = story.cluster(json!({"replicas": 1}))?;
    let writer = story.writer(&cluster)?;
    cluster.scale(3)?;
    cluster.await_members(3)?;
    story.part_without_failure("1 to 3", &writer)?;
    cluster.change(json!({"restartAt": "2026-01-01T00:00:00Z"}))?;
    cluster.await_ready()?;
    story.part_without_failure("restart", &writer)?;
    ensure!(
        elsewhere.resource()?.status.is_none_or(|status| status.phase.is_none())
            && elsewhere.pods()?.is_empty(),
        "a cluster in another namespace was reconciled"
    );
    operator_has_no_rights_in_other_namespaces(story).context("rights of the operator")?;
    story.nothing_is_lost(writer)?;
    Ok(cluster)
}

fn operator_has_no_rights_in_other_namespaces(story: &Story) -> anyhow::Result<()> {
    let account =
        format!("--as=system:serviceaccount:{}:one-namespace-helios-operator", story.kubectl.namespace);
    let may = |namespace: &str, verb: &str, what: &str| {
        // kubectl exits with an error when the answer is no.
        Kubectl::new(namespace).run(&["auth", "can-i", verb, what, &account]).is_ok()
    };
    ensure!(may(&story.kubectl.namespace, "delete", "pods"), "it may not delete pods where it works");
    for (verb, what) in
        [("list", "pods"), ("list", "heliosclusters"), ("get", "secrets"), ("create", "leases")]
    {
        ensure!(!may("default", verb, what), "it may {verb} {what} elsewhere");
    }
    Ok(())
}
