//! Commands on sets.

use super::super::commands::{data, element_scan};
use super::{ALL, COUNTED, Group, ONE, Spec, TWO, commands};

pub static COMMANDS: &[Spec] = commands! {
    "sadd" -3 ONE "write denyoom fast" "1.0.0" Set data::call,
        "Adds members to a set.";
    "scard" 2 ONE "readonly fast" "1.0.0" Set data::call,
        "Returns the number of members.";
    "sdiff" -2 ALL "readonly" "1.0.0" Set data::call,
        "Returns the members of the first set that are in no other.";
    "sdiffstore" -3 ALL "write denyoom" "1.0.0" Set data::call,
        "Stores the members of the first set that are in no other.";
    "sinter" -2 ALL "readonly" "1.0.0" Set data::call,
        "Returns the intersection of the sets.";
    "sintercard" -3 COUNTED "readonly movablekeys" "7.0.0" Set data::call,
        "Counts the members of the intersection of the sets.";
    "sinterstore" -3 ALL "write denyoom" "1.0.0" Set data::call,
        "Stores the intersection of the sets.";
    "sismember" 3 ONE "readonly fast" "1.0.0" Set data::call,
        "Returns whether a set has a member.";
    "smembers" 2 ONE "readonly" "1.0.0" Set data::call,
        "Returns all members, in byte order.";
    "smismember" -3 ONE "readonly fast" "6.2.0" Set data::call,
        "Returns which of several members a set has.";
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
        "Returns the union of the sets.";
    "sunionstore" -3 ALL "write denyoom" "1.0.0" Set data::call,
        "Stores the union of the sets.";
};
