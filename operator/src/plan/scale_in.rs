//! Members leave the cluster: those whose disk is gone, and those beyond the replicas.

use helios_proto::v1::Member;

use super::{Decision, Kind, Step, View, quorum};

/// A node that answers under a member's name from another disk proves that the member is gone for
/// good (docs/design/product.md, C6). It is removed so that the node can join again, at any ordinal.
pub fn remove_member_without_disk(view: &View) -> Option<Decision> {
    let leader = view.leader?;
    let (ordinal, member) = view.members().find(|(ordinal, member)| is_lost(view, *ordinal, member))?;
    let name = view.name(ordinal);
    if view.is_voter(member.id) && view.healthy_voters() < quorum(view.voter_count()) {
        return Some(Decision::wait(
            Kind::ReplaceMember,
            ordinal,
            format!("{name} lost its disk; holding its replacement until a quorum of the others is healthy"),
        ));
    }
    let step = Step::Remove { leader: leader.ordinal, id: member.id, membership: leader.membership_index() };
    Some(Decision::act(Kind::ReplaceMember, ordinal, format!("removing {name}, which lost its disk"), step))
}

fn is_lost(view: &View, ordinal: u32, member: &Member) -> bool {
    view.seen.nodes.get(&ordinal).is_some_and(|node| {
        let known = !member.disk_id.is_empty() && !node.disk_id.is_empty();
        known && node.disk_id != member.disk_id && node.member_id != member.id
    })
}

/// Removes a voter beyond the replicas: one that is down, or else the highest ordinal while all others are healthy.
pub fn remove_surplus_voter(view: &View) -> Option<Decision> {
    let leader = view.leader?;
    let (unwanted, kept): (Vec<_>, Vec<_>) =
        view.voters().into_iter().partition(|(ordinal, _)| *ordinal >= view.cluster.replicas);
    // One that is down costs nothing to lose; the order of ordinals is the pods' alone.
    let down = unwanted.iter().find(|(ordinal, member)| !view.is_healthy(*ordinal, member));
    let (victim, member) = *down.or(unwanted.last())?;
    let name = view.name(victim);
    let wait = |why: String| Some(Decision::wait(Kind::RemoveMember, victim, why));
    if kept.len() < view.cluster.replicas as usize {
        return wait(format!("removal of {name} blocked: a remaining member is missing"));
    }
    let mut others = unwanted.iter().chain(&kept).filter(|(ordinal, _)| *ordinal != victim);
    let ill = others.find(|(ordinal, member)| !view.is_healthy(*ordinal, member));
    let left = view.healthy_voters() - usize::from(down.is_none());
    if let Some((ordinal, _)) = ill.filter(|_| down.is_none() || left < quorum(view.voter_count())) {
        return wait(format!("holding the removal of {name} until {} is healthy", view.name(*ordinal)));
    }
    if view.leads(victim) {
        let newer = !view.is_outdated(victim);
        let may = |ordinal| ordinal < view.cluster.replicas && !(newer && view.is_outdated(ordinal));
        let Some(candidate) = view.best_candidate(may) else {
            return wait(format!("waiting for a caught-up member to take over from {name}"));
        };
        let step = view.transfer_to(candidate)?;
        return Some(Decision::act(
            Kind::RemoveMember,
            victim,
            format!("moving leadership off {name}"),
            step,
        ));
    }
    // The label changes in this reconcile, the member in the next one: clients first.
    if view.seen.pods.get(&victim).is_some_and(|pod| pod.in_service) {
        return wait(format!("taking {name} out of service"));
    }
    let step = Step::Remove { leader: leader.ordinal, id: member.id, membership: leader.membership_index() };
    Some(Decision::act(Kind::RemoveMember, victim, format!("removing {name}"), step))
}

impl<'a> View<'a> {
    /// The settled voter that is the best leader, of those that `may`: one whose host stays, fewest entries
    /// behind, then the lowest ordinal.
    pub fn best_candidate(&self, may: impl Fn(u32) -> bool) -> Option<&'a Member> {
        let leader = self.leader?;
        self.voters()
            .into_iter()
            .filter(|(ordinal, member)| {
                *ordinal != leader.ordinal && may(*ordinal) && self.is_settled(*ordinal, member)
            })
            .min_by_key(|(ordinal, member)| {
                (self.is_on_cordoned_host(*ordinal), self.lag(*ordinal, member.id), *ordinal)
            })
            .map(|(_, member)| member)
    }

    pub(super) fn transfer_to(&self, candidate: &Member) -> Option<Step> {
        Some(Step::Transfer {
            leader: self.leader?.ordinal,
            target_id: candidate.id,
            timeout: self.cluster.rollout.transfer_timeout,
        })
    }
}
