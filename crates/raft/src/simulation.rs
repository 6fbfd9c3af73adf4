//! Parts of a member that the simulator drives: the same ones that `raft::start` runs on threads.

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
    ApplyJob, ChangeRequest, Charge, Done, Effect, Expected, FetchJob, Input, LogJob, Proposal, RaftStatus,
    Role,
};
pub use crate::unappliable::Unappliable;
pub use crate::workers::{Applier, build_snapshot, overlay};
pub use helios_storage::seeded_bug::SeededBug;

/// Key whose write ends every process that applies it.
pub const POISON: &[u8] = b"poison";

/// Panic payload of a simulated process that ends while it applies an entry.
pub struct ProcessEnds;

/// Ends the simulated process at a write of [`POISON`], like an abort: nothing after it runs, and no panic is reported.
pub(crate) fn end_at_poison(command: &Command) {
    if matches!(&command.op, Some(Op::Set(set)) if set.key == POISON) {
        std::panic::resume_unwind(Box::new(ProcessEnds));
    }
}
