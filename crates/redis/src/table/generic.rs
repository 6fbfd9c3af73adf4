//! Commands on keys of any type, and transactions.

use super::super::commands::{data, introspect, keyspace, scan, server, transactions};
use super::{ALL, Group, NONE, ONE, SECOND, Spec, TWO, commands};

pub static COMMANDS: &[Spec] = commands! {
    "copy" -3 TWO "write denyoom" "6.2.0" Generic data::call,
        "Copies a key, with REPLACE over an existing one; a collection element by element.";
    "del" -2 ALL "write" "1.0.0" Generic keyspace::del,
        "Deletes one or more keys.";
    "discard" 1 NONE "noscript loading stale fast" "2.0.0" Transactions transactions::discard,
        "Discards the queued commands.";
    "dump" 2 ONE "readonly" "2.6.0" Generic data::call,
        "Returns the value of a key as bytes for RESTORE, in a format specific to HeliosDB.";
    "exec" 1 NONE "noscript loading stale" "1.2.0" Transactions transactions::exec,
        "Executes the queued commands as one entry of the log, unless a watched key was changed.";
    "exists" -2 ALL "readonly fast" "1.0.0" Generic data::call,
        "Returns how many of the given keys exist.";
    "expire" -3 ONE "write fast" "1.0.0" Generic keyspace::expire,
        "Sets the expiration time of a key in seconds.";
    "expireat" -3 ONE "write fast" "1.2.0" Generic keyspace::expireat,
        "Sets the expiration time of a key to a Unix timestamp in seconds.";
    "expiretime" 2 ONE "readonly fast" "7.0.0" Generic data::call,
        "Returns the expiration time of a key as a Unix timestamp in seconds.";
    "keys" 2 NONE "readonly" "1.0.0" Generic scan::keys,
        "Returns the keys that match a pattern, refusing more than 100000; prefer SCAN.";
    "multi" 1 NONE "noscript loading stale fast" "1.2.0" Transactions transactions::multi,
        "Begins a transaction: commands are queued until EXEC.";
    "object" -2 NONE "" "2.2.3" Generic introspect::container,
        "A container for commands about how values are stored." => OBJECT;
    "persist" 2 ONE "write fast" "2.2.0" Generic keyspace::persist,
        "Removes the expiration time of a key.";
    "pexpire" -3 ONE "write fast" "2.6.0" Generic keyspace::pexpire,
        "Sets the expiration time of a key in milliseconds.";
    "pexpireat" -3 ONE "write fast" "2.6.0" Generic keyspace::pexpireat,
        "Sets the expiration time of a key to a Unix timestamp in milliseconds.";
    "pexpiretime" 2 ONE "readonly fast" "7.0.0" Generic data::call,
        "Returns the expiration time of a key as a Unix timestamp in milliseconds.";
    "pttl" 2 ONE "readonly fast" "2.6.0" Generic data::call,
        "Returns the remaining time to live of a key in milliseconds.";
    "randomkey" 1 NONE "readonly" "1.0.0" Generic data::call,
        "Returns some key; not every key is equally likely.";
    "rename" 3 TWO "write" "1.0.0" Generic data::call,
        "Renames a key; a key of the new name is overwritten.";
    "renamenx" 3 TWO "write fast" "1.0.0" Generic data::call,
        "Renames a key unless the new name is taken.";
    "restore" -4 ONE "write denyoom" "2.6.0" Generic data::restore,
        "Creates a key from the bytes that DUMP returned.";
    "scan" -2 NONE "readonly" "2.8.0" Generic scan::scan,
        "Iterates over the keys.";
    "sort" -2 ONE "write denyoom movablekeys" "1.0.0" Generic data::sort,
        "Sorts a list, set or sorted set, and with STORE stores the result.";
    "sort_ro" -2 ONE "readonly movablekeys" "7.0.0" Generic data::call,
        "Sorts a list, set or sorted set.";
    "touch" -2 ALL "readonly fast" "3.2.1" Generic data::call,
        "Returns how many of the given keys exist.";
    "ttl" 2 ONE "readonly fast" "1.0.0" Generic data::call,
        "Returns the remaining time to live of a key in seconds.";
    "type" 2 ONE "readonly fast" "1.0.0" Generic data::call,
        "Returns the type of the value of a key.";
    "unlink" -2 ALL "write fast" "4.0.0" Generic keyspace::del,
        "Deletes one or more keys.";
    "unwatch" 1 NONE "noscript loading stale fast" "2.2.0" Transactions transactions::unwatch,
        "Stops watching all keys.";
    "wait" 3 NONE "blocking" "3.0.0" Generic server::wait,
        "Waits until a number of voters beside the leader hold this connection's last write on disk.";
    "watch" -2 ALL "noscript loading stale fast" "2.2.0" Transactions transactions::watch,
        "Makes the next EXEC do nothing if one of the keys is changed before it.";
};

static OBJECT: &[Spec] = commands! {
    "object|encoding" 3 SECOND "readonly" "2.2.3" Generic data::call,
        "Returns the encoding that Redis would use for the value.";
    "object|freq" 3 SECOND "readonly" "4.0.0" Generic data::call,
        "Refused: the use of keys is not counted.";
    "object|help" 2 NONE "loading stale" "6.2.0" Generic introspect::help,
        "Lists the subcommands.";
    "object|idletime" 3 SECOND "readonly" "2.2.3" Generic data::call,
        "Returns 0: the use of keys is not recorded.";
    "object|refcount" 3 SECOND "readonly" "2.2.3" Generic data::call,
        "Returns 1.";
};
