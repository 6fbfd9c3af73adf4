//! Commands about the node and its cluster.

use super::super::commands::{config, connection, consistency, introspect, introspect_keys, server};
use super::{Spec, commands};

pub static COMMANDS: &[Spec] = commands! {
    "command" -1 NONE [LOADING STALE] "2.8.13" Server introspect::all,
        "Returns information about every command." => COMMAND;
    "config" -2 NONE [] "2.0.0" Server introspect::container,
        "A container for server configuration commands." => CONFIG;
    "function" -2 NONE [] "7.0.0" Server introspect::container,
        "A container for commands about functions, of which there are none." => FUNCTION;
    "helios.ack" -1 NONE [LOADING STALE FAST] "HeliosDB" Cluster consistency::ack,
        "Returns, or sets to MAJORITY or ALL, which voters hold this connection's writes on disk before they are acknowledged.";
    "helios.read" -1 NONE [LOADING STALE FAST] "HeliosDB" Cluster consistency::read,
        "Returns, or sets to LINEARIZABLE, LEASE or STALE [max-milliseconds], the consistency of this connection's reads.";
    "helios.token" -1 NONE [LOADING STALE FAST] "HeliosDB" Cluster consistency::token,
        "Returns a token for this connection's last write (nil: none), or, with SEEN, for all that it has read or written; or makes its reads see the state of a given one.";
    "info" -1 NONE [LOADING STALE] "1.0.0" Server server::info,
        "Returns information and statistics about this node and its cluster.";
    "memory" -2 NONE [] "4.0.0" Server introspect::container,
        "A container for commands about memory." => MEMORY;
    "readonly" 1 NONE [LOADING STALE FAST] "3.0.0" Cluster connection::readonly,
        "Lets this connection read the state of its node, however old: HELIOS.READ STALE.";
    "readwrite" 1 NONE [LOADING STALE FAST] "3.0.0" Cluster connection::readwrite,
        "Makes the reads of this connection linearizable again, as they are by default.";
    "role" 1 NONE [NOSCRIPT LOADING STALE FAST] "2.8.12" Server server::role,
        "Returns the replication role of this node.";
    "time" 1 NONE [LOADING STALE FAST] "2.6.0" Server server::time,
        "Returns the time of this node.";
};

static COMMAND: &[Spec] = commands! {
    "command|count" 2 NONE [LOADING STALE] "2.8.13" Server introspect::count,
        "Returns the number of commands.";
    "command|docs" -2 NONE [LOADING STALE] "7.0.0" Server introspect::docs,
        "Returns documentation of some or all commands.";
    "command|getkeys" -3 NONE [LOADING STALE] "2.8.13" Server introspect_keys::getkeys,
        "Returns the keys of a request.";
    "command|getkeysandflags" -3 NONE [LOADING STALE] "7.0.0" Server introspect_keys::getkeys_and_flags,
        "Returns the keys of a request, each with its access flags.";
    "command|help" 2 NONE [LOADING STALE] "5.0.0" Server introspect::help,
        "Lists the subcommands.";
    "command|info" -2 NONE [LOADING STALE] "2.8.13" Server introspect::info,
        "Returns information about some or all commands.";
    "command|list" -2 NONE [LOADING STALE] "7.0.0" Server introspect::list,
        "Returns the names of the commands, of a category or that match a pattern.";
};

static CONFIG: &[Spec] = commands! {
    "config|get" -3 NONE [ADMIN NOSCRIPT LOADING STALE] "2.0.0" Server config::get,
        "Returns the settings that match the patterns.";
    "config|help" 2 NONE [LOADING STALE] "5.0.0" Server config::help,
        "Lists the subcommands.";
    "config|resetstat" 2 NONE [ADMIN NOSCRIPT LOADING STALE] "2.0.0" Server config::resetstat,
        "Sets the counters shown by INFO to zero.";
    "config|set" -4 NONE [ADMIN NOSCRIPT LOADING STALE] "2.0.0" Server config::set,
        "Changes notify-keyspace-events and timeout on this node until it restarts; accepts some that have no effect here.";
};

pub static MEMORY: &[Spec] = commands! {
    "memory|help" 2 NONE [LOADING STALE] "4.0.0" Server introspect::help,
        "Lists the subcommands.";
    "memory|malloc-stats" 2 NONE [LOADING STALE] "4.0.0" Server server::malloc_stats,
        "Reports that the allocator keeps no statistics.";
    "memory|stats" 2 NONE [LOADING STALE] "4.0.0" Server server::memory_stats,
        "Returns the memory of the process, the number of keys, and the estimated bytes of the state, on disk and not yet on disk.";
};

static FUNCTION: &[Spec] = commands! {
    "function|flush" -2 NONE [WRITE NOSCRIPT] "7.0.0" Server server::function_flush,
        "Does nothing.";
    "function|help" 2 NONE [LOADING STALE] "7.0.0" Server introspect::help,
        "Lists the subcommands.";
};
