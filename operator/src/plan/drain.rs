//! A host that is being emptied: its leader leads from elsewhere before its pod is evicted.

use super::{Decision, Kind, View};

/// Nothing is asked of a cluster where nobody else could lead: the node hands over by itself when it
/// is stopped.
pub fn lead_away(view: &View) -> Option<Decision> {
    let leader = view.leader?;
    if !view.is_on_cordoned_host(leader.ordinal) {
        return None;
    }
    let newer = !view.is_outdated(leader.ordinal);
    let heir = view.best_heir(|ordinal| {
        !view.is_on_cordoned_host(ordinal)
            && ordinal < view.cluster.replicas
            && !(newer && view.is_outdated(ordinal))
    })?;
    let message = format!("moving leadership off {}, whose host is cordoned", view.name(leader.ordinal));
    Some(Decision::act(Kind::MoveLeader, leader.ordinal, message, view.transfer_to(heir)?))
}
