//! Typical use of `heliosctl` while clients write: status, transfer, restart, pause, support bundle.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use helios_e2e::cluster::Cluster;
use helios_e2e::heliosctl::Heliosctl;
use helios_e2e::operator::Operator;
use helios_e2e::story::Story;
use serde_json::json;

const SECRET: &str = "hunter2hunter2";

pub fn run(story: &Story) -> anyhow::Result<()> {
    let ctl = Heliosctl::new(&story.kubectl)?;
    let none = ctl.ask(&["status"])?;
    ensure!(none.code == 2 && none.err.contains("there is no HeliosCluster in namespace"), "{none:?}");

    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    doctor_finds_an_older_definition(story, &ctl)?;
    status_and_plan_are_printed(&ctl, &cluster)?;
    keys_and_logs(&ctl)?;
    report_has_no_secrets(story, &ctl)?;
    logs_show_the_new_leader(&ctl, &cluster)?;
    story.part_without_failure("transfer", &writer)?;
    paused_operator_changes_nothing(&ctl, &cluster)?;
    restart(&ctl, &cluster)?;
    story.part_without_failure("restart --wait", &writer)?;
    missing_member_changes_the_exit_code(story, &ctl, &cluster)?;
    story.part_without_failure("a member is away", &writer)?;
    story.nothing_is_lost(writer)
}

/// An older CRD is detected; upgrading the chart installs the present one.
fn doctor_finds_an_older_definition(story: &Story, ctl: &Heliosctl) -> anyhow::Result<()> {
    ctl.done(&["doctor"])?;
    Operator::install_older_definition("restartAt")?;
    let (found, refused) = (ctl.ask(&["doctor"]), ctl.ask(&["restart"]));
    Operator::install(&story.images, "demo", &Story::namespace("install_and_apply"))?;
    let (found, refused) = (found?, refused?);
    ensure!(
        found.code == 1 && found.out.contains("without spec.restartAt"),
        "an old definition passed: {found:?}"
    );
    let is_named =
        refused.err.contains("unknown field \"spec.restartAt\"; the installed CRD is of another release");
    ensure!(refused.code == 1 && is_named, "a field was dropped silently: {refused:?}");
    ctl.done(&["doctor"]).context("after the chart's upgrade")?;
    Ok(())
}

fn status_and_plan_are_printed(ctl: &Heliosctl, cluster: &Cluster) -> anyhow::Result<()> {
    let text = ctl.done(&["status"])?;
    ensure!(text.ends_with("\nHEALTHY: 3 of 3 members in service, 1 may fail\n"), "{text}");
    let (leader, _) = cluster.leader()?;
    let status: serde_json::Value = serde_json::from_str(&ctl.done(&["status", "demo", "-o", "json"])?)?;
    ensure!(status["leader"] == leader.as_str() && status["verdict"]["health"] == "healthy", "{status}");
    let plugin = ctl.ask_as_plugin(&["members"])?;
    ensure!(plugin.code == 0 && plugin.out.lines().count() == 4, "kubectl helios members: {plugin:?}");
    let plan = ctl.done(&["plan"])?;
    ensure!(plan.starts_with("demo: nothing is under way\n"), "{plan}");
    Ok(())
}

fn keys_and_logs(ctl: &Heliosctl) -> anyhow::Result<()> {
    ctl.done(&["set", "greeting", "hello"])?;
    ensure!(ctl.done(&["get", "greeting"])? == "hello\n", "the key did not come back");
    ensure!(ctl.done(&["snapshot", "demo-1"])?.contains("snapshot at index"), "no snapshot");
    let logs = ctl.done(&["logs", "demo", "--tail", "3"])?;
    for member in ["demo-0 | ", "demo-1 | ", "demo-2 | "] {
        ensure!(logs.contains(member), "no line of {member:?}: {logs}");
    }
    Ok(())
}

fn report_has_no_secrets(story: &Story, ctl: &Heliosctl) -> anyhow::Result<()> {
    let password = Cluster::named(&story.kubectl, "demo").secret("demo-auth")?.remove("password");
    let password = password.context("the cluster has a password")?;
    story.kubectl.run(&["annotate", "hc/demo", &format!("note=password: {SECRET}")])?;
    let file = std::env::temp_dir().join(format!("helios-report-{}.tar.gz", std::process::id()));
    let path = file.to_str().context("a path of text")?;
    let made = ctl.done(&["report", "--file", path]);
    let unpacked = Command::new("tar").args(["--extract", "--gzip", "--to-stdout", "--file", path]).output();
    drop(std::fs::remove_file(&file));
    let list = made?;
    let all = String::from_utf8_lossy(&unpacked?.stdout).into_owned();
    for part in [
        "cluster.yaml",
        "status.txt",
        "doctor.txt",
        "events.txt",
        "objects/statefulset.yaml",
        "members/demo-0.txt",
        "members/demo-2.metrics",
        "logs/demo-1.log",
        "operator/deployment.yaml",
        "missing.txt",
    ] {
        ensure!(list.contains(part), "no {part} in the report: {list}");
    }
    ensure!(all.contains("helios_raft_term") && all.contains("kind: StatefulSet"), "the report is empty");
    ensure!(
        all.contains("<redacted>") && !all.contains(SECRET) && !all.contains(&password),
        "the report has a secret in it"
    );
    Ok(())
}

fn logs_show_the_new_leader(ctl: &Heliosctl, cluster: &Cluster) -> anyhow::Result<()> {
    let log = ctl.follow(&["logs", "demo", "--follow", "--tail", "1"])?;
    // heliosctl opens all logs before it prints a line.
    log.await_line("any member", |line| line.starts_with("demo-"))?;
    let leader = transfer_and_switchover_move_leadership(ctl, cluster)?;
    log.await_line("the new leader", |line| line.starts_with(&leader) && line.contains("Became leader"))
}

fn transfer_and_switchover_move_leadership(ctl: &Heliosctl, cluster: &Cluster) -> anyhow::Result<String> {
    let (before, term) = cluster.leader()?;
    let target = if before == "demo-1" { "demo-2" } else { "demo-1" };
    let said = ctl.done(&["transfer", target])?;
    ensure!(said.starts_with(&format!("{target} leads in term ")), "{said}");
    ensure!(cluster.leader()? == (target.to_owned(), term + 1), "leadership did not go to {target} at once");
    let wrong = ctl.ask(&["transfer", "demo-9"])?;
    ensure!(wrong.code == 1 && wrong.err.contains("there are demo-0, demo-1, demo-2"), "{wrong:?}");
    let learner = ctl.ask(&["promote", target])?;
    ensure!(
        learner.code == 1 && learner.err.contains(&format!("heliosctl transfer {target}")),
        "{learner:?}"
    );
    let asked = ctl.done(&["switchover", &before, "--dry-run"])?;
    ensure!(asked.starts_with("all preconditions hold"), "{asked}");
    let phases = ctl.done(&["switchover", &before])?;
    ensure!(phases.lines().count() == 5 && phases.contains("\nreconfigure "), "{phases}");
    ensure!(
        cluster.leader()? == (before.clone(), term + 2),
        "leadership did not go back to {before} at once"
    );
    Ok(before)
}

fn paused_operator_changes_nothing(ctl: &Heliosctl, cluster: &Cluster) -> anyhow::Result<()> {
    ctl.done(&["pause"])?;
    cluster.await_status("{.status.phase}=Paused")?;
    let refused = ctl.ask(&["restart"])?;
    ensure!(refused.code == 1 && refused.err.contains("heliosctl resume demo"), "{refused:?}");
    cluster.scale(5)?;
    cluster.await_status("{.status.ready}=3/5")?;
    let status = ctl.ask(&["status"])?;
    ensure!(status.code == 1, "asked for five and held at three: {status:?}");
    ensure!(cluster.pods()?.len() == 3, "the operator made pods while it was held");
    cluster.scale(3)?;
    ctl.done(&["resume"])?;
    cluster.await_members(3)
}

fn restart(ctl: &Heliosctl, cluster: &Cluster) -> anyhow::Result<()> {
    let watch = cluster.watch()?;
    ctl.done(&["restart", "--wait"])?;
    let mut replaced = watch.created();
    replaced.sort();
    ensure!(replaced == ["demo-0", "demo-1", "demo-2"], "not each pod once: {replaced:?}");
    ensure!(ctl.ask(&["status"])?.code == 0, "restart --wait returned before all was well");
    Ok(())
}

fn missing_member_changes_the_exit_code(
    story: &Story,
    ctl: &Heliosctl,
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let (leader, _) = cluster.leader()?;
    let follower = if leader == "demo-0" { "pod/demo-1" } else { "pod/demo-0" };
    story.kubectl.run(&["delete", follower, "--wait=false"])?;
    await_code(ctl, 1)?;
    cluster.await_ready()?;
    await_code(ctl, 0)
}

fn await_code(ctl: &Heliosctl, code: i32) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = ctl.ask(&["status"])?;
        if status.code == code {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "status does not come to exit code {code}: {status:?}");
    }
}
