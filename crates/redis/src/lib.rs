//! The Redis protocol: what a client sends becomes log operations and reads of the local state.
//!
//! Bytes (`codec`), then meaning (`table`, `commands`), then effect (`connection`). This crate knows the node only as
//! [`helios_service::database::Database`], and nothing of Raft, of the log or of other protocols.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests have the machine's clock and disk"))]

mod clients;
pub mod codec;
mod commands;
mod connection;
mod cursor;
mod encoder;
mod error;
pub mod frame;
mod inline;
mod metrics;
mod notifications;
pub mod output;
mod pause;
mod prefixes;
pub mod reference;
pub mod replica;
mod script;
mod server;
mod session;
mod stats;
pub mod table;
mod transaction;
mod waiting;
mod wire;

pub use commands::introspect::MAX_ANSWER_BYTES as MAX_INTROSPECTION_BYTES;
pub use commands::scan::{MAX_COUNT as MAX_SCAN_COUNT, MAX_KEYS_REPLY, SCAN_REPLY_BYTES};
pub use metrics::Metrics;
pub use script::limits as script_limits;
pub use server::{Limits, MAX_REQUEST_BYTES, serve};
pub use transaction::{COMMAND_BYTES, MAX_WATCHED, WORD_BYTES};

#[cfg(test)]
mod tests;
