//! Commands on hashes.

use super::super::commands::{data, element_scan};
use super::{Group, ONE, Spec, commands};

pub static COMMANDS: &[Spec] = commands! {
    "hdel" -3 ONE "write fast" "2.0.0" Hash data::call,
        "Removes fields of a hash.";
    "hexists" 3 ONE "readonly fast" "2.0.0" Hash data::call,
        "Returns whether a hash has a field.";
    "hget" 3 ONE "readonly fast" "2.0.0" Hash data::call,
        "Returns the value of a field.";
    "hgetall" 2 ONE "readonly" "2.0.0" Hash data::call,
        "Returns all fields and their values, in the order of the fields.";
    "hincrby" 4 ONE "write denyoom fast" "2.0.0" Hash data::call,
        "Increments the integer in a field.";
    "hincrbyfloat" 4 ONE "write denyoom fast" "2.6.0" Hash data::call,
        "Increments the number in a field by a floating-point number.";
    "hkeys" 2 ONE "readonly" "2.0.0" Hash data::call,
        "Returns all fields of a hash.";
    "hlen" 2 ONE "readonly fast" "2.0.0" Hash data::call,
        "Returns the number of fields.";
    "hmget" -3 ONE "readonly fast" "2.0.0" Hash data::call,
        "Returns the values of several fields.";
    "hmset" -4 ONE "write denyoom fast" "2.0.0" Hash data::call,
        "Sets several fields; HSET does the same.";
    "hrandfield" -2 ONE "readonly" "6.2.0" Hash data::call,
        "Returns random fields of a hash.";
    "hscan" -3 ONE "readonly" "2.8.0" Hash element_scan::hscan,
        "Iterates over the fields of a hash.";
    "hset" -4 ONE "write denyoom fast" "2.0.0" Hash data::call,
        "Sets fields of a hash; returns how many are new.";
    "hsetnx" 4 ONE "write denyoom fast" "2.0.0" Hash data::call,
        "Sets a field unless it exists.";
    "hstrlen" 3 ONE "readonly fast" "3.2.0" Hash data::call,
        "Returns the length of a field's value.";
    "hvals" 2 ONE "readonly" "2.0.0" Hash data::call,
        "Returns all values of a hash.";
};
