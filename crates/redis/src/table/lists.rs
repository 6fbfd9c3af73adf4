//! Commands on lists.

use super::super::commands::blocking;
use super::{Spec, commands};

pub static COMMANDS: &[Spec] = commands! {
    "blmove" 6 TWO [WRITE NOSCRIPT DENYOOM BLOCKING] "6.2.0" List blocking::blmove,
        "Moves an element from one list to another; waits for one if the list is empty.";
    "blmpop" -5 COUNTED_SECOND [WRITE BLOCKING MOVABLEKEYS] "7.0.0" List blocking::blmpop,
        "Removes and returns elements of the first non-empty list; waits for one if all are empty.";
    "blpop" -3 BUT_LAST [WRITE NOSCRIPT BLOCKING] "2.0.0" List blocking::blpop,
        "Removes and returns the first element of the first non-empty list; waits for one if all are empty.";
    "brpop" -3 BUT_LAST [WRITE NOSCRIPT BLOCKING] "2.0.0" List blocking::brpop,
        "Removes and returns the last element of the first non-empty list; waits for one if all are empty.";
    "brpoplpush" 4 TWO [WRITE NOSCRIPT DENYOOM BLOCKING] "2.2.0" List blocking::brpoplpush,
        "Moves the last element of a list before the first of another; waits for one if the list is empty.";
};
