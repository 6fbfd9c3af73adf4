//! Costs of heliosd at a number of keys: load, memory, disk, overwrites, restarts, a lost disk, a member that was
//! stopped, and a memory limit.

pub mod figures;
mod limited;
mod loopback;
mod management;
mod replacement;
mod restart;
pub mod sizes;
mod stopped;
mod writes;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, HeliosdOptions, Programs};
use crate::load::user_bytes;
use crate::ports::Ports;
use crate::{pipeline, say};
use figures::{Figures, gb};

/// Longest start of a member: it may read all of its state and log.
const START_PATIENCE: Duration = Duration::from_secs(900);
/// Disk space that a key is assumed to take in one member at its peak, bytes: the state, and the log that lagging members
/// need. An engine with snapshot files keeps the state up to three times.
const DISK_BYTES_PER_KEY: u64 = 600;
const WITH_SNAPSHOT_FILES: u64 = 3;
const MEMBERS: u64 = 3;
const DEFAULT_KEYS: u64 = 5_000_000;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Scale")]
#[group(skip)]
pub struct Options {
    /// Phases to run; all but memory need the keys, which are loaded for them
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "load,overwrite,set,follower,all,disk,stopped,memory"
    )]
    phases: Vec<Phase>,
    /// Engine of the state
    #[arg(long, default_value = "runs", value_parser = ["runs", "sled", "redb"])]
    engine: String,
    /// Cache of the engine, state.cache_bytes; without it heliosd has its default
    #[arg(long)]
    cache_bytes: Option<u64>,
    /// Seconds of random overwrites
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    overwrite_secs: u64,
    /// Seconds for which a follower is stopped under load
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    stopped_secs: u64,
    /// Memory limit of each member in the phase memory, bytes; by default a quarter of the keys and values, and 128 MiB
    /// at least
    #[arg(long)]
    limit_memory: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Phase {
    /// Pipelined load of all keys; memory and disk
    Load,
    /// Random overwrites in pipelines
    Overwrite,
    /// SET by 256 clients, compared with a cluster of 100 000 keys
    Set,
    /// Restart of a follower
    Follower,
    /// Restart of all members
    All,
    /// A member that lost its disk
    Disk,
    /// A follower that is stopped under load
    Stopped,
    /// More data than the memory limit of the members
    Memory,
}

/// Phases on the loaded cluster, in their order.
const ON_LOADED: [Phase; 6] =
    [Phase::Overwrite, Phase::Set, Phase::Follower, Phase::All, Phase::Disk, Phase::Stopped];

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Overwrite => "overwrite",
            Self::Set => "set",
            Self::Follower => "follower",
            Self::All => "all",
            Self::Disk => "disk",
            Self::Stopped => "stopped",
            Self::Memory => "memory",
        }
    }
}

/// Inputs of all phases.
struct Setup<'a> {
    options: &'a Options,
    keys: u64,
    programs: &'a Programs,
    dir: PathBuf,
    heliosd: HeliosdOptions,
}

impl Setup<'_> {
    /// Returns the bytes of all keys and values.
    fn user_bytes(&self) -> u64 {
        user_bytes(self.keys)
    }
}

pub async fn measure(
    options: &Options,
    keys: Option<u64>,
    programs: &Programs,
    dir: &Path,
    ports: &mut Ports,
) -> Result<String> {
    let keys = keys.unwrap_or(DEFAULT_KEYS);
    ensure_space(dir, keys, &options.engine)?;
    let mut state = format!("engine: {}", options.engine);
    if let Some(bytes) = options.cache_bytes {
        state += &format!(", cache_bytes: {bytes}");
    }
    let heliosd = HeliosdOptions { state, ..HeliosdOptions::default() };
    let setup = Setup { options, keys, programs, dir: dir.join("scale"), heliosd };
    let mut figures = Figures::default();
    let mut tables = String::new();
    if options.phases.iter().any(|phase| *phase != Phase::Memory) {
        tables = on_loaded(&setup, ports, &mut figures).await;
        // The disk space of the keys is needed again.
        drop(fs::remove_dir_all(setup.dir.join("loaded")));
    } else {
        ON_LOADED.into_iter().chain([Phase::Load]).for_each(|phase| left_out(&mut figures, phase));
    }
    if options.phases.contains(&Phase::Memory) {
        say(&format!("{}: starts", Phase::Memory.name()));
        let result = limited::measure(&setup, ports, &mut figures).await;
        figures.end_phase(Phase::Memory.name(), result);
    } else {
        left_out(&mut figures, Phase::Memory);
    }
    Ok(section(&setup, &figures, &tables))
}

/// Runs the phases that need the loaded keys; returns the tables for the report.
async fn on_loaded(setup: &Setup<'_>, ports: &mut Ports, figures: &mut Figures) -> String {
    say(&format!("load: starts, {} keys", setup.keys));
    let mut tables = String::new();
    let loaded = writes::load(setup, ports, figures, &mut tables).await;
    let mut cluster = match loaded {
        Ok(cluster) => Some(cluster),
        Err(error) => {
            figures.end_phase(Phase::Load.name(), Err(error));
            None
        }
    };
    for phase in ON_LOADED {
        if !setup.options.phases.contains(&phase) {
            left_out(figures, phase);
            continue;
        }
        let Some(running) = &mut cluster else {
            figures.not_measured(phase.name(), "there is no loaded cluster any more");
            continue;
        };
        say(&format!("{}: starts", phase.name()));
        let result = match run(phase, setup, running, ports, figures).await {
            Ok(()) => running.ensure_alive(),
            Err(error) => Err(running.explained(error).await),
        };
        figures.end_phase(phase.name(), result);
        // The next phase needs all members, also after this one failed.
        if let Err(error) = running.settle_within(START_PATIENCE).await {
            figures.end_phase(&format!("members ready after {}", phase.name()), Err(error));
            cluster = None;
        }
    }
    tables
}

async fn run(
    phase: Phase,
    setup: &Setup<'_>,
    cluster: &mut Cluster,
    ports: &mut Ports,
    figures: &mut Figures,
) -> Result<()> {
    match phase {
        Phase::Overwrite => writes::overwrite(setup, cluster, figures).await,
        Phase::Set => writes::set_ratio(setup, cluster, ports, figures).await,
        Phase::Follower => restart::follower(cluster, figures).await,
        Phase::All => restart::all(cluster, figures).await,
        Phase::Disk => replacement::measure(setup, cluster, figures).await,
        Phase::Stopped => stopped::measure(setup, cluster, figures).await,
        Phase::Load | Phase::Memory => Ok(()),
    }
}

fn left_out(figures: &mut Figures, phase: Phase) {
    figures.not_measured(phase.name(), "left out by --phases");
}

fn ensure_space(dir: &Path, keys: u64, engine: &str) -> Result<()> {
    let copies = if engine == "runs" { 1 } else { WITH_SNAPSHOT_FILES };
    let volume = rustix::fs::statvfs(dir).with_context(|| format!("disk space of {}", dir.display()))?;
    let (free, needed) = (volume.f_bavail * volume.f_frsize, keys * DISK_BYTES_PER_KEY * copies * MEMBERS);
    ensure!(
        free >= needed,
        "{keys} keys need {} of disk, and {} has {} free; use fewer --keys, or another directory by --dir",
        gb(needed as f64),
        dir.parent().unwrap_or(dir).display(),
        gb(free as f64)
    );
    Ok(())
}

fn section(setup: &Setup, figures: &Figures, tables: &str) -> String {
    let Setup { options, keys, .. } = setup;
    let cache = options.cache_bytes.map_or("default".to_owned(), |bytes| format!("{bytes} bytes"));
    format!(
        "## Costs at {keys} keys\n\n\
         Engine {}, its cache: {cache}. Keys and values are {}. {} connections with {} SETs in each pipeline write. A stall is a time \
         longer than {} ms in which no write of any connection was acknowledged. Device bytes are what the disk counted as \
         written, by all programs of the machine. GB and MB are decimal. The goals are for 5 000 000 keys.\n\n\
         {figures}{tables}",
        options.engine,
        gb(setup.user_bytes() as f64),
        pipeline::CONNECTIONS,
        pipeline::PIPELINE,
        pipeline::STALL.as_millis(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_keys_for_the_disk_are_refused_with_the_space_they_need() {
        let dir = tempfile::tempdir().unwrap();
        ensure_space(dir.path(), 1, "sled").unwrap();
        let refused = ensure_space(dir.path(), 1 << 50, "runs").unwrap_err().to_string();
        assert!(refused.contains("use fewer --keys") && !refused.contains('\n'), "{refused}");
    }
}
