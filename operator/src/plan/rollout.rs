//! Rollout of the present template: followers by lag, the leader last after one transfer.

use helios_proto::v1::Member;

use super::{Decision, Kind, Step, View, quorum};
use crate::observe::Pod;

/// A pod of an old template whose process does not run, or that is no member, can be replaced at any time; this is how a
/// template that was edited back takes effect.
pub fn replace_pod_that_does_not_run(view: &View) -> Option<Decision> {
    if view.cluster.rollout.paused {
        return None;
    }
    let known = view.leader.is_some();
    let (ordinal, pod) = view.outdated().into_iter().find(|(ordinal, pod)| {
        let stranger = known && view.member(*ordinal).is_none();
        !pod.ready && (!pod.running || stranger)
    })?;
    let message = format!("replacing {}, which runs no member", view.name(ordinal));
    Some(Decision::act(Kind::RollingUpdate, ordinal, message, delete(ordinal, pod)))
}

pub fn roll(view: &View) -> Option<Decision> {
    view.leader?;
    let outdated: Vec<(u32, &Pod, &Member)> =
        view.outdated().into_iter().filter_map(|(o, pod)| Some((o, pod, view.member(o)?))).collect();
    if outdated.is_empty() {
        return await_last(view);
    }
    if view.cluster.rollout.paused {
        return None;
    }
    let unsettled = view.voters().into_iter().find(|(ordinal, member)| !view.is_settled(*ordinal, member));
    if let Some((ordinal, member)) = unsettled {
        return Some(heal_or_wait(view, ordinal, member));
    }
    if let Some(watching) = await_last(view) {
        return Some(watching);
    }
    let followers = outdated.iter().filter(|(ordinal, ..)| !view.leads(*ordinal));
    let next = followers.max_by_key(|(ordinal, _, member)| (view.lag(*ordinal, member.id), *ordinal));
    match next {
        Some((ordinal, pod, _)) => Some(stop(view, *ordinal, pod)),
        None => outdated.first().map(|(ordinal, pod, _)| leader_last(view, *ordinal, pod)),
    }
}

/// Planned last, so that a held rollout holds nothing else.
pub fn report_held(view: &View) -> Option<Decision> {
    let outdated = view.outdated();
    let (first, _) = outdated.first()?;
    let names = outdated.iter().map(|(ordinal, _)| view.name(*ordinal)).collect::<Vec<_>>().join(", ");
    let message = format!("held by spec.updateStrategy.paused; still to change: {names}");
    view.cluster.rollout.paused.then(|| Decision::wait(Kind::RollingUpdate, *first, message))
}

/// A voter is not in service. If it is outdated and not needed for a quorum, the present template may repair it;
/// otherwise no other member is stopped until it is back.
fn heal_or_wait(view: &View, ordinal: u32, member: &Member) -> Decision {
    let name = view.name(ordinal);
    let healthy_others = view.healthy_voters() - usize::from(view.is_healthy(ordinal, member));
    let pod = view.seen.pods.get(&ordinal).filter(|pod| !pod.ready && !pod.terminating);
    match pod {
        Some(pod)
            if view.is_outdated(ordinal)
                && !view.leads(ordinal)
                && healthy_others >= quorum(view.voter_count()) =>
        {
            let message = format!("replacing {name}, which is not ready");
            Decision::act(Kind::RollingUpdate, ordinal, message, delete(ordinal, pod))
        }
        _ => Decision::wait(Kind::RollingUpdate, ordinal, recovery(view, ordinal)),
    }
}

fn leader_last(view: &View, ordinal: u32, pod: &Pod) -> Decision {
    let name = view.name(ordinal);
    if view.voter_count() == 1 {
        return stop(view, ordinal, pod);
    }
    let candidate = view.best_candidate(|ordinal| !view.is_outdated(ordinal));
    match candidate.and_then(|candidate| view.transfer_to(candidate)) {
        Some(step) => {
            Decision::act(Kind::RollingUpdate, ordinal, format!("moving leadership off {name}"), step)
        }
        None => Decision::wait(
            Kind::RollingUpdate,
            ordinal,
            format!("waiting for a caught-up member to take over from {name}"),
        ),
    }
}

/// All voters are settled here, so stopping one leaves a quorum, save with one or two voters.
fn stop(view: &View, ordinal: u32, pod: &Pod) -> Decision {
    let name = view.name(ordinal);
    let voters = view.voter_count();
    let message = if voters > 2 {
        format!("restarting {name}")
    } else {
        format!("restarting {name}; with {voters} voters writes wait meanwhile")
    };
    Decision::act(Kind::RollingUpdate, ordinal, message, Step::Evict { ordinal, uid: pod.uid.clone() })
}

/// The member that was restarted last is done when it has been healthy for a while, not when its pod was deleted, nor
/// when it was ready once.
fn await_last(view: &View) -> Option<Decision> {
    let latched = view.seen.status.operation.as_ref().filter(|o| o.kind == Kind::RollingUpdate)?;
    let target = latched.target.as_ref()?;
    let (ordinal, member) = view.voters().into_iter().find(|(_, member)| member.name == *target)?;
    if view.is_outdated(ordinal) {
        return None;
    }
    if !view.is_settled(ordinal, member) {
        return Some(Decision::wait(Kind::RollingUpdate, ordinal, recovery(view, ordinal)));
    }
    if view.is_stable(Kind::RollingUpdate, ordinal) {
        return None;
    }
    let message = format!("watching {target}, which is back, for {:?}", view.cluster.rollout.stable_for);
    Some(Decision::wait(Kind::RollingUpdate, ordinal, message).steady())
}

fn recovery(view: &View, ordinal: u32) -> String {
    let name = view.name(ordinal);
    match view.seen.pods.get(&ordinal).and_then(|pod| pod.problem.as_ref()) {
        Some(problem) => {
            format!("waiting for {name}: {problem}; correct the spec or write the old value back")
        }
        None => format!("waiting for {name} to be ready and caught up"),
    }
}

fn delete(ordinal: u32, pod: &Pod) -> Step {
    Step::DeletePod { ordinal, uid: pod.uid.clone() }
}
