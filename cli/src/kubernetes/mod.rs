//! Commands with Kubernetes: by the status that the operator reports and the objects of the API server.
//! Members are reached through the API server, so that the right to forward ports is enough.

mod change;
mod doctor;
mod find;
mod leadership;
mod logs;
mod observe;
mod report;
mod rights;
mod sidecars;
mod switchover;

pub use change::{ask_for_restart, await_restart, set_hibernate, set_paused};
pub use doctor::doctor;
pub use find::Finder;
pub use leadership::{client_place, snapshot, step_down, transfer};
pub use logs::logs;
pub use observe::view;
pub use report::report;
#[cfg(test)]
pub use rights::RIGHTS;
pub use sidecars::sidecars;
pub use switchover::Pods;
