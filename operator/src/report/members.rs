//! The table of members: those the leader knows, and pods that are not members yet.

use std::collections::BTreeSet;

use helios_crds::{MemberRole, MemberStatus, MemberUsage};
use helios_proto::v1::Role;

use super::signed;
use super::usage::usage;
use crate::plan::View;

pub fn members(view: &View) -> Vec<MemberStatus> {
    if view.leader.is_none() {
        return last_known(view);
    }
    let pods = view.seen.pods.iter().filter(|(_, pod)| !pod.terminating);
    let staying = pods.map(|(ordinal, _)| *ordinal);
    let ordinals: BTreeSet<u32> = view.members().map(|(ordinal, _)| ordinal).chain(staying).collect();
    ordinals.into_iter().map(|ordinal| member(view, ordinal)).collect()
}

fn member(view: &View, ordinal: u32) -> MemberStatus {
    let node = view.seen.nodes.get(&ordinal);
    let known = view.member(ordinal);
    let lag = known.and_then(|member| view.lag(ordinal, member.id));
    let matched = known.and_then(|member| {
        if view.leads(ordinal) {
            node.map(|node| node.last_index)
        } else {
            view.progress(member.id).map(|p| p.match_index)
        }
    });
    MemberStatus {
        name: view.name(ordinal),
        member_id: known.map_or(0, |member| signed(member.id)),
        incarnation: node.map_or(0, |node| signed(node.boot_epoch)),
        role: match (known, node) {
            (Some(member), Some(_)) if !view.is_healthy(ordinal, member) => MemberRole::Unknown,
            (Some(_), Some(node)) => role(node.role()),
            (Some(_), None) => MemberRole::Unknown,
            (None, Some(node)) if node.role() == Role::Removed => MemberRole::Removed,
            (None, _) => MemberRole::Joining,
        }
        .into(),
        ready: view.seen.pods.get(&ordinal).is_some_and(|pod| pod.ready),
        match_index: matched.map(signed),
        lag: lag.map(signed),
        version: node.map(|node| node.version.clone()).filter(|version| !version.is_empty()),
        config: node.map(|node| node.config_hash.clone()).filter(|hash| !hash.is_empty()),
        receives_snapshot: known
            .and_then(|member| view.progress(member.id))
            .is_some_and(|progress| progress.snapshotting),
        snapshot_failures: node.map_or(0, |node| signed(node.snapshot_failures)),
        usage: usage(node, usage_before(view, ordinal), view.seen.now),
    }
}

/// Usage in the last status.
fn usage_before<'a>(view: &'a View, ordinal: u32) -> Option<&'a MemberUsage> {
    let name = view.name(ordinal);
    view.seen.status.members.iter().find(|member| member.name == name)?.usage.as_ref()
}

/// Without a leader nobody says who the members are; the last table stands, with roles of now.
fn last_known(view: &View) -> Vec<MemberStatus> {
    let mut members = view.seen.status.members.clone();
    for member in &mut members {
        let ordinal = crate::names::ordinal(&view.cluster.name, &member.name);
        let node = ordinal.and_then(|ordinal| view.seen.nodes.get(&ordinal));
        member.role = node.map_or(MemberRole::Unknown, |node| role(node.role())).into();
        member.ready = ordinal.and_then(|o| view.seen.pods.get(&o)).is_some_and(|pod| pod.ready);
        member.lag = None;
        member.usage = usage(node, member.usage.as_ref(), view.seen.now);
    }
    members
}

/// The oldest version in service; while versions differ, the cluster is only as new as that.
pub fn oldest_version(members: &[MemberStatus]) -> Option<String> {
    let key = |version: &str| {
        version.split(['.', '-', '+']).map(|part| part.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>()
    };
    members.iter().filter_map(|member| member.version.clone()).min_by_key(|version| key(version))
}

fn role(role: Role) -> MemberRole {
    match role {
        Role::Uninitialized => MemberRole::Joining,
        Role::Follower => MemberRole::Follower,
        Role::Candidate => MemberRole::Candidate,
        Role::Leader => MemberRole::Leader,
        Role::Learner => MemberRole::Learner,
        Role::Removed => MemberRole::Removed,
    }
}
