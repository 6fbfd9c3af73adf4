//! A misspelt spec.image: one pod stops, the status reports the reason and the remedy, and restoring the old
//! value repairs the cluster.

use anyhow::{Context, ensure};
use helios_e2e::cluster::PATIENCE;
use helios_e2e::pods;
use helios_e2e::story::Story;
use serde_json::json;

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    let leader = cluster.leader()?;
    let watch = cluster.watch()?;

    cluster.change(json!({"image": format!("{}-misspelt", story.images.node)}))?;
    let message = cluster.await_condition("Ready", |ready| {
        ready.status == "False"
            && ["ErrImagePull", "ImagePullBackOff"].iter().any(|why| ready.message.contains(why))
    })?;
    story.say(&format!("Ready is False: {message}"));
    ensure!(message.contains("write the old value back"), "it does not say what to do: {message}");
    // Some seconds of writes, and as many reconciles of the operator.
    writer.await_writes(1500)?;
    story.part_without_failure("one pod without an image", &writer)?;
    let stopped = watch.created();
    let [victim] = stopped.as_slice() else {
        anyhow::bail!("one pod was to stop, and these did: {stopped:?}")
    };
    ensure!(message.contains(victim.as_str()), "{victim} stopped, and the status says {message}");
    watch.wait("the others serve", PATIENCE, |pods| {
        pods.values().filter(|pod| pods::is_ready(pod)).count() == 2
    })?;

    cluster.change(json!({"image": null}))?;
    cluster.await_members(3).context("writing the old value back heals")?;
    story.part_without_failure("image written back", &writer)?;
    ensure!(
        watch.created() == [victim.as_str(), victim.as_str()],
        "only {victim} was to be replaced, and these were: {:?}",
        watch.created()
    );
    ensure!(cluster.leader()? == leader, "no leader had to go, and one did");
    story.nothing_is_lost(writer)
}
