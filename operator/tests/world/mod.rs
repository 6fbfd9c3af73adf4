//! A cluster without Kubernetes and without Raft: pods, volumes and a membership that obey the same
//! rules, with every invariant of `plan` asserted where a step takes effect.

mod effects;

use std::collections::{BTreeMap, BTreeSet};

use helios_crds::{HeliosCluster, HeliosClusterSpec, HeliosClusterStatus};
use helios_operator::names;
use helios_operator::observe::{Pod, Snapshot, Volume, Workload};
use helios_operator::plan::{Plan, Step, plan, quorum};
use helios_operator::report;
use helios_operator::validate::{Defaults, ValidatedCluster, validate};
use helios_proto::v1::{Membership, Progress, Role, StatusResponse};
use jiff::{SignedDuration, Timestamp};

const NAME: &str = "demo";

#[derive(Debug, Clone)]
pub struct Disk {
    pub id: String,
    pub volume_uid: String,
    pub created: Timestamp,
    pub bytes: u64,
    pub cluster_id: String,
    pub member_id: u64,
    pub terminating: bool,
}

#[derive(Debug, Clone)]
pub struct SimPod {
    pub uid: String,
    pub revision: u32,
    pub terminating: bool,
    pub in_service: bool,
}

#[derive(Debug, Clone)]
pub struct Raft {
    pub membership: Membership,
    pub leader: Option<u64>,
    pub term: u64,
}

#[derive(Debug, Clone)]
pub struct World {
    pub cluster: HeliosCluster,
    pub now: Timestamp,
    pub replicas: Option<u32>,
    pub template: u32,
    pub applied_template: u32,
    pub broken: BTreeSet<u32>,
    pub pods: BTreeMap<u32, SimPod>,
    pub disks: BTreeMap<u32, Disk>,
    pub raft: Option<Raft>,
    pub silent: BTreeSet<u32>,
    pub transfers: u32,
    pub begun: u32,
    pub restarted: BTreeMap<u32, u32>,
    serial: u64,
}

impl World {
    pub fn new(replicas: i32) -> Self {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut cluster = HeliosCluster::new(NAME, HeliosClusterSpec { replicas, ..Default::default() });
        cluster.metadata.namespace = Some("default".to_owned());
        cluster.metadata.uid = Some("5c0ffee0-0000-4000-8000-000000000001".to_owned());
        cluster.metadata.generation = Some(1);
        Self {
            cluster,
            now,
            replicas: None,
            template: 1,
            applied_template: 1,
            broken: BTreeSet::new(),
            pods: BTreeMap::new(),
            disks: BTreeMap::new(),
            raft: None,
            silent: BTreeSet::new(),
            transfers: 0,
            begun: 0,
            restarted: BTreeMap::new(),
            serial: 0,
        }
    }

    pub fn validated(&self) -> ValidatedCluster {
        validate(&self.cluster, &Defaults { node_image: Some("heliosd:1".to_owned()) }).unwrap()
    }

    pub fn status(&self) -> HeliosClusterStatus {
        self.cluster.status.clone().unwrap_or_default()
    }

    pub fn phase(&self) -> String {
        self.status().phase.unwrap_or_default()
    }

    /// One pass of the operator, then one tick of everything else.
    pub fn pass(&mut self) -> Plan {
        let cluster = self.validated();
        let seen = self.observe();
        let plan = plan(&cluster, &seen);
        assert!(plan.step.is_none() || plan.latch.is_none(), "a step follows from an unwritten decision");
        let template_changed = self.applied_template != self.template && !cluster.spec.paused;
        if !cluster.spec.paused {
            self.shrink_is_safe(plan.replicas);
            self.replicas = Some(plan.replicas);
            self.applied_template = self.template;
        }
        for labels in &plan.labels {
            self.pods.get_mut(&labels.ordinal).unwrap().in_service = labels.in_service;
        }
        let pods_step =
            matches!(plan.step, Some(Step::Evict { .. } | Step::DeletePod { .. } | Step::Transfer { .. }));
        if let Some(step) = plan.step.clone().filter(|_| !(template_changed && pods_step)) {
            self.execute(&step);
        }
        self.cluster.status = Some(report::report(&cluster, &seen, &plan, template_changed));
        self.tick();
        plan
    }

    /// Passes until nothing is left to do.
    #[track_caller]
    pub fn settle(&mut self) {
        for _ in 0..300 {
            let plan = self.pass();
            if plan.operation.is_none() && self.phase() == "Healthy" {
                return;
            }
        }
        panic!("no fixed point: {:#?}\n{:#?}", self.status(), self);
    }

    pub fn observe(&self) -> Snapshot {
        let revision = |template: u32| format!("demo-r{template}");
        let pods = self.pods.iter().map(|(ordinal, pod)| {
            let running = self.runs(*ordinal);
            let observed = Pod {
                uid: pod.uid.clone(),
                revision: revision(pod.revision),
                ready: running && self.serves(*ordinal),
                running,
                terminating: pod.terminating,
                in_service: pod.in_service,
                trouble: (!running).then(|| "ImagePullBackOff".to_owned()),
                ..Pod::default()
            };
            (*ordinal, observed)
        });
        let volumes = self.disks.iter().map(|(ordinal, disk)| {
            let volume = Volume {
                uid: disk.volume_uid.clone(),
                created: disk.created,
                requested_bytes: disk.bytes,
                terminating: disk.terminating,
            };
            (*ordinal, volume)
        });
        let nodes = self.pods.keys().filter(|ordinal| self.runs(**ordinal) && !self.silent.contains(ordinal));
        Snapshot {
            now: self.now,
            created: Timestamp::from_second(1_800_000_000).unwrap(),
            generation: self.cluster.metadata.generation.unwrap(),
            status: self.status(),
            workload: self.replicas.map(|replicas| Workload {
                replicas,
                update_revision: Some(revision(self.applied_template)),
                volume_size: None,
            }),
            pods: pods.collect(),
            volumes: volumes.collect(),
            nodes: nodes.map(|ordinal| (*ordinal, self.node(*ordinal))).collect(),
        }
    }

    fn node(&self, ordinal: u32) -> StatusResponse {
        let disk = &self.disks[&ordinal];
        let mut status = StatusResponse {
            name: names::pod(NAME, ordinal),
            cluster_id: disk.cluster_id.clone(),
            member_id: disk.member_id,
            disk_id: disk.id.clone(),
            version: "0.1.0".to_owned(),
            commit_index: 100,
            last_index: 100,
            ..StatusResponse::default()
        };
        let Some(raft) = self.raft.as_ref().filter(|_| disk.member_id != 0) else { return status };
        status.ready = raft.leader.is_some();
        status.term = raft.term;
        status.membership = Some(raft.membership.clone());
        let id = disk.member_id;
        status.set_role(match () {
            () if !raft.membership.members.iter().any(|member| member.id == id) => Role::Removed,
            () if raft.leader == Some(id) => Role::Leader,
            () if raft.membership.learners.contains(&id) => Role::Learner,
            () => Role::Follower,
        });
        if raft.leader == Some(id) {
            status.progress = raft
                .membership
                .members
                .iter()
                .map(|m| Progress {
                    id: m.id,
                    match_index: 100,
                    active: self.member_runs(m.id),
                    snapshotting: false,
                })
                .collect();
        }
        if status.role() == Role::Removed && id.is_multiple_of(2) {
            (status.cluster_id, status.member_id) = (String::new(), 0);
        }
        status
    }

    pub fn runs(&self, ordinal: u32) -> bool {
        self.pods.get(&ordinal).is_some_and(|pod| !pod.terminating && !self.broken.contains(&pod.revision))
    }

    fn serves(&self, ordinal: u32) -> bool {
        let id = self.disks.get(&ordinal).map_or(0, |disk| disk.member_id);
        self.raft.as_ref().is_some_and(|raft| {
            raft.leader.is_some() && raft.membership.members.iter().any(|member| member.id == id)
        })
    }

    fn member_runs(&self, id: u64) -> bool {
        self.disks.iter().any(|(ordinal, disk)| disk.member_id == id && self.runs(*ordinal))
    }

    fn running_voters(&self, raft: &Raft) -> usize {
        raft.membership.voters.iter().filter(|id| self.member_runs(**id)).count()
    }

    pub fn has_quorum(&self) -> bool {
        self.raft
            .as_ref()
            .is_some_and(|raft| self.running_voters(raft) >= quorum(raft.membership.voters.len()))
    }

    fn serial(&mut self) -> String {
        self.serial += 1;
        self.serial.to_string()
    }

    /// Everything that is not the operator: controllers, kubelets, elections.
    pub fn tick(&mut self) {
        self.now += SignedDuration::from_secs(1);
        let replicas = self.replicas.unwrap_or(0);
        self.pods.retain(|ordinal, pod| !pod.terminating && *ordinal < replicas);
        self.disks.retain(|ordinal, disk| !disk.terminating || self.pods.contains_key(ordinal));
        let size = self.validated().volume.size_bytes;
        for ordinal in 0..replicas {
            if self.disks.get(&ordinal).is_some_and(|disk| disk.terminating)
                || self.pods.contains_key(&ordinal)
            {
                continue;
            }
            let (id, uid) = (self.serial(), self.serial());
            self.disks.entry(ordinal).or_insert(Disk {
                id: format!("disk-{id}"),
                volume_uid: format!("volume-{uid}"),
                created: self.now,
                bytes: size,
                cluster_id: String::new(),
                member_id: 0,
                terminating: false,
            });
            let uid = format!("pod-{}", self.serial());
            self.pods.insert(
                ordinal,
                SimPod { uid, revision: self.applied_template, terminating: false, in_service: true },
            );
        }
        self.elect();
    }

    fn elect(&mut self) {
        let Some(mut raft) = self.raft.take() else { return };
        for member in &raft.membership.members {
            for (ordinal, disk) in &mut self.disks {
                let addressed = names::pod(NAME, *ordinal) == member.name && disk.id == member.disk_id;
                if addressed && disk.member_id == 0 && raft.leader.is_some() {
                    disk.member_id = member.id;
                    disk.cluster_id.clone_from(&raft.membership.cluster_id);
                }
            }
        }
        if self.running_voters(&raft) < quorum(raft.membership.voters.len()) {
            raft.leader = None;
        } else if raft.leader.is_none_or(|id| !self.member_runs(id) || !raft.membership.voters.contains(&id))
        {
            raft.leader = raft.membership.voters.iter().copied().find(|id| self.member_runs(*id));
            raft.term += 1;
        }
        self.raft = Some(raft);
    }

    pub fn wipe(&mut self, ordinal: u32) {
        let id = self.serial();
        if let Some(disk) = self.disks.get_mut(&ordinal) {
            (disk.id, disk.member_id) = (format!("disk-{id}"), 0);
            disk.cluster_id.clear();
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

    pub fn leader_ordinal(&self) -> Option<u32> {
        let leader = self.raft.as_ref()?.leader?;
        self.disks.iter().find(|(_, disk)| disk.member_id == leader).map(|(ordinal, _)| *ordinal)
    }
}
