//! The writes that a leader accepts when its disk is full: the same ones that Redis accepts when its memory is full.

use helios_proto::v1::{Command, ErrorCode, command::Op};
use prost::Message as _;

use super::{Core, Proposal, refuse_but};
use helios_proto::Error;
use helios_state::commands::{self, Spec};

impl Core {
    /// Rejects the proposals that make the state grow, for a log that has only its reserve, and returns the others.
    pub(in crate::core) fn refuse_growth(&self, proposals: Vec<Proposal>) -> Vec<Proposal> {
        refuse_but(proposals, &disk_full(&self.own_name()), |proposal| is_frugal(&proposal.data))
    }
}

/// Whether the encoded command frees room or needs hardly any. False for a command that cannot be decoded.
pub(super) fn is_frugal(command: &[u8]) -> bool {
    Command::decode(command).is_ok_and(|command| frees_room(&command))
}

fn frees_room(command: &Command) -> bool {
    match &command.op {
        Some(
            Op::Delete(_)
            | Op::FlushAll(_)
            | Op::PurgeExpired(_)
            | Op::Expire(_)
            | Op::Persist(_)
            | Op::RegisterMember(_)
            | Op::SkipEntry(_),
        ) => true,
        Some(Op::Call(call)) => !commands::of(call).is_some_and(Spec::grows),
        Some(Op::Transaction(transaction)) => transaction.steps.iter().all(frees_room),
        _ => false,
    }
}

fn disk_full(leader: &str) -> Error {
    Error::new(
        ErrorCode::DiskFull,
        format!(
            "the disk of the leader {leader} is full: enlarge its volume or remove other files from it; \
             reads, DEL and EXPIRE continue, and all writes once there is room"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use helios_proto::v1::{Delete, Increment, Member, PurgeExpired, Reply, Set};
    use raft::eraftpb::HardState;
    use tokio::sync::oneshot;

    use super::*;
    use crate::core::Settings;
    use crate::log::Log;
    use crate::membership;
    use crate::types::{Charge, Done, Effect, Input, LogJob, Role};
    use helios_storage::wal::Base;

    fn encoded(op: Op) -> Vec<u8> {
        Command { now_ms: 1, op: Some(op), ..Command::default() }.encode_to_vec()
    }

    #[test]
    fn command_is_frugal_when_it_frees_room() {
        assert!(is_frugal(&encoded(Op::Delete(Delete::default()))));
        assert!(is_frugal(&encoded(Op::PurgeExpired(PurgeExpired::default()))));
        assert!(!is_frugal(&encoded(Op::Set(Set::default()))));
        assert!(!is_frugal(&encoded(Op::Increment(Increment::default()))));
        assert!(!is_frugal(b"nonsense") && !is_frugal(b""));
    }

    /// The leader of a cluster of one, on a log without a disk.
    fn leader(now: Instant) -> Core {
        let member = Member { id: 1, name: "a".to_owned(), ..Member::default() };
        let membership = Arc::new(membership::initial("c", vec![member]));
        let log = Log::in_memory(
            Base { index: 1, term: 1 },
            Vec::new(),
            HardState { term: 1, vote: 0, commit: 1 },
            membership::conf_state(&membership),
        );
        let settings = Settings {
            id: 1,
            heartbeat: Duration::from_millis(20),
            election_min: Duration::from_millis(50),
            election_max: Duration::from_millis(100),
            snapshot_entries: 1_000,
            snapshots_on_demand: false,
            snapshot_interval: Duration::from_secs(300),
            trailing_entries: 10,
            held_bytes: 0,
            log_cache_bytes: 32 << 20,
            max_log_bytes: 512 << 20,
            max_overlay_bytes: 256 << 20,
            lease: None,
            priority: 0,
        };
        let mut core = Core::new(settings, log, membership, 1, 7, now).unwrap();
        for _ in 0..100 {
            core.tick();
            drain(&mut core, now);
        }
        assert_eq!(core.status(now).role, Role::Leader);
        core
    }

    fn drain(core: &mut Core, now: Instant) {
        for effect in core.drain(now) {
            if let Effect::Log(LogJob::Append { number, .. }) = effect {
                core.on_done(Done::Persisted(number), now);
            }
        }
    }

    /// Proposes `op`. Returns the error with which it was rejected at once; `None` if it was accepted.
    fn refusal(core: &mut Core, op: Op, now: Instant) -> Option<Error> {
        let (waiter, mut receiver) = oneshot::channel::<Result<Reply, Error>>();
        core.handle(
            Input::Propose(vec![Proposal {
                data: encoded(op),
                format: 1,
                waiter: waiter.into(),
                charge: Charge::default(),
            }]),
            now,
        );
        drain(core, now);
        receiver.try_recv().ok().map(|outcome| outcome.unwrap_err())
    }

    #[test]
    fn leader_refuses_growth_while_its_log_is_short() {
        let now = Instant::now();
        let mut core = leader(now);
        let set = || Op::Set(Set::default());
        assert_eq!(refusal(&mut core, set(), now), None);
        core.on_done(Done::LogSpace { is_short: true }, now);
        let error = refusal(&mut core, set(), now).unwrap();
        assert_eq!(error.code, ErrorCode::DiskFull);
        assert!(error.message.contains("leader a is full: enlarge its volume"), "{error}");
        assert_eq!(refusal(&mut core, Op::Delete(Delete::default()), now), None);
        core.on_done(Done::LogSpace { is_short: false }, now);
        assert_eq!(refusal(&mut core, set(), now), None);
    }

    #[test]
    fn snapshot_is_not_retried_at_once_after_a_failure() {
        let now = Instant::now();
        let mut core = leader(now);
        let wants =
            |core: &mut Core, now| core.drain(now).iter().any(|e| matches!(e, Effect::BuildSnapshot { .. }));
        core.applying.pretend(5_000, 0, 0);
        let later = now + Duration::from_secs(400);
        assert!(wants(&mut core, later));
        core.on_done(Done::SnapshotFailed, later);
        assert!(!wants(&mut core, later + Duration::from_secs(1)));
        assert!(wants(&mut core, later + Duration::from_secs(6)));
    }
}
