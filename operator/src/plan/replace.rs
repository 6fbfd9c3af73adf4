//! Replacement of failed members, in place and at any ordinal: their disk makes their process exit repeatedly, or was on a
//! host that is gone. The proof is latched in the status first; then the removal is committed, then the volume is set
//! aside for the user (ADR 0010).

use helios_crds::ReplacementStatus;
use helios_proto::v1::Member;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Blocker, Decision, Kind, Latch, Step, View, quorum};
use crate::names;
use crate::observe::{Backing, Failure, Pod, Volume};

const CRASH_LOOP: &str = "CrashLoop";
const HOST_GONE: &str = "HostGone";

/// Kubernetes frees neither name nor volume of a pod on a host that cannot confirm its end. Only a
/// host whose object is gone, or that a user tainted as out of service, is known to have stopped it.
pub fn free_pod_of_lost_host(view: &View) -> Option<Decision> {
    let (ordinal, pod) = view.seen.pods.iter().find(|(ordinal, pod)| {
        let host = pod.host.as_ref();
        host.is_some_and(|host| view.host_is_lost(host)) && !view.seen.nodes.contains_key(ordinal)
    })?;
    let message = format!("freeing {} from a host that is gone", view.name(*ordinal));
    let step = Step::ForceDeletePod { ordinal: *ordinal, uid: pod.uid.clone() };
    Some(Decision::act(Kind::ReplaceMember, *ordinal, message, step))
}

/// From the first sign of failure to the volume set aside. Until the delay is over, nothing else is held.
pub fn replace_failed(view: &View) -> Option<Decision> {
    view.leader?;
    let Some(latched) = &view.seen.status.replacement else { return latch_failure(view) };
    let ordinal = names::ordinal(&view.cluster.name, &latched.member)?;
    if latched.member_id != 0 && member(view, latched).is_none() {
        return Some(set_aside(view, ordinal, latched));
    }
    if !is_still_so(view, ordinal, latched) {
        let message = format!("{} is not to be replaced any more", latched.member);
        return Some(Decision::latch(Kind::ReplaceMember, Latch::Replaced, message));
    }
    next(view, ordinal, latched).ok()
}

/// Planned last, so that a replacement that must wait holds nothing else.
pub fn report_held(view: &View) -> Option<Decision> {
    let latched = view.seen.status.replacement.as_ref()?;
    let ordinal = names::ordinal(&view.cluster.name, &latched.member)?;
    let why = next(view, ordinal, latched).err()?;
    Some(Decision::wait(Kind::ReplaceMember, ordinal, why))
}

/// The member that is to go; one that never joined, or was removed before, has the id 0.
fn member<'a>(view: &View<'a>, latched: &ReplacementStatus) -> Option<&'a Member> {
    view.members()
        .find(|(_, member)| i64::try_from(member.id) == Ok(latched.member_id))
        .map(|(_, member)| member)
}

fn is_still_so(view: &View, ordinal: u32, latched: &ReplacementStatus) -> bool {
    let id = view.member(ordinal).map_or(Ok(0), |member| i64::try_from(member.id));
    let volume = view.seen.volumes.get(&ordinal);
    ordinal < view.cluster.replicas
        && id == Ok(latched.member_id)
        && volume.is_some_and(|volume| volume.uid == latched.volume_uid)
        && cause(view, ordinal) == Some(&latched.reason)
}

fn latch_failure(view: &View) -> Option<Decision> {
    let (ordinal, reason) = (0..view.cluster.replicas).find_map(|o| Some((o, cause(view, o)?)))?;
    let latch = Latch::Replacing(ReplacementStatus {
        member: view.name(ordinal),
        member_id: i64::try_from(view.member(ordinal).map_or(0, |member| member.id)).ok()?,
        volume_uid: view.seen.volumes.get(&ordinal)?.uid.clone(),
        reason: reason.to_owned(),
        since: Time(view.seen.now),
    });
    let message = format!("{} cannot recover ({reason})", view.name(ordinal));
    Some(Decision::latch(Kind::ReplaceMember, latch, message))
}

/// Proof that the present disk will not be served again; silence is none (I7).
fn cause(view: &View, ordinal: u32) -> Option<&'static str> {
    let volume = view.seen.volumes.get(&ordinal)?;
    let heard =
        view.member(ordinal).and_then(|m| view.progress(m.id)).is_some_and(|progress| progress.active);
    if heard || view.seen.nodes.contains_key(&ordinal) {
        return None;
    }
    if volume.is_stranded() {
        return Some(HOST_GONE);
    }
    view.seen.pods.get(&ordinal)?.failing.map(|_| CRASH_LOOP)
}

/// The step, or what it waits for.
fn next(view: &View, ordinal: u32, latched: &ReplacementStatus) -> Result<Decision, String> {
    let name = view.name(ordinal);
    let after = SignedDuration::try_from(view.cluster.repair.after).unwrap_or(SignedDuration::MAX);
    if view.seen.now.duration_since(latched.since.0) < after {
        let patience = &view.cluster.spec.repair.after;
        return Err(format!("{name} is replaced if this lasts for {patience} ({})", latched.reason));
    }
    let pod = view.seen.pods.get(&ordinal);
    if latched.reason == CRASH_LOOP {
        if pod.and_then(|pod| pod.problem.as_deref()) != Some("CrashLoopBackOff") {
            return Err(format!("watching {name}, which was started once more"));
        }
        // Otherwise it may be the template that fails, and a new disk would fail the same way.
        if !pod.is_some_and(|pod| is_its_disk(view, pod)) {
            return Err(format!("holding the replacement of {name} until another member runs its template"));
        }
    }
    let Some((member, leader)) = member(view, latched).zip(view.leader) else {
        return Ok(set_aside(view, ordinal, latched));
    };
    if view.is_voter(member.id) && view.healthy_voters() < quorum(view.voter_count()) {
        return Err(format!("holding the replacement of {name} until a quorum of the others is healthy"));
    }
    let step = Step::Remove { leader: leader.ordinal, id: member.id, membership: leader.membership_index() };
    let message = format!("removing {name}, which cannot recover ({})", latched.reason);
    Ok(Decision::act(Kind::ReplaceMember, ordinal, message, step))
}

fn is_its_disk(view: &View, pod: &Pod) -> bool {
    pod.failing == Some(Failure::Disk)
        || view.voters().into_iter().any(|(ordinal, member)| {
            view.is_settled(ordinal, member)
                && view.seen.pods.get(&ordinal).is_some_and(|other| other.revision == pod.revision)
        })
}

/// The leader's membership lacks the disk's member, so its removal is committed (I6).
fn set_aside(view: &View, ordinal: u32, latched: &ReplacementStatus) -> Decision {
    if !view.is_agreed() {
        let message =
            format!("waiting until a majority of the others knows that {} is removed", latched.member);
        return Decision::wait(Kind::ReplaceMember, ordinal, message);
    }
    recycle(view, Kind::ReplaceMember, ordinal, &latched.volume_uid, &latched.reason).unwrap_or_else(|| {
        let message = format!("{} was removed and its volume replaced; it can rejoin", latched.member);
        Decision::latch(Kind::ReplaceMember, Latch::Replaced, message)
    })
}

/// The next step until the volume `uid` at `ordinal` is gone; `None` when it is.
pub(super) fn recycle(view: &View, kind: Kind, ordinal: u32, uid: &str, reason: &str) -> Option<Decision> {
    let volume = view.seen.volumes.get(&ordinal).filter(|volume| volume.uid == uid)?;
    let name = view.name(ordinal);
    let pod = view.seen.pods.get(&ordinal);
    if volume.terminating {
        return Some(match pod.filter(|pod| !pod.terminating) {
            // Kubernetes keeps a volume while a pod has it.
            Some(pod) => {
                let step = Step::DeletePod { ordinal, uid: pod.uid.clone() };
                Decision::act(kind, ordinal, format!("stopping {name}, which holds its old volume"), step)
            }
            None => Decision::wait(kind, ordinal, format!("waiting for the old volume of {name} to go")),
        });
    }
    let keep = match kept(view, volume) {
        Keep::Yes => Some(reason.to_owned()),
        Keep::NeedNot => None,
        Keep::MayNot => {
            let why = format!(
                "the volume of {name} is to be replaced ({reason}), but this operator may not keep it: grant it get and \
                 patch on persistentvolumes, delete the claim {} yourself, or set spec.repair.withoutQuarantine: true",
                names::volume(&view.cluster.name, ordinal)
            );
            return Some(Decision::blocked(kind, ordinal, Blocker::VolumeNotKept, why));
        }
    };
    let pod_uid = pod.map(|pod| pod.uid.clone());
    let step = Step::Recycle { ordinal, volume_uid: volume.uid.clone(), pod_uid, keep };
    Some(Decision::act(kind, ordinal, format!("setting the volume of {name} aside"), step))
}

enum Keep {
    Yes,
    NeedNot,
    MayNot,
}

fn kept(view: &View, volume: &Volume) -> Keep {
    match volume.backing {
        Backing::Unbound => Keep::NeedNot,
        Backing::Forbidden if view.cluster.repair.without_quarantine => Keep::NeedNot,
        Backing::Forbidden => Keep::MayNot,
        Backing::Unread | Backing::Bound { .. } | Backing::Uncertain => Keep::Yes,
    }
}
