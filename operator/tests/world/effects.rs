//! Steps taking effect, each with the invariants that it must not break.

use helios_operator::names;
use helios_operator::plan::{Step, quorum};
use helios_proto::v1::{Member, Membership};

use super::{NAME, Raft, World};

impl World {
    /// The StatefulSet never shrinks below a member (I6's other half).
    pub(super) fn shrink_is_safe(&self, replicas: u32) {
        for member in self.raft.iter().flat_map(|raft| &raft.membership.members) {
            let ordinal = names::ordinal(NAME, &member.name).unwrap();
            assert!(
                ordinal < replicas || self.replicas.is_none_or(|now| ordinal >= now),
                "{} loses its pod",
                member.name
            );
        }
    }

    pub(super) fn execute(&mut self, step: &Step) {
        match step {
            Step::Initialize { ordinal, cluster_id, disk_id } => {
                self.initialize(*ordinal, cluster_id, disk_id)
            }
            Step::AddLearner { ordinal, disk_id, membership, .. } => {
                self.add_learner(*ordinal, disk_id, *membership)
            }
            Step::Promote { id, membership, .. } => {
                self.change(*membership, |m| {
                    m.learners.retain(|learner| learner != id);
                    m.voters.push(*id);
                });
            }
            Step::Remove { id, membership, .. } => self.remove(*id, *membership),
            Step::Transfer { target_id, .. } => self.transfer(*target_id),
            Step::Evict { ordinal, uid } | Step::DeletePod { ordinal, uid } => self.stop(*ordinal, uid),
            Step::Recycle { ordinal, volume_uid, pod_uid } => {
                self.delete_volume(*ordinal, volume_uid);
                self.stop(*ordinal, pod_uid);
            }
            Step::DeleteVolume { ordinal, uid } => self.delete_volume(*ordinal, uid),
            Step::GrowVolume { ordinal, uid, .. } => {
                let bytes = self.validated().volume.size_bytes;
                let disk = self.disks.get_mut(ordinal).filter(|disk| disk.volume_uid == *uid);
                disk.expect("I4: an unknown volume").bytes = bytes;
            }
        }
    }

    fn initialize(&mut self, ordinal: u32, cluster_id: &str, disk_id: &str) {
        assert!(self.status().cluster_id.is_some() && self.status().bootstrap_disk_id.is_some());
        let disk = self.disks.get_mut(&ordinal).unwrap();
        assert_eq!(disk.id, disk_id);
        if disk.cluster_id == cluster_id {
            return;
        }
        assert!(self.raft.is_none() && self.begun == 0, "M-2: begun twice");
        self.begun += 1;
        disk.cluster_id = cluster_id.to_owned();
        disk.member_id = 1;
        let name = names::pod(NAME, ordinal);
        let member = Member { id: 1, name, disk_id: disk_id.to_owned(), ..Member::default() };
        let membership = Membership {
            index: 1,
            members: vec![member],
            voters: vec![1],
            learners: vec![],
            next_id: 2,
            cluster_id: cluster_id.to_owned(),
            ..Membership::default()
        };
        self.raft = Some(Raft { membership, leader: None, term: 1 });
    }

    fn change(&mut self, expected: u64, change: impl FnOnce(&mut Membership)) {
        assert!(self.has_quorum(), "a change that cannot commit");
        let raft = self.raft.as_mut().unwrap();
        assert_eq!(raft.membership.index, expected, "I3: compare-and-set");
        raft.membership.index += 1;
        change(&mut raft.membership);
        assert!(self.has_quorum(), "I1: the change cost the quorum");
    }

    fn add_learner(&mut self, ordinal: u32, disk_id: &str, expected: u64) {
        assert!(self.status().bootstrapped, "a second member before the first is on record");
        let name = names::pod(NAME, ordinal);
        self.change(expected, |m| {
            assert!(m.members.iter().all(|member| member.name != name) && m.learners.is_empty());
            let id = m.next_id;
            m.next_id += 1;
            m.members.push(Member { id, name, disk_id: disk_id.to_owned(), ..Member::default() });
            m.learners.push(id);
        });
    }

    fn remove(&mut self, id: u64, expected: u64) {
        let raft = self.raft.as_ref().unwrap();
        let member = raft.membership.members.iter().find(|member| member.id == id).expect("I4: not a member");
        let ordinal = names::ordinal(NAME, &member.name).unwrap();
        let same_disk = self.disks.get(&ordinal).is_none_or(|disk| disk.id == member.disk_id);
        let wanted = i32::try_from(ordinal).unwrap() < self.cluster.spec.replicas;
        assert!(!(wanted && same_disk), "I7: {} is wanted and not known to be lost", member.name);
        assert_ne!(raft.leader, Some(id), "leadership was not moved off first");
        if raft.membership.voters.contains(&id) && !wanted {
            assert!(self.pods.get(&ordinal).is_none_or(|pod| !pod.in_service), "clients still find it");
        }
        self.change(expected, |m| {
            m.members.retain(|member| member.id != id);
            m.voters.retain(|voter| *voter != id);
            m.learners.retain(|learner| *learner != id);
        });
    }

    fn transfer(&mut self, target: u64) {
        assert!(self.member_runs(target));
        let raft = self.raft.as_ref().unwrap();
        let revision = |id: u64| {
            let ordinal =
                self.disks.iter().find(|(_, disk)| disk.member_id == id).map(|(ordinal, _)| *ordinal);
            self.pods[&ordinal.unwrap()].revision
        };
        let current = |id: u64| revision(id) == self.applied_template;
        assert!(current(target) || !current(raft.leader.unwrap()), "I8: handed to an older template");
        self.transfers += 1;
        let raft = self.raft.as_mut().unwrap();
        assert!(raft.membership.voters.contains(&target));
        (raft.leader, raft.term) = (Some(target), raft.term + 1);
    }

    fn stop(&mut self, ordinal: u32, uid: &str) {
        let pod = &self.pods[&ordinal];
        assert_eq!(pod.uid, uid, "I4: another pod");
        let id = self.disks.get(&ordinal).map_or(0, |disk| disk.member_id);
        if let Some(raft) = &self.raft
            && raft.membership.voters.contains(&id)
            && self.runs(ordinal)
        {
            let voters = raft.membership.voters.len();
            if voters > 2 {
                assert!(self.running_voters(raft) > quorum(voters), "I1: the quorum is lost");
            }
            assert!(voters == 1 || raft.leader != Some(id), "I5: the leader is stopped");
            let wanted = |id: &&u64| {
                let member = raft.membership.members.iter().find(|member| member.id == **id).unwrap();
                names::ordinal(NAME, &member.name).unwrap() < self.validated().replicas
            };
            let down =
                raft.membership.voters.iter().filter(wanted).filter(|id| !self.member_runs(**id)).count();
            assert_eq!(down, 0, "I2: a second voter is stopped");
        }
        *self.restarted.entry(ordinal).or_default() += 1;
        self.pods.get_mut(&ordinal).unwrap().terminating = true;
    }

    fn delete_volume(&mut self, ordinal: u32, uid: &str) {
        let raft = self.raft.as_ref().unwrap();
        let disk = self.disks.get_mut(&ordinal).unwrap();
        assert_eq!(disk.volume_uid, uid, "I4: another volume");
        let members = &raft.membership.members;
        assert!(members.iter().all(|member| member.id != disk.member_id), "I6: a member's volume");
        disk.terminating = true;
    }
}
