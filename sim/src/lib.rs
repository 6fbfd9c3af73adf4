//! A deterministic simulation of clusters in one thread, decided by one seed. The members are the node's own Raft
//! core, log, state machine and snapshots, on simulated disks, network and time, under faults. The `invariants` are
//! checked after each step, each answer to a client against the `reference`. At the end (`end`) all faults stop,
//! the members have to agree again, and the history of the clients has to be linearizable (`helios-history`).
//! README.md has the architecture.
//!
//! The same seed gives the same run, step by step, on every machine.

mod archive;
mod clients;
mod end;
mod events;
mod fingerprint;
mod invariants;
mod log_reader;
mod machine;
mod membership;
mod nemesis;
mod network;
mod plan;
mod poison;
mod reference;
mod restore;
mod workload;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::catch_unwind;

pub use helios_raft::simulation::SeededBug;
pub use plan::Fault;
use world::World;

/// Description of something that must never happen and did: a broken invariant, a wrong answer, a panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Outcome of one seed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub seed: u64,
    /// Number of events that were executed.
    pub steps: u64,
    pub faults: BTreeMap<Fault, u64>,
    pub elections: u64,
    pub snapshots_installed: u64,
    /// Transfers that continued from the bytes of an earlier one that broke.
    pub snapshots_resumed: u64,
    /// States that were fetched from another member.
    pub repairs: u64,
    /// Times that entries were read back from the log for a member that lags.
    pub fetches: u64,
    /// States that a start rebuilt from a snapshot and the log.
    pub rebuilds: u64,
    /// Nodes that were restored from the archive.
    pub restores: u64,
    /// Restores whose state was compared with that of another base on the way.
    pub compared: u64,
    /// Requests of clients that were answered.
    pub answered: u64,
    /// Requests of clients whose outcome stayed unknown.
    pub unknown: u64,
    pub committed: u64,
    /// Number of answers by kind of request.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Histories of registers that were too complex for the checker: 0 or 1.
    pub unjudged: u64,
    /// Hash over everything that happened; equal for equal runs.
    pub fingerprint: u64,
    pub violation: Option<Violation>,
}

impl Report {
    fn note(&mut self, kind: &'static str) {
        *self.kinds.entry(kind).or_default() += 1;
    }
}

/// Runs one seed. All members have the seeded bug `bug`, if there is one. A panic is reported as a violation.
pub fn run(seed: u64, bug: Option<SeededBug>) -> Report {
    SeededBug::set(bug);
    let outcome = catch_unwind(|| World::new(seed).live());
    SeededBug::set(None);
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
        Report { seed, violation: Some(Violation(format!("panic: {text}"))), ..Report::default() }
    })
}
