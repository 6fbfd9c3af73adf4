//! What the simulator drives: the very parts of a member that `raft::start` gives to threads.

use helios_proto::v1::Command;
use helios_proto::v1::command::Op;

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
pub use crate::raft::unappliable::Unappliable;
pub use crate::raft::workers::{Applier, build_snapshot};

/// A write of this key ends every process that applies it.
pub const POISON: &[u8] = b"poison";

/// What unwinds from a process that ends while it applies an entry.
pub struct ProcessEnds;

/// As an abort: nothing after it is done, and no panic is reported.
pub(crate) fn end_at_poison(command: &Command) {
    if matches!(&command.op, Some(Op::Set(set)) if set.key == POISON) {
        std::panic::resume_unwind(Box::new(ProcessEnds));
    }
}
