//! Commands on lists.

use super::super::commands::{blocking, data};
use super::{BUT_LAST, COUNTED, COUNTED_SECOND, Group, ONE, Spec, TWO, commands};

pub static COMMANDS: &[Spec] = commands! {
    "blmove" 6 TWO "write noscript denyoom blocking" "6.2.0" List blocking::blmove,
        "Moves an element from one list to another; waits for one if the list is empty.";
    "blmpop" -5 COUNTED_SECOND "write blocking movablekeys" "7.0.0" List blocking::blmpop,
        "Removes and returns elements of the first non-empty list; waits for one if all are empty.";
    "blpop" -3 BUT_LAST "write noscript blocking" "2.0.0" List blocking::blpop,
        "Removes and returns the first element of the first non-empty list; waits for one if all are empty.";
    "brpop" -3 BUT_LAST "write noscript blocking" "2.0.0" List blocking::brpop,
        "Removes and returns the last element of the first non-empty list; waits for one if all are empty.";
    "brpoplpush" 4 TWO "write noscript denyoom blocking" "2.2.0" List blocking::brpoplpush,
        "Moves the last element of a list before the first of another; waits for one if the list is empty.";
    "lindex" 3 ONE "readonly" "1.0.0" List data::call,
        "Returns an element of a list by its position.";
    "linsert" 5 ONE "write denyoom" "2.2.0" List data::call,
        "Inserts an element before or after another; costs as much as the list holds.";
    "llen" 2 ONE "readonly fast" "1.0.0" List data::call,
        "Returns the length of a list.";
    "lmove" 5 TWO "write denyoom" "6.2.0" List data::call,
        "Moves an element from an end of a list to an end of another.";
    "lmpop" -4 COUNTED "write movablekeys" "7.0.0" List data::call,
        "Removes and returns elements of the first non-empty list.";
    "lpop" -2 ONE "write fast" "1.0.0" List data::call,
        "Removes and returns the first elements.";
    "lpos" -3 ONE "readonly" "6.0.6" List data::call,
        "Returns the positions of an element.";
    "lpush" -3 ONE "write denyoom fast" "1.0.0" List data::call,
        "Inserts elements before the first.";
    "lpushx" -3 ONE "write denyoom fast" "2.2.0" List data::call,
        "Inserts elements before the first if the list exists.";
    "lrange" 4 ONE "readonly" "1.0.0" List data::call,
        "Returns a part of a list.";
    "lrem" 4 ONE "write" "1.0.0" List data::call,
        "Removes elements that are equal to one; costs as much as the list holds.";
    "lset" 4 ONE "write denyoom" "1.0.0" List data::call,
        "Sets an element by its position.";
    "ltrim" 4 ONE "write" "1.0.0" List data::call,
        "Removes all but a part of a list.";
    "rpop" -2 ONE "write fast" "1.0.0" List data::call,
        "Removes and returns the last elements.";
    "rpoplpush" 3 TWO "write denyoom" "1.2.0" List data::call,
        "Moves the last element of a list before the first of another.";
    "rpush" -3 ONE "write denyoom fast" "1.0.0" List data::call,
        "Appends elements after the last.";
    "rpushx" -3 ONE "write denyoom fast" "2.2.0" List data::call,
        "Appends elements after the last if the list exists.";
};
