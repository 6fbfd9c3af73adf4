//! A cluster without Kubernetes and without Raft: pods, volumes and a membership that obey the same
//! rules, with every invariant of `plan` asserted where a step takes effect.

mod effects;
pub mod events;
mod key;
mod observed;
pub mod restore;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};

use helios_crds::{HeliosCluster, HeliosClusterSpec, HeliosClusterStatus};
use helios_operator::names;
use helios_operator::observe::Snapshot;
use helios_operator::plan::{Plan, Step, plan, quorum};
use helios_operator::report;
use helios_operator::security::UsersSecret;
use helios_operator::security::certificates::Existing;
use helios_operator::validate::{Defaults, ValidatedCluster, validate};
use helios_proto::v1::Membership;
use jiff::{SignedDuration, Timestamp};

pub const NAME: &str = "demo";

#[derive(Debug, Clone)]
pub struct Disk {
    pub id: String,
    pub volume_uid: String,
    pub created: Timestamp,
    pub bytes: u64,
    pub cluster_id: String,
    pub member_id: u64,
    pub terminating: bool,
    /// No process can be served from it.
    pub corrupt: bool,
    /// On a host that is gone.
    pub stranded: bool,
}

#[derive(Debug, Clone)]
pub struct SimPod {
    pub uid: String,
    pub revision: u32,
    pub terminating: bool,
    pub in_service: bool,
    /// Bound to the host of its ordinal, which may be cordoned or gone; otherwise to another one.
    pub at_home: bool,
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
    /// Followers that have not heard of the last change of members.
    pub unaware: BTreeSet<u32>,
    /// Members whose kubelet has not delivered the present settings.
    pub unread: BTreeSet<u32>,
    pub cordoned: BTreeSet<u32>,
    pub gone: BTreeSet<u32>,
    /// The operator may neither see hosts nor keep volumes.
    pub confined: bool,
    pub locked_out: bool,
    /// Contents of the Secrets, with texts for keys.
    pub certificates: Existing,
    pub users: UsersSecret,
    pub renewal_request: Option<String>,
    /// Members that hold back an entry of the log, which crashed their processes.
    pub holding: BTreeSet<u32>,
    pub kept: BTreeSet<String>,
    pub forced: u32,
    pub transfers: u32,
    pub begun: u32,
    pub job: Option<restore::SimJob>,
    pub store: restore::Store,
    pub restarted: BTreeMap<u32, u32>,
    /// Effects of the operator so far, and the one before which it crashes.
    pub effects: u64,
    pub crashes_at: Option<u64>,
    dead: bool,
    /// Steps come from the observation of the reconcile before, so that they may be rejected.
    stale: bool,
    seen_before: Option<(ValidatedCluster, Snapshot)>,
    /// Events so far, each after so many reconciles.
    pub trail: Vec<(u32, events::Event)>,
    reconciles: u32,
    serial: u64,
}

/// A call that the API server or a member rejects, because its precondition does not hold.
#[derive(Debug)]
pub struct Refused;

pub fn settled(replicas: i32) -> World {
    let mut world = World::new(replicas);
    world.settle();
    world
}

pub fn voters(world: &World) -> usize {
    world.raft.as_ref().unwrap().membership.voters.len()
}

impl World {
    pub fn new(replicas: i32) -> Self {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut cluster = HeliosCluster::new(NAME, HeliosClusterSpec { replicas, ..Default::default() });
        cluster.spec.repair.after = "3s".to_owned();
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
            unaware: BTreeSet::new(),
            unread: BTreeSet::new(),
            cordoned: BTreeSet::new(),
            gone: BTreeSet::new(),
            confined: false,
            locked_out: false,
            certificates: Existing::default(),
            users: UsersSecret { exists: false, is_complete: false },
            renewal_request: None,
            holding: BTreeSet::new(),
            kept: BTreeSet::new(),
            forced: 0,
            transfers: 0,
            begun: 0,
            job: None,
            store: restore::Store::default(),
            restarted: BTreeMap::new(),
            effects: 0,
            crashes_at: None,
            dead: false,
            stale: false,
            seen_before: None,
            trail: Vec::new(),
            reconciles: 0,
            serial: 0,
        }
    }

    pub fn validated(&self) -> ValidatedCluster {
        validate(
            &self.cluster,
            None,
            &Defaults {
                node_image: Some("heliosd:1".to_owned()),
                operator_namespace: "operators".to_owned(),
            },
        )
        .unwrap()
    }

    pub fn status(&self) -> HeliosClusterStatus {
        self.cluster.status.clone().unwrap_or_default()
    }

    pub fn phase(&self) -> String {
        self.status().phase.unwrap_or_default()
    }

    /// One reconcile by the operator, then one tick of everything else.
    pub fn reconcile(&mut self) -> Plan {
        self.reconciles += 1;
        let (cluster, seen) = (self.validated(), self.observe());
        let plan = self.act(&cluster, &seen);
        self.seen_before = Some((cluster, seen));
        self.tick();
        plan
    }

    /// A reconcile by an operator that has not observed the effects of the one before.
    pub fn reconcile_stale(&mut self) {
        let Some((cluster, seen)) = self.seen_before.clone() else { return };
        self.stale = true;
        self.act(&cluster, &seen);
        self.stale = false;
        self.tick();
    }

    fn act(&mut self, cluster: &ValidatedCluster, seen: &Snapshot) -> Plan {
        let plan = plan(cluster, seen);
        if let Some(Step::Secret(step)) = plan.step {
            self.write_secret(&plan, step);
            return plan;
        }
        let has_certificate = seen.security.certificates.as_ref().is_none_or(|it| it.leaf.is_some());
        assert!(has_certificate || cluster.spec.paused, "I9: {plan:?} without the members' certificate");
        assert!(plan.step.is_none() || plan.latch.is_none(), "a step follows from an unwritten decision");
        let held = cluster.spec.paused || seen.security.is_blocked();
        assert!(
            !held || (plan.step.is_none() && plan.labels.is_empty()),
            "acts although it is held: {plan:?}"
        );
        let template_changed = self.applied_template != self.template && !held;
        if !held && (template_changed || self.replicas != Some(plan.replicas)) && self.lives() {
            self.shrink_is_safe(plan.replicas);
            self.replicas = Some(plan.replicas);
            self.applied_template = self.template;
        }
        for labels in &plan.labels {
            if self.lives()
                && let Some(pod) = self.pods.get_mut(&labels.ordinal)
            {
                pod.in_service = labels.in_service;
            }
        }
        let pods_step =
            matches!(plan.step, Some(Step::Evict { .. } | Step::DeletePod { .. } | Step::Transfer { .. }));
        if let Some(step) = plan.step.clone().filter(|_| !(template_changed && pods_step)) {
            let result = self.execute(&step);
            assert!(self.stale || result.is_ok(), "refused: {step:?}");
        }
        let status = report::report(cluster, seen, &plan, template_changed);
        let unseen = self.cluster.status.clone().unwrap_or_default() != seen.status;
        let news = self
            .cluster
            .status
            .as_ref()
            .is_none_or(|old| report::news(old, &status) != report::News::Nothing);
        // Written with the version that was read.
        if news && !unseen && self.lives() {
            self.cluster.status = Some(status);
        }
        (self.dead, self.crashes_at) = (false, self.crashes_at.filter(|_| !self.dead));
        plan
    }

    /// The operator has one more effect before it crashes.
    fn lives(&mut self) -> bool {
        self.dead |= self.crashes_at == Some(self.effects);
        self.effects += u64::from(!self.dead);
        !self.dead
    }

    /// Reconciles until nothing is left to do.
    #[track_caller]
    pub fn settle(&mut self) {
        for _ in 0..300 {
            let plan = self.reconcile();
            if plan.operation.is_none() && self.phase() == "Healthy" {
                return;
            }
        }
        panic!("no end\n{}", self.describe());
    }

    pub fn runs(&self, ordinal: u32) -> bool {
        let disk_serves = self.disks.get(&ordinal).is_some_and(|disk| !disk.corrupt && !disk.stranded);
        disk_serves
            && self.pods.get(&ordinal).is_some_and(|pod| {
                !pod.terminating
                    && !self.broken.contains(&pod.revision)
                    && !self.is_on_lost_host(ordinal, pod)
            })
    }

    fn is_on_lost_host(&self, ordinal: u32, pod: &SimPod) -> bool {
        pod.at_home && self.gone.contains(&ordinal)
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

    /// The member runs, and the operator reaches it, too.
    fn answers(&self, id: u64) -> bool {
        let heard = |ordinal: &u32| self.runs(*ordinal) && !self.silent.contains(ordinal);
        self.disks.iter().any(|(ordinal, disk)| disk.member_id == id && heard(ordinal))
    }

    fn running_voters(&self, raft: &Raft) -> usize {
        raft.membership.voters.iter().filter(|id| self.member_runs(**id)).count()
    }

    pub fn has_quorum(&self) -> bool {
        self.raft
            .as_ref()
            .is_some_and(|raft| self.running_voters(raft) >= quorum(raft.membership.voters.len()))
    }

    /// For messages of failed assertions.
    pub fn describe(&self) -> String {
        let status = self.status();
        let conditions: Vec<_> = status
            .conditions
            .iter()
            .map(|c| format!("{} {} {}: {}", c.type_, c.status, c.reason, c.message))
            .collect();
        format!(
            "{:?} then {} reconciles\n{:?} {:?} {:?} {:?}\n{:?}\n{:?}\n{:?}\ntemplate {} of {:?}\n{}",
            self.trail,
            self.reconciles,
            status.phase,
            status.operation.map(|operation| (operation.kind, operation.target, operation.step)),
            status.replacement,
            status.recovery,
            self.pods,
            self.disks,
            self.raft.as_ref().map(|raft| (raft.leader, &raft.membership.voters, &raft.membership.learners)),
            self.applied_template,
            self.replicas,
            conditions.join("\n")
        )
    }

    fn serial(&mut self) -> String {
        self.serial += 1;
        self.serial.to_string()
    }

    /// Everything that is not the operator: controllers, kubelets, elections.
    pub fn tick(&mut self) {
        self.now += SignedDuration::from_secs(1);
        let replicas = self.replicas.unwrap_or(0);
        let gone = self.gone.clone();
        // A pod on a lost host stays until it is deleted by force.
        self.pods.retain(|ordinal, pod| {
            let unconfirmed = pod.at_home && gone.contains(ordinal);
            pod.terminating |= *ordinal >= replicas && unconfirmed;
            unconfirmed || (!pod.terminating && *ordinal < replicas)
        });
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
                corrupt: false,
                stranded: false,
            });
            let uid = format!("pod-{}", self.serial());
            self.pods.insert(
                ordinal,
                SimPod {
                    uid,
                    revision: self.applied_template,
                    terminating: false,
                    in_service: true,
                    at_home: !self.cordoned.contains(&ordinal) && !self.gone.contains(&ordinal),
                },
            );
        }
        self.run_job();
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

    pub fn leader_ordinal(&self) -> Option<u32> {
        let leader = self.raft.as_ref()?.leader?;
        self.disks.iter().find(|(_, disk)| disk.member_id == leader).map(|(ordinal, _)| *ordinal)
    }
}
