//! Commands on keys, as the tables of the state describe them.

use helios_state::commands::{self, Spec as Described};

use super::super::commands::{data, element_scan};
use super::Spec;

/// Returns the commands on keys that are no subcommands.
pub fn commands() -> impl Iterator<Item = Spec> {
    commands::all().filter(|spec| !spec.name.contains('|')).map(of)
}

/// Returns the subcommands whose names begin with `prefix`, and `own`.
pub fn subcommands(prefix: &str, own: &[Spec]) -> Vec<Spec> {
    let described = commands::all().filter(|spec| spec.name.starts_with(prefix)).map(of);
    let mut all: Vec<_> = described.chain(own.iter().copied()).collect();
    all.sort_unstable_by_key(|spec| spec.name);
    all
}

fn of(spec: &'static Described) -> Spec {
    Spec {
        name: spec.name,
        arity: spec.arity,
        keys: spec.keys,
        flags: spec.flags,
        state: Some(spec),
        since: spec.since,
        group: spec.group,
        summary: spec.summary,
        subcommands: &[],
        parse: match spec.name {
            "hscan" => element_scan::hscan,
            "sscan" => element_scan::sscan,
            "zscan" => element_scan::zscan,
            _ => data::call,
        },
    }
}
