//! Pods become members: a blank node is added as a learner, and a learner that has caught up is promoted.

use helios_proto::v1::{Role, StatusResponse};

use super::{Blocker, Decision, Kind, Leader, Step, View, quorum};

/// One learner at a time: its promotion, or its removal when it is not wanted any more.
pub fn finish_learner(view: &View) -> Option<Decision> {
    let leader = view.leader?;
    let (ordinal, member) = view.learners().into_iter().next()?;
    let name = view.name(ordinal);
    let membership = leader.membership_index();
    if ordinal >= view.cluster.replicas {
        let step = Step::Remove { leader: leader.ordinal, id: member.id, membership };
        return Some(Decision::act(Kind::RemoveMember, ordinal, format!("removing learner {name}"), step));
    }
    let lag = view.lag(ordinal, member.id).unwrap_or(u64::MAX);
    let max_lag = view.cluster.rollout.max_lag_entries;
    let serves = view.seen.nodes.get(&ordinal).is_some_and(|node| node.ready);
    if !view.is_healthy(ordinal, member) || !serves || lag > max_lag {
        return Some(Decision::wait(Kind::AddMember, ordinal, format!("waiting for {name} to catch up")));
    }
    if !view.is_stable(Kind::AddMember, ordinal) {
        let message =
            format!("watching {name}, which has caught up, for {:?}", view.cluster.rollout.stable_for);
        return Some(Decision::wait(Kind::AddMember, ordinal, message).steady());
    }
    if view.healthy_voters() + 1 < quorum(view.voter_count() + 1) {
        return Some(
            Decision::wait(
                Kind::AddMember,
                ordinal,
                format!("holding the promotion of {name} until more voters are healthy"),
            )
            .steady(),
        );
    }
    let step = Step::Promote { leader: leader.ordinal, id: member.id, max_lag, membership };
    Some(Decision::act(Kind::AddMember, ordinal, format!("promoting {name}"), step).steady())
}

/// A disk of a member whose removal is committed is never used again: its volume is deleted, so that the pod returns
/// blank.
pub fn recycle_removed(view: &View) -> Option<Decision> {
    let leader = view.leader.filter(|_| view.is_agreed())?;
    let (ordinal, _) = wanted_nodes(view).find(|(_, node)| was_removed(leader, node))?;
    let name = view.name(ordinal);
    let message =
        format!("giving {name} a blank volume: what is on its present one belongs to a removed member");
    let pod = view.seen.pods.get(&ordinal)?;
    let Some(volume) = view.seen.volumes.get(&ordinal).filter(|volume| !volume.terminating) else {
        return Some(Decision::act(
            Kind::AddMember,
            ordinal,
            message,
            Step::DeletePod { ordinal, uid: pod.uid.clone() },
        ));
    };
    let pod_uid = Some(pod.uid.clone());
    let step = Step::Recycle { ordinal, volume_uid: volume.uid.clone(), pod_uid, keep: None };
    Some(Decision::act(Kind::AddMember, ordinal, message, step))
}

fn was_removed(leader: Leader, node: &StatusResponse) -> bool {
    let Some(membership) = &leader.status.membership else { return false };
    let ours = node.cluster_id == leader.status.cluster_id;
    let mut members = membership.members.iter();
    if node.role() == Role::Removed {
        // A node that knows it was removed may have forgotten from where.
        return (ours || node.cluster_id.is_empty()) && members.all(|member| member.disk_id != node.disk_id);
    }
    // An id not yet given out would be the future's, not the past's.
    let past = node.member_id != 0 && node.member_id < membership.next_id;
    ours && past && members.all(|member| member.id != node.member_id)
}

pub fn add_blank(view: &View) -> Option<Decision> {
    let leader = view.leader?;
    for (ordinal, node) in wanted_nodes(view) {
        let name = view.name(ordinal);
        if !node.cluster_id.is_empty() && node.cluster_id != leader.status.cluster_id {
            return Some(Decision::blocked(
                Kind::AddMember,
                ordinal,
                Blocker::ForeignVolume,
                format!(
                    "the volume of {name} belongs to another cluster, {}; delete the volume to let {name} join",
                    node.cluster_id
                ),
            ));
        }
        if node.role() == Role::Uninitialized && !node.disk_id.is_empty() && view.member(ordinal).is_none() {
            let step = Step::AddLearner {
                leader: leader.ordinal,
                ordinal,
                disk_id: node.disk_id.clone(),
                membership: leader.membership_index(),
            };
            return Some(Decision::act(Kind::AddMember, ordinal, format!("adding {name} as learner"), step));
        }
    }
    None
}

/// Nothing else is planned, but a wanted member does not exist.
pub fn await_missing_member(view: &View) -> Option<Decision> {
    view.leader?;
    let ordinal = (0..view.cluster.replicas).find(|ordinal| view.member(*ordinal).is_none())?;
    let name = view.name(ordinal);
    let why = view.seen.pods.get(&ordinal).and_then(|pod| pod.problem.as_ref());
    let message = match why {
        Some(problem) => format!("waiting for {name}: {problem}"),
        None => format!("waiting for {name} to start"),
    };
    Some(Decision::wait(Kind::AddMember, ordinal, message))
}

/// Nodes that answered, of pods that the spec asks for and that stay.
fn wanted_nodes<'a>(view: &'a View) -> impl Iterator<Item = (u32, &'a StatusResponse)> {
    let nodes = view.seen.nodes.range(..view.cluster.replicas);
    nodes
        .filter(|(ordinal, _)| view.seen.pods.get(ordinal).is_some_and(|pod| !pod.terminating))
        .map(|(ordinal, node)| (*ordinal, node))
}
