//! Commands on channels.

use super::super::commands::{introspect, pubsub};
use super::{Spec, commands};

pub static COMMANDS: &[Spec] = commands! {
    "psubscribe" -2 NONE [PUBSUB NOSCRIPT LOADING STALE] "2.0.0" PubSub pubsub::psubscribe,
        "Subscribes to the channels that match one of the patterns.";
    "publish" 3 NONE [PUBSUB LOADING STALE FAST] "2.0.0" PubSub pubsub::publish,
        "Sends a message to the subscribers on all members; returns how many are known to have been sent it.";
    "pubsub" -2 NONE [] "2.8.0" PubSub introspect::container,
        "A container for commands about the channels of this node's clients." => PUBSUB;
    "punsubscribe" -1 NONE [PUBSUB NOSCRIPT LOADING STALE] "2.0.0" PubSub pubsub::punsubscribe,
        "Unsubscribes from the patterns, or from all.";
    "subscribe" -2 NONE [PUBSUB NOSCRIPT LOADING STALE] "2.0.0" PubSub pubsub::subscribe,
        "Subscribes to the channels.";
    "unsubscribe" -1 NONE [PUBSUB NOSCRIPT LOADING STALE] "2.0.0" PubSub pubsub::unsubscribe,
        "Unsubscribes from the channels, or from all.";
};

static PUBSUB: &[Spec] = commands! {
    "pubsub|channels" -2 NONE [PUBSUB LOADING STALE] "2.8.0" PubSub pubsub::channels,
        "Returns the channels that clients of this node are subscribed to by name.";
    "pubsub|help" 2 NONE [LOADING STALE] "6.2.0" PubSub introspect::help,
        "Lists the subcommands.";
    "pubsub|numpat" 2 NONE [PUBSUB LOADING STALE] "2.8.0" PubSub pubsub::numpat,
        "Returns the number of patterns that clients of this node are subscribed to.";
    "pubsub|numsub" -2 NONE [PUBSUB LOADING STALE] "2.8.0" PubSub pubsub::numsub,
        "Returns how many clients of this node are subscribed to each of the channels by name.";
};
