//! A running Redis as the source, with writers, and processes that are killed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::Connection;
use serde_json::Value;

use super::fill;
use super::servers::{Cluster, Redis, ask, assert_same, connect, content, have_redis};
use crate::dev::Dev;
use crate::process::eventually;

/// A running import; its lines on standard error are read as they come.
pub struct Import {
    child: Child,
    lines: BufReader<std::process::ChildStderr>,
    seen: String,
}

impl Import {
    pub fn start(source: &Redis, to: &str, words: &[&str]) -> Self {
        Self::start_from(&source.url(), to, words)
    }

    pub fn start_from(url: &str, to: &str, words: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_heliosctl"))
            .args(["import", "--from", url, "--to", to, "--output", "json"])
            .args(words)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Self { child, lines, seen: String::new() }
    }

    /// Reads standard error up to a line with this text.
    fn until(&mut self, text: &str) {
        let begin = self.seen.len();
        while !self.seen[begin..].contains(text) {
            assert!(
                self.lines.read_line(&mut self.seen).unwrap() > 0,
                "it ended without {text:?}: {}",
                self.seen
            );
        }
    }

    /// Fails if it has ended.
    fn assert_runs(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            while self.lines.read_line(&mut self.seen).unwrap() > 0 {}
            panic!("the import ended, {status}: {}", self.seen);
        }
    }

    /// Returns whether it succeeded, its standard output and its standard error.
    pub fn end(mut self) -> (bool, String, String) {
        while self.lines.read_line(&mut self.seen).unwrap() > 0 {}
        let output = self.child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), self.seen)
    }

    pub fn report(self) -> Value {
        let (succeeded, stdout, stderr) = self.end();
        assert!(succeeded, "{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }
}

/// Writes of which none can be repeated or left out without a trace, until the source refuses. Returns how many were
/// acknowledged.
fn write(connection: &mut Connection, writer: usize, is_done: &AtomicBool) -> u64 {
    let mut count = 0;
    while !is_done.load(Ordering::Relaxed) {
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.cmd("INCR").arg(format!("count:{writer}")).ignore();
        pipe.cmd("RPUSH").arg(format!("log:{writer}")).arg(count).ignore();
        pipe.cmd("SET")
            .arg(format!("key:{writer}:{}", count % 500))
            .arg(count)
            .arg("EX")
            .arg(10_000)
            .ignore();
        if count % 3 == 0 {
            pipe.cmd("LPOP").arg(format!("log:{writer}")).ignore();
            pipe.cmd("DEL").arg(format!("key:{writer}:{}", count % 70)).ignore();
        }
        if pipe.exec(connection).is_err() {
            break;
        }
        count += 1;
        // A pace that the target keeps up with on a busy machine.
        thread::sleep(Duration::from_millis(1));
    }
    count
}

#[test]
fn live_import_cuts_over_under_writers_and_loses_nothing() {
    if !have_redis() {
        return;
    }
    let (dev, source) = (Dev::start(), Redis::start(&[]));
    let (client, mut connection) = (dev.clients(), source.connection());
    fill(&mut connection);
    let is_done = AtomicBool::new(false);
    let (report, counts) = thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (mut connection, is_done) = (source.connection(), &is_done);
                scope.spawn(move || write(&mut connection, writer, is_done))
            })
            .collect();
        eventually("writes", || (ask::<u64>(&mut connection, "INCR probe") > 50).then_some(()));
        let report = Import::start(&source, &client, &["--cut-over", "--fence"]).report();
        is_done.store(true, Ordering::Relaxed);
        (report, writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>())
    });
    let cut_over = &report["cutOver"];
    assert_eq!(cut_over["fenced"], true, "{report}");
    assert_eq!(cut_over["sourceKeys"], cut_over["targetKeys"], "{report}");
    let mut target = connect(client.split(',').next().unwrap()).unwrap();
    for (writer, count) in counts.iter().enumerate() {
        assert_eq!(ask::<u64>(&mut target, &format!("GET count:{writer}")), *count, "{report}");
    }
    assert_same(&content(&mut connection), &content(&mut target));
    let refused = redis::cmd("SET").arg("late").arg(1).exec(&mut connection).unwrap_err();
    assert!(refused.to_string().contains("NOREPLICAS"), "{refused}");
    eprintln!("paused for {} ms; {} writes; {report}", cut_over["pausedMs"], counts.iter().sum::<u64>());
}

#[test]
fn cut_over_that_finds_a_difference_leaves_the_source_in_charge() {
    if !have_redis() {
        return;
    }
    let (dev, source) = (Dev::start(), Redis::start(&["--repl-diskless-sync", "no"]));
    let client = dev.clients();
    let mut target = connect(client.split(',').next().unwrap()).unwrap();
    let mut connection = source.connection();
    for key in 0..100 {
        ask::<()>(&mut connection, &format!("SET key:{key} {key}"));
    }
    // A key of the target that the source does not have makes it larger than the source.
    let mut import = Import::start(&source, &client, &[]);
    import.until("has caught up");
    ask::<()>(&mut target, "SET intruder 1");
    ask::<()>(&mut connection, "SET last 1");
    let pid = import.child.id().to_string();
    eventually("the last write is applied", || (ask::<u64>(&mut target, "EXISTS last") == 1).then_some(()));
    // SIGTERM ends an import without a cut-over.
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(import.report()["cutOver"].is_null());
    assert_eq!(ask::<u64>(&mut target, "EXISTS heliosctl:import"), 0);

    let mut import = Import::start(&source, &client, &["--into-existing"]);
    import.until("has caught up");
    ask::<()>(&mut target, "SET heliosctl:import other");
    ask::<()>(&mut connection, "SET more 1");
    let (succeeded, _, message) = import.end();
    assert!(!succeeded && message.contains("changed by another client"), "{message}");

    let is_over = AtomicBool::new(false);
    let (succeeded, message) = thread::scope(|scope| {
        let mut intruder = connect(client.split(',').next().unwrap()).unwrap();
        let is_over = &is_over;
        scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                ask::<()>(&mut intruder, "SET intruder 1");
            }
        });
        let (succeeded, _, message) = Import::start(&source, &client, &["--replace", "--cut-over"]).end();
        is_over.store(true, Ordering::Relaxed);
        (succeeded, message)
    });
    assert!(
        !succeeded && message.contains("the source is still in charge, its writes continue"),
        "{message}"
    );
    assert!(message.contains("the target has 103 keys, the source 102"), "{message}");
    ask::<()>(&mut connection, "SET after 1");
}

#[test]
fn source_command_that_the_target_lacks_ends_the_import_and_is_named() {
    if !have_redis() {
        return;
    }
    let (dev, source) = (Dev::start(), Redis::start(&[]));
    let mut connection = source.connection();
    ask::<()>(&mut connection, "SET key 1");
    for (line, name) in
        [("XADD events 1-1 a b", "XADD \"events\""), ("PFADD visitors a", "PFADD \"visitors\"")]
    {
        let mut import = Import::start(&source, &dev.clients(), &["--replace"]);
        import.until("has caught up");
        ask::<()>(&mut connection, line);
        let (succeeded, _, message) = import.end();
        assert!(!succeeded && message.contains(name) && message.contains("--replace"), "{message}");
        ask::<()>(&mut connection, "DEL events visitors");
    }
}

#[test]
fn killed_source_ends_the_import_and_a_lost_connection_does_not() {
    if !have_redis() {
        return;
    }
    let (dev, mut source) = (Dev::start(), Redis::start(&[]));
    let mut connection = source.connection();
    let mut target = connect(dev.clients().split(',').next().unwrap()).unwrap();
    ask::<()>(&mut connection, "SET key 1");
    let mut import = Import::start(&source, &dev.clients(), &["--patience", "3s"]);
    import.until("has caught up");
    ask::<u64>(&mut connection, "CLIENT KILL TYPE replica");
    ask::<()>(&mut connection, "INCR key");
    import.until("connecting again");
    eventually("the write after the lost connection", || {
        import.assert_runs();
        (ask::<u64>(&mut target, "GET key") == 2).then_some(())
    });
    source.process.0.kill().unwrap();
    source.process.0.wait().unwrap();
    let (succeeded, _, message) = import.end();
    assert!(!succeeded && message.contains("the source") && message.contains("--replace"), "{message}");
}

#[test]
fn killed_leader_of_the_target_loses_and_repeats_nothing() {
    if !have_redis() {
        return;
    }
    let (mut cluster, source) = (Cluster::start(), Redis::start(&[]));
    let mut connection = source.connection();
    let mut pipe = redis::pipe();
    for key in 0..60_000 {
        pipe.cmd("RPUSH")
            .arg(format!("list:{}", key % 1000))
            .arg(format!("{key} {}", "x".repeat(600)))
            .ignore();
    }
    pipe.exec(&mut connection).unwrap();
    let addresses = cluster.addresses();
    let mut import = Import::start(&source, &addresses, &["--cut-over"]);
    // In the middle of the first copy.
    let mut target = cluster.connection();
    eventually("the first batches", || {
        import.assert_runs();
        (ask::<u64>(&mut target, "DBSIZE") > 100).then_some(())
    });
    cluster.kill_leader();
    import.until("all 1000 keys are copied");
    let report = import.report();
    assert_same(&content(&mut connection), &content(&mut cluster.connection()));
    assert_eq!(report["keys"], 1000);
    eprintln!("{report}");
}

#[test]
fn key_whose_life_the_source_extends_is_not_lost_while_the_target_is_behind() {
    if !have_redis() {
        return;
    }
    let (dev, source) = (Dev::start(), Redis::start(&[]));
    let mut connection = source.connection();
    let keys = ["near", "far", "hash", "renamed-before", "left-to-expire"];
    // Setting the expiries of all of them at once costs more than a transaction or a script may.
    for at in 0..50 {
        let set = redis::cmd("SET")
            .arg(format!("large:{at}"))
            .arg("v".repeat(3 << 20))
            .arg("PX")
            .arg(90_000)
            .clone();
        set.exec(&mut connection).unwrap();
    }
    for key in keys.iter().filter(|key| **key != "hash") {
        ask::<()>(&mut connection, &format!("SET {key} 1 PX 1500"));
    }
    ask::<()>(&mut connection, "HSET hash f 1");
    ask::<()>(&mut connection, "PEXPIRE hash 1500");
    let written = Instant::now();
    let import = Import::start(&source, &dev.clients(), &["--cut-over", "--fence"]);
    let signal = |name: &str| {
        let pid = import.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    // The source has the copy ready, in which the keys expire soon; the import stands still until after that.
    eventually("the copy", || {
        (ask::<String>(&mut connection, "INFO stats").contains("sync_full:1")).then_some(())
    });
    signal("-STOP");
    for line in
        ["PEXPIRE near 60000", "PEXPIRE far 900000 GT", "PERSIST hash", "PEXPIRE renamed-before 70000"]
    {
        assert_eq!(ask::<u64>(&mut connection, line), 1, "{line}");
    }
    ask::<()>(&mut connection, "RENAME renamed-before renamed");
    for at in 0..50 {
        ask::<()>(&mut connection, &format!("PEXPIRE large:{at} 80000"));
    }
    thread::sleep(Duration::from_millis(1600).saturating_sub(written.elapsed()));
    signal("-CONT");
    let report = import.report();
    let mut target = connect(dev.clients().split(',').next().unwrap()).unwrap();
    let found = content(&mut target);
    assert_eq!(found.len(), 54, "{report}");
    assert_same(&content(&mut connection), &found);
}
