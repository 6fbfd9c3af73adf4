//! Observations of the world.

use std::collections::BTreeMap;
use std::sync::Arc;

use helios_crds::Reason;
use helios_operator::build;
use helios_operator::names;
use helios_operator::observe::{Backing, Failure, Host, Pod, Snapshot, Volume, Workload};
use helios_operator::security::{Problem, Security};
use helios_proto::v1::{EntryUnappliable, Membership, Progress, Role, StatusResponse};
use jiff::Timestamp;

use super::{NAME, SimPod, World};

impl World {
    pub fn observe(&self) -> Snapshot {
        let revision = |template: u32| format!("demo-r{template}");
        let pods = self.pods.iter().map(|(ordinal, pod)| {
            let running = self.runs(*ordinal);
            let disk = self.disks.get(ordinal);
            let corrupt = disk.is_some_and(|disk| disk.corrupt) && !self.is_on_lost_host(*ordinal, pod);
            let observed = Pod {
                host: self.host(*ordinal, pod),
                failing: corrupt.then_some(Failure::Disk),
                uid: pod.uid.clone(),
                revision: revision(pod.revision),
                ready: running && self.serves(*ordinal),
                running,
                terminating: pod.terminating,
                in_service: pod.in_service,
                problem: match () {
                    () if running => None,
                    () if self.broken.contains(&pod.revision) => Some("ImagePullBackOff".to_owned()),
                    () if corrupt => Some("CrashLoopBackOff".to_owned()),
                    () => Some("Unschedulable".to_owned()),
                },
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
                backing: match self.confined {
                    true => Backing::Forbidden,
                    false => Backing::Bound { stranded: disk.stranded },
                },
            };
            (*ordinal, volume)
        });
        let nodes = self.pods.keys().filter(|ordinal| self.is_heard(**ordinal));
        Snapshot {
            now: self.now,
            created: Timestamp::from_second(1_800_000_000).unwrap(),
            generation: self.cluster.metadata.generation.unwrap(),
            status: self.status(),
            security: self.security(),
            workload: self.replicas.map(|replicas| Workload {
                replicas,
                update_revision: Some(revision(self.applied_template)),
                config: self.config_of_template(),
                volume_size: None,
            }),
            pods: pods.collect(),
            volumes: volumes.collect(),
            hosts: (!self.confined).then(|| Arc::new(self.hosts())),
            nodes: nodes.map(|ordinal| (*ordinal, self.node(*ordinal))).collect(),
            backup: self.backup(),
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
            entry_unappliable: self.holding.contains(&ordinal).then(|| EntryUnappliable {
                index: 99,
                command: "SORT".to_owned(),
                size_bytes: 400,
                crc: 0xbad_f00d,
            }),
            last_index: 100 + u64::from(ordinal),
            last_log_term: 7,
            config_file_hash: self.file_hash(ordinal),
            ..StatusResponse::default()
        };
        let Some(raft) = self.raft.as_ref().filter(|_| disk.member_id != 0) else { return status };
        status.ready = raft.leader.is_some();
        status.term = raft.term;
        let id = disk.member_id;
        let lags = u64::from(raft.leader != Some(id) && self.unaware.contains(&ordinal));
        status.membership =
            Some(Membership { index: raft.membership.index - lags, ..raft.membership.clone() });
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
        if status.role() == Role::Removed && ordinal.is_multiple_of(2) {
            (status.cluster_id, status.member_id) = (String::new(), 0);
        }
        status
    }

    /// Empty while all have the same file, as members of an earlier release report: it is computed very often.
    fn file_hash(&self, ordinal: u32) -> String {
        match () {
            () if self.unread.is_empty() => String::new(),
            () if self.unread.contains(&ordinal) => "of before".to_owned(),
            () => build::file_hash(&self.validated()).unwrap(),
        }
    }

    fn config_of_template(&self) -> Option<String> {
        let is_present = self.applied_template == self.template;
        (is_present && !self.unread.is_empty()).then(|| build::restart_hash(&self.validated()).unwrap())
    }

    fn is_heard(&self, ordinal: u32) -> bool {
        self.runs(ordinal)
            && !self.silent.contains(&ordinal)
            && !self.locked_out
            && self.certificates.leaf.is_some()
    }

    fn security(&self) -> Security {
        let problem =
            self.locked_out.then(|| Problem::blocking(Reason::CertificateInvalid, "the Secret is gone"));
        Security {
            problem,
            // The user's own certificate is missing, which the operator cannot help.
            certificates: (!self.locked_out).then(|| self.certificates.clone()),
            users: Some(self.users),
            renewal_request: self.renewal_request.clone(),
            ..Security::default()
        }
    }

    fn hosts(&self) -> BTreeMap<String, Host> {
        let homes = (0..7).filter(|ordinal| !self.gone.contains(ordinal));
        let homes = homes.map(|ordinal| {
            let cordoned = self.cordoned.contains(&ordinal);
            (format!("home-{ordinal}"), Host { cordoned, ..Host::default() })
        });
        homes.chain([("elsewhere".to_owned(), Host::default())]).collect()
    }

    fn host(&self, ordinal: u32, pod: &SimPod) -> Option<String> {
        match pod.at_home {
            true => Some(format!("home-{ordinal}")),
            false => self.runs(ordinal).then(|| "elsewhere".to_owned()),
        }
    }
}
