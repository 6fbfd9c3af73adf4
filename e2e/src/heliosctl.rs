//! `heliosctl`, run as a user does.

use std::io::BufRead;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::cluster::PATIENCE;
use crate::kubectl::{Kubectl, Running};

/// Runner of commands in one namespace.
pub struct Heliosctl {
    program: PathBuf,
    namespace: String,
}

#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// A command that runs until this is dropped.
pub struct Following {
    _running: Running,
    lines: mpsc::Receiver<String>,
}

impl Following {
    /// Waits for a line for which `is_meant` returns true, and drops the lines before it.
    ///
    /// # Errors
    /// When there is none within [`PATIENCE`]; the error names `what`.
    pub fn await_line(&self, what: &str, is_meant: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).with_context(|| format!("no line of {what}"))?;
            if is_meant(&line) {
                return Ok(());
            }
        }
    }
}

impl Heliosctl {
    /// # Errors
    /// When heliosctl was not built.
    pub fn new(kubectl: &Kubectl) -> anyhow::Result<Self> {
        let beside = std::env::current_exe()?;
        // Tests are in `deps`, the programs in the directory above it.
        let target = beside.parent().and_then(|deps| deps.parent()).context("a test has a directory")?;
        let program = target.join("heliosctl");
        ensure!(program.exists(), "{} is missing; scripts/stories.sh builds it", program.display());
        Ok(Self { program, namespace: kubectl.namespace.clone() })
    }

    /// Runs a command to its end, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ask(&self, words: &[&str]) -> anyhow::Result<Answer> {
        let mut command = Command::new(&self.program);
        self.finish(command.args(["--namespace", &self.namespace]).args(words))
    }

    /// As [`Self::ask`], but as `kubectl helios`.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub fn ask_as_plugin(&self, words: &[&str]) -> anyhow::Result<Answer> {
        let own = self.program.parent().map(PathBuf::from).unwrap_or_default();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([own].into_iter().chain(std::env::split_paths(&path)))?;
        let mut command = Command::new("kubectl");
        self.finish(command.env("PATH", path).args(["helios", "--namespace", &self.namespace]).args(words))
    }

    /// Runs a command that must succeed and returns its output.
    ///
    /// # Errors
    /// When it fails.
    pub fn done(&self, words: &[&str]) -> anyhow::Result<String> {
        let Answer { code, out, err } = self.ask(words)?;
        ensure!(code == 0, "heliosctl {}: exit code {code}: {out}{err}", words.join(" "));
        Ok(out)
    }

    /// Starts a command that continues to print.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn follow(&self, words: &[&str]) -> anyhow::Result<Following> {
        let mut command = Command::new(&self.program);
        let (running, output) = Running::start(command.args(["--namespace", &self.namespace]).args(words))?;
        let (printed, lines) = mpsc::channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| printed.send(line))
        });
        Ok(Following { _running: running, lines })
    }

    fn finish(&self, command: &mut Command) -> anyhow::Result<Answer> {
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Answer {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        })
    }
}
