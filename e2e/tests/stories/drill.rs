//! A drill restores the backup and is recorded, and compares bases of two members; after a byte of the backup has changed in the store,
//! the next drill fails, and after another backup the one after it passes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use helios_crds::{DRILL_LABEL, DrillResult, DrillsStatus, HeliosBackup, HeliosScheduledBackup};
use helios_e2e::cluster::{Cluster, PATIENCE};
use helios_e2e::kubectl::Kubectl;
use helios_e2e::operator::Operator;
use helios_e2e::story::Story;
use serde_json::{Value, json};

use super::backup::await_condition;
use super::store::{self, STORE};

const NAME: &str = "nightly";
const OBJECT: &str = "hsb/nightly";
const METRIC: &str = "helios_operator_cluster_drill_failed";
/// A drill waits for the minute of its schedule, a pod, a volume, and two Jobs.
const DRILL: Duration = Duration::from_secs(300);

pub fn run(story: &Story) -> anyhow::Result<()> {
    let kubectl = &story.kubectl;
    let cluster = story.cluster(json!({"replicas": 3, "backup": {"store": STORE}}))?;
    store::create(kubectl)?;
    let writer = story.writer(&cluster)?;
    await_condition(kubectl, &cluster, "Archiving")?;
    await_condition(kubectl, &cluster, "BackupHealthy")?;
    story.part_without_failure("backups turned on", &writer)?;
    take_backup(kubectl, &cluster, "first")?;
    story.part_without_failure("backup", &writer)?;

    create_schedule(story, &cluster)?;
    let passed = await_drill(kubectl, None)?;
    story.part_without_failure("drill", &writer)?;
    ensure!(passed.passed && passed.digest_matches == Some(true), "{passed:?}");
    ensure!(passed.keys > Some(0), "{passed:?}");
    let restored = passed.restore_seconds.context("no duration")?;
    story.took("restore by a drill", Duration::from_secs(restored.unsigned_abs()));
    await_condition(kubectl, &cluster, "RestoreVerified")?;
    let backup = cluster.resource()?.status.unwrap_or_default().backup.unwrap_or_default();
    let verified = backup.last_verified_restore.context("no verified restore in the status")?;
    ensure!(Some(verified.index) >= passed.index && verified.drill == NAME, "{verified:?}");
    await_metric(story, &cluster, 0.0)?;
    let first: HeliosBackup = kubectl.get("hbk/first")?;
    let is_verified = first.status.is_some_and(|status| status.verified.is_some());
    story.say(&format!("{passed:?}; the HeliosBackup is verified: {is_verified}"));
    let compared = await_compared(kubectl)?;
    story.part_without_failure("drill that compares", &writer)?;
    story.say(&compared);
    story.nothing_is_lost(writer)?;

    suspend(kubectl, true)?;
    await_rest(kubectl)?;
    let before = drills(kubectl)?.last;
    flip_a_byte_of_each_base(&store::directory(kubectl)?)?;
    suspend(kubectl, false)?;
    let failed = await_drill(kubectl, before.as_ref())?;
    ensure!(!failed.passed && failed.reason.as_deref() == Some("RestoreFailed"), "{failed:?}");
    ensure!(failed.message.as_ref().is_some_and(|message| message.contains("base/")), "{failed:?}");
    for object in [OBJECT, &cluster.object()] {
        kubectl.wait(object, "condition=RestoreVerified=False", PATIENCE)?;
    }
    await_metric(story, &cluster, 1.0)?;
    story.say(&format!("after a changed byte: {}", failed.message.unwrap_or_default()));

    take_backup(kubectl, &cluster, "second")?;
    let healed = await_passed(kubectl)?;
    story.say(&format!("after another backup: {:?}", healed.base));
    await_metric(story, &cluster, 0.0)?;
    suspend(kubectl, true)?;
    await_rest(kubectl)
}

fn take_backup(kubectl: &Kubectl, cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    kubectl.apply(&json!({
        "apiVersion": "heliosdb.io/v1alpha1", "kind": "HeliosBackup",
        "metadata": {"name": name}, "spec": {"cluster": cluster.name},
    }))?;
    Ok(kubectl.wait(&format!("hbk/{name}"), "jsonpath={.status.phase}=Completed", PATIENCE)?)
}

/// Creates the HeliosScheduledBackup, whose drills use the restored cluster as a client does.
fn create_schedule(story: &Story, cluster: &Cluster) -> anyhow::Result<()> {
    let command = ["/helios-writer", "set-get", "--addr", "$(REDIS_URL)"];
    let job = json!({"image": story.images.writer, "command": command});
    story.kubectl.apply(&json!({
        "apiVersion": "heliosdb.io/v1alpha1", "kind": "HeliosScheduledBackup", "metadata": {"name": NAME},
        "spec": {
            "schedule": "0 0 1 1 *", "backup": {"cluster": cluster.name},
            "drill": {"schedule": "* * * * *", "deadline": "5m", "job": job},
        },
    }))?;
    Ok(())
}

fn suspend(kubectl: &Kubectl, suspend: bool) -> anyhow::Result<()> {
    let patch = json!({"spec": {"suspend": suspend}}).to_string();
    kubectl.run(&["patch", OBJECT, "--type=merge", "--patch", &patch])?;
    Ok(())
}

fn drills(kubectl: &Kubectl) -> anyhow::Result<DrillsStatus> {
    let scheduled: HeliosScheduledBackup = kubectl.get(OBJECT)?;
    Ok(scheduled.status.and_then(|status| status.drill).unwrap_or_default())
}

fn await_result(
    kubectl: &Kubectl,
    what: &str,
    is_it: impl Fn(&DrillResult) -> bool,
) -> anyhow::Result<DrillResult> {
    let began = Instant::now();
    loop {
        let drills = drills(kubectl)?;
        if let Some(last) = drills.last.clone().filter(&is_it) {
            return Ok(last);
        }
        ensure!(began.elapsed() < DRILL, "{what}: {drills:?}");
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// Waits for the end of a drill after `before`.
fn await_drill(kubectl: &Kubectl, before: Option<&DrillResult>) -> anyhow::Result<DrillResult> {
    await_result(kubectl, "no drill has ended", |last| {
        before.is_none_or(|before| last.finished_at.0 > before.finished_at.0)
    })
}

fn await_passed(kubectl: &Kubectl) -> anyhow::Result<DrillResult> {
    await_result(kubectl, "no drill passes again", |last| last.passed)
}

/// Waits for a drill that compared bases of two members.
fn await_compared(kubectl: &Kubectl) -> anyhow::Result<String> {
    let compared = await_result(kubectl, "no drill has compared two bases", |last| {
        last.message.as_ref().is_some_and(|message| message.contains("yields the state of base"))
    })?;
    let text = compared.message.unwrap_or_default();
    let members: Vec<_> =
        text.split("of member ").skip(1).filter_map(|rest| rest.split(' ').next()).collect();
    ensure!(compared.passed && members.len() == 2 && members[0] != members[1], "{text}");
    Ok(text)
}

/// Waits until no drill runs and nothing of one is left.
fn await_rest(kubectl: &Kubectl) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let left: Vec<Value> = kubectl.list("hc", DRILL_LABEL)?;
        if left.is_empty() && drills(kubectl)?.running.is_none() {
            return Ok(());
        }
        ensure!(began.elapsed() < DRILL, "{} clusters of drills are left", left.len());
        std::thread::sleep(Duration::from_secs(2));
    }
}

fn await_metric(story: &Story, cluster: &Cluster, wanted: f64) -> anyhow::Result<()> {
    let (began, operator) = (Instant::now(), Operator::installed()?);
    loop {
        let found = operator.metric(METRIC, &story.kubectl.namespace, &cluster.name)?;
        if found == Some(wanted) {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{METRIC} is {found:?} and not {wanted}");
        std::thread::sleep(Duration::from_secs(2));
    }
}

fn flip_a_byte_of_each_base(store: &Path) -> anyhow::Result<()> {
    let parts: Vec<_> = files(store)?.into_iter().filter(|path| path.ends_with("0000.part")).collect();
    ensure!(!parts.is_empty(), "there is no base in {}", store.display());
    for part in parts {
        let mut bytes = std::fs::read(&part).with_context(|| part.display().to_string())?;
        let middle = bytes.len() / 2;
        *bytes.get_mut(middle).context("an empty part")? ^= 1;
        std::fs::write(&part, bytes).with_context(|| part.display().to_string())?;
    }
    Ok(())
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}
