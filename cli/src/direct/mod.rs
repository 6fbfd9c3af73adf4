//! Commands without Kubernetes: by the management service of the members, at their peer addresses.

mod agreement;
mod manage;
mod skip;
mod survey;
mod switchover;
mod view;

pub use agreement::doctor;
pub use manage::{
    add_learner, client_place, find, milliseconds, promote, remove, snapshot, snapshot_at, step_down,
    transfer,
};
pub use skip::skip_entry;
pub use survey::{Answer, Endpoints, leader, survey};
pub use switchover::Directly;
pub use view::view;
