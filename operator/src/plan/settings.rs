//! Settings that members take over while they run. Their kubelets hand the changed file on, within a minute or two, and each
//! member says which one it has; nothing is restarted, and nothing is to be done but to wait and to tell.

use helios_proto::v1::StatusResponse;

use super::{Decision, Kind, View};
use crate::build;

pub fn await_taken(view: &View) -> Option<Decision> {
    let tells = |node: &&StatusResponse| !node.config_file_hash.is_empty();
    view.seen.nodes.values().find(tells)?;
    // A file that cannot be written is told where it is to be written.
    let (wanted, of_template) =
        (build::file_hash(view.cluster).ok()?, build::restart_hash(view.cluster).ok()?);
    // While the template is about to change, members are restarted for it; which ones is seen afterwards.
    let workload = view.seen.workload.as_ref()?;
    workload.update_revision.as_ref().filter(|_| workload.config.as_ref() == Some(&of_template))?;
    // One of an earlier release does not tell, and one of an earlier template is restarted anyway.
    let behind = view.members().filter(|(ordinal, member)| {
        let has_another =
            view.seen.nodes.get(ordinal).filter(tells).is_some_and(|node| node.config_file_hash != wanted);
        has_another && view.is_healthy(*ordinal, member) && !view.is_outdated(*ordinal)
    });
    let names: Vec<_> = behind.map(|(_, member)| member.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let message =
        format!("waiting for {} to take changed settings over, without a restart", names.join(", "));
    Some(Decision { target: None, ..Decision::wait(Kind::ApplySettings, 0, message) })
}
