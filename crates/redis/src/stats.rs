//! Counters that `INFO stats` shows and `CONFIG RESETSTAT` clears.

use std::sync::atomic::{AtomicU64, Ordering};

use helios_state::Lookups;

#[derive(Debug, Default)]
pub struct Stats {
    connections: AtomicU64,
    rejected: AtomicU64,
    commands: AtomicU64,
    errors: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub connections: u64,
    pub rejected: u64,
    pub commands: u64,
    pub errors: u64,
    pub hits: u64,
    pub misses: u64,
}

impl Stats {
    pub fn connected(&self) {
        increment(&self.connections);
    }

    pub fn rejected(&self) {
        increment(&self.rejected);
    }

    pub fn answered(&self, is_error: bool) {
        increment(&self.commands);
        if is_error {
            increment(&self.errors);
        }
    }

    pub fn looked_up(&self, lookups: Lookups) {
        self.hits.fetch_add(lookups.found, Ordering::Relaxed);
        self.misses.fetch_add(lookups.missed, Ordering::Relaxed);
    }

    pub fn read(&self) -> Counts {
        let Self { connections, rejected, commands, errors, hits, misses } = self;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            connections: read(connections),
            rejected: read(rejected),
            commands: read(commands),
            errors: read(errors),
            hits: read(hits),
            misses: read(misses),
        }
    }

    pub fn reset(&self) {
        let Self { connections, rejected, commands, errors, hits, misses } = self;
        for counter in [connections, rejected, commands, errors, hits, misses] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

fn increment(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
