//! Loss of the leader while clients write: its pod is deleted, deleted by force, and its process is killed.

use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};
use helios_e2e::cluster::{Cluster, PATIENCE};
use helios_e2e::pods;
use helios_e2e::story::Story;
use helios_e2e::writer::Writer;
use serde_json::json;

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    delete_leader(story, &cluster, &[])?;
    story.part_without_failure("pod deleted", &writer)?;
    // Its successor is created at once, while the old process has two seconds to end.
    delete_leader(story, &cluster, &["--grace-period=0", "--force"])?;
    story.part_without_failure("pod deleted by force", &writer)?;
    kill_leader(story, &cluster, &writer)?;
    story.nothing_is_lost(writer)
}

/// Deletes the leader's pod and waits until it is replaced and all members are in service.
fn delete_leader(story: &Story, cluster: &Cluster, how: &[&str]) -> anyhow::Result<()> {
    let (leader, term) = cluster.leader()?;
    let watch = cluster.watch()?;
    let old = watch.uid(&leader);
    story.kubectl.run(&[&["delete", "pod", &leader, "--wait=false"], how].concat())?;
    watch.await_replacement(&leader, old.as_deref(), PATIENCE)?;
    cluster.await_members(3)?;
    let (_, now) = cluster.leader()?;
    ensure!(now > term, "the leader went, and the term is still {term}");
    ensure!(watch.created() == [leader.as_str()], "pods created besides {leader}: {:?}", watch.created());
    Ok(())
}

/// Kills the leader's process, as in a crash: it sends no farewell, so the others have to time out. This
/// needs a cluster whose containers are processes of this machine, as in the local cluster and in kind.
fn kill_leader(story: &Story, cluster: &Cluster, writer: &Writer) -> anyhow::Result<()> {
    let (leader, _) = cluster.leader()?;
    let watch = cluster.watch()?;
    let uid = watch.uid(&leader).context("the leader has a pod")?;
    let Some(process) = process_of(&uid)? else {
        story.say(&format!("{leader} runs on another machine, so its process is not killed"));
        return Ok(());
    };
    let killed = Command::new("kill").args(["-KILL", &process]).status()?;
    ensure!(killed.success(), "kill -KILL {process}: {killed}");
    watch.wait(&format!("{leader} runs again"), PATIENCE, |pods| {
        pods.get(&leader).is_some_and(|pod| pods::restarts(pod) > 0 && pods::is_ready(pod))
    })?;
    cluster.await_members(3)?;
    story.part_without_failure("process killed", writer)?;
    Ok(())
}

/// Returns the pid of `heliosd` in the pod, found by its control group.
fn process_of(pod_uid: &str) -> anyhow::Result<Option<String>> {
    let uids = [pod_uid.to_owned(), pod_uid.replace('-', "_")];
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // A process may end while it is read.
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
        if read("comm").trim() == "heliosd" && uids.iter().any(|uid| read("cgroup").contains(uid)) {
            return Ok(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}
