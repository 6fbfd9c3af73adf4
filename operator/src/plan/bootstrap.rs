//! Bootstraps the cluster, exactly once (docs/design/product.md, M-2).
//!
//! Two decisions are written to the status before anything follows from them: the cluster's id, and
//! the one disk that it may be bootstrapped on. A second bootstrap would need that disk to be blank again, and then the
//! operator stops: the writes on it are gone, and only a user may accept that.

use std::collections::BTreeSet;

use helios_proto::v1::{Role, StatusResponse};

use super::{Blocker, Decision, Kind, Latch, Step, View};
use crate::names;
use crate::observe::RestoreSeen;

pub fn decide(view: &View) -> Option<Decision> {
    let status = &view.seen.status;
    if let Some(decision) = existing(view) {
        return Some(decision);
    }
    if let Some(ordinal) = silent_old_volume(view) {
        return Some(await_old(view, ordinal));
    }
    let Some(first) = view.seen.nodes.get(&0) else {
        return Some(Decision::wait(Kind::Bootstrap, 0, awaited(view)));
    };
    let Some(cluster_id) = &status.cluster_id else {
        return Some(Decision::latch(
            Kind::Bootstrap,
            Latch::ClusterId(view.cluster.uid.clone()),
            "choosing the cluster's id",
        ));
    };
    if first.role() != Role::Uninitialized || first.disk_id.is_empty() {
        return Some(Decision::wait(
            Kind::Bootstrap,
            0,
            format!("waiting for a blank disk in {}", view.name(0)),
        ));
    }
    match &status.bootstrap_disk_id {
        None => Some(Decision::latch(
            Kind::Bootstrap,
            Latch::BootstrapDisk(first.disk_id.clone()),
            "choosing the first disk",
        )),
        Some(chosen) if *chosen == first.disk_id => Some(if is_restored(view) {
            restore(view, cluster_id, first)
        } else {
            Decision::act(
                Kind::Bootstrap,
                0,
                format!("beginning the cluster on {}", view.name(0)),
                initialize(cluster_id, first),
            )
        }),
        Some(_) => Some(Decision::blocked(
            Kind::Bootstrap,
            0,
            Blocker::BootstrapDiskLost,
            "the disk that the cluster was begun on was lost before a second member had joined; \
             delete this HeliosCluster and apply it again to start over",
        )),
    }
}

fn initialize(cluster_id: &str, first: &StatusResponse) -> Step {
    Step::Initialize { ordinal: 0, cluster_id: cluster_id.to_owned(), disk_id: first.disk_id.clone() }
}

/// The data of the cluster comes from a backup.
fn is_restored(view: &View) -> bool {
    view.cluster.spec.bootstrap.as_ref().is_some_and(|bootstrap| bootstrap.recovery.is_some())
}

/// In the place of `Initialize`: the Job of the restore makes the blank node the first member. It begins again after a crash,
/// and refuses another disk than the chosen one.
fn restore(view: &View, cluster_id: &str, first: &StatusResponse) -> Decision {
    let job = names::restore_job(&view.cluster.name);
    let blocked = |blocker, why: String| Decision::blocked(Kind::Bootstrap, 0, blocker, why);
    match &view.seen.backup.restore {
        RestoreSeen::Unneeded | RestoreSeen::Absent => Decision::act(
            Kind::Bootstrap,
            0,
            format!("restoring a backup into {}", view.name(0)),
            Step::Restore { ordinal: 0, cluster_id: cluster_id.to_owned(), disk_id: first.disk_id.clone() },
        ),
        RestoreSeen::Blocked(why) => blocked(Blocker::RecoveryStoreMissing, why.clone()),
        RestoreSeen::Running(None) => Decision::wait(
            Kind::Bootstrap,
            0,
            format!("waiting for Job {job}, which restores {}", view.name(0)),
        ),
        RestoreSeen::Running(Some(why)) => {
            Decision::wait(Kind::Bootstrap, 0, format!("waiting for Job {job}, which tries again: {why}"))
        }
        RestoreSeen::Failed { reason, message } => blocked(
            if is_impossible(reason) { Blocker::RecoveryImpossible } else { Blocker::RecoveryFailed },
            format!(
                "{message}. Nothing was restored; delete Job {job} to try again, or this HeliosCluster to name another target"
            ),
        ),
        RestoreSeen::Completed(_) => Decision::wait(
            Kind::Bootstrap,
            0,
            format!("waiting for {} to answer with the restored data", view.name(0)),
        ),
    }
}

/// The reason is the backup or the target, and not an outage.
fn is_impossible(reason: &str) -> bool {
    ["RecoveryImpossible", "WrongKey", "NewerFormat", "Damaged", "Forked"].contains(&reason)
}

/// A node that belongs to a cluster: ours has begun, or an earlier one is taken over.
fn existing(view: &View) -> Option<Decision> {
    let known: BTreeSet<&str> =
        view.seen.nodes.values().map(|node| node.cluster_id.as_str()).filter(|id| !id.is_empty()).collect();
    let mut known = known.into_iter();
    let found = known.next()?;
    if let Some(second) = known.next() {
        return Some(Decision::blocked(
            Kind::Bootstrap,
            0,
            Blocker::TwoClusters,
            format!(
                "the volumes hold two clusters, {found} and {second}; delete the volumes of the one that is not wanted"
            ),
        ));
    }
    let status = &view.seen.status;
    Some(match status.cluster_id.as_deref() {
        Some(ours) if ours == found => {
            Decision::latch(Kind::Bootstrap, Latch::Bootstrapped, "the cluster has begun")
        }
        Some(ours) if status.bootstrap_disk_id.is_some() => Decision::blocked(
            Kind::Bootstrap,
            0,
            Blocker::ForeignVolume,
            format!(
                "a volume belongs to another cluster, {found}; this one is {ours}; delete the volume that is not wanted"
            ),
        ),
        _ if is_restored(view) => Decision::blocked(
            Kind::Bootstrap,
            0,
            Blocker::ForeignVolume,
            format!(
                "a volume has data of an earlier cluster, {found}; delete the volumes to restore the backup, or recreate this \
                 HeliosCluster without spec.bootstrap to take them over"
            ),
        ),
        // No disk was ever given an id by us, so the one that is on the disks may take its place.
        _ => Decision::latch(
            Kind::Bootstrap,
            Latch::Adopted(found.to_owned()),
            "taking over the volumes of an earlier cluster",
        ),
    })
}

/// A volume that may hold an earlier cluster, and whose node has not answered.
fn silent_old_volume(view: &View) -> Option<u32> {
    let old = view.seen.volumes.iter().filter(|(_, volume)| volume.created < view.seen.created);
    old.map(|(ordinal, _)| *ordinal).find(|ordinal| !view.seen.nodes.contains_key(ordinal))
}

fn await_old(view: &View, ordinal: u32) -> Decision {
    let name = view.name(ordinal);
    if ordinal < view.cluster.replicas {
        return Decision::wait(
            Kind::Bootstrap,
            ordinal,
            format!("waiting for {name} to say what is on its volume"),
        );
    }
    let why = format!(
        "the volume of {name} is older than this HeliosCluster and may hold its data; \
         set replicas to at least {} to bring it back, or delete the volume to begin without it",
        ordinal + 1
    );
    Decision::blocked(Kind::Bootstrap, ordinal, Blocker::EarlierVolume, why)
}

fn awaited(view: &View) -> String {
    let name = view.name(0);
    match view.seen.pods.get(&0) {
        None => format!("waiting for pod {name} to be created"),
        Some(pod) => match &pod.problem {
            Some(problem) => format!("waiting for {name}: {problem}"),
            None => format!("waiting for {name} to answer"),
        },
    }
}
