//! Commands on sorted sets.

use super::super::commands::blocking;
use super::{Spec, commands};

pub static COMMANDS: &[Spec] = commands! {
    "bzmpop" -5 COUNTED_SECOND [WRITE BLOCKING MOVABLEKEYS] "7.0.0" SortedSet blocking::bzmpop,
        "Removes and returns members of the first non-empty set; waits for one if all are empty.";
    "bzpopmax" -3 BUT_LAST [WRITE NOSCRIPT FAST BLOCKING] "5.0.0" SortedSet blocking::bzpopmax,
        "Removes and returns the member of the highest score of the first non-empty set; waits for one if all are empty.";
    "bzpopmin" -3 BUT_LAST [WRITE NOSCRIPT FAST BLOCKING] "5.0.0" SortedSet blocking::bzpopmin,
        "Removes and returns the member of the lowest score of the first non-empty set; waits for one if all are empty.";
};
