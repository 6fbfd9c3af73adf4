//! Settings that members reload while they run. Their kubelets deliver the changed file within a minute or two, and each
//! member reports the digest of its file; no member is restarted, and the operator waits and reports.

use helios_proto::v1::StatusResponse;

use super::{Decision, Kind, View};
use crate::build;

pub fn await_reload(view: &View) -> Option<Decision> {
    let reports = |node: &&StatusResponse| !node.config_file_hash.is_empty();
    view.seen.nodes.values().find(reports)?;
    // `build` reports a file that cannot be written.
    let (wanted, of_template) =
        (build::file_hash(view.cluster).ok()?, build::restart_hash(view.cluster).ok()?);
    // While the template is about to change, members are restarted for it; which ones is seen afterwards.
    let workload = view.seen.workload.as_ref()?;
    workload.update_revision.as_ref().filter(|_| workload.config.as_ref() == Some(&of_template))?;
    // A member of an earlier release reports no digest, and one of an earlier template is restarted anyway.
    let behind = view.members().filter(|(ordinal, member)| {
        let has_another =
            view.seen.nodes.get(ordinal).filter(reports).is_some_and(|node| node.config_file_hash != wanted);
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
