//! Commands on scripts.

use super::super::commands::{introspect, scripting};
use super::{Spec, commands};

pub static COMMANDS: &[Spec] = commands! {
    "eval" -3 COUNTED_SECOND [NOSCRIPT STALE MOVABLEKEYS] "2.6.0" Scripting scripting::eval,
        "Runs a script in Lua; its writes take effect as a whole, or not at all.";
    "eval_ro" -3 COUNTED_SECOND [NOSCRIPT STALE READONLY MOVABLEKEYS] "7.0.0" Scripting scripting::eval_ro,
        "Runs a script that may not write.";
    "evalsha" -3 COUNTED_SECOND [NOSCRIPT STALE MOVABLEKEYS] "2.6.0" Scripting scripting::evalsha,
        "Runs a script that this node has cached.";
    "evalsha_ro" -3 COUNTED_SECOND [NOSCRIPT STALE READONLY MOVABLEKEYS] "7.0.0" Scripting scripting::evalsha_ro,
        "Runs a script that this node has cached and that may not write.";
    "script" -2 NONE [] "2.6.0" Scripting introspect::container,
        "A container for commands about the scripts that this node has cached." => SCRIPTS;
};

static SCRIPTS: &[Spec] = commands! {
    "script|exists" -3 NONE [NOSCRIPT] "2.6.0" Scripting scripting::exists,
        "Returns for each SHA-1 digest whether this node has cached the script.";
    "script|flush" -2 NONE [NOSCRIPT] "2.6.0" Scripting scripting::flush,
        "Removes the scripts that this node has cached.";
    "script|help" 2 NONE [LOADING STALE] "5.0.0" Scripting introspect::help,
        "Lists the subcommands.";
    "script|kill" 2 NONE [NOSCRIPT] "2.6.0" Scripting scripting::kill,
        "Stops the scripts that run on this node; they have no effect.";
    "script|load" 3 NONE [NOSCRIPT STALE] "2.6.0" Scripting scripting::load,
        "Caches a script on this node; returns its SHA-1 digest.";
};
