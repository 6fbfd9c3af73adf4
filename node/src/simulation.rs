//! What the simulator drives: the very parts of a member that `raft::start` gives to threads.

pub use crate::mutation::Mutation;
pub use crate::peer::handshake;
pub use crate::raft::change::decode as decode_change;
pub use crate::raft::core::{Core, Settings, TICK, longest_lease};
pub use crate::raft::format::{FORMAT, of as format_of};
pub use crate::raft::log_writer::LogWork;
pub use crate::raft::membership;
pub use crate::raft::suspects::Suspects;
pub use crate::raft::types::{
    ApplyJob, ChangeRequest, Charge, Done, Effect, Expected, Input, LogJob, Proposal, RaftStatus, Role,
};
pub use crate::raft::workers::{Applier, build_snapshot};
