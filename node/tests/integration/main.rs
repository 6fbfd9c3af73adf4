//! Real `heliosd` processes on loopback, driven through the ports that users have. The only code of the node
//! used here is its wire format.

// Helpers are no `#[test]` functions, for which `clippy.toml` allows unwrap; a failed test may panic.
#![allow(clippy::unwrap_used)]

mod acks;
mod archive;
mod bad_input;
mod clocks;
mod common;
mod compose;
mod connections;
mod crashes;
mod damage;
mod data;
mod dev;
mod disk_full;
mod earlier_documents;
mod errors;
mod failed_sync;
mod failover;
mod faults;
mod follow;
mod formation;
mod gateway;
mod heartbeats;
mod hosts;
mod laggards;
mod leadership;
mod limits;
mod locks;
mod log_lines;
mod long_reads;
mod long_strings;
mod lots;
mod membership;
mod metrics;
mod parts;
mod poison;
mod quorum;
mod reads;
mod redirect;
mod redis_scripts;
mod redis_types;
mod reload;
mod repair;
mod restarts;
mod restore;
mod retries;
mod script_bounds;
mod several;
mod sidecar;
mod snapshots;
mod strangers;
mod survivor;
#[cfg(feature = "otel")]
mod traces;
mod verify;
mod watch;
mod worst_calls;
