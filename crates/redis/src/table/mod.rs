//! The only table of commands: it drives dispatch, arity errors, `COMMAND` and the reference page.

mod acl;
mod connection;
mod generic;
mod hashes;
mod keys;
mod lists;
mod pubsub;
mod scripting;
mod server;
mod sets;
mod sorted_sets;
mod strings;

use std::sync::LazyLock;

use super::commands::Parse;
use super::error::Refusal;
pub use keys::Keys;
use keys::{ALL, BITOP, BUT_LAST, COUNTED, COUNTED_SECOND, NONE, ONE, ONE_AND_COUNTED, PAIRS, SECOND, TWO};

/// One command or subcommand, in the terms of `COMMAND INFO`.
#[derive(Debug)]
pub struct Spec {
    /// Name in lower case; for a subcommand `container|name`.
    pub name: &'static str,
    /// Number of words of a request, with the name (for a subcommand: both names); negative: a minimum.
    pub arity: i32,
    pub keys: Keys,
    /// Redis's flags, separated by blanks.
    pub flags: &'static str,
    /// Redis version that introduced the command with this meaning; HeliosDB's own commands have none.
    pub since: &'static str,
    pub group: Group,
    pub summary: &'static str,
    pub subcommands: &'static [Spec],
    pub parse: Parse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    String,
    Hash,
    Set,
    List,
    SortedSet,
    Generic,
    Transactions,
    PubSub,
    Scripting,
    Connection,
    Server,
    Cluster,
}

impl Group {
    pub const ALL: [Group; 12] = [
        Self::String,
        Self::Hash,
        Self::Set,
        Self::List,
        Self::SortedSet,
        Self::Generic,
        Self::Transactions,
        Self::PubSub,
        Self::Scripting,
        Self::Connection,
        Self::Server,
        Self::Cluster,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Hash => "hash",
            Self::Set => "set",
            Self::List => "list",
            Self::SortedSet => "sorted-set",
            Self::Transactions => "transactions",
            Self::PubSub => "pubsub",
            Self::Scripting => "scripting",
            Self::Generic => "generic",
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Cluster => "cluster",
        }
    }
}

impl Spec {
    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.split_ascii_whitespace().any(|each| each == flag)
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

/// All commands, in the order of their names.
pub static COMMANDS: LazyLock<Vec<&'static Spec>> = LazyLock::new(|| {
    let mut all: Vec<_> = [
        acl::COMMANDS,
        connection::COMMANDS,
        generic::COMMANDS,
        hashes::COMMANDS,
        lists::COMMANDS,
        pubsub::COMMANDS,
        scripting::COMMANDS,
        server::COMMANDS,
        sets::COMMANDS,
        sorted_sets::COMMANDS,
        strings::COMMANDS,
    ]
    .into_iter()
    .flatten()
    .collect();
    all.sort_unstable_by_key(|spec| spec.name);
    all
});

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
    ($($name:literal $arity:literal $keys:ident $flags:literal $since:literal $group:ident
        $parse:path, $summary:literal $(=> $subcommands:ident)?;)*) => {
        &[$(Spec {
            name: $name,
            arity: $arity,
            keys: $keys,
            flags: $flags,
            since: $since,
            group: Group::$group,
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
        const FLAGS: [&str; 12] = [
            "pubsub",
            "write",
            "readonly",
            "denyoom",
            "admin",
            "noscript",
            "loading",
            "stale",
            "fast",
            "no_auth",
            "blocking",
            "movablekeys",
        ];
        for spec in all() {
            assert!(spec.flags.split_ascii_whitespace().all(|flag| FLAGS.contains(&flag)), "{}", spec.name);
            assert!(!(spec.has_flag("write") && spec.has_flag("readonly")), "{}", spec.name);
            assert_eq!(spec.keys.first > 0, spec.keys.step > 0, "{}", spec.name);
            let moves = spec.keys.counted_at > 0 || spec.name.starts_with("sort");
            assert_eq!(spec.has_flag("movablekeys"), moves, "{}", spec.name);
            assert!(spec.arity.unsigned_abs() as usize >= spec.name_words(), "{}", spec.name);
            assert!(spec.summary.ends_with('.'), "{}", spec.name);
        }
    }

    #[test]
    fn every_state_command_is_in_the_table_with_the_same_flags() {
        for verb in helios_state::calls::all() {
            let spec = all().find(|spec| spec.name == verb.name);
            let spec = spec.unwrap_or_else(|| panic!("{} is not in the table", verb.name));
            assert_eq!(spec.has_flag("write"), verb.writes, "{}", verb.name);
            let may_grow = spec.has_flag("denyoom");
            assert_eq!(may_grow, verb.grows, "{}", verb.name);
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
