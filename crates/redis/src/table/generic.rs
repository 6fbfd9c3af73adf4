//! Commands on keys of any type, and transactions.

use super::super::commands::{introspect, scan, server, transactions};
use super::{Spec, commands};

pub static COMMANDS: &[Spec] = commands! {
    "discard" 1 NONE [NOSCRIPT LOADING STALE FAST] "2.0.0" Transactions transactions::discard,
        "Discards the queued commands.";
    "exec" 1 NONE [NOSCRIPT LOADING STALE] "1.2.0" Transactions transactions::exec,
        "Executes the queued commands as one entry of the log, unless a watched key was changed.";
    "keys" 2 NONE [READONLY] "1.0.0" Generic scan::keys,
        "Returns the keys that match a pattern, refusing more than 100000; prefer SCAN.";
    "multi" 1 NONE [NOSCRIPT LOADING STALE FAST] "1.2.0" Transactions transactions::multi,
        "Begins a transaction: commands are queued until EXEC.";
    "object" -2 NONE [] "2.2.3" Generic introspect::container,
        "A container for commands about how values are stored." => OBJECT;
    "scan" -2 NONE [READONLY] "2.8.0" Generic scan::scan,
        "Iterates over the keys.";
    "unwatch" 1 NONE [NOSCRIPT LOADING STALE FAST] "2.2.0" Transactions transactions::unwatch,
        "Stops watching all keys.";
    "wait" 3 NONE [BLOCKING] "3.0.0" Generic server::wait,
        "Waits until a number of voters beside the leader hold this connection's last write on disk.";
    "watch" -2 ALL [NOSCRIPT LOADING STALE FAST] "2.2.0" Transactions transactions::watch,
        "Makes the next EXEC do nothing if one of the keys is changed before it.";
};

pub static OBJECT: &[Spec] = commands! {
    "object|help" 2 NONE [LOADING STALE] "6.2.0" Generic introspect::help,
        "Lists the subcommands.";
};
