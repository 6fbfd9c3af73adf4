//! The table of all commands: those on keys, from the state's tables, and those of the protocol. It drives
//! dispatch, arity errors, `COMMAND` and the reference page.

mod acl;
mod connection;
mod data;
mod generic;
mod keys;
mod lists;
mod pubsub;
mod scripting;
mod server;
mod sorted_sets;

use std::sync::LazyLock;

use super::commands::Parse;
use super::error::Refusal;
pub use helios_state::commands::{Flags, Group, Keys};

/// One command or subcommand, in the terms of `COMMAND INFO`.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Name in lower case; for a subcommand `container|name`.
    pub name: &'static str,
    /// Number of words of a request, with the name (for a subcommand: both names); negative: a minimum.
    pub arity: i32,
    pub keys: Keys,
    pub flags: Flags,
    /// The state's row of a command on keys; `None` for a command of the protocol.
    pub state: Option<&'static helios_state::commands::Spec>,
    /// Redis version that introduced the command with this meaning; HeliosDB's own commands have none.
    pub since: &'static str,
    pub group: Group,
    pub summary: &'static str,
    pub subcommands: &'static [Spec],
    pub parse: Parse,
}

impl Spec {
    pub fn has(&self, flag: Flags) -> bool {
        self.flags.has(flag)
    }

    /// Returns the number of words that the name takes in a request: `CLIENT ID` two, `GET` one.
    pub fn name_words(&self) -> usize {
        if self.name.contains('|') { 2 } else { 1 }
    }

    pub fn accepts(&self, words: usize) -> bool {
        let arity = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { words >= arity } else { words == arity }
    }

    fn subcommand(&self, name: &[u8]) -> Option<&'static Spec> {
        self.subcommands.iter().find(|spec| {
            spec.name.split_once('|').is_some_and(|(_, own)| own.as_bytes().eq_ignore_ascii_case(name))
        })
    }
}

static TABLE: LazyLock<Vec<Spec>> = LazyLock::new(|| {
    let own = [
        acl::COMMANDS,
        connection::COMMANDS,
        generic::COMMANDS,
        lists::COMMANDS,
        pubsub::COMMANDS,
        scripting::COMMANDS,
        server::COMMANDS,
        sorted_sets::COMMANDS,
    ];
    let own = own.into_iter().flatten().map(|spec| match spec.name {
        "memory" => Spec { subcommands: &MEMORY, ..*spec },
        "object" => Spec { subcommands: &OBJECT, ..*spec },
        _ => *spec,
    });
    let mut all: Vec<_> = own.chain(data::commands()).collect();
    all.sort_unstable_by_key(|spec| spec.name);
    all
});

static MEMORY: LazyLock<Vec<Spec>> = LazyLock::new(|| data::subcommands("memory|", server::MEMORY));
static OBJECT: LazyLock<Vec<Spec>> = LazyLock::new(|| data::subcommands("object|", generic::OBJECT));

/// All commands, in the order of their names.
pub static COMMANDS: LazyLock<Vec<&'static Spec>> = LazyLock::new(|| TABLE.iter().collect());

/// Finds the command `name`, in any case, without regard to subcommands.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let lower = |byte: &u8| byte.to_ascii_lowercase();
    COMMANDS
        .binary_search_by(|spec| spec.name.bytes().cmp(name.iter().map(lower)))
        .ok()
        .map(|position| COMMANDS[position])
}

/// Finds the command or subcommand of a request (its words, the name first) and checks the number of words.
pub fn resolve(words: &[impl AsRef<[u8]>]) -> Result<&'static Spec, Refusal> {
    let unknown = || Refusal::unknown_command(words);
    let command = words.first().and_then(|name| find(name.as_ref())).ok_or_else(unknown)?;
    let spec = match words.get(1) {
        Some(name) if !command.subcommands.is_empty() => command
            .subcommand(name.as_ref())
            .ok_or_else(|| Refusal::unknown_subcommand(command.name, name.as_ref()))?,
        _ => command,
    };
    if spec.accepts(words.len()) { Ok(spec) } else { Err(Refusal::Arity(spec.name)) }
}

macro_rules! commands {
    ($($name:literal $arity:literal $keys:ident [$($flag:ident)*] $since:literal $group:ident
        $parse:path, $summary:literal $(=> $subcommands:ident)?;)*) => {
        &[$(Spec {
            name: $name,
            arity: $arity,
            keys: helios_state::commands::keys_of::$keys,
            flags: $crate::table::Flags::NONE$(.with($crate::table::Flags::$flag))*,
            state: None,
            since: $since,
            group: $crate::table::Group::$group,
            summary: $summary,
            subcommands: commands!(@ $($subcommands)?),
            parse: $parse,
        }),*]
    };
    (@) => { &[] };
    (@ $subcommands:ident) => { $subcommands };
}
use commands;

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = &'static Spec> {
        COMMANDS.iter().flat_map(|spec| std::iter::once(*spec).chain(spec.subcommands))
    }

    #[test]
    fn the_table_is_sorted_and_every_name_is_found_in_any_case() {
        assert!(COMMANDS.is_sorted_by(|left, right| left.name < right.name));
        for spec in COMMANDS.iter() {
            assert_eq!(find(spec.name.to_uppercase().as_bytes()).map(|found| found.name), Some(spec.name));
            assert!(spec.subcommands.is_sorted_by(|left, right| left.name < right.name));
        }
        assert!(find(b"").is_none() && find(b"gets").is_none());
    }

    #[test]
    fn flags_and_keys_are_consistent() {
        for spec in all() {
            assert!(!(spec.has(Flags::WRITE) && spec.has(Flags::READONLY)), "{}", spec.name);
            assert_eq!(spec.keys.first > 0, spec.keys.step > 0, "{}", spec.name);
            let moves = spec.keys.counted_at > 0 || spec.name.starts_with("sort");
            assert_eq!(spec.has(Flags::MOVABLEKEYS), moves, "{}", spec.name);
            assert!(spec.arity.unsigned_abs() as usize >= spec.name_words(), "{}", spec.name);
            assert!(spec.summary.ends_with('.'), "{}", spec.name);
        }
    }

    #[test]
    fn requests_resolve_or_are_rejected_as_in_redis() {
        let refusal = |words: &[&str]| resolve(words).expect_err("must be rejected").to_string();
        assert_eq!(resolve(&["CLIENT", "id"]).unwrap().name, "client|id");
        assert_eq!(resolve(&["Command"]).unwrap().name, "command");
        assert_eq!(refusal(&["get"]), "ERR wrong number of arguments for 'get' command");
        assert_eq!(refusal(&["client"]), "ERR wrong number of arguments for 'client' command");
        assert_eq!(
            refusal(&["CLIENT", "SETNAME"]),
            "ERR wrong number of arguments for 'client|setname' command"
        );
        assert_eq!(
            refusal(&["client", "MAINT_NOTIFICATIONS", "ON"]),
            "ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP."
        );
        assert!(refusal(&["DPING"]).starts_with("ERR unknown command 'DPING', with args beginning with: "));
    }
}
