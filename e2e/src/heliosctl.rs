//! `heliosctl` as its user runs it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::kubectl::Kubectl;

/// Commands in one namespace.
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

impl Heliosctl {
    /// # Errors
    /// When it was not built.
    pub fn new(kubectl: &Kubectl) -> anyhow::Result<Self> {
        let beside = std::env::current_exe()?;
        // Tests are in `deps`, the programs beside that.
        let target = beside.parent().and_then(|deps| deps.parent()).context("a test has a directory")?;
        let program = target.join("heliosctl");
        ensure!(program.exists(), "{} is missing; scripts/stories.sh builds it", program.display());
        Ok(Self { program, namespace: kubectl.namespace.clone() })
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ask(&self, words: &[&str]) -> anyhow::Result<Answer> {
        let mut command = Command::new(&self.program);
        self.finish(command.args(["--namespace", &self.namespace]).args(words))
    }

    /// As [`Self::ask`], as `kubectl helios`.
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

    /// The answer of a command that has to succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn done(&self, words: &[&str]) -> anyhow::Result<String> {
        let Answer { code, out, err } = self.ask(words)?;
        ensure!(code == 0, "heliosctl {}: exit code {code}: {out}{err}", words.join(" "));
        Ok(out)
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
