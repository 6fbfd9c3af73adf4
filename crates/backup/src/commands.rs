//! `backup create`, `list`, `verify` and `delete`. `restore` has its own module.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use helios_archive::verify::{Report, verify as verify_history};
use helios_archive::{Archive, ArchiveError, BaseId, Drill, Object};
use serde_json::{Value, json};

use crate::args::{BackupCommand, CreateArgs, DeleteArgs, ListArgs, VerifyArgs};
use crate::choose::{for_base, history_of};
use crate::documents::{Answer, size, table};
use crate::inventory::{Base, Inventory};
use crate::select::{Found, ensure_origin, select};
use crate::take::{TakeError, take};
use crate::time::{rfc3339, wall_ms};
use crate::{Failure, restore, schedule};

/// Members that are tried for one backup.
const MEMBERS: usize = 3;

/// Runs a command.
///
/// # Errors
/// When it fails.
pub async fn run(command: &BackupCommand) -> Result<Answer, Failure> {
    match command {
        BackupCommand::Create(args) => create(args).await,
        BackupCommand::List(args) => list(args).await,
        BackupCommand::Verify(args) => verify(args).await,
        BackupCommand::Delete(args) => delete(args).await,
        BackupCommand::Restore(args) => restore::restore(args).await,
        BackupCommand::Schedule(args) => Ok(schedule::units(args)),
    }
}

async fn create(args: &CreateArgs) -> Result<Answer, Failure> {
    let (store, keyring) = args.store.open()?;
    let members = args.members.connect()?;
    let mut avoid = BTreeSet::new();
    let mut last = None;
    for _ in 0..MEMBERS {
        let answers = members.survey().await;
        let Some(history) = history_of(&answers) else {
            let reasons = answers.iter().filter_map(|answer| answer.status.as_ref().err()).cloned();
            let reasons = reasons.collect::<Vec<_>>().join("; ");
            return Err(
                last.unwrap_or_else(|| Failure::new("NoMember", format!("no member answers: {reasons}")))
            );
        };
        let archive = Archive::new(store.clone(), history, keyring.clone());
        // Before the first listing: some servers create the bucket with the first object.
        ensure_origin(&archive, &args.name, &args.cluster_namespace, None).await?;
        let before = member_of_newest_base(&archive).await?;
        let member = for_base(&answers, archive.history(), args.from, &avoid, before.as_deref());
        let Some(member) = member.and_then(|address| members.get(&address)) else { break };
        if !avoid.insert(member.address().to_owned()) {
            break;
        }
        match take(&archive, member, args.max_bytes_per_second, |_| ()).await {
            Ok(manifest) => return Ok(created(&archive, &Base::from(&manifest))),
            Err(error @ TakeError::Member(_)) => last = Some(error.into()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last
        .unwrap_or_else(|| Failure::new("NoMember", "no member can be read; wait until one is in service")))
}

async fn member_of_newest_base(archive: &Archive) -> Result<Option<String>, ArchiveError> {
    let Some(base) = archive.newest_base().await? else { return Ok(None) };
    match archive.manifest(base).await {
        Ok(manifest) => Ok(Some(manifest.member)),
        // It is only a preference; `verify` reports the damage.
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}

fn created(archive: &Archive, base: &Base) -> Answer {
    let history = archive.history();
    let mut document = base.document();
    document["clusterId"] = json!(history.cluster_id());
    document["incarnation"] = json!(history.incarnation());
    document["sha256"] = json!(base.sha256);
    document["keyId"] = json!(archive.keyring().current());
    let keys = base.keys.map_or_else(|| "?".to_owned(), |keys| keys.to_string());
    let text = format!(
        "base {} of cluster {} from {}: {keys} keys, {} ({} in the store), all writes until {}\n",
        shown(base.id),
        history.cluster_id(),
        base.member,
        size(base.bytes),
        size(base.stored_bytes),
        rfc3339(base.now_ms),
    );
    Answer::new(document, text)
}

/// A base as users write it.
fn shown(id: BaseId) -> String {
    format!("{}-{}", id.index, id.term)
}

async fn list(args: &ListArgs) -> Result<Answer, Failure> {
    let (store, keyring) = args.store.open()?;
    let found = select(&store, &keyring, &args.history).await?;
    let mut documents = Vec::new();
    let mut text = String::new();
    for Found { archive, origin } in &found {
        let inventory = Inventory::load(archive, &Inventory::default()).await?;
        let verified = archive.verified_bases(&inventory.catalog).await?;
        let history = archive.history();
        let deleted = inventory.catalog.bases.iter().filter(|(_, base)| base.is_deleted);
        let deleted: Vec<_> = deleted.map(|(id, _)| shown(*id)).collect();
        let base = |base: &Base| {
            let mut document = base.document();
            document["base"] = json!(shown(base.id));
            document["verified"] = json!(verified.contains(&base.id));
            document
        };
        documents.push(json!({
            "clusterId": history.cluster_id(),
            "incarnation": history.incarnation(),
            "name": origin.as_ref().map(|origin| &origin.name),
            "namespace": origin.as_ref().map(|origin| &origin.namespace),
            "parent": origin.as_ref().map(|origin| &origin.parent),
            "bases": inventory.bases.values().map(base).collect::<Vec<_>>(),
            "damagedBases": inventory.damaged.iter().map(|(id, reason)| json!({"base": shown(*id), "reason": reason})).collect::<Vec<_>>(),
            "deletedBases": deleted,
            "recoverable": inventory.recoverable(),
            "gaps": inventory.gaps(),
            "bytes": inventory.catalog.stored_bytes(),
        }));
        text += &listed(archive, origin.as_ref().map(|origin| origin.name.as_str()), &inventory);
    }
    if found.is_empty() {
        text.push_str("the store has no archive\n");
    }
    Ok(Answer::new(json!({"histories": documents}), text))
}

fn listed(archive: &Archive, name: Option<&str>, inventory: &Inventory) -> String {
    let history = archive.history();
    let name = name.filter(|name| !name.is_empty()).unwrap_or("-");
    let (id, incarnation) = (history.cluster_id(), history.incarnation());
    let stored = size(inventory.catalog.stored_bytes());
    let mut text = format!("cluster {name}, id {id}, incarnation {incarnation}, {stored}\n");
    let time = |ms: &Value| ms.as_u64().map_or_else(|| "?".to_owned(), rfc3339);
    for range in inventory.recoverable() {
        let (from, to) = (time(&range["fromMs"]), time(&range["toMs"]));
        // Writing to a string does not fail.
        _ = writeln!(
            text,
            "  any moment from {from} to {to}, index {} to {}",
            range["fromIndex"], range["toIndex"]
        );
    }
    for gap in inventory.gaps() {
        _ = writeln!(text, "  gap of the log: index {} to {}", gap["from"], gap["to"]);
    }
    for (base, reason) in &inventory.damaged {
        _ = writeln!(text, "  base {} is damaged: {reason}", shown(*base));
    }
    let rows: Vec<_> = inventory.bases.values().map(row).collect();
    let bases = table(["BASE", "TIME", "KEYS", "SIZE", "STORED", "MEMBER"], &rows);
    text + &bases.lines().map(|line| format!("  {line}\n")).collect::<String>()
}

fn row(base: &Base) -> [String; 6] {
    let keys = base.keys.map_or_else(|| "-".to_owned(), |keys| keys.to_string());
    let (bytes, stored) = (size(base.bytes), size(base.stored_bytes));
    [shown(base.id), rfc3339(base.now_ms), keys, bytes, stored, base.member.clone()]
}

async fn verify(args: &VerifyArgs) -> Result<Answer, Failure> {
    let (store, keyring) = args.store.open()?;
    let mut documents = Vec::new();
    let mut text = String::new();
    let mut damages = 0;
    for Found { archive, .. } in select(&store, &keyring, &args.history).await? {
        let started = wall_ms();
        let report = verify_history(&archive, &archive.catalog().await?).await?;
        if args.record {
            record(&archive, &report, started).await?;
        }
        damages += report.damages.len();
        let history = archive.history();
        _ = writeln!(
            text,
            "cluster {}, incarnation {}: {} bases and {} segments are intact, {} read",
            history.cluster_id(),
            history.incarnation(),
            report.bases.len(),
            report.segments,
            size(report.bytes),
        );
        report
            .damages
            .iter()
            .for_each(|damage| _ = writeln!(text, "  DAMAGED {}: {}", damage.object, damage.reason));
        documents.push(verified(&archive, &report));
    }
    let mut answer = Answer::new(json!({"intact": damages == 0, "histories": documents}), text);
    let what = "objects are damaged or missing; take a backup now, and restore only what does not need them";
    answer.problem = (damages > 0).then(|| format!("{damages} {what}"));
    Ok(answer)
}

fn verified(archive: &Archive, report: &Report) -> Value {
    let damage = |object: &String, reason: &String| json!({"object": object, "reason": reason});
    json!({
        "clusterId": archive.history().cluster_id(),
        "incarnation": archive.history().incarnation(),
        "bases": report.bases.iter().map(|base| shown(*base)).collect::<Vec<_>>(),
        "segments": report.segments,
        "bytes": report.bytes,
        "damages": report.damages.iter().map(|found| damage(&found.object, &found.reason)).collect::<Vec<_>>(),
    })
}

/// Records that the newest intact base was read, for retention.
async fn record(archive: &Archive, report: &Report, started: u64) -> Result<(), ArchiveError> {
    let Some(base) = report.bases.iter().max() else { return Ok(()) };
    let now = wall_ms();
    let drill = Drill {
        at_ms: now,
        index: base.index,
        term: base.term,
        is_restore: false,
        succeeded: true,
        took_ms: now.saturating_sub(started),
        detail: "every byte was read and checked".to_owned(),
        compared_index: None,
    };
    archive.report_drill(&drill).await
}

async fn delete(args: &DeleteArgs) -> Result<Answer, Failure> {
    let (store, keyring) = args.store.open()?;
    let mut holding = Vec::new();
    for found in select(&store, &keyring, &args.history).await? {
        if found.archive.catalog().await?.bases.contains_key(&args.base) {
            holding.push(found);
        }
    }
    let base = shown(args.base);
    let [Found { archive, .. }] = &*holding else {
        let text = match holding.len() {
            0 => format!("the store has no base {base}; `list` shows those that it has"),
            count => format!("{count} clusters have a base {base}; give --cluster-id and --incarnation"),
        };
        return Err(Failure::new("NoSuchBase", text));
    };
    archive.mark_deleted(args.base, wall_ms()).await?;
    let history = archive.history();
    let document = json!({
        "clusterId": history.cluster_id(),
        "incarnation": history.incarnation(),
        "base": base,
        "deleted": true,
    });
    let object = archive.name(Object::Deleted(args.base));
    let text = format!(
        "base {base} is deleted: it is restored no more. The archiver removes its objects after an hour or more; until then, \
         removing {object} from the store takes the deletion back.\n"
    );
    Ok(Answer::new(document, text))
}
