//! Loss of a majority of the disks: reported, and never acted upon without a user's confirmation; then the old majority is
//! fenced, one survivor becomes the only member, and the others join it again.

use std::cmp::Reverse;

use helios_crds::{ChosenStatus, RecoverySpec, RecoveryStatus, SurvivorStatus};
use helios_proto::v1::{Membership, Role, StatusResponse};

use super::{Blocker, Decision, Kind, Latch, Step, View, quorum, replace};
use crate::names;

/// A majority whose disks are known to be lost. Members that do not answer do not count as lost.
pub struct Loss<'a> {
    pub voters: usize,
    pub lost: Vec<u32>,
    pub silent: Vec<u32>,
    /// The one with most data first.
    pub survivors: Vec<(u32, &'a StatusResponse)>,
}

/// A recovery that was started is completed before anything else.
pub fn continue_with_chosen(view: &View) -> Option<Decision> {
    let chosen = view.seen.status.recovery.as_ref()?.chosen.as_ref()?;
    Some(continue_with(view, chosen))
}

pub fn decide(view: &View) -> Option<Decision> {
    let status = view.seen.status.recovery.clone().unwrap_or_default();
    let wanted = &view.cluster.spec.recovery;
    if wanted.is_none() && status.done.is_some() {
        let message = "forgetting the recovery that was done, as spec.recovery is gone";
        return Some(Decision::latch(Kind::Recovery, Latch::RecoveryForgotten, message));
    }
    let loss = Loss::of(view)?;
    let target = loss.survivors.first().map_or(0, |(ordinal, _)| *ordinal);
    let blocked = |blocker, why: String| Some(Decision::blocked(Kind::Recovery, target, blocker, why));
    match wanted {
        Some(RecoverySpec { survivor: Some(survivor), confirm: Some(confirm) })
            if status.done.as_ref() != Some(survivor) =>
        {
            if view.seen.status.cluster_id.as_ref() != Some(confirm) {
                let why = "spec.recovery.confirm is not status.clusterId; correct it";
                return blocked(Blocker::RecoveryNotConfirmed, why.to_owned());
            }
            match loss.survivors.iter().find(|(ordinal, _)| view.name(*ordinal) == *survivor) {
                Some((ordinal, node)) => Some(begin(view, &loss, *ordinal, node)),
                None => {
                    let why = format!(
                        "spec.recovery.survivor {survivor:?} is none of status.recovery.survivors; name one of them"
                    );
                    blocked(Blocker::SurvivorUnknown, why)
                }
            }
        }
        _ => blocked(Blocker::QuorumLost, loss.how_to(view)),
    }
}

fn begin(view: &View, loss: &Loss, survivor: u32, node: &StatusResponse) -> Decision {
    let blank = |ordinal: &u32| {
        view.seen
            .nodes
            .get(ordinal)
            .is_some_and(|n| n.role() == Role::Uninitialized && n.cluster_id.is_empty())
    };
    let fenced = view.seen.volumes.iter().filter(|(ordinal, _)| **ordinal != survivor && !blank(ordinal));
    let chosen = ChosenStatus {
        survivor: view.name(survivor),
        disk_id: node.disk_id.clone(),
        fenced_volumes: fenced.map(|(_, volume)| volume.uid.clone()).collect(),
    };
    let message = format!(
        "recovering from {} after {} of {} disks were lost",
        chosen.survivor,
        loss.lost.len(),
        loss.voters
    );
    Decision::latch(Kind::Recovery, Latch::Recovering(chosen), message)
}

/// The old majority is stopped and its volumes are set aside before the survivor becomes the only member: from then
/// on there is one cluster, whichever disk returns.
fn continue_with(view: &View, chosen: &ChosenStatus) -> Decision {
    if view.leader.is_some() {
        let message = format!("{} leads again", view.cluster.name);
        return Decision::latch(Kind::Recovery, Latch::Recovered(chosen.survivor.clone()), message);
    }
    let mut volumes =
        view.seen.volumes.iter().filter(|(_, volume)| chosen.fenced_volumes.contains(&volume.uid));
    let fence =
        volumes.find_map(|(o, volume)| replace::recycle(view, Kind::Recovery, *o, &volume.uid, "Recovery"));
    if let Some(fence) = fence {
        return fence;
    }
    let ordinal = names::ordinal(&view.cluster.name, &chosen.survivor).unwrap_or_default();
    match view.seen.nodes.get(&ordinal) {
        None => Decision::wait(Kind::Recovery, ordinal, format!("waiting for {} to answer", chosen.survivor)),
        Some(node) if node.disk_id != chosen.disk_id => {
            let message = format!("the disk of {} was lost, too; it cannot be the survivor", chosen.survivor);
            Decision::latch(Kind::Recovery, Latch::RecoveryAbandoned, message)
        }
        Some(node) => {
            let step = Step::ForceNew {
                ordinal,
                cluster_id: node.cluster_id.clone(),
                disk_id: node.disk_id.clone(),
                last_term: node.last_log_term,
                last_index: node.last_index,
            };
            Decision::act(
                Kind::Recovery,
                ordinal,
                format!("making {} the only member", chosen.survivor),
                step,
            )
        }
    }
}

impl<'a> Loss<'a> {
    /// `None`: there is a leader, or there may be one again.
    pub fn of(view: &View<'a>) -> Option<Self> {
        if view.leader.is_some() || !view.seen.status.bootstrapped {
            return None;
        }
        let ours = view.seen.status.cluster_id.as_ref();
        let members = view.seen.nodes.iter().filter(|(_, node)| {
            Some(&node.cluster_id) == ours && node.member_id != 0 && node.role() != Role::Removed
        });
        let known: Vec<(u32, &StatusResponse)> = members.map(|(ordinal, node)| (*ordinal, node)).collect();
        let newest = |node: &&StatusResponse| node.membership.as_ref().map_or(0, |m| m.index);
        let membership = known.iter().map(|(_, node)| *node).max_by_key(newest)?.membership.as_ref()?;
        let (mut lost, mut silent, mut survivors) = (Vec::new(), Vec::new(), Vec::new());
        for (ordinal, member) in voters(view, membership) {
            match (view.seen.nodes.get(&ordinal), view.seen.volumes.get(&ordinal)) {
                (Some(node), _) if node.disk_id == member.disk_id => survivors.push((ordinal, node)),
                (Some(node), _) if !node.disk_id.is_empty() => lost.push(ordinal),
                (None, Some(volume)) if volume.is_stranded() => lost.push(ordinal),
                _ => silent.push(ordinal),
            }
        }
        let count = membership.voters.len();
        let may_come_back = count - lost.len();
        // A silent stranger to this membership may know a newer one, in which there is a majority.
        let stranger = view.seen.volumes.keys().any(|ordinal| {
            !view.seen.nodes.contains_key(ordinal) && !lost.contains(ordinal) && !silent.contains(ordinal)
        });
        if may_come_back >= quorum(count) || !membership.voters_outgoing.is_empty() || stranger {
            return None;
        }
        survivors.sort_by_key(|(ordinal, node)| (Reverse((node.last_log_term, node.last_index)), *ordinal));
        Some(Self { voters: count, lost, silent, survivors })
    }

    /// For the status.
    pub fn report(&self, view: &View) -> RecoveryStatus {
        let survivor = |(ordinal, node): &(u32, &StatusResponse)| SurvivorStatus {
            name: view.name(*ordinal),
            last_term: i64::try_from(node.last_log_term).unwrap_or(i64::MAX),
            last_index: i64::try_from(node.last_index).unwrap_or(i64::MAX),
        };
        RecoveryStatus {
            loss: Some(self.bound(view)),
            how_to: Some(self.how_to(view)),
            survivors: self.survivors.iter().map(survivor).collect(),
            ..RecoveryStatus::default()
        }
    }

    /// Text for the status: which disks are lost, and which writes.
    pub fn bound(&self, view: &View) -> String {
        let names = |all: &[u32]| all.iter().map(|o| view.name(*o)).collect::<Vec<_>>().join(", ");
        let mut text =
            format!("{} of {} disks are lost for good ({})", self.lost.len(), self.voters, names(&self.lost));
        if let Some((best, node)) = self.survivors.first() {
            text += &format!(
                "; {} has every write up to log entry {} of term {}; acknowledged writes after that were on lost disks only",
                view.name(*best),
                node.last_index,
                node.last_log_term
            );
        }
        if !self.silent.is_empty() {
            text += &format!(
                "; {} may have more but does not answer: bring it back first if you can",
                names(&self.silent)
            );
        }
        text
    }

    /// Text for the status: what to write to recover.
    pub fn how_to(&self, view: &View) -> String {
        let Some((best, _)) = self.survivors.first() else {
            return "no member with data is left; restore from a backup, or delete this HeliosCluster and its volumes".to_owned();
        };
        let id = view.seen.status.cluster_id.as_deref().unwrap_or_default();
        let name = view.name(*best);
        let mut text = format!(
            "to accept the loss and recover from {name}, set spec.recovery: {{survivor: {name}, confirm: {id}}}"
        );
        if view.seen.status.recovery.as_ref().is_some_and(|recovery| recovery.done.is_some()) {
            text += ", after removing the spec.recovery of the earlier one";
        }
        text
    }
}

fn voters<'a>(view: &View, membership: &'a Membership) -> Vec<(u32, &'a helios_proto::v1::Member)> {
    let voting = membership.members.iter().filter(|member| membership.voters.contains(&member.id));
    voting.filter_map(|member| Some((view.ordinal_of(member)?, member))).collect()
}
