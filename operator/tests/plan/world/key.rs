//! A state's fingerprint: all that the future depends on, without names that are never used again.

use std::hash::{DefaultHasher, Hash, Hasher};

use helios_operator::names;
use jiff::Timestamp;

use super::{Disk, NAME, World};

impl World {
    pub fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let spec = &self.cluster.spec;
        (spec.replicas, spec.hibernate, spec.paused, spec.storage.retain, spec.recovery.is_some())
            .hash(&mut hasher);
        (self.replicas, self.template, self.applied_template, self.confined, self.locked_out)
            .hash(&mut hasher);
        let secrets = (self.certificates.authority.is_some(), self.certificates.leaf.is_some());
        (secrets, self.users.is_complete, self.is_renewed()).hash(&mut hasher);
        (&self.silent, &self.cordoned, &self.gone, &self.broken).hash(&mut hasher);
        for (ordinal, pod) in &self.pods {
            (ordinal, pod.revision, pod.terminating, pod.in_service, pod.at_home).hash(&mut hasher);
        }
        for (ordinal, disk) in &self.disks {
            (ordinal, self.disk_key(*ordinal, disk)).hash(&mut hasher);
        }
        let job = self.job.as_ref().map(|job| (job.left, job.state));
        (job, &self.store, spec.bootstrap.is_some()).hash(&mut hasher);
        self.raft_key().hash(&mut hasher);
        self.status_key().hash(&mut hasher);
        hasher.finish()
    }

    fn disk_key(&self, ordinal: u32, disk: &Disk) -> impl Hash {
        let members = self.raft.iter().flat_map(|raft| &raft.membership.members);
        let member = members.clone().find(|member| member.id == disk.member_id && disk.member_id != 0);
        let status = self.status();
        let latched =
            status.replacement.as_ref().is_some_and(|latched| latched.volume_uid == disk.volume_uid);
        let fenced = status
            .recovery
            .and_then(|recovery| recovery.chosen)
            .is_some_and(|chosen| chosen.fenced_volumes.contains(&disk.volume_uid));
        let addressed = members
            .clone()
            .any(|member| member.disk_id == disk.id && names::ordinal(NAME, &member.name) == Some(ordinal));
        let first = status.bootstrap_disk_id.as_ref() == Some(&disk.id);
        (
            (disk.member_id == 0, disk.cluster_id.is_empty(), member.map(|member| member.name.clone())),
            (disk.terminating, disk.corrupt, disk.stranded, self.kept.contains(&disk.volume_uid)),
            (latched, fenced, addressed, first, disk.bytes),
        )
    }

    fn raft_key(&self) -> impl Hash {
        let Some(raft) = &self.raft else { return (Vec::new(), None) };
        let role = |id: u64| {
            (
                raft.membership.voters.contains(&id),
                raft.membership.learners.contains(&id),
                raft.leader == Some(id),
            )
        };
        let members = raft.membership.members.iter().map(|member| (member.name.clone(), role(member.id)));
        let mut members: Vec<_> = members.collect();
        // The order of voters decides who is elected here.
        let order: Vec<_> = raft
            .membership
            .voters
            .iter()
            .map(|id| raft.membership.members.iter().position(|member| member.id == *id))
            .collect();
        members.push((format!("{order:?}"), (false, false, false)));
        (members, Some(raft.leader.is_some()))
    }

    fn status_key(&self) -> impl Hash {
        let status = self.status();
        let ago = |since: &Timestamp, most: i64| self.now.duration_since(*since).as_secs().min(most);
        let operation = status.operation.map(|operation| {
            (operation.kind, operation.target, operation.steady_since.map(|since| ago(&since.0, 3)))
        });
        let replacement = status.replacement.map(|latched| {
            let known = self.raft.as_ref().is_some_and(|raft| {
                raft.membership.members.iter().any(|member| i64::try_from(member.id) == Ok(latched.member_id))
            });
            (latched.member, latched.reason, known, ago(&latched.since.0, 4))
        });
        let recovery = status.recovery.map(|recovery| {
            let source = recovery.source.map(|source| source.phase);
            (recovery.chosen.map(|chosen| chosen.survivor), recovery.done, source)
        });
        let known: Vec<_> = status
            .members
            .iter()
            .filter(|member| member.member_id != 0)
            .map(|member| member.name.clone())
            .collect();
        (
            (status.bootstrapped, status.cluster_id.is_some(), status.bootstrap_disk_id.is_some(), known),
            (operation, replacement, recovery),
        )
    }
}
