//! Sets.

use super::super::commands::{data, element_scan};
use super::{ALL, COUNTED, Group, ONE, Spec, TWO, commands};

pub static COMMANDS: &[Spec] = commands! {
    "sadd" -3 ONE "write denyoom fast" "1.0.0" Set data::call,
        "Adds members to a set.";
    "scard" 2 ONE "readonly fast" "1.0.0" Set data::call,
        "Returns the number of members.";
    "sdiff" -2 ALL "readonly" "1.0.0" Set data::call,
        "Returns what the first set has and no other.";
    "sdiffstore" -3 ALL "write denyoom" "1.0.0" Set data::call,
        "Stores what the first set has and no other.";
    "sinter" -2 ALL "readonly" "1.0.0" Set data::call,
        "Returns what all sets have.";
    "sintercard" -3 COUNTED "readonly movablekeys" "7.0.0" Set data::call,
        "Counts what all sets have.";
    "sinterstore" -3 ALL "write denyoom" "1.0.0" Set data::call,
        "Stores what all sets have.";
    "sismember" 3 ONE "readonly fast" "1.0.0" Set data::call,
        "Tells whether a set has a member.";
    "smembers" 2 ONE "readonly" "1.0.0" Set data::call,
        "Returns all members, in their order.";
    "smismember" -3 ONE "readonly fast" "6.2.0" Set data::call,
        "Tells which of several members a set has.";
    "smove" 4 TWO "write fast" "1.0.0" Set data::call,
        "Moves a member to another set.";
    "spop" -2 ONE "write fast" "1.0.0" Set data::call,
        "Removes and returns random members; costs as much as the set holds.";
    "srandmember" -2 ONE "readonly" "1.0.0" Set data::call,
        "Returns random members; costs as much as the set holds.";
    "srem" -3 ONE "write fast" "1.0.0" Set data::call,
        "Removes members of a set.";
    "sscan" -3 ONE "readonly" "2.8.0" Set element_scan::sscan,
        "Iterates over the members of a set.";
    "sunion" -2 ALL "readonly" "1.0.0" Set data::call,
        "Returns what any of the sets has.";
    "sunionstore" -3 ALL "write denyoom" "1.0.0" Set data::call,
        "Stores what any of the sets has.";
};
