//! What the simulator drives: the very parts of a member that `raft::start` gives to threads.

use helios_proto::v1::Command;
use helios_proto::v1::command::Op;

pub use crate::acks::Electorate as DurableVoters;
pub use crate::change::decode as decode_change;
pub use crate::core::{Core, Settings, TICK, longest_lease};
pub use crate::format::{FORMAT, of as format_of};
pub use crate::handshake;
pub use crate::log_writer::LogWork;
pub use crate::membership;
pub use crate::suspects::Suspects;
pub use crate::types::{
    ApplyJob, ChangeRequest, Charge, Done, Effect, Expected, Input, LogJob, Proposal, RaftStatus, Role,
};
pub use crate::unappliable::Unappliable;
pub use crate::workers::{Applier, build_snapshot};
pub use helios_storage::seeded_bug::SeededBug;

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
