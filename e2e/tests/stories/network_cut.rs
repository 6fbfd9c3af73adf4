//! The leader's node is cut from the network until Kubernetes has given it up, and is healed: others lead on,
//! nothing is done to a member that may be alive, and the old leader comes back as a follower.

use anyhow::ensure;
use helios_e2e::nodes::{Nodes, member_by_itself};
use helios_e2e::story::Story;
use serde_json::json;

pub fn tell(story: &Story) -> anyhow::Result<()> {
    let Some(nodes) = Nodes::of_local_cluster(&story.kubectl)? else {
        story.say("no node of this cluster is cut off; it is not the local one");
        return Ok(());
    };
    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    let (member, node) = member_by_itself(&cluster, &writer)?;
    cluster.transfer_leadership(&member)?;
    let (_, term) = cluster.leader()?;
    let id = cluster.member_id(&member)?;
    let others: Vec<String> = cluster.pods()?.into_keys().filter(|name| *name != member).collect();
    let watch = cluster.watch()?;
    writer.mark()?;

    nodes.while_cut_off(&node, || {
        let (_, now) = cluster.leader_of(others)?;
        ensure!(now > term, "the leader is cut off, and the term is still {term}");
        // A client of the lost node waits for an answer for most of its second, so some writes may fail.
        story.part("the leader's node cut off", &writer)?;
        let message = cluster.await_condition("Degraded", |degraded| {
            degraded.status == "True" && degraded.message.contains(&member)
        })?;
        story.say(&format!("Degraded is True: {message}"));
        nodes.await_unknown(&node)?;
        story.part("until its node is given up", &writer)?;
        writer.await_writes(1000)?;
        story.part_without_failure("after its node was given up", &writer)?;
        Ok(())
    })?;
    cluster.await_members(3)?;
    story.part_without_failure("line mended", &writer)?;

    ensure!(
        watch.created().is_empty(),
        "who is silent is not dead, and pods were replaced: {:?}",
        watch.created()
    );
    ensure!(cluster.member_id(&member)? == id, "{member} was silent, and was made another member");
    cluster.await_agreement_on(3)?;
    story.nothing_is_lost(writer)
}
