//! One server process: its start and end, and its resource usage.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait_for;

/// Longest end of a process: etcd transfers its leadership first and may wait for a busy disk.
const END_PATIENCE: Duration = Duration::from_secs(30);

pub struct Server {
    pub name: String,
    /// Directory of all its files.
    pub dir: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    pub fn new(dir: &Path, name: &str, program: &Path, arguments: Vec<String>) -> Result<Self> {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("directory of {name}"))?;
        Ok(Self { name: name.to_owned(), dir, program: program.to_owned(), arguments, child: None })
    }

    /// Starts the process, if it does not run.
    pub fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.dir).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HELIOS_")) {
            command.env_remove(name);
        }
        let child = command.spawn().with_context(|| format!("{} does not start", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Sends the signal and waits for the end of the process.
    pub async fn end(&mut self, signal: Signal) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        kill_process(Pid::from_child(child), signal)?;
        wait_for(END_PATIENCE, &format!("the end of {}", self.name), async || {
            Ok(child.try_wait()?.map(drop))
        })
        .await?;
        self.child = None;
        Ok(())
    }

    /// Returns an error with the end of its log when the process has ended without a request.
    pub fn ensure_alive(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let ended = child.try_wait()?;
        ensure!(ended.is_none(), "{} ended unexpectedly; its log:\n{}", self.name, self.log_tail());
        Ok(())
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// Returns the CPU time of all threads since the start.
    pub fn cpu(&self) -> Duration {
        self.child.as_ref().and_then(|child| cpu_of(&child.id().to_string())).unwrap_or_default()
    }

    /// Returns the resident memory and its maximum so far, in bytes.
    pub fn resident(&self) -> Option<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.as_ref()?.id())).ok()?;
        let bytes = |field: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? << 10)
        };
        Some((bytes("VmRSS:")?, bytes("VmHWM:")?))
    }

    /// Returns the disk space of its files, in bytes.
    pub fn disk(&self) -> u64 {
        blocks(&self.dir).unwrap_or(0) * 512
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Returns the CPU time of a process, given by its pid or `self`.
pub fn cpu_of(process: &str) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Fields after the name, which may contain spaces: the state is field 3, user and system time are 14 and
    // 15 (proc(5)).
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks_to_time(ticks))
}

pub fn ticks_to_time(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn blocks(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += metadata.blocks();
        if metadata.is_dir() {
            sum += blocks(&entry.path())?;
        }
    }
    Ok(sum)
}
