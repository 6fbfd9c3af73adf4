//! Volumes: grown where they are, deleted when their member is gone and the spec does not keep them.

use super::{Decision, Kind, Step, View, replicas};

pub fn grow(view: &View) -> Option<Decision> {
    let wanted = view.cluster.volume.size_bytes;
    let (ordinal, volume) = view
        .seen
        .volumes
        .iter()
        .find(|(_, volume)| !volume.terminating && volume.requested_bytes < wanted)?;
    let size = view.cluster.spec.storage.size.clone();
    let message = format!("growing the volume of {} to {size}", view.name(*ordinal));
    let step = Step::GrowVolume { ordinal: *ordinal, uid: volume.uid.clone(), size };
    Some(Decision::act(Kind::ResizeVolume, *ordinal, message, step))
}

pub fn delete_volume_of_removed(view: &View) -> Option<Decision> {
    if view.cluster.volume.retain || !view.is_agreed() {
        return None;
    }
    let (ordinal, volume) = view.seen.volumes.range(replicas(view)..).find(|(ordinal, volume)| {
        !volume.terminating && !view.seen.pods.contains_key(ordinal) && view.member(**ordinal).is_none()
    })?;
    let message = format!("deleting the volume of the removed {}", view.name(*ordinal));
    let step = Step::DeleteVolume { ordinal: *ordinal, uid: volume.uid.clone() };
    Some(Decision::act(Kind::RemoveMember, *ordinal, message, step))
}
