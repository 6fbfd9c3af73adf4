//! Drain of a host: leadership moves to another host before the leader's pod is evicted.

use super::{Decision, Kind, View};

/// No step when no other member could lead: the node hands leadership over when it is stopped.
pub fn move_leader_off_cordoned_host(view: &View) -> Option<Decision> {
    let leader = view.leader?;
    if !view.is_on_cordoned_host(leader.ordinal) {
        return None;
    }
    let newer = !view.is_outdated(leader.ordinal);
    let candidate = view.best_candidate(|ordinal| {
        !view.is_on_cordoned_host(ordinal)
            && ordinal < view.cluster.replicas
            && !(newer && view.is_outdated(ordinal))
    })?;
    let message = format!("moving leadership off {}, whose host is cordoned", view.name(leader.ordinal));
    Some(Decision::act(Kind::MoveLeader, leader.ordinal, message, view.transfer_to(candidate)?))
}
