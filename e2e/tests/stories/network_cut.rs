//! The leader's node is cut from the network until Kubernetes marks it as unknown, and is restored: another
//! member is elected, the operator does not replace a member that may be alive, and the old leader comes back
//! as a follower.
//!
//! Two loads separate the guarantees of a member from the effects of the Service. A client of a connected
//! member may not notice. A client of the isolated member gets no packets, not even a refused connection, so
//! only its own timeout ends its wait; through the Service that is one client in three until Kubernetes has
//! marked the node.

use anyhow::{Context, ensure};
use helios_e2e::nodes::{Nodes, member_on_undisturbed_node};
use helios_e2e::story::Story;
use serde_json::json;

pub fn run(story: &Story) -> anyhow::Result<()> {
    let Some(nodes) = Nodes::of_local_cluster(&story.kubectl)? else {
        story.say("no node of this cluster is cut off; it is not the local one");
        return Ok(());
    };
    let cluster = story.cluster(json!({}))?;
    let anywhere = story.writer(&cluster)?;
    let (member, node) = member_on_undisturbed_node(&cluster, &anywhere)?;
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
        "a silent member may be alive, and pods were replaced: {:?}",
        watch.created()
    );
    ensure!(cluster.member_id(&member)? == id, "{member} was silent, and was made another member");
    cluster.await_agreement_on(3)?;
    story.nothing_is_lost(to_another)?;
    story.nothing_is_lost(anywhere)
}
