//! Events of a cluster: changes by its user, and failures.

use helios_crds::{HeliosClusterSpec, RecoverySpec};
use helios_operator::names;
use helios_operator::plan::quorum;

use super::{NAME, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Scale(i32),
    Template(u32),
    BreakTemplate,
    Hibernate(bool),
    Retain(bool),
    /// The pod is gone; its volume is not.
    Kill(u32),
    /// The volume comes back blank.
    Wipe(u32),
    /// The process fails on its volume again and again.
    Corrupt(u32),
    /// The host is gone, and with it the volume.
    Gone(u32),
    Cordon(u32),
    /// The operator gets no answer; others do.
    Silence(u32),
    /// The Secrets cannot be used: the operator neither reaches members nor may change them.
    LockOut,
    /// The Secret of the members' certificate is deleted.
    LoseCertificate,
    /// A user requests a new certificate.
    RenewCertificate,
    /// Leadership moves without the operator.
    Lead(u32),
    /// The Secrets are in order, what was silent answers, what was cordoned is not, the template is a good one.
    Heal,
}

impl World {
    /// Lets `event` happen, unless nothing could survive it or it would change nothing.
    pub fn happen(&mut self, event: Event) -> bool {
        let reconciles = std::mem::take(&mut self.reconciles);
        self.trail.push((reconciles, event));
        match event {
            Event::Scale(replicas) => {
                self.edit_if(|spec| spec.replicas != replicas, |spec| spec.replicas = replicas)
            }
            Event::Hibernate(on) => self.edit_if(|spec| spec.hibernate != on, |spec| spec.hibernate = on),
            Event::Retain(on) => {
                self.edit_if(|spec| spec.storage.retain != on, |spec| spec.storage.retain = on)
            }
            Event::Template(template) => std::mem::replace(&mut self.template, template) != template,
            Event::BreakTemplate => {
                self.broken.insert(9);
                std::mem::replace(&mut self.template, 9) != 9
            }
            Event::Kill(ordinal) => {
                let died = !self.gone.contains(&ordinal) && self.pods.remove(&ordinal).is_some();
                self.elect();
                died
            }
            Event::Wipe(ordinal) => self.lose(ordinal, |world| world.wipe(ordinal)),
            Event::Corrupt(ordinal) => self.lose(ordinal, |world| {
                world.disks.get_mut(&ordinal).unwrap().corrupt = true;
                world.elect();
            }),
            Event::Gone(ordinal) => self.lose(ordinal, |world| world.lose_host(ordinal)),
            Event::Cordon(ordinal) => {
                let home = self.pods.get(&ordinal).is_some_and(|pod| pod.at_home);
                home && self.cordoned.insert(ordinal)
            }
            Event::Silence(ordinal) => self.pods.contains_key(&ordinal) && self.silent.insert(ordinal),
            Event::LockOut => !std::mem::replace(&mut self.locked_out, true),
            Event::LoseCertificate => self.certificates.leaf.take().is_some(),
            Event::RenewCertificate => {
                let request = Some("requested".to_owned());
                std::mem::replace(&mut self.renewal_request, request).is_none()
            }
            Event::Lead(ordinal) => self.lead(ordinal),
            Event::Heal => {
                let locked_out = std::mem::take(&mut self.locked_out);
                let ill =
                    locked_out || !self.silent.is_empty() || !self.cordoned.is_empty() || self.template == 9;
                self.silent.clear();
                self.cordoned.clear();
                self.template = if self.template == 9 { 7 } else { self.template };
                ill
            }
        }
    }

    pub fn wipe(&mut self, ordinal: u32) {
        let id = self.serial();
        if let Some(disk) = self.disks.get_mut(&ordinal) {
            (disk.id, disk.member_id) = (format!("disk-{id}"), 0);
            disk.cluster_id.clear();
        }
        self.elect();
    }

    pub fn lose_host(&mut self, ordinal: u32) {
        self.gone.insert(ordinal);
        if let Some(disk) = self.disks.get_mut(&ordinal) {
            disk.stranded = true;
        }
        self.elect();
    }

    pub fn scale(&mut self, replicas: i32) {
        self.edit(|spec| spec.replicas = replicas);
    }

    pub fn edit(&mut self, edit: impl FnOnce(&mut HeliosClusterSpec)) {
        edit(&mut self.cluster.spec);
        *self.cluster.metadata.generation.as_mut().unwrap() += 1;
    }

    pub fn confirm(&mut self, survivor: u32) {
        let confirm = self.status().cluster_id;
        let survivor = Some(names::pod(NAME, survivor));
        self.edit(|spec| spec.recovery = Some(RecoverySpec { survivor, confirm }));
    }

    fn edit_if(
        &mut self,
        differs: impl FnOnce(&HeliosClusterSpec) -> bool,
        edit: impl FnOnce(&mut HeliosClusterSpec),
    ) -> bool {
        let news = differs(&self.cluster.spec);
        if news {
            self.edit(edit);
        }
        news
    }

    /// Only what a cluster can survive: not before the first member is on record, and never a quorum.
    fn lose(&mut self, ordinal: u32, loss: impl FnOnce(&mut Self)) -> bool {
        let whole = |disk: &super::Disk| !disk.corrupt && !disk.stranded && !disk.terminating;
        let lasting = self.disks.get(&ordinal).is_some_and(|disk| whole(disk) && disk.member_id != 0)
            && self.pods.get(&ordinal).is_some_and(|pod| pod.at_home);
        if !lasting || !self.status().bootstrapped {
            return false;
        }
        let raft = self.raft.as_ref().unwrap();
        let left = raft.membership.voters.iter().filter(|id| {
            self.disks.iter().any(|(o, disk)| *o != ordinal && disk.member_id == **id && whole(disk))
        });
        if left.count() < quorum(raft.membership.voters.len()) {
            return false;
        }
        loss(self);
        true
    }

    fn lead(&mut self, ordinal: u32) -> bool {
        let id = self.disks.get(&ordinal).map_or(0, |disk| disk.member_id);
        let may = self.runs(ordinal) && self.has_quorum();
        let Some(raft) = self.raft.as_mut() else { return false };
        if !may || raft.leader == Some(id) || !raft.membership.voters.contains(&id) {
            return false;
        }
        (raft.leader, raft.term) = (Some(id), raft.term + 1);
        true
    }
}
