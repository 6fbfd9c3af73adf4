//! One server process: its start and end, and its resource usage.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::Group;
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
    /// Removed after the process ended: the fields are dropped in this order, after [`Server::drop`].
    group: Option<Group>,
}

/// Memory of a process, bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub resident: u64,
    /// Part of `resident` that is no page of a file.
    pub anonymous: u64,
    /// Largest `resident` so far.
    pub most_resident: u64,
}

impl Server {
    pub fn new(dir: &Path, name: &str, program: &Path, arguments: Vec<String>) -> Result<Self> {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("directory of {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            dir,
            program: program.to_owned(),
            arguments,
            child: None,
            group: None,
        })
    }

    /// Starts the process, if it does not run.
    pub fn start(&mut self) -> Result<()> {
        if let Some(child) = &mut self.child
            && child.try_wait()?.is_none()
        {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut command = match &self.group {
            // The shell joins the group before it becomes the program, so that all memory is counted.
            Some(group) => {
                let mut command = Command::new("sh");
                command
                    .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
                    .arg(group.processes())
                    .arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
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
        if child.try_wait()?.is_none() {
            kill_process(Pid::from_child(child), signal)?;
        }
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
        if let Some(status) = child.try_wait()? {
            let log = self.log_tail();
            let log = if log.is_empty() { "its log is empty".to_owned() } else { format!("its log:\n{log}") };
            bail!("{} ended unexpectedly ({status}); {log}", self.name);
        }
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

    /// Returns the memory of the process; `None` when it is gone.
    pub fn memory(&self) -> Option<Memory> {
        let status = self.proc_file("status")?;
        let bytes = |name: &str| Some(proc_number(&status, name)? << 10);
        Some(Memory {
            resident: bytes("VmRSS:")?,
            anonymous: bytes("RssAnon:")?,
            most_resident: bytes("VmHWM:")?,
        })
    }

    /// Returns the bytes that the process had the kernel read from disks since its start; `None` when it is gone.
    pub fn read_bytes(&self) -> Option<u64> {
        proc_number(&self.proc_file("io")?, "read_bytes:")
    }

    fn proc_file(&self, name: &str) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.as_ref()?.id())).ok()
    }

    /// Sends a signal that does not end the process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// Starts the process in a memory control group from the next start on.
    pub fn limit_memory(&mut self, group: Group) {
        self.group = Some(group);
    }

    /// Returns the number of processes that the kernel killed because of the limit of the group.
    pub fn out_of_memory_kills(&self) -> u64 {
        self.group.as_ref().map_or(0, Group::kills)
    }

    /// Returns the disk space of its files, in bytes.
    pub fn disk(&self) -> u64 {
        self.disk_below("")
    }

    /// Returns the disk space of its files below a path of its directory, in bytes.
    pub fn disk_below(&self, path: &str) -> u64 {
        blocks(&self.dir.join(path)) * 512
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

/// Returns the number after `name` in a file of /proc.
fn proc_number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Returns the disk blocks of 512 bytes of all files below `path`, without those that vanish meanwhile.
fn blocks(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let each = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => metadata.blocks() + blocks(&entry.path()),
        Ok(metadata) => metadata.blocks(),
        Err(_) => 0,
    });
    each.sum()
}
