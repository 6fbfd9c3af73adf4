//! The leader's node is cut from the network until Kubernetes has given it up, and is healed: others lead on,
//! nothing is done to a member that may be alive, and the old leader comes back as a follower.
//!
//! Two loads tell what a member can promise from what it cannot. Who talks to a member that is still there may not
//! notice. Who talks to the lost one, and through the Service that is so for one in three until Kubernetes has given
//! the node up, hears nothing, not even that a connection is refused: only its own patience finds that out.

use anyhow::{Context, ensure};
use helios_e2e::nodes::{Nodes, member_by_itself};
use helios_e2e::story::Story;
use serde_json::json;

pub fn tell(story: &Story) -> anyhow::Result<()> {
    let Some(nodes) = Nodes::of_local_cluster(&story.kubectl)? else {
        story.say("no node of this cluster is cut off; it is not the local one");
        return Ok(());
    };
    let cluster = story.cluster(json!({}))?;
    let anywhere = story.writer(&cluster)?;
    let (member, node) = member_by_itself(&cluster, &anywhere)?;
    let others: Vec<String> = cluster.pods()?.into_keys().filter(|name| *name != member).collect();
    let to_another = story.writer_to(&cluster, others.first().context("another member")?, &anywhere)?;
    cluster.transfer_leadership(&member)?;
    let (_, term) = cluster.leader()?;
    let id = cluster.member_id(&member)?;
    let watch = cluster.watch()?;
    anywhere.mark()?;
    to_another.mark()?;

    nodes.while_cut_off(&node, || {
        let (_, now) = cluster.leader_of(others)?;
        ensure!(now > term, "the leader is cut off, and the term is still {term}");
        story.part("the leader's node cut off", &anywhere)?;
        story.part_without_failure("that, by way of another member", &to_another)?;
        let message = cluster.await_condition("Degraded", |degraded| {
            degraded.status == "True" && degraded.message.contains(&member)
        })?;
        story.say(&format!("Degraded is True: {message}"));
        nodes.await_unknown(&node)?;
        story.part("until its node is given up", &anywhere)?;
        anywhere.await_writes(1000)?;
        story.part_without_failure("after its node was given up", &anywhere)?;
        Ok(())
    })?;
    cluster.await_members(3)?;
    story.part_without_failure("line mended", &anywhere)?;
    story.part_without_failure("all the time, by way of another member", &to_another)?;

    ensure!(
        watch.created().is_empty(),
        "who is silent is not dead, and pods were replaced: {:?}",
        watch.created()
    );
    ensure!(cluster.member_id(&member)? == id, "{member} was silent, and was made another member");
    cluster.await_agreement_on(3)?;
    story.nothing_is_lost(to_another)?;
    story.nothing_is_lost(anywhere)
}
