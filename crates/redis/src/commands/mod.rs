//! Parsers from words to typed requests, and execution of requests, one file for each group.

pub mod acl;
pub mod args;
pub mod blocking;
pub mod client;
pub mod client_control;
pub mod config;
pub mod connection;
pub mod consistency;
pub mod data;
pub mod element_scan;
pub mod introspect;
pub mod introspect_keys;
pub mod local;
pub mod pubsub;
pub mod read;
pub mod scan;
pub mod scripting;
pub mod server;
pub mod status;
pub mod transactions;
pub mod write;

use std::time::Duration;

use bytes::Bytes;
use helios_service::pubsub::Topic;
use helios_state::check_sizes;

pub use args::Args;
pub use blocking::Blocking;
pub use local::{Context, Local};
pub use read::Read;
pub use write::Write;

use super::error::Refusal;
use super::script::ScriptCall;
use super::server::Limits;
use super::table::Spec;

/// Parser of the arguments of one command; accesses no data.
pub type Parse = fn(Args) -> Result<Request, Refusal>;

/// Parses a request. A write whose key or element exceeds its limit is rejected here, so that its client,
/// script or transaction gets the error at once.
pub fn understand(
    spec: &'static Spec,
    words: Vec<Bytes>,
    now_ms: u64,
    limits: &Limits,
) -> Result<Request, Refusal> {
    let request = (spec.parse)(Args::new(spec, words, now_ms, limits))?;
    if let Request::Write(write) = &request {
        check_sizes(&write.op).map_err(|error| Refusal::other(format!("ERR {}", error.message)))?;
    }
    Ok(request)
}

/// Parsed command.
#[derive(Debug)]
pub enum Request {
    /// Write, which goes through the log.
    Write(Write),
    /// Read, answered from the local state after a read barrier, unless the connection reads stale.
    Read(Read),
    /// Command that accesses no data.
    Local(Local),
    Exec,
    Script(ScriptCall),
    /// Blocking command; between `MULTI` and `EXEC`, and in a script, it does not wait.
    Block(Blocking),
    Watch(Vec<Bytes>),
    Subscribe {
        topic: Topic,
        names: Vec<Bytes>,
    },
    /// Unsubscribes from all topics if there are no names.
    Unsubscribe {
        topic: Topic,
        names: Vec<Bytes>,
    },
    Publish {
        channel: Bytes,
        payload: Bytes,
    },
    /// `WAIT`.
    Wait {
        replicas: u64,
        timeout: Duration,
    },
}
