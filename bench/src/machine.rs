//! Description of the machine on which the figures were measured.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::Programs;
use crate::server::ticks_to_time;

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Returns the CPU time that all processes, the kernel and the hypervisor's other guests used since boot.
pub fn busy() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<u64> =
        stat.lines().next()?.split_ascii_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    // Fields: user nice system idle iowait irq softirq steal; the later ones are included in these.
    let [user, nice, system, _, _, irq, softirq, steal, ..] = ticks[..] else { return None };
    Some(ticks_to_time(user + nice + system + irq + softirq + steal))
}

/// Returns the load averages over the last 1, 5 and 15 minutes: processes that ran or waited for a disk.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_ascii_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Returns the type of the file system that holds `dir`; an error for one in memory, where an fsync costs
/// nothing.
pub fn file_system(dir: &Path) -> Result<String> {
    let dir = dir.canonicalize().with_context(|| format!("directory {}", dir.display()))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let (_, kind) = mounts
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let place = left.split(' ').nth(4)?;
            dir.starts_with(place).then_some((place.len(), right.split(' ').next()?))
        })
        .max()
        .context("no mounted file system")?;
    ensure!(
        !["tmpfs", "ramfs", "devtmpfs"].contains(&kind),
        "{} is on {kind}, where an fsync costs nothing; give a directory on a disk by --dir",
        dir.display()
    );
    Ok(kind.to_owned())
}

/// Returns the lines `(name, value)` for the head of a report; with `has_peers` also those of etcd and Redis.
pub fn description(programs: &Programs, dir: &Path, has_peers: bool) -> Result<Vec<(&'static str, String)>> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let first_line = |program: &Path, arguments: &[&str]| -> Result<String> {
        let output = Command::new(program).args(arguments).output();
        let output = output.with_context(|| format!("{} does not start", program.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("unknown").to_owned())
    };
    let commit = first_line(Path::new("git"), &["log", "-1", "--format=%h of %cs"]);
    let mut lines = vec![
        ("Date", jiff::Zoned::now().date().to_string()),
        ("CPU", format!("{} x {}", cores(), model.map_or("unknown", |(_, model)| model.trim()))),
        ("Memory", memory.map_or("unknown", str::trim).to_owned()),
        ("Kernel", kernel.trim().to_owned()),
        ("File system", file_system(dir)?),
        ("heliosd", format!("{}, commit {}", first_line(&programs.heliosd, &["--version"])?, commit?)),
    ];
    if has_peers {
        lines.push(("etcd", first_line(&programs.etcd, &["etcd", "--version"])?));
        lines.push(("Redis", first_line(&programs.redis, &["--version"])?));
    }
    lines.push(("Load before", load()));
    Ok(lines)
}

/// Returns the bytes that the device of `dir` has written since the boot; `None` if it has no statistics.
pub fn written_bytes(dir: &Path) -> Option<u64> {
    let device = fs::metadata(dir).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    // The seventh field: sectors written, of 512 bytes.
    stat.split_whitespace().nth(6)?.parse::<u64>().ok().map(|sectors| sectors * 512)
}
