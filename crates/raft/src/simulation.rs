//! What the simulator drives: the very parts of a member that `raft::start` gives to threads.

pub use crate::change::decode as decode_change;
pub use crate::core::{Core, Settings, TICK, longest_lease};
pub use crate::format::{FORMAT, of as format_of};
pub use crate::handshake;
pub use crate::log_writer::LogWork;
pub use crate::membership;
pub use crate::types::{
    ApplyJob, ChangeRequest, Charge, Done, Effect, Expected, Input, LogJob, Proposal, RaftStatus, Role,
};
pub use crate::workers::{Applier, build_snapshot};
pub use helios_storage::mutation::Mutation;
