//! `backup restore`: plan, check every object, and only then begin at the node.
//!
//! The store is read twice: once to check everything, once to send it. The node has no state of half a restore then, whatever is
//! damaged, and this process needs neither a disk for the base nor memory for more than a part of it.

mod compare;
mod plan;
mod push;

use std::time::{Duration, Instant};

use helios_archive::Drill;
use helios_proto::v1::{BaseHeader, Restored};
use serde_json::json;

use self::compare::{Comparison, comparison};
use self::plan::{Prepared, prepare};
use self::push::{Node, push};
use crate::Failure;
use crate::args::RestoreArgs;
use crate::documents::{Answer, size};
use crate::members::Connection;
use crate::time::{millis, rfc3339, wall_ms};

pub async fn restore(args: &RestoreArgs) -> Result<Answer, Failure> {
    let started = Instant::now();
    let (store, keyring) = args.store.open()?;
    let node = match (&args.to, &args.new_cluster_id) {
        (Some(address), Some(cluster_id)) if !args.dry_run => Some((connect(args, address)?, cluster_id)),
        _ => None,
    };
    let prepared = prepare(&store, &keyring, args).await?;
    let Some((node, cluster_id)) = node else { return Ok(planned(&prepared)) };
    if cluster_id == prepared.archive.history().cluster_id() {
        let reason = "--new-cluster-id has to be another id than that of the archive: the restored cluster is a new one";
        return Err(Failure::usage(reason));
    }
    let checked = started.elapsed();
    tracing::info!(took_ms = millis(checked), "every object that the restore needs was read and is intact");
    let restored = push(&node, cluster_id, args.fencing_token, &prepared).await?;
    let took = started.elapsed();
    tracing::info!(took_ms = millis(took - checked), "the node has the restored state");
    if args.record {
        record(&prepared, &restored, took).await;
    }
    Ok(done(&prepared, cluster_id, &restored, Took { all: took, check: checked }))
}

/// Records the restore as a drill of its base. The restore is complete, so a failure is only logged.
async fn record(prepared: &Prepared, restored: &Restored, took: Duration) {
    let base = prepared.plan.base;
    let matches = digest_matches(prepared.manifest.state_digest.as_deref(), &restored.base_digest);
    let compared = comparison(prepared, restored).and_then(|comparison| comparison.matches);
    let drill = Drill {
        at_ms: wall_ms(),
        index: base.index,
        term: base.term,
        is_restore: true,
        succeeded: ![matches, compared].contains(&Some(false)),
        took_ms: millis(took),
        detail: format!("{} keys at index {}", restored.keys, restored.index),
        compared_index: compared.and(prepared.compare.as_ref()).map(|base| base.index),
    };
    if let Err(error) = prepared.archive.report_drill(&drill).await {
        tracing::warn!(%error, "the restore is complete, but cannot be recorded in the store");
    }
}

fn connect(args: &RestoreArgs, address: &str) -> Result<Node, Failure> {
    let connection = Connection {
        ca_file: args.peer_ca_file.clone(),
        identity_files: args.peer_cert_file.clone().zip(args.peer_key_file.clone()),
        ..Connection::default()
    };
    let channel = connection.channel(address)?;
    Ok(Node { address: address.to_owned(), channel, expected_disk_id: args.expected_disk_id.clone() })
}

fn planned(prepared: &Prepared) -> Answer {
    let history = prepared.archive.history();
    let base = prepared.plan.base;
    let document = json!({
        "dryRun": true,
        "sourceClusterId": history.cluster_id(),
        "sourceIncarnation": history.incarnation(),
        "index": prepared.last_index,
        "nowMs": prepared.now_ms,
        "baseIndex": base.index,
        "baseTerm": base.term,
        "segments": prepared.plan.segments.len(),
        "entries": prepared.entries,
        "bytes": prepared.manifest.bytes,
        "keys": prepared.manifest.keys,
        "compareIndex": prepared.compare.as_ref().map(|base| base.index),
    });
    let text = format!(
        "cluster {}, incarnation {}, can be restored to index {} ({}): base {}-{} of {} and {} entries in {} segments; every object \
         was read and is intact\n",
        history.cluster_id(),
        history.incarnation(),
        prepared.last_index,
        rfc3339(prepared.now_ms),
        base.index,
        base.term,
        size(prepared.manifest.bytes),
        prepared.entries,
        prepared.plan.segments.len(),
    );
    Answer::new(document, text)
}

/// Duration of a restore, and of the check of all objects at its begin.
struct Took {
    all: Duration,
    check: Duration,
}

fn done(prepared: &Prepared, cluster_id: &str, restored: &Restored, took: Took) -> Answer {
    let history = prepared.archive.history();
    let base = prepared.plan.base;
    let matches = digest_matches(prepared.manifest.state_digest.as_deref(), &restored.base_digest);
    let comparison = comparison(prepared, restored);
    let mut document = json!({
        "sourceClusterId": history.cluster_id(),
        "sourceIncarnation": history.incarnation(),
        "clusterId": cluster_id,
        "index": restored.index,
        "nowMs": prepared.now_ms,
        "baseIndex": base.index,
        "baseTerm": base.term,
        "baseKeys": prepared.manifest.keys,
        "keys": restored.keys,
        "digestMatches": matches,
        "comparisonMatches": comparison.as_ref().and_then(|comparison| comparison.matches),
        "comparison": comparison.as_ref().map(|comparison| &comparison.text),
        "tookMs": millis(took.all),
        "checkMs": millis(took.check),
    });
    let checked = match matches {
        Some(true) => "; the state of the base has the digest of its manifest",
        Some(false) => "; THE STATE OF THE BASE HAS ANOTHER DIGEST THAN ITS MANIFEST",
        None => "",
    };
    let compared = comparison.as_ref().map(|comparison| format!("; {}", comparison.text)).unwrap_or_default();
    let text = format!(
        "cluster {cluster_id} has the state of {} at index {} ({}): {} keys, in {:.1} s{checked}{compared}\n",
        history.cluster_id(),
        restored.index,
        rfc3339(prepared.now_ms),
        restored.keys,
        took.all.as_secs_f64(),
    );
    let failure = problem(matches, comparison);
    if let Some(failure) = &failure {
        document["error"] = failure.document()["error"].clone();
    }
    let mut answer = Answer::new(document, text);
    answer.problem = failure.map(|failure| failure.message);
    answer
}

/// Why the restored state must not be trusted.
fn problem(digest_matches: Option<bool>, comparison: Option<Comparison>) -> Option<Failure> {
    if digest_matches == Some(false) {
        let text = "the restored state is not the one that was backed up: its digest differs; do not use this cluster";
        return Some(Failure::new("DigestDiffers", text));
    }
    let differs = comparison.filter(|comparison| comparison.matches == Some(false))?;
    let text = format!("{}; keep both bases and the log between them, and compare the members", differs.text);
    Some(Failure::new("MembersDiffer", text))
}

/// Whether the node computed the digest of the manifest; `None` if one of the two is not known.
fn digest_matches(manifest: Option<&str>, node: &str) -> Option<bool> {
    manifest.filter(|digest| !digest.is_empty() && !node.is_empty()).map(|digest| digest == node)
}

/// The header of the base for the node. The disk of the member that sent it is not known any more, and not needed.
fn header(prepared: &Prepared) -> BaseHeader {
    let manifest = &prepared.manifest;
    BaseHeader {
        cluster_id: manifest.cluster_id.clone(),
        incarnation: manifest.incarnation,
        member: manifest.member.clone(),
        disk_id: String::new(),
        index: manifest.index,
        term: manifest.term,
        now_ms: manifest.now_ms,
        keys: manifest.keys.unwrap_or_default(),
        version: manifest.snapshot_version,
        size_bytes: manifest.bytes,
        crc32c: manifest.snapshot_crc32c.unwrap_or_default(),
        state_digest: manifest.state_digest.clone().unwrap_or_default(),
        offset: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_that_is_not_the_recorded_one_or_that_of_another_member_is_a_problem_with_its_reason() {
        let compared = |matches| Some(Comparison { matches, text: "members".to_owned() });
        let reason = |digest, comparison| problem(digest, comparison).map(|failure| failure.reason);
        assert_eq!(reason(Some(true), compared(Some(true))), None);
        assert_eq!(reason(None, compared(None)), None);
        assert_eq!(reason(Some(true), compared(Some(false))), Some("MembersDiffer"));
        assert_eq!(reason(Some(false), compared(Some(true))), Some("DigestDiffers"));
    }

    #[test]
    fn digest_is_compared_only_if_both_are_known() {
        assert_eq!(digest_matches(Some("a"), "a"), Some(true));
        assert_eq!(digest_matches(Some("a"), "b"), Some(false));
        assert_eq!(
            [digest_matches(None, "a"), digest_matches(Some("a"), ""), digest_matches(Some(""), "")],
            [None; 3]
        );
    }
}
