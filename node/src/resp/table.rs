//! The one table of commands: it drives dispatch, arity errors, `COMMAND` and the reference page.

use super::commands::{Parse, client, connection, consistency, introspect, keyspace, scan, server, strings};
use super::error::Refusal;

/// One command or subcommand, in the terms of `COMMAND INFO`.
#[derive(Debug)]
pub struct Spec {
    /// In lower case; of a subcommand `container|name`.
    pub name: &'static str,
    /// Words of a request, the name (of a subcommand: both names) included; negative: at least as many.
    pub arity: i32,
    pub keys: Keys,
    /// Redis's flags, separated by blanks.
    pub flags: &'static str,
    /// Redis version that introduced the command with this meaning; ours are of no Redis version.
    pub since: &'static str,
    pub group: Group,
    pub summary: &'static str,
    pub subcommands: &'static [Spec],
    pub parse: Parse,
}

/// Positions of the keys in a request; `first` 0: none, `last` negative: counted from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    pub first: i32,
    pub last: i32,
    pub step: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    String,
    Generic,
    Connection,
    Server,
    Cluster,
}

impl Group {
    pub const ALL: [Group; 5] = [Self::String, Self::Generic, Self::Connection, Self::Server, Self::Cluster];

    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
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

    /// Words of its name that a request spends: `CLIENT ID` two, `GET` one.
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

/// The command called `name`, in any case, without regard to subcommands.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let lower = |byte: &u8| byte.to_ascii_lowercase();
    COMMANDS
        .binary_search_by(|spec| spec.name.bytes().cmp(name.iter().map(lower)))
        .ok()
        .map(|position| &COMMANDS[position])
}

/// What a request (its words, the name first) asks for, if the number of its words fits.
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

const NONE: Keys = Keys { first: 0, last: 0, step: 0 };
const ONE: Keys = Keys { first: 1, last: 1, step: 1 };
const ALL: Keys = Keys { first: 1, last: -1, step: 1 };
const PAIRS: Keys = Keys { first: 1, last: -1, step: 2 };

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

/// In the order of their names.
pub static COMMANDS: &[Spec] = commands! {
    "auth" -2 NONE "noscript loading stale fast no_auth" "1.0.0" Connection connection::auth,
        "Authenticates the connection.";
    "client" -2 NONE "" "2.4.0" Connection client::container,
        "A container for client connection commands." => CLIENT;
    "command" -1 NONE "loading stale" "2.8.13" Server introspect::all,
        "Returns information about every command." => COMMAND;
    "config" -2 NONE "" "2.0.0" Server server::config_container,
        "A container for server configuration commands." => CONFIG;
    "dbsize" 1 NONE "readonly fast" "1.0.0" Server keyspace::dbsize,
        "Returns the number of keys; expired keys count until they are purged.";
    "decr" 2 ONE "write denyoom fast" "1.0.0" String strings::decr,
        "Decrements the integer value of a key by one.";
    "decrby" 3 ONE "write denyoom fast" "1.0.0" String strings::decrby,
        "Decrements the integer value of a key by a number.";
    "del" -2 ALL "write" "1.0.0" Generic keyspace::del,
        "Deletes one or more keys.";
    "echo" 2 NONE "loading stale fast" "1.0.0" Connection connection::echo,
        "Returns the given string.";
    "exists" -2 ALL "readonly fast" "1.0.0" Generic keyspace::exists,
        "Returns how many of the given keys exist.";
    "expire" -3 ONE "write fast" "1.0.0" Generic keyspace::expire,
        "Sets the expiration time of a key in seconds.";
    "expireat" -3 ONE "write fast" "1.2.0" Generic keyspace::expireat,
        "Sets the expiration time of a key to a Unix timestamp in seconds.";
    "expiretime" 2 ONE "readonly fast" "7.0.0" Generic keyspace::expiretime,
        "Returns the expiration time of a key as a Unix timestamp in seconds.";
    "flushall" -1 NONE "write" "1.0.0" Server server::flush,
        "Removes all keys.";
    "flushdb" -1 NONE "write" "1.0.0" Server server::flush,
        "Removes all keys.";
    "get" 2 ONE "readonly fast" "1.0.0" String strings::get,
        "Returns the string value of a key.";
    "getset" 3 ONE "write denyoom fast" "1.0.0" String strings::getset,
        "Sets a key and returns its previous value.";
    "helios.ack" -1 NONE "loading stale fast" "HeliosDB" Cluster consistency::ack,
        "Says, or sets to MAJORITY or ALL, which voters hold this connection's writes on disk before they are acknowledged.";
    "helios.read" -1 NONE "loading stale fast" "HeliosDB" Cluster consistency::read,
        "Says, or sets to LINEARIZABLE, LEASE or STALE [max-milliseconds], what this connection's reads see.";
    "helios.token" -1 NONE "loading stale fast" "HeliosDB" Cluster consistency::token,
        "Returns a token for this connection's last write (nil: none), or makes its reads see the write of a given one.";
    "hello" -1 NONE "noscript loading stale fast no_auth" "6.0.0" Connection connection::hello,
        "Chooses the protocol version, and may authenticate and name the connection.";
    "incr" 2 ONE "write denyoom fast" "1.0.0" String strings::incr,
        "Increments the integer value of a key by one.";
    "incrby" 3 ONE "write denyoom fast" "1.0.0" String strings::incrby,
        "Increments the integer value of a key by a number.";
    "info" -1 NONE "loading stale" "1.0.0" Server server::info,
        "Returns information and statistics about this node and its cluster.";
    "keys" 2 NONE "readonly" "1.0.0" Generic scan::keys,
        "Returns the keys that match a pattern, refusing more than 100000; prefer SCAN.";
    "mget" -2 ALL "readonly fast" "1.0.0" String strings::mget,
        "Returns the string values of one or more keys.";
    "mset" -3 PAIRS "write denyoom" "1.0.1" String strings::mset,
        "Sets several keys at once.";
    "msetnx" -3 PAIRS "write denyoom" "1.0.1" String strings::msetnx,
        "Sets several keys at once if none of them exists.";
    "persist" 2 ONE "write fast" "2.2.0" Generic keyspace::persist,
        "Removes the expiration time of a key.";
    "pexpire" -3 ONE "write fast" "2.6.0" Generic keyspace::pexpire,
        "Sets the expiration time of a key in milliseconds.";
    "pexpireat" -3 ONE "write fast" "2.6.0" Generic keyspace::pexpireat,
        "Sets the expiration time of a key to a Unix timestamp in milliseconds.";
    "pexpiretime" 2 ONE "readonly fast" "7.0.0" Generic keyspace::pexpiretime,
        "Returns the expiration time of a key as a Unix timestamp in milliseconds.";
    "ping" -1 NONE "fast" "1.0.0" Connection connection::ping,
        "Returns PONG or the given string.";
    "psetex" 4 ONE "write denyoom" "2.6.0" String strings::psetex,
        "Sets a key with an expiration time in milliseconds.";
    "pttl" 2 ONE "readonly fast" "2.6.0" Generic keyspace::pttl,
        "Returns the remaining time to live of a key in milliseconds.";
    "quit" -1 NONE "noscript loading stale fast no_auth" "1.0.0" Connection connection::quit,
        "Closes the connection.";
    "readonly" 1 NONE "loading stale fast" "3.0.0" Cluster connection::readonly,
        "Lets this connection read the state of its node, however old: HELIOS.READ STALE.";
    "readwrite" 1 NONE "loading stale fast" "3.0.0" Cluster connection::readwrite,
        "Makes the reads of this connection linearizable again, as they are by default.";
    "reset" 1 NONE "noscript loading stale fast no_auth" "6.2.0" Connection connection::reset,
        "Puts the connection back as it was when it was opened.";
    "role" 1 NONE "noscript loading stale fast" "2.8.12" Server server::role,
        "Returns the replication role of this node.";
    "scan" -2 NONE "readonly" "2.8.0" Generic scan::scan,
        "Iterates over the keys.";
    "select" 2 NONE "loading stale fast" "1.0.0" Connection connection::select,
        "Accepts database 0, the only one.";
    "set" -3 ONE "write denyoom" "1.0.0" String strings::set,
        "Sets the string value of a key, with options EX PX EXAT PXAT NX XX KEEPTTL GET.";
    "setex" 4 ONE "write denyoom" "2.0.0" String strings::setex,
        "Sets a key with an expiration time in seconds.";
    "setnx" 3 ONE "write denyoom fast" "1.0.0" String strings::setnx,
        "Sets a key if it does not exist.";
    "strlen" 2 ONE "readonly fast" "2.2.0" String strings::strlen,
        "Returns the length of a value.";
    "time" 1 NONE "loading stale fast" "2.6.0" Server server::time,
        "Returns the time of this node.";
    "ttl" 2 ONE "readonly fast" "1.0.0" Generic keyspace::ttl,
        "Returns the remaining time to live of a key in seconds.";
    "type" 2 ONE "readonly fast" "1.0.0" Generic keyspace::type_of,
        "Returns the type of the value of a key.";
    "unlink" -2 ALL "write fast" "4.0.0" Generic keyspace::del,
        "Deletes one or more keys.";
    "wait" 3 NONE "blocking" "3.0.0" Generic server::wait,
        "Waits until so many voters beside the leader hold this connection's last write on disk.";
};

static CLIENT: &[Spec] = commands! {
    "client|getname" 2 NONE "noscript loading stale fast" "2.6.9" Connection client::getname,
        "Returns the name of the connection.";
    "client|help" 2 NONE "loading stale" "5.0.0" Connection client::help,
        "Lists the subcommands.";
    "client|id" 2 NONE "noscript loading stale fast" "5.0.0" Connection client::id,
        "Returns the number of the connection on this node.";
    "client|info" 2 NONE "noscript loading stale" "6.2.0" Connection client::info,
        "Returns information about the connection.";
    "client|list" -2 NONE "admin noscript loading stale" "2.4.0" Connection client::list,
        "Lists the connections to this node.";
    "client|no-evict" 3 NONE "admin noscript loading stale" "7.0.0" Connection client::switch,
        "Accepted: no connection is evicted.";
    "client|no-touch" 3 NONE "noscript loading stale fast" "7.2.0" Connection client::switch,
        "Accepted: reads do not change keys.";
    "client|setinfo" 4 NONE "noscript loading stale fast" "7.2.0" Connection client::setinfo,
        "Records the name or version of the client library.";
    "client|setname" 3 NONE "noscript loading stale fast" "2.6.9" Connection client::setname,
        "Names the connection.";
};

static COMMAND: &[Spec] = commands! {
    "command|count" 2 NONE "loading stale" "2.8.13" Server introspect::count,
        "Returns the number of commands.";
    "command|docs" -2 NONE "loading stale" "7.0.0" Server introspect::docs,
        "Returns documentation of some or all commands.";
    "command|getkeys" -3 NONE "loading stale" "2.8.13" Server introspect::getkeys,
        "Returns the keys of a request.";
    "command|help" 2 NONE "loading stale" "5.0.0" Server introspect::help,
        "Lists the subcommands.";
    "command|info" -2 NONE "loading stale" "2.8.13" Server introspect::info,
        "Returns information about some or all commands.";
};

static CONFIG: &[Spec] = commands! {
    "config|get" -3 NONE "admin noscript loading stale" "2.0.0" Server server::config_get,
        "Returns the settings that match the patterns.";
    "config|help" 2 NONE "loading stale" "5.0.0" Server server::config_help,
        "Lists the subcommands.";
    "config|resetstat" 2 NONE "admin noscript loading stale" "2.0.0" Server server::config_resetstat,
        "Sets the counters shown by INFO to zero.";
};

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = &'static Spec> {
        COMMANDS.iter().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands))
    }

    #[test]
    fn the_table_is_sorted_and_every_name_is_found_in_any_case() {
        assert!(COMMANDS.is_sorted_by(|left, right| left.name < right.name));
        for spec in COMMANDS {
            assert_eq!(find(spec.name.to_uppercase().as_bytes()).map(|found| found.name), Some(spec.name));
            assert!(spec.subcommands.is_sorted_by(|left, right| left.name < right.name));
        }
        assert!(find(b"").is_none() && find(b"gets").is_none());
    }

    #[test]
    fn flags_and_keys_make_sense() {
        const FLAGS: [&str; 11] = [
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
            assert!(spec.arity.unsigned_abs() as usize >= spec.name_words(), "{}", spec.name);
            assert!(spec.summary.ends_with('.'), "{}", spec.name);
        }
    }

    #[test]
    fn requests_resolve_or_are_refused_in_redis_words() {
        let refusal = |words: &[&str]| resolve(words).expect_err("must be refused").to_string();
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
