//! Without Kubernetes: the members' own management service, by their peer addresses.

mod agreement;
mod manage;
mod survey;
mod view;

pub use agreement::doctor;
pub use manage::{
    add_learner, client_place, find, promote, promote_learner, remove, snapshot, snapshot_at, step_down,
};
pub use survey::{Answer, survey};
pub use view::view;
