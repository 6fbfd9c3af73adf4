//! The Redis protocol: what a client sends becomes log operations and reads of the local state.
//!
//! Bytes (`codec`), then meaning (`table`, `commands`), then effect (`connection`). Knows the node
//! only through [`helios_service::database::Database`]; called by the process's wiring alone.

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
mod output;
mod pause;
pub mod reference;
mod script;
mod server;
mod session;
mod stats;
mod table;
mod transaction;
mod waiting;
mod wire;

pub use commands::introspect::MAX_ANSWER_BYTES as MAX_INTROSPECTION_BYTES;
pub use metrics::Metrics;
#[cfg(test)]
pub use script::limits as script_limits;
pub use server::{Limits, serve};

#[cfg(test)]
mod tests;
