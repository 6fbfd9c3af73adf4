//! `doctor` on the machine that runs the members.

use std::net::TcpListener;

use serde_json::Value;

use crate::dev::{Dev, ctl};

/// Returns the check `what`: whether it is ok, its finding, its remedy.
fn check(endpoints: &str, what: &str) -> (bool, String, String) {
    let output = ctl(&["--endpoint", endpoints, "doctor", "--request-timeout", "2s", "--output", "json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = found["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["what"] == what).unwrap_or_else(|| panic!("{found}"));
    let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
    (check["ok"] == true, text("found"), text("fix"))
}

#[test]
fn foreign_holder_of_a_members_port_is_reported() {
    let dev = Dev::start();
    let (ok, found, _) = check(&dev.endpoints, "heliosd is here");
    assert!(ok && found.ends_with("/heliosd"), "{found}");
    let four = format!("{},{}", dev.endpoints, dev.absent_member());
    let (ok, found, _) = check(&four, "ports are the members' or free");
    assert!(ok && found.ends_with(" is free"), "{found}");
    let _held = TcpListener::bind(dev.absent_member()).unwrap();
    let (ok, found, fix) = check(&four, "ports are the members' or free");
    let own = format!("(pid {})", std::process::id());
    assert!(!ok && found.contains(&own) && fix.contains("another port"), "{found}: {fix}");
}

#[test]
fn stopped_heliosd_that_holds_ports_is_stale() {
    let dev = Dev::start();
    let what = "no stale heliosd";
    assert!(check(&dev.endpoints, what).0);
    dev.signal("STOP");
    let (ok, found, fix) = check(&dev.endpoints, what);
    dev.signal("CONT");
    let process = format!("heliosd (pid {}, stopped) answers nothing and holds ", dev.pid());
    assert!(!ok && found.contains(&process), "{found}");
    assert!(found.contains("node-1") && found.contains("port 7"), "its data and its ports: {found}");
    assert!(fix.contains(&format!("kill -CONT {}", dev.pid())), "{fix}");
}
