//! Facts that planners share, derived once from a snapshot.

use helios_proto::v1::{Member, Progress, Role, StatusResponse};

use super::{Kind, PodLabels};
use crate::names;
use crate::observe::{Host, Pod, Snapshot};
use crate::validate::ValidatedCluster;

/// Members that must agree, of `voters`.
pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// The node that leads, with what it says; its membership is the committed one.
#[derive(Clone, Copy)]
pub struct Leader<'a> {
    pub ordinal: u32,
    pub status: &'a StatusResponse,
}

impl Leader<'_> {
    pub fn membership_index(&self) -> u64 {
        self.status.membership.as_ref().map_or(0, |membership| membership.index)
    }
}

pub struct View<'a> {
    pub cluster: &'a ValidatedCluster,
    pub seen: &'a Snapshot,
    pub leader: Option<Leader<'a>>,
}

impl<'a> View<'a> {
    pub fn new(cluster: &'a ValidatedCluster, seen: &'a Snapshot) -> Self {
        let ours = |status: &&StatusResponse| Some(&status.cluster_id) == seen.status.cluster_id.as_ref();
        // A deposed leader may not know yet that it is one; the highest term is the leader's.
        let leader = seen
            .nodes
            .iter()
            .filter(|(_, status)| {
                status.role() == Role::Leader && ours(status) && status.membership.is_some()
            })
            .max_by_key(|(_, status)| status.term)
            .map(|(ordinal, status)| Leader { ordinal: *ordinal, status });
        Self { cluster, seen, leader }
    }

    /// Nothing is to be changed: a user paused the cluster, or members would not start.
    pub fn is_held(&self) -> bool {
        self.cluster.spec.paused || self.seen.security.is_blocked()
    }

    /// A majority of the voters has the leader's membership on its disks: no quorum needs a member that it
    /// lacks any more, whichever one is lost next (ADR 0011).
    pub fn is_agreed(&self) -> bool {
        let Some(leader) = self.leader else { return false };
        let index = leader.membership_index();
        let knows = |node: &StatusResponse| {
            node.cluster_id == leader.status.cluster_id
                && self.is_voter(node.member_id)
                && node.membership.as_ref().is_some_and(|membership| membership.index >= index)
        };
        self.seen.nodes.values().filter(|node| knows(node)).count() >= quorum(self.voter_count())
    }

    pub fn name(&self, ordinal: u32) -> String {
        names::pod(&self.cluster.name, ordinal)
    }

    pub fn ordinal_of(&self, member: &Member) -> Option<u32> {
        names::ordinal(&self.cluster.name, &member.name)
    }

    /// Members by ordinal, as the leader knows them; none without a leader.
    pub fn members(&self) -> impl Iterator<Item = (u32, &'a Member)> {
        let membership = self.leader.and_then(|leader| leader.status.membership.as_ref());
        let mut members: Vec<_> = membership
            .map_or(&[][..], |m| &m.members[..])
            .iter()
            .filter_map(|member| Some((self.ordinal_of(member)?, member)))
            .collect();
        members.sort_by_key(|(ordinal, _)| *ordinal);
        members.into_iter()
    }

    pub fn member(&self, ordinal: u32) -> Option<&'a Member> {
        self.members().find(|(o, _)| *o == ordinal).map(|(_, member)| member)
    }

    pub fn voters(&self) -> Vec<(u32, &'a Member)> {
        self.members().filter(|(_, member)| self.is_voter(member.id)).collect()
    }

    pub fn learners(&self) -> Vec<(u32, &'a Member)> {
        self.members().filter(|(_, member)| !self.is_voter(member.id)).collect()
    }

    pub fn is_voter(&self, id: u64) -> bool {
        self.leader
            .and_then(|leader| leader.status.membership.as_ref())
            .is_some_and(|membership| membership.voters.contains(&id))
    }

    /// Voters as counted by Raft, strangers to our naming included.
    pub fn voter_count(&self) -> usize {
        let membership = self.leader.and_then(|leader| leader.status.membership.as_ref());
        membership.map_or(0, |membership| membership.voters.len())
    }

    pub fn leads(&self, ordinal: u32) -> bool {
        self.leader.is_some_and(|leader| leader.ordinal == ordinal)
    }

    pub fn progress(&self, id: u64) -> Option<&'a Progress> {
        self.leader?.status.progress.iter().find(|progress| progress.id == id)
    }

    /// Committed entries that the leader does not yet know to be on the member's disk.
    pub fn lag(&self, ordinal: u32, id: u64) -> Option<u64> {
        let leader = self.leader?;
        if leader.ordinal == ordinal {
            return Some(0);
        }
        Some(leader.status.commit_index.saturating_sub(self.progress(id)?.match_index))
    }

    /// The node answers as this very member on its own disk, and the leader hears it.
    pub fn is_healthy(&self, ordinal: u32, member: &Member) -> bool {
        let present = self.seen.pods.get(&ordinal).is_some_and(|pod| !pod.terminating);
        let same = self.seen.nodes.get(&ordinal).is_some_and(|node| {
            node.member_id == member.id && Some(&node.cluster_id) == self.seen.status.cluster_id.as_ref()
        });
        let heard = self.leads(ordinal) || self.progress(member.id).is_some_and(|progress| progress.active);
        present && same && heard
    }

    /// Healthy, in service, and not far behind.
    pub fn is_settled(&self, ordinal: u32, member: &Member) -> bool {
        let ready = self.seen.pods.get(&ordinal).is_some_and(|pod| pod.ready);
        let close =
            self.lag(ordinal, member.id).is_some_and(|lag| lag <= self.cluster.rollout.max_lag_entries);
        self.is_healthy(ordinal, member) && ready && close
    }

    /// The member that this operation is about has been healthy and caught up for long enough, by the
    /// status and the operator's own clock: other machines' clocks are not compared.
    pub fn is_stable(&self, kind: Kind, ordinal: u32) -> bool {
        let latched = self.seen.status.operation.as_ref().filter(|operation| {
            operation.kind == kind && operation.target.as_ref() == Some(&self.name(ordinal))
        });
        latched.and_then(|operation| operation.steady_since.as_ref()).is_some_and(|since| {
            self.seen.now.duration_since(since.0).unsigned_abs() >= self.cluster.rollout.stable_for
        })
    }

    fn host_of(&self, ordinal: u32) -> Option<&'a Host> {
        self.seen.hosts.as_ref()?.get(self.seen.pods.get(&ordinal)?.host.as_ref()?)
    }

    pub fn is_on_cordoned_host(&self, ordinal: u32) -> bool {
        self.host_of(ordinal).is_some_and(|host| host.cordoned)
    }

    /// Its object is gone, or a user marked it as down for good. Hosts that may not be read are
    /// not lost.
    pub fn host_is_lost(&self, name: &str) -> bool {
        let hosts = self.seen.hosts.as_ref();
        hosts.is_some_and(|hosts| hosts.get(name).is_none_or(|host| host.out_of_service))
    }

    pub fn healthy_voters(&self) -> usize {
        self.voters().iter().filter(|(ordinal, member)| self.is_healthy(*ordinal, member)).count()
    }

    /// Pods of another template than the present one. Without a known present one: none.
    pub fn outdated(&self) -> Vec<(u32, &'a Pod)> {
        let Some(revision) = self.seen.workload.as_ref().and_then(|w| w.update_revision.as_ref()) else {
            return Vec::new();
        };
        let pods = self.seen.pods.iter();
        pods.filter(|(_, pod)| !pod.terminating && pod.revision != *revision)
            .map(|(o, pod)| (*o, pod))
            .collect()
    }

    pub fn is_outdated(&self, ordinal: u32) -> bool {
        self.outdated().iter().any(|(o, _)| *o == ordinal)
    }

    /// The highest ordinal that any node knows as a member's. Old knowledge only errs upwards, save
    /// that the leader's is the truth.
    pub fn highest_known_ordinal(&self) -> Option<u32> {
        if self.leader.is_some() {
            return self.members().map(|(ordinal, _)| ordinal).max();
        }
        let ours = self.seen.status.cluster_id.as_ref();
        let known = self.seen.nodes.values().filter(|node| Some(&node.cluster_id) == ours);
        let known_members =
            known.filter_map(|node| node.membership.as_ref()).flat_map(|membership| &membership.members);
        // Without pods no member answers; after hibernation all of them are to return.
        let reported = self.seen.status.members.iter().filter(|member| member.member_id != 0);
        let reported = reported.filter_map(|member| names::ordinal(&self.cluster.name, &member.name));
        known_members.filter_map(|member| self.ordinal_of(member)).chain(reported).max()
    }

    /// No pod is about to change.
    pub fn is_at_rest(&self) -> bool {
        if self.cluster.spec.hibernate {
            return self.seen.pods.is_empty();
        }
        (0..self.cluster.replicas).all(|ordinal| self.seen.pods.get(&ordinal).is_some_and(|pod| pod.ready))
    }

    pub fn missing_labels(&self) -> Vec<PodLabels> {
        let Some(leader) = self.leader else { return Vec::new() };
        let spared = self.voters().iter().any(|(ordinal, member)| {
            *ordinal != leader.ordinal
                && self.is_healthy(*ordinal, member)
                && self.seen.pods.get(ordinal).is_some_and(|pod| pod.ready)
        });
        let wanted = self.seen.pods.keys().map(|ordinal| {
            let role = self.member(*ordinal).map(|member| match () {
                () if leader.ordinal == *ordinal => "leader",
                () if self.is_voter(member.id) => "follower",
                () => "learner",
            });
            PodLabels {
                ordinal: *ordinal,
                role,
                reads: role == Some(if spared { "follower" } else { "leader" }),
                in_service: *ordinal < self.cluster.replicas || leader.ordinal == *ordinal,
            }
        });
        wanted
            .filter(|labels| {
                self.seen.pods.get(&labels.ordinal).is_some_and(|pod| {
                    !pod.terminating
                        && (pod.in_service != labels.in_service
                            || pod.role_label.as_deref() != labels.role
                            || (pod.reads_label.as_deref() == Some("true")) != labels.reads)
                })
            })
            .collect()
    }
}
