//! The leader's machine fails for good: its processes end without closing a connection. When the user
//! confirms that by deleting the Node object, the member is replaced by a new one on another node, with a
//! disk there.

use std::time::Instant;

use anyhow::{Context, ensure};
use helios_e2e::cluster::PATIENCE;
use helios_e2e::nodes::{Nodes, member_on_undisturbed_node};
use helios_e2e::pods;
use helios_e2e::story::Story;
use serde_json::json;

pub fn run(story: &Story) -> anyhow::Result<()> {
    let Some(nodes) = Nodes::of_local_cluster(&story.kubectl)? else {
        story.say("no node of this cluster is killed; it is not the local one");
        return Ok(());
    };
    let cluster = story.cluster(json!({"repair": {"after": "5s"}}))?;
    let writer = story.writer(&cluster)?;
    let (member, node) = member_on_undisturbed_node(&cluster, &writer)?;
    cluster.transfer_leadership(&member)?;
    let old = cluster.member_id(&member)?;
    let others: Vec<String> = cluster.pods()?.into_keys().filter(|name| *name != member).collect();
    let watch = cluster.watch()?;
    writer.mark()?;

    nodes.while_dead(&node, || {
        cluster.leader_of(others)?;
        // A client of the lost node waits for an answer for most of its retry time of one second, so some
        // writes may fail.
        story.part("the leader's machine gone", &writer)?;
        nodes.await_unknown(&node)?;
        story.part("until its node is given up", &writer)?;
        ensure!(
            cluster.member_id(&member)? == old,
            "a silent member may be alive, and {member} was replaced"
        );

        let began = Instant::now();
        nodes.forget(&node)?;
        watch.wait(&format!("{member} serves on another node"), PATIENCE, |pods| {
            pods.get(&member).is_some_and(|pod| pods::is_ready(pod) && pods::node(pod) != Some(&node))
        })?;
        cluster.await_members(3)?;
        story.took("replaced after its Node was deleted", began.elapsed());
        story.part_without_failure("its member replaced", &writer)?;
        Ok(())
    })?;
    let new = cluster.member_id(&member)?.with_context(|| format!("{member} is a member"))?;
    ensure!(Some(new) > old, "{member} has another disk, and is member {new} again");
    cluster.await_agreement_on(3)?;
    story.nothing_is_lost(writer)
}
