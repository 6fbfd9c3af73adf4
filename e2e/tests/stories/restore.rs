//! A prefix is deleted by mistake. The cluster is restored to the second before, in another namespace: the store is all that is
//! left of the source, the operator has never seen it, and it is killed at each step of the restore.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use helios_e2e::cluster::{Cluster, PATIENCE, eventually};
use helios_e2e::forward::Forward;
use helios_e2e::kubectl::Kubectl;
use helios_e2e::operator::Operator;
use helios_e2e::story::{SMALL, Story};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::backup::await_condition;
use super::store::{self, Elsewhere, STORE};

/// Keys under the prefix that is deleted.
const ORDERS: usize = 200;
/// Time for which single keys are written before the mistake, longer than the second that the restore goes back.
const TICKS: Duration = Duration::from_secs(4);
const BACK_MS: i64 = 1_000;

/// A key and the times before the write and after its answer. The log's clock has milliseconds.
struct Tick {
    key: String,
    before_ms: i64,
    after_ms: i64,
}

/// The writes to the source, in this order: orders, ticks, the deletion of all orders, one more key.
struct Written {
    ticks: Vec<Tick>,
    /// Time before the deletion.
    mistake_ms: i64,
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

pub fn run(story: &Story) -> anyhow::Result<()> {
    let operator = Operator::installed()?;
    let source = story.cluster(json!({"replicas": 1, "backup": {"store": STORE}}))?;
    store::create(&story.kubectl)?;
    await_condition(&story.kubectl, &source, "Archiving")?;
    await_condition(&story.kubectl, &source, "BackupHealthy")?;
    let written = write_and_delete(&source)?;
    let (leader, _) = source.leader()?;
    let last = store::metric(&story.kubectl, &leader, "helios_raft_proposals_applied_total")?;
    store::await_archived(&story.kubectl, &source, last)?;

    let elsewhere = Elsewhere::create(story)?;
    story.kubectl.run(&["delete", &source.object(), &format!("hbs/{STORE}")])?;
    eventually(PATIENCE, || {
        let left = story.kubectl.list::<Value>("pods", "")?.len();
        ensure!(left == 0, "{left} pods of the source are left");
        Ok(())
    })?;
    operator.kill()?;
    operator.await_available()?;

    let target = Timestamp::from_millisecond(written.mistake_ms - BACK_MS)?;
    let restored = restore(story, &elsewhere.kubectl, &source.name, target, &operator)?;
    is_the_state_of(story, &restored, &written, target)?;
    elsewhere.delete()
}

fn write_and_delete(source: &Cluster) -> anyhow::Result<Written> {
    let (leader, _) = source.leader()?;
    let client = source.connect(&leader)?;
    let orders: Vec<String> = (0..ORDERS).flat_map(|number| [order(number), number.to_string()]).collect();
    let () = client.query(&words("MSET", &orders))?;
    let (began, mut ticks) = (Instant::now(), Vec::new());
    while began.elapsed() < TICKS {
        let key = format!("tick:{}", ticks.len());
        let before_ms = now_ms();
        let () = client.query(&["SET", &key, "1"])?;
        ticks.push(Tick { key, before_ms, after_ms: now_ms() });
    }
    let mistake_ms = now_ms();
    let found: Vec<String> = client.query(&["KEYS", "order:*"])?;
    let deleted: usize = client.query(&words("DEL", &found))?;
    ensure!(deleted == ORDERS, "{deleted} of {ORDERS} keys were deleted");
    let () = client.query(&["SET", "late", "1"])?;
    Ok(Written { ticks, mistake_ms })
}

fn order(number: usize) -> String {
    format!("order:{number}")
}

/// Restores into three members, and kills the operator after each step that the status or a member shows.
fn restore(
    story: &Story,
    there: &Kubectl,
    source: &str,
    target: Timestamp,
    operator: &Operator,
) -> anyhow::Result<Cluster> {
    let recovery = json!({
        "store": STORE, "cluster": source, "clusterNamespace": story.kubectl.namespace,
        "target": {"time": target.to_string()},
    });
    let spec = json!({"replicas": 3, "storage": {"size": SMALL}, "bootstrap": {"recovery": recovery}});
    let cluster = Cluster::named(there, "restored");
    let began = Instant::now();
    there.apply(&cluster.manifest(spec))?;

    cluster.await_status("{.status.clusterId}")?;
    operator.kill()?;
    let job: Value = eventually(PATIENCE, || Ok(there.get("job/restored-restore")?))?;
    operator.kill()?;
    cluster.await_status("{.status.recovery.source.phase}=Completed")?;
    operator.kill()?;
    cluster.await_member_count(2)?;
    operator.kill()?;
    operator.await_available()?;
    cluster.await_members(3)?;
    cluster.await_agreement_on(3)?;
    story.took("restore with four operators killed", began.elapsed());

    let status = cluster.resource()?.status.unwrap_or_default();
    let found = status.recovery.and_then(|recovery| recovery.source).context("no source in the status")?;
    ensure!(found.digest_matches == Some(true), "{found:?}");
    ensure!(found.as_of.as_ref().is_some_and(|time| time.0 <= target), "{found:?}, and not up to {target}");
    if let Ok(after) = there.get::<Value>("job/restored-restore") {
        let uid = |job: &Value| job["metadata"]["uid"].clone();
        ensure!(uid(&after) == uid(&job), "a second Job restored: {after}");
    }
    ensure!(cluster.member_ids()? == [1, 2, 3], "members were added twice: {:?}", cluster.member_ids()?);
    Ok(cluster)
}

fn is_the_state_of(
    story: &Story,
    restored: &Cluster,
    written: &Written,
    target: Timestamp,
) -> anyhow::Result<()> {
    let (leader, _) = restored.leader()?;
    let client = restored.connect(&leader)?;
    let keys: Vec<String> = (0..ORDERS).map(order).collect();
    let orders = values(&client, &keys)?;
    let expected: Vec<_> = (0..ORDERS).map(|number| Some(number.to_string())).collect();
    ensure!(orders == expected, "the deleted keys have these values: {orders:?}");

    let target_ms = target.as_millisecond();
    let keys: Vec<String> = written.ticks.iter().map(|tick| tick.key.clone()).collect();
    let (mut there, mut gone) = (0, 0);
    for (tick, value) in written.ticks.iter().zip(values(&client, &keys)?) {
        let Tick { key, before_ms, after_ms } = tick;
        let is_right = if value.is_some() { *before_ms <= target_ms } else { *after_ms > target_ms };
        ensure!(is_right, "{key} of {before_ms} to {after_ms} is {value:?}, restored to {target_ms}");
        if value.is_some() { there += 1 } else { gone += 1 }
    }
    ensure!(there > 0 && gone > 0, "{there} ticks before {target} and {gone} after it prove nothing");
    let size: usize = client.query(&["DBSIZE"])?;
    ensure!(size == ORDERS + there, "{size} keys, of which {ORDERS} orders and {there} ticks");
    story.say(&format!("{ORDERS} deleted keys and {there} of {} others are those of {target}", there + gone));
    Ok(())
}

fn values(client: &Forward, keys: &[String]) -> anyhow::Result<Vec<Option<String>>> {
    client.query(&words("MGET", keys))
}

fn words<'a>(command: &'a str, arguments: &'a [String]) -> Vec<&'a str> {
    [command].into_iter().chain(arguments.iter().map(String::as_str)).collect()
}
