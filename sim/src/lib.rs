//! A world in one thread, decided by one seed: members of HeliosDB made of the node's own Raft core,
//! log, state machine and snapshots, on simulated disks, wires and time, under faults. Whatever must
//! always hold is looked at after each step (`oracle`), what clients saw at the end
//! (`helios-history`), and then everything is healed and has to come together again.
//!
//! The same seed gives the same run, step by step, on every machine.

mod clients;
mod end;
mod events;
mod machine;
mod membership;
mod nemesis;
mod network;
mod oracle;
mod plan;
mod poison;
mod reference;
mod workload;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::catch_unwind;

pub use helios_raft::simulation::Mutation;
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

/// Lives through one seed. With a mutation the members make that mistake.
pub fn run(seed: u64, mutation: Option<Mutation>) -> Report {
    Mutation::set(mutation);
    let lived = catch_unwind(|| World::new(seed).live());
    Mutation::set(None);
    lived.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
        Report { seed, violation: Some(Violation(format!("panic: {text}"))), ..Report::default() }
    })
}
