//! Commands on strings.

use super::super::commands::{data, strings};
use super::{ALL, BITOP, Group, ONE, PAIRS, Spec, TWO, commands};

pub static COMMANDS: &[Spec] = commands! {
    "append" 3 ONE "write denyoom fast" "2.0.0" String data::call,
        "Appends to a string; returns its length.";
    "bitcount" -2 ONE "readonly" "2.6.0" String data::call,
        "Counts the set bits of a string, or of a range of it.";
    "bitop" -4 BITOP "write denyoom" "2.6.0" String data::call,
        "Combines strings bit by bit, AND, OR, XOR or NOT, into another.";
    "bitpos" -3 ONE "readonly" "2.8.7" String data::call,
        "Returns the position of the first bit that is 0 or 1.";
    "decr" 2 ONE "write denyoom fast" "1.0.0" String strings::decr,
        "Decrements the integer value of a key by one.";
    "decrby" 3 ONE "write denyoom fast" "1.0.0" String strings::decrby,
        "Decrements the integer value of a key by a number.";
    "get" 2 ONE "readonly fast" "1.0.0" String data::call,
        "Returns the string value of a key.";
    "getbit" 3 ONE "readonly fast" "2.2.0" String data::call,
        "Returns a bit of a string.";
    "getdel" 2 ONE "write fast" "6.2.0" String data::call,
        "Returns the value of a key and deletes the key.";
    "getex" -2 ONE "write fast" "6.2.0" String data::getex,
        "Returns the value of a key and changes its expiration, with options EX PX EXAT PXAT PERSIST.";
    "getrange" 4 ONE "readonly" "2.4.0" String data::call,
        "Returns a part of a string.";
    "getset" 3 ONE "write denyoom fast" "1.0.0" String strings::getset,
        "Sets a key and returns its previous value.";
    "incr" 2 ONE "write denyoom fast" "1.0.0" String strings::incr,
        "Increments the integer value of a key by one.";
    "incrby" 3 ONE "write denyoom fast" "1.0.0" String strings::incrby,
        "Increments the integer value of a key by a number.";
    "incrbyfloat" 3 ONE "write denyoom fast" "2.6.0" String data::call,
        "Increments the number in a key by a floating-point number, exactly if both have at most 17 decimals.";
    "lcs" -3 TWO "readonly" "7.0.0" String data::call,
        "Returns the longest common subsequence of two strings.";
    "mget" -2 ALL "readonly fast" "1.0.0" String data::call,
        "Returns the string values of one or more keys.";
    "mset" -3 PAIRS "write denyoom" "1.0.1" String strings::mset,
        "Sets several keys at once.";
    "msetnx" -3 PAIRS "write denyoom" "1.0.1" String strings::msetnx,
        "Sets several keys at once if none of them exists.";
    "psetex" 4 ONE "write denyoom" "2.6.0" String strings::psetex,
        "Sets a key with an expiration time in milliseconds.";
    "set" -3 ONE "write denyoom" "1.0.0" String strings::set,
        "Sets the string value of a key, with options EX PX EXAT PXAT NX XX KEEPTTL GET.";
    "setbit" 4 ONE "write denyoom" "2.2.0" String data::call,
        "Sets a bit of a string; returns its previous value.";
    "setex" 4 ONE "write denyoom" "2.0.0" String strings::setex,
        "Sets a key with an expiration time in seconds.";
    "setnx" 3 ONE "write denyoom fast" "1.0.0" String strings::setnx,
        "Sets a key if it does not exist.";
    "setrange" 4 ONE "write denyoom" "2.2.0" String data::call,
        "Overwrites a part of a string.";
    "strlen" 2 ONE "readonly fast" "2.2.0" String data::call,
        "Returns the length of a value.";
    "substr" 4 ONE "readonly" "1.0.0" String data::substr,
        "Returns a part of a string; GETRANGE does the same.";
};
