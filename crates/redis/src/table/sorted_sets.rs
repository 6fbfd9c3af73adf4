//! Commands on sorted sets.

use super::super::commands::{blocking, data, element_scan};
use super::{BUT_LAST, COUNTED, COUNTED_SECOND, Group, ONE, ONE_AND_COUNTED, Spec, TWO, commands};

pub static COMMANDS: &[Spec] = commands! {
    "bzmpop" -5 COUNTED_SECOND "write blocking movablekeys" "7.0.0" SortedSet blocking::bzmpop,
        "Removes and returns members of the first non-empty set; waits for one if all are empty.";
    "bzpopmax" -3 BUT_LAST "write noscript fast blocking" "5.0.0" SortedSet blocking::bzpopmax,
        "Removes and returns the member of the highest score of the first non-empty set; waits for one if all are empty.";
    "bzpopmin" -3 BUT_LAST "write noscript fast blocking" "5.0.0" SortedSet blocking::bzpopmin,
        "Removes and returns the member of the lowest score of the first non-empty set; waits for one if all are empty.";
    "zadd" -4 ONE "write denyoom fast" "1.2.0" SortedSet data::call,
        "Adds members or changes their scores, with options NX XX GT LT CH INCR.";
    "zcard" 2 ONE "readonly fast" "1.2.0" SortedSet data::call,
        "Returns the number of members.";
    "zcount" 4 ONE "readonly fast" "2.0.0" SortedSet data::call,
        "Counts members by score.";
    "zdiff" -3 COUNTED "readonly movablekeys" "6.2.0" SortedSet data::call,
        "Returns the members of the first set that are in no other.";
    "zdiffstore" -4 ONE_AND_COUNTED "write denyoom movablekeys" "6.2.0" SortedSet data::call,
        "Stores the members of the first set that are in no other.";
    "zincrby" 4 ONE "write denyoom fast" "1.2.0" SortedSet data::call,
        "Increments the score of a member.";
    "zinter" -3 COUNTED "readonly movablekeys" "6.2.0" SortedSet data::call,
        "Returns the intersection of the sets.";
    "zintercard" -3 COUNTED "readonly movablekeys" "7.0.0" SortedSet data::call,
        "Counts the members of the intersection of the sets.";
    "zinterstore" -4 ONE_AND_COUNTED "write denyoom movablekeys" "2.0.0" SortedSet data::call,
        "Stores the intersection of the sets.";
    "zlexcount" 4 ONE "readonly fast" "2.8.9" SortedSet data::call,
        "Counts members of equal scores by name.";
    "zmpop" -4 COUNTED "write movablekeys" "7.0.0" SortedSet data::call,
        "Removes and returns members of the first non-empty set.";
    "zmscore" -3 ONE "readonly fast" "6.2.0" SortedSet data::call,
        "Returns the scores of several members.";
    "zpopmax" -2 ONE "write fast" "5.0.0" SortedSet data::call,
        "Removes and returns the members of the highest scores; costs as much as the set holds.";
    "zpopmin" -2 ONE "write fast" "5.0.0" SortedSet data::call,
        "Removes and returns the members of the lowest scores.";
    "zrandmember" -2 ONE "readonly" "6.2.0" SortedSet data::call,
        "Returns random members.";
    "zrange" -4 ONE "readonly" "1.2.0" SortedSet data::call,
        "Returns members by rank, score or name, with options BYSCORE BYLEX REV LIMIT WITHSCORES.";
    "zrangebylex" -4 ONE "readonly" "2.8.9" SortedSet data::call,
        "Returns members by name.";
    "zrangebyscore" -4 ONE "readonly" "1.0.5" SortedSet data::call,
        "Returns members by score.";
    "zrangestore" -5 TWO "write denyoom" "6.2.0" SortedSet data::call,
        "Stores the members that ZRANGE returns.";
    "zrank" -3 ONE "readonly fast" "2.0.0" SortedSet data::call,
        "Returns the rank of a member, with WITHSCORE its score, too; costs as much as the rank.";
    "zrem" -3 ONE "write fast" "1.2.0" SortedSet data::call,
        "Removes members of a sorted set.";
    "zremrangebylex" 4 ONE "write" "2.8.9" SortedSet data::call,
        "Removes members by name.";
    "zremrangebyrank" 4 ONE "write" "2.0.0" SortedSet data::call,
        "Removes members by rank.";
    "zremrangebyscore" 4 ONE "write" "1.2.0" SortedSet data::call,
        "Removes members by score.";
    "zrevrange" -4 ONE "readonly" "1.2.0" SortedSet data::call,
        "Returns members by rank from the highest score down.";
    "zrevrangebylex" -4 ONE "readonly" "2.8.9" SortedSet data::call,
        "Returns members by name, the last first.";
    "zrevrangebyscore" -4 ONE "readonly" "2.2.0" SortedSet data::call,
        "Returns members by score, the highest first.";
    "zrevrank" -3 ONE "readonly fast" "2.0.0" SortedSet data::call,
        "Returns the rank of a member from the highest score down, with WITHSCORE its score, too.";
    "zscan" -3 ONE "readonly" "2.8.0" SortedSet element_scan::zscan,
        "Iterates over the members of a sorted set.";
    "zscore" 3 ONE "readonly fast" "1.2.0" SortedSet data::call,
        "Returns the score of a member.";
    "zunion" -3 COUNTED "readonly movablekeys" "6.2.0" SortedSet data::call,
        "Returns the union of the sets.";
    "zunionstore" -4 ONE_AND_COUNTED "write denyoom movablekeys" "2.0.0" SortedSet data::call,
        "Stores the union of the sets.";
};
