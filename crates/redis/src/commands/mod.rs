//! From words to typed requests, and from requests to replies, one file for each group.

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
pub mod keyspace;
pub mod local;
pub mod pubsub;
pub mod read;
pub mod scan;
pub mod scripting;
pub mod server;
pub mod status;
pub mod strings;
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

/// Understands the arguments of one command; touches nothing.
pub type Parse = fn(Args) -> Result<Request, Refusal>;

/// The kind of a request. One that would make a key or an element over its limit is rejected here, so that its
/// client, its script or its transaction hears of it at once.
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

/// A command, understood.
#[derive(Debug)]
pub enum Request {
    /// Goes through the log.
    Write(Write),
    /// Answered from the local state, after a read barrier unless the connection reads stale.
    Read(Read),
    /// Touches no data.
    Local(Local),
    Exec,
    Script(ScriptCall),
    /// Waits for something to take, but not between `MULTI` and `EXEC`, nor in a script.
    Block(Blocking),
    Watch(Vec<Bytes>),
    Subscribe {
        topic: Topic,
        names: Vec<Bytes>,
    },
    /// No names: all.
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
