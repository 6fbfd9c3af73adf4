//! From words to typed requests, and from requests to replies, one file for each group.

pub mod acl;
pub mod args;
pub mod client;
pub mod connection;
pub mod consistency;
pub mod data;
pub mod element_scan;
pub mod introspect;
pub mod keyspace;
pub mod local;
pub mod pubsub;
pub mod read;
pub mod scan;
pub mod server;
pub mod status;
pub mod strings;
pub mod transactions;
pub mod write;

use std::time::Duration;

use bytes::Bytes;

pub use args::Args;
pub use local::{Context, Local};
pub use read::Read;
pub use write::Write;

use super::error::Refusal;
use crate::pubsub::Topic;

/// Understands the arguments of one command; touches nothing.
pub type Parse = fn(Args) -> Result<Request, Refusal>;

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
