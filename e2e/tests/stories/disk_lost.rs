//! Loss of a member's volume together with its pod: first of the member that bootstrapped the cluster, then
//! of the leader. Each is replaced in place by a new member on a blank disk.

use std::time::Instant;

use anyhow::{Context, ensure};
use helios_e2e::cluster::{Cluster, PATIENCE};
use helios_e2e::story::Story;
use serde_json::json;

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    if cluster.leader()?.0 == "demo-0" {
        cluster.transfer_leadership("demo-1")?;
    }
    let leader = cluster.leader()?;
    lose(story, &cluster, "demo-0", "the first member")?;
    story.part_without_failure("disk of demo-0 lost", &writer)?;
    ensure!(cluster.leader()? == leader, "a follower was lost, and the leader is another");

    lose(story, &cluster, &leader.0, "the leader")?;
    story.part_without_failure("disk of the leader lost", &writer)?;
    story.nothing_is_lost(writer)
}

/// Deletes the volume of the member on `pod`, and the pod; waits until there are three members again.
fn lose(story: &Story, cluster: &Cluster, pod: &str, who: &str) -> anyhow::Result<()> {
    let watch = cluster.watch()?;
    let old = cluster.member_id(pod)?.with_context(|| format!("{pod} is a member"))?;
    let old_pod = watch.uid(pod);
    let began = Instant::now();
    delete_volume_and_pod(story, pod)?;
    watch.await_replacement(pod, old_pod.as_deref(), PATIENCE)?;
    cluster.await_members(3)?;
    story.took(&format!("{who} replaced, all in service"), began.elapsed());

    let new = cluster.member_id(pod)?.with_context(|| format!("{pod} is a member again"))?;
    ensure!(new > old, "{pod} has a blank disk, and is member {new}; before it was {old}");
    ensure!(watch.created() == [pod], "pods created besides {pod}: {:?}", watch.created());
    cluster.await_agreement_on(3)
}

/// Deletes the volume and the pod; Kubernetes keeps the volume until its pod is gone.
pub fn delete_volume_and_pod(story: &Story, pod: &str) -> anyhow::Result<()> {
    story.kubectl.run(&["delete", "pvc", &format!("data-{pod}"), "--wait=false"])?;
    story.kubectl.run(&["delete", "pod", pod, "--wait=false"])?;
    Ok(())
}
