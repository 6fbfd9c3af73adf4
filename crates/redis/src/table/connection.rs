//! Commands about connections.

use super::super::commands::{client, client_control, connection, introspect};
use super::{Spec, commands};

pub static COMMANDS: &[Spec] = commands! {
    "auth" -2 NONE [NOSCRIPT LOADING STALE FAST NO_AUTH] "1.0.0" Connection connection::auth,
        "Authenticates the connection.";
    "client" -2 NONE [] "2.4.0" Connection introspect::container,
        "A container for client connection commands." => CLIENT;
    "echo" 2 NONE [LOADING STALE FAST] "1.0.0" Connection connection::echo,
        "Returns the given string.";
    "hello" -1 NONE [NOSCRIPT LOADING STALE FAST NO_AUTH] "6.0.0" Connection connection::hello,
        "Chooses the protocol version, and may authenticate and name the connection.";
    "ping" -1 NONE [FAST] "1.0.0" Connection connection::ping,
        "Returns PONG or the given string.";
    "quit" -1 NONE [NOSCRIPT LOADING STALE FAST NO_AUTH] "1.0.0" Connection connection::quit,
        "Closes the connection.";
    "reset" 1 NONE [NOSCRIPT LOADING STALE FAST NO_AUTH] "6.2.0" Connection connection::reset,
        "Resets the connection to its initial state.";
    "select" 2 NONE [LOADING STALE FAST] "1.0.0" Connection connection::select,
        "Accepts database 0, the only one.";
};

static CLIENT: &[Spec] = commands! {
    "client|getname" 2 NONE [NOSCRIPT LOADING STALE FAST] "2.6.9" Connection client::getname,
        "Returns the name of the connection.";
    "client|getredir" 2 NONE [NOSCRIPT LOADING STALE FAST] "6.0.0" Connection client_control::getredir,
        "Returns -1: reads are not tracked.";
    "client|help" 2 NONE [LOADING STALE] "5.0.0" Connection client::help,
        "Lists the subcommands.";
    "client|id" 2 NONE [NOSCRIPT LOADING STALE FAST] "5.0.0" Connection client::id,
        "Returns the id of the connection on this node.";
    "client|info" 2 NONE [NOSCRIPT LOADING STALE] "6.2.0" Connection client::info,
        "Returns information about the connection.";
    "client|kill" -3 NONE [ADMIN NOSCRIPT LOADING STALE] "2.4.0" Connection client_control::kill,
        "Closes connections to this node, by address, or by ID, ADDR, LADDR, TYPE, USER and SKIPME.";
    "client|list" -2 NONE [ADMIN NOSCRIPT LOADING STALE] "2.4.0" Connection client::list,
        "Lists the connections to this node.";
    "client|no-evict" 3 NONE [ADMIN NOSCRIPT LOADING STALE] "7.0.0" Connection client::switch,
        "Accepted: no connection is evicted.";
    "client|no-touch" 3 NONE [NOSCRIPT LOADING STALE FAST] "7.2.0" Connection client::switch,
        "Accepted: reads do not change keys.";
    "client|pause" -3 NONE [ADMIN NOSCRIPT LOADING STALE] "3.0.0" Connection client_control::pause,
        "Pauses the clients of this node, or those that write, for a number of milliseconds.";
    "client|reply" 3 NONE [NOSCRIPT LOADING STALE] "3.2.0" Connection client_control::reply,
        "Suppresses replies: none (ON), the next (SKIP), all (OFF).";
    "client|setinfo" 4 NONE [NOSCRIPT LOADING STALE FAST] "7.2.0" Connection client::setinfo,
        "Records the name or version of the client library.";
    "client|setname" 3 NONE [NOSCRIPT LOADING STALE FAST] "2.6.9" Connection client::setname,
        "Names the connection.";
    "client|tracking" -3 NONE [NOSCRIPT LOADING STALE] "6.0.0" Connection client_control::tracking,
        "Accepts OFF and refuses ON: reads are not tracked.";
    "client|unblock" -3 NONE [ADMIN NOSCRIPT LOADING STALE] "5.0.0" Connection client_control::unblock,
        "Ends the blocking command of a connection, as on timeout (TIMEOUT) or with an error (ERROR).";
    "client|unpause" 2 NONE [ADMIN NOSCRIPT LOADING STALE] "6.2.0" Connection client_control::unpause,
        "Ends a pause of this node's clients.";
};
