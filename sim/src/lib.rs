//! A world in one thread, decided by one seed: members of HeliosDB made of the node's own Raft core, log, state machine
//! and snapshots, on simulated disks, network and time, under faults. [`invariants`] are checked after each step, each
//! answer to a client against [`reference`]. At the end ([`end`]) everything is healed and has to agree again, and the
//! history of the clients has to be linearizable (`helios-history`). README.md has the architecture.
//!
//! The same seed gives the same run, step by step, on every machine.

mod clients;
mod end;
mod events;
mod fingerprint;
mod invariants;
mod machine;
mod membership;
mod nemesis;
mod network;
mod plan;
mod poison;
mod reference;
mod workload;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::catch_unwind;

pub use helios_raft::simulation::SeededBug;
pub use plan::Fault;
use world::World;

/// Something that must never happen did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What became of one seed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub seed: u64,
    /// Events that some machine, wire or client took.
    pub steps: u64,
    pub faults: BTreeMap<Fault, u64>,
    pub elections: u64,
    pub snapshots_installed: u64,
    /// Transfers that went on from what an earlier one had left.
    pub snapshots_resumed: u64,
    pub rebuilds: u64,
    /// Operations of clients that were answered, and those whose outcome they never learned.
    pub answered: u64,
    pub unknown: u64,
    pub committed: u64,
    /// What was answered, by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// The history of the registers was too tangled to be judged.
    pub unjudged: u64,
    /// Over everything that happened; equal for equal runs.
    pub fingerprint: u64,
    pub violation: Option<Violation>,
}

impl Report {
    fn note(&mut self, kind: &'static str) {
        *self.kinds.entry(kind).or_default() += 1;
    }
}

/// Runs one seed, on members with the seeded bug if there is one.
pub fn run(seed: u64, bug: Option<SeededBug>) -> Report {
    SeededBug::set(bug);
    let lived = catch_unwind(|| World::new(seed).live());
    SeededBug::set(None);
    lived.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
        Report { seed, violation: Some(Violation(format!("panic: {text}"))), ..Report::default() }
    })
}
