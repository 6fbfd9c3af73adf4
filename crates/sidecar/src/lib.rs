//! The sidecar: an application sees a plain Redis on localhost, without TLS, password and failover, and the sidecar
//! forwards its requests to a member of the cluster (docs/adr/0030-sidecar.md).
//!
//! Pure parts decide: what a request means (`request`), where a reply ends (`reply`), what becomes of the requests in
//! flight when a member is lost (`queue`, `session`). `connection` moves bytes and asks them. In Replica mode, `replica`
//! holds the state of some keys and answers their reads (docs/adr/0036-replica.md).

mod args;
mod connection;
mod contact;
mod http;
mod level;
mod members;
mod metrics;
pub mod program;
mod queue;
mod replica;
mod reply;
mod request;
mod secret;
mod server;
mod session;
mod upstream;
