//! Commands about the node and its cluster.

use super::super::commands::{config, connection, consistency, data, introspect, introspect_keys, server};
use super::{Group, NONE, SECOND, Spec, commands};

pub static COMMANDS: &[Spec] = commands! {
    "command" -1 NONE "loading stale" "2.8.13" Server introspect::all,
        "Returns information about every command." => COMMAND;
    "config" -2 NONE "" "2.0.0" Server introspect::container,
        "A container for server configuration commands." => CONFIG;
    "dbsize" 1 NONE "readonly fast" "1.0.0" Server data::call,
        "Returns the number of keys; expired keys count until they are purged.";
    "flushall" -1 NONE "write" "1.0.0" Server server::flush,
        "Removes all keys.";
    "flushdb" -1 NONE "write" "1.0.0" Server server::flush,
        "Removes all keys.";
    "function" -2 NONE "" "7.0.0" Server introspect::container,
        "A container for commands about functions, of which there are none." => FUNCTION;
    "helios.ack" -1 NONE "loading stale fast" "HeliosDB" Cluster consistency::ack,
        "Returns, or sets to MAJORITY or ALL, which voters hold this connection's writes on disk before they are acknowledged.";
    "helios.read" -1 NONE "loading stale fast" "HeliosDB" Cluster consistency::read,
        "Returns, or sets to LINEARIZABLE, LEASE or STALE [max-milliseconds], the consistency of this connection's reads.";
    "helios.token" -1 NONE "loading stale fast" "HeliosDB" Cluster consistency::token,
        "Returns a token for this connection's last write (nil: none), or makes its reads see the write of a given one.";
    "info" -1 NONE "loading stale" "1.0.0" Server server::info,
        "Returns information and statistics about this node and its cluster.";
    "memory" -2 NONE "" "4.0.0" Server introspect::container,
        "A container for commands about memory." => MEMORY;
    "readonly" 1 NONE "loading stale fast" "3.0.0" Cluster connection::readonly,
        "Lets this connection read the state of its node, however old: HELIOS.READ STALE.";
    "readwrite" 1 NONE "loading stale fast" "3.0.0" Cluster connection::readwrite,
        "Makes the reads of this connection linearizable again, as they are by default.";
    "role" 1 NONE "noscript loading stale fast" "2.8.12" Server server::role,
        "Returns the replication role of this node.";
    "time" 1 NONE "loading stale fast" "2.6.0" Server server::time,
        "Returns the time of this node.";
};

static COMMAND: &[Spec] = commands! {
    "command|count" 2 NONE "loading stale" "2.8.13" Server introspect::count,
        "Returns the number of commands.";
    "command|docs" -2 NONE "loading stale" "7.0.0" Server introspect::docs,
        "Returns documentation of some or all commands.";
    "command|getkeys" -3 NONE "loading stale" "2.8.13" Server introspect_keys::getkeys,
        "Returns the keys of a request.";
    "command|getkeysandflags" -3 NONE "loading stale" "7.0.0" Server introspect_keys::getkeys_and_flags,
        "Returns the keys of a request, each with its access flags.";
    "command|help" 2 NONE "loading stale" "5.0.0" Server introspect::help,
        "Lists the subcommands.";
    "command|info" -2 NONE "loading stale" "2.8.13" Server introspect::info,
        "Returns information about some or all commands.";
    "command|list" -2 NONE "loading stale" "7.0.0" Server introspect::list,
        "Returns the names of the commands, of a category or that match a pattern.";
};

static CONFIG: &[Spec] = commands! {
    "config|get" -3 NONE "admin noscript loading stale" "2.0.0" Server config::get,
        "Returns the settings that match the patterns.";
    "config|help" 2 NONE "loading stale" "5.0.0" Server config::help,
        "Lists the subcommands.";
    "config|resetstat" 2 NONE "admin noscript loading stale" "2.0.0" Server config::resetstat,
        "Sets the counters shown by INFO to zero.";
    "config|set" -4 NONE "admin noscript loading stale" "2.0.0" Server config::set,
        "Changes notify-keyspace-events and timeout on this node until it restarts; accepts some that have no effect here.";
};

static MEMORY: &[Spec] = commands! {
    "memory|help" 2 NONE "loading stale" "4.0.0" Server introspect::help,
        "Lists the subcommands.";
    "memory|malloc-stats" 2 NONE "loading stale" "4.0.0" Server server::malloc_stats,
        "Reports that the allocator keeps no statistics.";
    "memory|stats" 2 NONE "loading stale" "4.0.0" Server server::memory_stats,
        "Returns the memory of the process, the number of keys, and the estimated bytes of the state, on disk and not yet on disk.";
    "memory|usage" -3 SECOND "readonly" "4.0.0" Server data::call,
        "Returns an estimate of the bytes that a key and its value take.";
};

static FUNCTION: &[Spec] = commands! {
    "function|flush" -2 NONE "write noscript" "7.0.0" Server server::function_flush,
        "Does nothing.";
    "function|help" 2 NONE "loading stale" "7.0.0" Server introspect::help,
        "Lists the subcommands.";
};
