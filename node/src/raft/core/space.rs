//! What a leader still takes when its disk is full: Redis draws the same line for a full memory.

use helios_proto::v1::{Command, ErrorCode, command::Op};
use prost::Message as _;

use crate::error::Error;

/// Whether the encoded command frees room, or needs none worth speaking of. What is not known to be
/// so is not.
pub fn is_frugal(command: &[u8]) -> bool {
    matches!(
        Command::decode(command).ok().and_then(|command| command.op),
        Some(
            Op::Delete(_)
                | Op::FlushAll(_)
                | Op::PurgeExpired(_)
                | Op::Expire(_)
                | Op::Persist(_)
                | Op::RegisterMember(_)
        )
    )
}

pub fn disk_full(leader: &str) -> Error {
    Error::new(
        ErrorCode::DiskFull,
        format!(
            "the disk of the leader {leader} is full: enlarge its volume or remove other files from it; \
             reads, DEL and EXPIRE go on, and all writes once there is room"
        ),
    )
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::{Delete, Increment, PurgeExpired, Set};

    use super::*;

    fn encoded(op: Op) -> Vec<u8> {
        Command { now_ms: 1, op: Some(op) }.encode_to_vec()
    }

    #[test]
    fn what_frees_room_goes_on_and_what_takes_it_does_not() {
        assert!(is_frugal(&encoded(Op::Delete(Delete::default()))));
        assert!(is_frugal(&encoded(Op::PurgeExpired(PurgeExpired::default()))));
        assert!(!is_frugal(&encoded(Op::Set(Set::default()))));
        assert!(!is_frugal(&encoded(Op::Increment(Increment::default()))));
        assert!(!is_frugal(b"nonsense") && !is_frugal(b""));
    }
}
