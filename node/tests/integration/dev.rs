//! `heliosd dev`: three members in one process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Ports, eventually, free_standing, http, is_free, temporary_directory};

/// A running `heliosd dev`, ended with the test.
struct Dev(Child);

impl Dev {
    /// Starts it; returns the three commands that it prints.
    async fn start(dir: &Path, arguments: &[&str]) -> (Self, Vec<String>) {
        let mut command = free_standing(dir);
        command.arg("dev").args(arguments).env("TMPDIR", dir).stdout(Stdio::piped());
        let mut dev = Self(command.spawn().unwrap());
        let output = BufReader::new(dev.0.stdout.take().unwrap());
        let commands = tokio::task::spawn_blocking(move || {
            let lines = output.lines().map(Result::unwrap).skip_while(|line| line != "Try:").skip(1);
            lines.map(|line| line.trim().to_owned()).take(3).collect::<Vec<_>>()
        });
        let commands = commands.await.unwrap();
        assert_eq!(commands.len(), 3, "it ended before it was up");
        (dev, commands)
    }

    /// Sends SIGINT, as Ctrl-C does, and waits for exit code 0.
    async fn interrupt(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::INT).unwrap();
        let status = eventually("dev stops on Ctrl-C", async || self.0.try_wait().unwrap()).await;
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a printed command in a shell; if its program is missing and may be skipped, does the same without it.
async fn run(command: &str) -> String {
    let program = command.split(' ').next().unwrap();
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    if found.status.success() {
        let output = Command::new("sh").args(["-c", command]).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        return String::from_utf8(output.stdout).unwrap().trim().to_owned();
    }
    helios_testing::skip_or_fail(program, "the printed command runs it; install it");
    let words: Vec<_> = command.split(' ').collect();
    if let ["redis-cli", "-p", port, name, arguments @ ..] = &words[..] {
        let mut client =
            crate::common::connect(port.parse().unwrap(), crate::common::PATIENCE).await.unwrap();
        return redis::cmd(name).arg(arguments).query_async(&mut client).await.unwrap();
    }
    let url = words[1].trim_matches('\'').strip_prefix("http://127.0.0.1:").unwrap();
    let (port, path) = url.split_once('/').unwrap();
    http(port.parse().unwrap(), "GET", &format!("/{path}"), "").await.unwrap().1
}

#[tokio::test]
async fn dev_starts_three_members_prints_three_commands_that_work_and_stops_on_ctrl_c() {
    let dir = temporary_directory();
    let ports = Ports::near_default();
    let port = ports.node(0).client.to_string();

    let (dev, commands) = Dev::start(dir.path(), &["--port", &port]).await;
    assert_eq!(run(&commands[0]).await, "OK");
    assert_eq!(run(&commands[1]).await, "world");
    let status = run(&commands[2]).await;
    assert!(status.contains(r#""ready":true"#) && status.contains("node-3"), "{status}");
    dev.interrupt().await;

    assert!((0..3).flat_map(|index| ports.node(index).all()).all(is_free), "something still listens");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "data was left behind: {left:?}");
}

#[tokio::test]
async fn dev_keeps_its_data_in_the_given_directory() {
    let dir = temporary_directory();
    let ports = Ports::near_default();
    let port = ports.node(0).client.to_string();
    let arguments = ["--port", &port, "--data-dir", "kept"];
    let (dev, commands) = Dev::start(dir.path(), &arguments).await;
    assert_eq!(run(&commands[0]).await, "OK");
    dev.interrupt().await;
    let (dev, commands) = Dev::start(dir.path(), &arguments).await;
    assert_eq!(run(&commands[1]).await, "world");
    dev.interrupt().await;
}
