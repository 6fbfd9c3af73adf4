//! Steps taking effect, each with the invariants that it must not break.

use helios_operator::names;
use helios_operator::plan::{Step, quorum};
use helios_proto::v1::{Member, Membership};

use super::{NAME, Raft, Refused, World};

impl World {
    /// The StatefulSet never shrinks below a member (I6's other half).
    pub(super) fn shrink_is_safe(&self, replicas: u32) {
        if self.cluster.spec.hibernate {
            return assert_eq!(replicas, 0);
        }
        for member in self.raft.iter().flat_map(|raft| &raft.membership.members) {
            let ordinal = names::ordinal(NAME, &member.name).unwrap();
            assert!(
                ordinal < replicas || self.replicas.is_none_or(|now| ordinal >= now),
                "{} loses its pod",
                member.name
            );
        }
    }

    /// Each `lives` is a call that the operator may not live to make.
    pub(super) fn execute(&mut self, step: &Step) -> Result<(), Refused> {
        if let Step::Recycle { ordinal, volume_uid, pod_uid, keep } = step {
            return self.recycle(*ordinal, volume_uid, pod_uid.as_deref(), keep.is_some());
        }
        if !self.lives() {
            return Ok(());
        }
        match step {
            Step::Initialize { ordinal, cluster_id, disk_id } => {
                self.initialize(*ordinal, cluster_id, disk_id)
            }
            Step::Restore { cluster_id, disk_id, .. } => self.create_restore(cluster_id, disk_id),
            Step::AddLearner { leader, ordinal, disk_id, membership } => {
                self.leads(*leader)?;
                self.add_learner(*ordinal, disk_id, *membership)
            }
            Step::Promote { leader, id, membership, .. } => {
                self.leads(*leader)?;
                let voters = &self.raft.as_ref().unwrap().membership.voters;
                let well = voters.iter().filter(|voter| self.answers(**voter)).count();
                assert!(well + 1 >= quorum(voters.len() + 1), "I1: a voter more than the others can bear");
                self.change(*membership, |m| {
                    m.learners.retain(|learner| learner != id);
                    m.voters.push(*id);
                })
            }
            Step::Remove { leader, id, membership } => {
                self.leads(*leader)?;
                self.remove(*id, *membership)
            }
            Step::Transfer { leader, target_id, .. } => {
                self.leads(*leader)?;
                self.transfer(*target_id);
                Ok(())
            }
            Step::Evict { ordinal, uid } | Step::DeletePod { ordinal, uid } => self.stop(*ordinal, uid),
            Step::ForceDeletePod { ordinal, uid } => self.force_delete(*ordinal, uid),
            Step::Recycle { .. } | Step::Secret(_) => unreachable!("above"),
            Step::ForceNew { ordinal, cluster_id, disk_id, last_term, last_index } => {
                assert_eq!((*last_term, *last_index), (7, 100 + u64::from(*ordinal)));
                self.force_new(*ordinal, cluster_id, disk_id)
            }
            Step::DeleteVolume { ordinal, uid } => self.delete_volume(*ordinal, uid, false),
            Step::GrowVolume { ordinal, uid, .. } => {
                let bytes = self.validated().volume.size_bytes;
                let disk = self.disks.get_mut(ordinal).filter(|disk| disk.volume_uid == *uid);
                disk.ok_or(Refused)?.bytes = bytes;
                Ok(())
            }
        }
    }

    fn recycle(&mut self, ordinal: u32, volume: &str, pod: Option<&str>, keep: bool) -> Result<(), Refused> {
        if keep && self.lives() {
            assert!(!self.confined, "kept without the right to");
            self.kept.insert(volume.to_owned());
        }
        if self.lives() {
            self.delete_volume(ordinal, volume, true)?;
        }
        match pod {
            Some(uid) if self.lives() => self.stop(ordinal, uid),
            _ => Ok(()),
        }
    }

    fn leads(&self, ordinal: u32) -> Result<(), Refused> {
        (self.leader_ordinal() == Some(ordinal)).then_some(()).ok_or(Refused)
    }

    fn initialize(&mut self, ordinal: u32, cluster_id: &str, disk_id: &str) -> Result<(), Refused> {
        assert!(self.status().cluster_id.is_some() && self.status().bootstrap_disk_id.is_some());
        assert!(self.cluster.spec.bootstrap.is_none(), "an empty cluster in the place of the restored one");
        self.begin(ordinal, cluster_id, disk_id)
    }

    /// The node at `ordinal` becomes the first member.
    pub(super) fn begin(&mut self, ordinal: u32, cluster_id: &str, disk_id: &str) -> Result<(), Refused> {
        let disk = self.disks.get_mut(&ordinal).filter(|disk| disk.id == disk_id).ok_or(Refused)?;
        if disk.cluster_id == cluster_id {
            return Ok(());
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
        Ok(())
    }

    /// All else but the survivor's disk is out of reach by then, so there cannot be two clusters.
    fn force_new(&mut self, ordinal: u32, cluster_id: &str, disk_id: &str) -> Result<(), Refused> {
        let recovery = self.cluster.spec.recovery.clone();
        let disk = self.disks.get(&ordinal).filter(|disk| disk.id == disk_id).ok_or(Refused)?;
        assert_eq!((disk.cluster_id.as_str(), disk.member_id == 0), (cluster_id, false));
        let chosen =
            self.status().recovery.and_then(|recovery| recovery.chosen).expect("M-9: without a confirmation");
        assert_eq!((&chosen.disk_id, &chosen.survivor), (&disk.id, &names::pod(NAME, ordinal)));
        assert!(recovery.is_none_or(|r| r.confirm.as_deref() == Some(cluster_id)), "M-9: unconfirmed");
        let id = disk.member_id;
        let raft = self.raft.as_mut().unwrap();
        let others = self.disks.iter().filter(|(o, disk)| **o != ordinal && disk.member_id != 0);
        let reachable =
            others.map(|(_, disk)| disk.member_id).filter(|id| raft.membership.voters.contains(id));
        assert_eq!(reachable.count(), 0, "M-9: the old majority is not fenced");
        raft.membership.members.retain(|member| member.id == id);
        (raft.membership.voters, raft.membership.learners) = (vec![id], vec![]);
        raft.membership.index += 1;
        self.forced += 1;
        Ok(())
    }

    fn change(&mut self, expected: u64, change: impl FnOnce(&mut Membership)) -> Result<(), Refused> {
        assert!(self.has_quorum(), "a change that cannot commit");
        let raft = self.raft.as_mut().unwrap();
        if raft.membership.index != expected {
            return Err(Refused);
        }
        raft.membership.index += 1;
        change(&mut raft.membership);
        assert!(self.has_quorum(), "I1: the change cost the quorum");
        Ok(())
    }

    fn add_learner(&mut self, ordinal: u32, disk_id: &str, expected: u64) -> Result<(), Refused> {
        assert!(self.status().bootstrapped, "a second member before the first is on record");
        let name = names::pod(NAME, ordinal);
        self.change(expected, |m| {
            assert!(m.members.iter().all(|member| member.name != name) && m.learners.is_empty());
            let id = m.next_id;
            m.next_id += 1;
            m.members.push(Member { id, name, disk_id: disk_id.to_owned(), ..Member::default() });
            m.learners.push(id);
        })
    }

    fn remove(&mut self, id: u64, expected: u64) -> Result<(), Refused> {
        let raft = self.raft.as_ref().unwrap();
        let member = raft.membership.members.iter().find(|member| member.id == id).ok_or(Refused)?;
        let ordinal = names::ordinal(NAME, &member.name).unwrap();
        let same_disk = self
            .disks
            .get(&ordinal)
            .is_none_or(|disk| disk.id == member.disk_id && !disk.corrupt && !disk.stranded);
        let wanted = i32::try_from(ordinal).unwrap() < self.cluster.spec.replicas;
        assert!(!(wanted && same_disk), "I7: {} is wanted and not known to be lost", member.name);
        if wanted && raft.membership.voters.contains(&id) {
            let others = raft.membership.voters.iter().filter(|voter| **voter != id && self.answers(**voter));
            assert!(others.count() >= quorum(raft.membership.voters.len()), "I1: others may be down, too");
        }
        assert_ne!(raft.leader, Some(id), "leadership was not moved off first");
        if raft.membership.voters.contains(&id) && !wanted {
            assert!(self.pods.get(&ordinal).is_none_or(|pod| !pod.in_service), "clients still find it");
        }
        self.change(expected, |m| {
            m.members.retain(|member| member.id != id);
            m.voters.retain(|voter| *voter != id);
            m.learners.retain(|learner| *learner != id);
        })
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

    fn force_delete(&mut self, ordinal: u32, uid: &str) -> Result<(), Refused> {
        let pod = self.pods.get(&ordinal).filter(|pod| pod.uid == uid).ok_or(Refused)?;
        assert!(self.is_on_lost_host(ordinal, pod), "I7: a pod that may run");
        self.pods.remove(&ordinal);
        Ok(())
    }

    fn stop(&mut self, ordinal: u32, uid: &str) -> Result<(), Refused> {
        self.pods.get(&ordinal).filter(|pod| pod.uid == uid).ok_or(Refused)?;
        let id = self.disks.get(&ordinal).map_or(0, |disk| disk.member_id);
        if let Some(raft) = &self.raft
            && raft.membership.voters.contains(&id)
            && self.runs(ordinal)
            && !self.recovers()
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
        Ok(())
    }

    /// The quorum is lost already, and what is left of it is fenced.
    fn recovers(&self) -> bool {
        self.status().recovery.is_some_and(|recovery| recovery.chosen.is_some())
    }

    fn delete_volume(&mut self, ordinal: u32, uid: &str, replaced: bool) -> Result<(), Refused> {
        let chosen = self.status().recovery.and_then(|recovery| recovery.chosen);
        let fenced = chosen.is_some_and(|chosen| chosen.fenced_volumes.iter().any(|fenced| fenced == uid));
        let may_delete_at_once = self.validated().repair.without_quarantine;
        let raft = self.raft.as_ref().unwrap();
        let disk = self.disks.get_mut(&ordinal).filter(|disk| disk.volume_uid == uid).ok_or(Refused)?;
        let members = &raft.membership.members;
        let is_member = members.iter().any(|member| member.id == disk.member_id);
        assert!(fenced || !is_member, "I6: a member's volume");
        let precious = replaced && (fenced || disk.corrupt || disk.stranded);
        assert!(!precious || may_delete_at_once || self.kept.contains(uid), "gone without being kept");
        disk.terminating = true;
        Ok(())
    }
}
