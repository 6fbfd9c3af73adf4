//! Commands without Kubernetes, by the members' addresses.

use crate::dev::Dev;
use serde_json::Value;

fn json(dev: &Dev, words: &[&str]) -> Value {
    serde_json::from_str(&dev.done(&[words, &["--output", "json"]].concat())).unwrap()
}

fn leader(dev: &Dev) -> String {
    json(dev, &["status"])["leader"].as_str().unwrap().to_owned()
}

#[test]
fn status_prints_a_table_and_a_verdict_and_sets_the_exit_code() {
    let dev = Dev::start();
    let text = dev.done(&["status"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("cluster: leader node-"), "{text}");
    assert!(lines[2].starts_with("MEMBER   ROLE       READY   LAG"), "{text}");
    assert_eq!(*lines.last().unwrap(), "HEALTHY: 3 of 3 voters in service, 1 may fail", "{text}");
    assert!(!text.contains('\x1b'), "colours without a terminal");
    // One address is enough: that member's status names the others.
    let first = dev.endpoints.split(',').next().unwrap();
    let output = crate::dev::ctl(&["--endpoint", first, "members"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 4);
    // An address that is no member and does not answer degrades the verdict.
    let with_absent = format!("{},{}", dev.endpoints, dev.absent_member());
    let output = crate::dev::ctl(&["--endpoint", &with_absent, "status"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn transfer_and_step_down_move_leadership() {
    let dev = Dev::start();
    let before = leader(&dev);
    let target = ["node-1", "node-2", "node-3"].into_iter().find(|name| *name != before).unwrap();
    let said = dev.done(&["transfer", target]);
    assert!(said.starts_with(&format!("{target} leads in term ")), "{said}");
    assert_eq!(leader(&dev), target);
    assert!(dev.done(&["transfer", target]).contains("leads already"));
    dev.done(&["step-down"]);
    assert_ne!(leader(&dev), target);

    let output = dev.ctl(&["transfer", "node-9"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(error, "heliosctl: there is no member \"node-9\"; the members are node-1, node-2, node-3\n");
}

#[test]
fn switchover_reports_its_phases_and_a_dry_run_the_blockers() {
    let mut dev = Dev::start();
    let before = leader(&dev);
    let target = ["node-1", "node-2", "node-3"].into_iter().find(|name| *name != before).unwrap();
    let said = dev.done(&["switchover", target, "--dry-run"]);
    assert_eq!(said, format!("all preconditions hold: {target} can take over from {before}\n"));
    assert_eq!(leader(&dev), before, "a dry run changes nothing");

    let said = dev.done(&["switchover", target]);
    let lines: Vec<&str> = said.lines().collect();
    let phases = ["prepare", "sync", "role change", "reconfigure", "resume"];
    assert_eq!(lines.len(), phases.len(), "{said}");
    for (line, phase) in lines.iter().zip(phases) {
        assert!(line.starts_with(phase), "{said}");
    }
    assert!(lines[2].contains(&format!("{target} leads in term ")), "{said}");
    assert_eq!(leader(&dev), target);
    let again = json(&dev, &["switchover", target]);
    assert_eq!((&again["leader"], again["phases"].as_array().unwrap().len()), (&target.into(), 1), "{again}");

    // A learner is refused at once, with its name; so is an unknown member.
    dev.start_blank();
    dev.done(&["add-learner", &dev.absent_member()]);
    let output = dev.ctl(&["switchover", "node-4", "--dry-run", "--output", "json"]);
    let outlook: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &outlook["leader"]), (Some(1), &target.into()));
    assert_eq!(outlook["blockers"][0]["reason"], "NotAVoter", "{outlook}");
    for (member, reason) in [("node-4", "node-4 is a learner"), ("node-9", "there is no member \"node-9\"")] {
        let output = dev.ctl(&["switchover", member]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.starts_with(&format!("heliosctl: switchover to {member} stopped in phase prepare after "))
        );
        assert!(output.status.code() == Some(1) && error.contains(reason), "{error}");
    }
}

#[test]
fn keys_are_written_read_and_removed() {
    let dev = Dev::start();
    assert_eq!(dev.done(&["set", "greeting", "hello"]), "OK\n");
    assert_eq!(dev.done(&["get", "greeting"]), "hello\n");
    assert_eq!(dev.done(&["ttl", "greeting"]), "never\n");
    assert_eq!(dev.done(&["expire", "greeting", "100"]), "OK\n");
    let left: f64 = dev.done(&["ttl", "greeting"]).trim().parse().unwrap();
    assert!(left > 0.0 && left <= 100.0, "{left}");
    assert_eq!(dev.done(&["del", "greeting", "nothing"]), "1\n");
    let output = dev.ctl(&["get", "greeting"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "heliosctl: no key \"greeting\"\n");
}

#[test]
fn doctor_passes_and_a_snapshot_is_taken() {
    let dev = Dev::start();
    let checks = json(&dev, &["doctor"]);
    assert!(checks["checks"].as_array().unwrap().iter().all(|check| check["ok"] == true), "{checks}");
    dev.done(&["set", "a", "1"]);
    assert!(dev.done(&["snapshot", "node-2"]).starts_with("node-2 has a snapshot at index "));
}

#[test]
fn blank_node_becomes_a_learner_then_a_voter_then_the_leader() {
    let mut dev = Dev::start();
    dev.start_blank();
    let said = dev.done(&["add-learner", &dev.absent_member()]);
    assert_eq!(said, "node-4 is a learner, one of 4 members; next: heliosctl promote node-4\n");
    let node_4 = |key: &str| {
        // While a learner catches up the health is "changing", so the exit code is not always 0.
        let output = dev.ctl(&["members", "--output", "json"]);
        let members = serde_json::from_slice::<Value>(&output.stdout).unwrap()["members"].take();
        let found = members.as_array().unwrap().iter().find(|member| member["name"] == "node-4");
        found.unwrap()[key].clone()
    };
    assert_eq!(node_4("role"), "Learner");
    let output = dev.ctl(&["add-learner", &dev.absent_member()]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && error.contains("belongs to cluster"), "{error}");

    assert_eq!(dev.done(&["promote", "node-4"]), "node-4 is a voter, one of 4 voters\n");
    let again = "node-4 is a voter already; heliosctl transfer node-4 makes it the leader\n";
    assert_eq!(dev.done(&["promote", "node-4"]), again);
    dev.done(&["transfer", "node-4"]);
    assert_eq!(node_4("role"), "Leader");
}

#[test]
fn removed_leader_steps_down_first() {
    let dev = Dev::start();
    let gone = leader(&dev);
    let said = dev.done(&["remove", &gone]);
    assert!(said.starts_with(&format!("{gone} is removed, 2 members stay")), "{said}");
    // Its process still runs, reports that it was removed, and counts as unhealthy.
    let output = dev.ctl(&["members", "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let members: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = members["members"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|member| member["id"].is_number())
        .map(|member| member["name"].as_str().unwrap())
        .collect();
    assert!(names.len() == 2 && !names.contains(&gone.as_str()), "{names:?}");
}
