//! Commands about users and their rights.

use super::super::commands::{acl, introspect};
use super::{Spec, commands};

pub static COMMANDS: &[Spec] = commands! {
    "acl" -2 NONE [] "6.0.0" Server introspect::container,
        "A container for commands about users, who are kept in a file (auth.users_file)." => ACL;
};

static ACL: &[Spec] = commands! {
    "acl|cat" -2 NONE [NOSCRIPT LOADING STALE] "6.0.0" Server acl::cat,
        "Lists the categories of commands, or the commands of one.";
    "acl|help" 2 NONE [LOADING STALE] "6.0.0" Server introspect::help,
        "Lists the subcommands.";
    "acl|list" 2 NONE [ADMIN NOSCRIPT LOADING STALE] "6.0.0" Server acl::list,
        "Lists the users with their rights, without their passwords.";
    "acl|users" 2 NONE [ADMIN NOSCRIPT LOADING STALE] "6.0.0" Server acl::users,
        "Lists the names of the users.";
    "acl|whoami" 2 NONE [NOSCRIPT LOADING STALE] "6.0.0" Server acl::whoami,
        "Returns the user that the connection authenticated as.";
};
