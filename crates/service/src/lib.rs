//! The base of every protocol that heliosd serves, below the node and above the state machine.
//!
//! [`database::Database`] is the node as a protocol sees it. The rest is what the ports have in common: acceptors and
//! TLS ([`tls`]), users and their delays ([`auth`]), counted rejections ([`rejections`]), limits of memory and time
//! ([`client_memory`], [`idle`], [`long_reads`]), and messages between clients ([`pubsub`]).

pub mod auth;
pub mod client_memory;
pub mod database;
pub mod file_watch;
pub mod glob;
pub mod idle;
pub mod long_reads;
pub mod pubsub;
pub mod rejections;
pub mod sessions;
pub mod time;
pub mod tls;
pub mod token;
