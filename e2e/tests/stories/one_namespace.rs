//! An operator that may see one namespace and no other: it runs its clusters there, under the restricted level of
//! Pod Security like everything in a story, and takes no notice of clusters elsewhere.

use anyhow::{Context, ensure};
use helios_e2e::cluster::Cluster;
use helios_e2e::kubectl::Kubectl;
use helios_e2e::operator::Operator;
use helios_e2e::story::Story;
use serde_json::json;

pub fn tell(story: &Story) -> anyhow::Result<()> {
    let elsewhere = Cluster::named(&Kubectl::new("default"), "elsewhere");
    Operator::installed()?.without(|| {
        let operator = Operator::install_for_namespace(&story.images, &story.kubectl.namespace)?;
        let told = tell_of(story, &elsewhere);
        Kubectl::new("default").run(&["delete", &elsewhere.object(), "--ignore-not-found"])?;
        if told.is_err() {
            story.say(&operator.log());
        }
        let cluster = told?;
        operator.uninstall()?;
        ensure!(
            cluster.pods()?.len() == 3,
            "members need no operator to run, and these are left: {:?}",
            cluster.pods()?
        );
        Ok(())
    })
}

fn tell_of(story: &Story, elsewhere: &Cluster) -> anyhow::Result<Cluster> {
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
        "a cluster in another namespace was taken care of"
    );
    its_rights_end_at_its_namespace(story).context("rights of the operator")?;
    story.nothing_is_lost(writer)?;
    Ok(cluster)
}

fn its_rights_end_at_its_namespace(story: &Story) -> anyhow::Result<()> {
    let account =
        format!("--as=system:serviceaccount:{}:one-namespace-helios-operator", story.kubectl.namespace);
    let may = |namespace: &str, verb: &str, what: &str| {
        // The answer no is a failure of the command.
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
