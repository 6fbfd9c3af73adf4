//! Writes: proposed on the leader, forwarded to the leader elsewhere, in one hop.
//!
//! A write that was certainly not proposed is retried until the request's deadline. A write that may have been proposed
//! is retried only if it has a request id, which the state machine applies once; every write that is forwarded to a
//! leader has one (docs/design/product.md, C5 and C12).

use std::time::Duration;

use helios_proto::v1::peer_client::PeerClient;
use helios_proto::v1::{AckLevel, Command, ErrorCode, ForwardRequest, Origin, Reply, write_result};
use helios_service::database::{Ack, WriteRequest};
use prost::Message as _;
use tokio::time::{Instant, timeout_at};

use super::names::Name;
use super::{leader_unreachable, no_leader};
use crate::error::Error;
use crate::node::{ActiveMember, Node};
use crate::peer::MAX_MESSAGE_BYTES;
use crate::raft::{RaftStatus, Role, format, membership};
use crate::state::{self, commands::legacy};

/// Limit of the commands in one message to the leader, bytes.
const MAX_FORWARD_BYTES: usize = 4 << 20;
/// Limit of the writes of one batch that hold a name at once.
const MAX_FORWARDED_AT_ONCE: usize = 1_024;
/// Pause before a write is retried unless the leader changes.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub type Outcome = Result<Reply, Error>;

/// Options of a batch of writes.
pub(super) struct Terms {
    /// Minimum ack level; the configuration may require more.
    pub ack: Ack,
    /// Whether a follower forwards the writes to the leader, instead of rejecting them with the leader's address.
    pub forwards: bool,
    pub deadline: Instant,
}

/// A write that has no outcome yet.
struct Open {
    /// Index of the write in the outcomes.
    slot: usize,
    command: Command,
    /// Name that this member has given to the write; held until the outcome is known, so that no other write gets its
    /// place.
    name: Option<Name>,
}

impl Open {
    /// Whether an earlier attempt may have been proposed.
    fn may_be_applied(&self) -> bool {
        self.command.request_id.as_ref().is_some_and(|id| id.retry)
    }
}

/// Number of writes at the front of a batch that are sent next.
#[derive(Debug, PartialEq, Eq)]
enum Window {
    Named(usize),
    Unnamed(usize),
}

/// A batch of writes: those in flight, and the outcomes of the others.
struct Batch {
    outcomes: Vec<Option<Outcome>>,
    open: Vec<Open>,
}

impl Batch {
    /// Creates a batch; rejects at once the writes that are too large.
    fn new(writes: Vec<WriteRequest>, max_command_bytes: usize, now_ms: u64) -> Self {
        let mut batch = Self { outcomes: Vec::with_capacity(writes.len()), open: Vec::new() };
        for WriteRequest { op, request_id, identity } in writes {
            let checked = state::check_sizes(&op);
            let origin = request_id.is_some().then_some(Origin { identity, named_at: 0 });
            let command = Command { now_ms, request_id, origin, op: Some(op), ..Command::default() };
            let bytes = command.encoded_len();
            let refusal = match checked {
                Ok(()) if bytes > max_command_bytes => Some(Err(too_large(bytes, max_command_bytes))),
                Ok(()) => None,
                Err(error) => Some(Err(error)),
            };
            if refusal.is_none() {
                batch.open.push(Open { slot: batch.outcomes.len(), command, name: None });
            }
            batch.outcomes.push(refusal);
        }
        batch
    }

    /// Returns the number of writes at the front that are forwarded next: those that have a request id already, or else
    /// the next ones that get a name.
    fn next_window(&self) -> Window {
        let is_named = |open: &&Open| open.command.request_id.is_some();
        match self.open.iter().take_while(is_named).count() {
            0 => {
                let unnamed = self.open.iter().take_while(|open| !is_named(open));
                Window::Unnamed(unnamed.take(MAX_FORWARDED_AT_ONCE).count())
            }
            named => Window::Named(named),
        }
    }

    /// Gives names to the writes at the front. `named_at`: log index that this member has applied.
    fn name(&mut self, names: Vec<Name>, named_at: u64) {
        for (open, name) in self.open.iter_mut().zip(names) {
            open.command.request_id = Some(name.request_id());
            open.command.origin = Some(Origin { named_at, ..Origin::default() });
            open.name = Some(name);
        }
    }

    fn commands(&self, count: usize) -> Vec<Command> {
        self.open.iter().take(count).map(|open| open.command.clone()).collect()
    }

    /// Records the answers to the open writes from `first` on. Writes that may be retried stay open, in order; returns
    /// their number.
    fn settle(&mut self, first: usize, answers: Vec<Outcome>) -> usize {
        let mut asked = self.open.split_off(first.min(self.open.len()));
        let rest = asked.split_off(answers.len().min(asked.len()));
        for (mut open, answer) in asked.into_iter().zip(answers) {
            match (&answer, &mut open.command.request_id) {
                (Err(error), _) if is_other_leader(error.code) => self.open.push(open),
                (Err(error), Some(id)) if error.code == ErrorCode::OutcomeUnknown => {
                    id.retry = true;
                    self.open.push(open);
                }
                _ => self.outcomes[open.slot] = Some(answer),
            }
        }
        let kept = self.open.len() - first;
        self.open.extend(rest);
        kept
    }

    /// Ends the batch with `error`: the open writes were not proposed, except those whose earlier attempt may have
    /// been.
    fn refuse(mut self, error: &Error) -> Vec<Outcome> {
        for open in self.open.extract_if(.., |open| !open.may_be_applied()) {
            self.outcomes[open.slot] = Some(Err(error.clone()));
        }
        self.finish()
    }

    /// Ends the batch without further attempts.
    fn finish(mut self) -> Vec<Outcome> {
        for open in self.open {
            let error = if open.may_be_applied() { Error::outcome_unknown() } else { no_leader() };
            self.outcomes[open.slot] = Some(Err(error));
        }
        let settled = self.outcomes.into_iter();
        settled.map(|outcome| outcome.unwrap_or_else(|| Err(Error::outcome_unknown()))).collect()
    }
}

impl Node {
    pub(super) async fn write_batch(&self, writes: Vec<WriteRequest>, terms: Terms) -> Vec<Outcome> {
        let Terms { ack, forwards, deadline } = terms;
        let ack = ack.max(self.settings().ack);
        let member = match self.active() {
            Ok(member) => member,
            Err(error) => return vec![Err(error); writes.len()],
        };
        let mut batch = Batch::new(writes, self.inner().max_command_bytes, self.bounded_ms());
        while !batch.open.is_empty() {
            let Some(status) = member.raft.wait_status(deadline, |status| status.leader_id != 0).await else {
                break;
            };
            if status.role != Role::Leader && !forwards {
                let leader = membership::member(&status.membership, status.leader_id);
                return batch.refuse(&Error::not_leader(leader));
            }
            if status.role == Role::Leader {
                let commands = batch.commands(batch.open.len());
                batch.settle(0, self.propose(member, commands, ack, deadline).await);
            } else if let Err(error) = self.forward_all(member, &status, &mut batch, ack, deadline).await {
                return batch.refuse(&error);
            }
            if batch.open.is_empty() || Instant::now() >= deadline {
                break;
            }
            let pause = (Instant::now() + RETRY_PAUSE).min(deadline);
            drop(member.raft.wait_status(pause, |now| leadership_changed(now, &status)).await);
        }
        batch.finish()
    }

    /// Forwards the batch to the leader, one attempt. Stops at the first failure: later writes must not overtake the
    /// failed one when both are retried.
    async fn forward_all(
        &self,
        member: &ActiveMember,
        status: &RaftStatus,
        batch: &mut Batch,
        ack: Ack,
        deadline: Instant,
    ) -> Result<(), Error> {
        while !batch.open.is_empty() {
            let count = match batch.next_window() {
                Window::Named(count) => count,
                Window::Unnamed(count) => {
                    let names = member.names.take(count, deadline).await?;
                    batch.name(names, member.raft.applied_index());
                    count
                }
            };
            self.inner().metrics.forwarded.inc_by(count as u64);
            let mut kept = 0;
            let mut commands = batch.commands(count);
            lower(&mut commands, status);
            for chunk in chunks(commands) {
                let sent = chunk.len();
                let answers = match self.forward(member, status, chunk, ack, deadline).await {
                    Ok(answers) if answers.len() == sent => answers,
                    Ok(_) => vec![Err(Error::outcome_unknown()); sent],
                    Err(error) => vec![Err(error); sent],
                };
                let is_failed = answers.last().is_some_and(Result::is_err);
                kept += batch.settle(kept, answers);
                if is_failed {
                    return Ok(());
                }
            }
            if kept > 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn forward(
        &self,
        member: &ActiveMember,
        status: &RaftStatus,
        commands: Vec<Command>,
        ack: Ack,
        deadline: Instant,
    ) -> Result<Vec<Outcome>, Error> {
        let channel = self.channel_to(status, status.leader_id)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let request = ForwardRequest {
            cluster_id: member.cluster_id.clone(),
            commands,
            // Slightly less than the time left, so that the leader's answer arrives even if it is a timeout.
            timeout_ms: (left - left / 10).as_millis() as u32,
            ack: AckLevel::from(ack).into(),
            from: self.handshake_to(status, status.leader_id),
            group: 0,
        };
        let mut client = PeerClient::new(channel)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let answered = tokio::select! {
            answered = client.forward(request) => answered,
            // A hanging leader does not answer; the next leader knows the outcome. Without another leader this waits
            // until the deadline.
            _ = member.raft.wait_status(deadline, |now| now.leader_id != 0 && leadership_changed(now, status)) => {
                return Err(Error::outcome_unknown());
            }
        };
        let response = answered.map_err(|status| forward_error(&status))?.into_inner();
        let outcomes = response.results.into_iter().map(|result| match result.kind {
            Some(write_result::Kind::Reply(reply)) => Ok(reply),
            Some(write_result::Kind::Error(error)) => Err(error.into()),
            None => Err(Error::outcome_unknown()),
        });
        Ok(outcomes.collect())
    }

    /// Proposes writes that a follower forwarded, or rejects them; never forwards them again.
    pub(crate) async fn take_forwarded(&self, request: ForwardRequest) -> Result<Vec<Outcome>, Error> {
        let ack = Ack::from(request.ack()).max(self.settings().ack);
        let ForwardRequest { cluster_id, mut commands, timeout_ms, ack: _, from: _, group: _ } = request;
        let member = self.active_in(&cluster_id)?;
        let timeout = Duration::from_millis(timeout_ms.into()).min(self.settings().request_timeout);
        // The log's clock is the leader's (docs/design/node.md, pitfall 23).
        let now_ms = self.bounded_ms();
        commands.iter_mut().for_each(|command| command.now_ms = now_ms);
        Ok(self.propose(member, commands, ack, Instant::now() + timeout).await)
    }

    async fn propose(
        &self,
        member: &ActiveMember,
        mut commands: Vec<Command>,
        ack: Ack,
        deadline: Instant,
    ) -> Vec<Outcome> {
        // Members of an older format cannot read the origin. It is optional, so writes do not wait for the end of an
        // upgrade.
        if member.raft.status().lowest_format < format::WITH_ORIGIN {
            commands.iter_mut().for_each(|command| command.origin = None);
        }
        lower(&mut commands, &member.raft.status());
        let outcomes = self.propose_and_await(member, commands, ack, deadline).await;
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        self.inner().metrics.raft_proposals_failed.inc_by(failed as u64);
        outcomes
    }

    async fn propose_and_await(
        &self,
        member: &ActiveMember,
        commands: Vec<Command>,
        ack: Ack,
        deadline: Instant,
    ) -> Vec<Outcome> {
        let count = commands.len();
        let proposed =
            self.check_replicas(&member.raft.status(), ack).and_then(|()| member.raft.propose(&commands));
        let receivers = match proposed {
            Ok(receivers) => receivers,
            Err(error) => return vec![Err(error); count],
        };
        let mut outcomes = Vec::with_capacity(count);
        for receiver in receivers {
            outcomes.push(match timeout_at(deadline, receiver).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) | Err(_) => Err(Error::outcome_unknown()),
            });
        }
        self.await_acks(member, &mut outcomes, ack, deadline).await;
        outcomes
    }
}

/// Encodes calls as the entries that all members can read, during an upgrade from a build without ids of commands.
fn lower(commands: &mut [Command], status: &RaftStatus) {
    commands.iter_mut().for_each(|command| legacy::lower(command, status.lowest_format));
}

fn leadership_changed(now: &RaftStatus, before: &RaftStatus) -> bool {
    (now.term, now.leader_id) != (before.term, before.leader_id)
}

/// Whether the error means that the write was not proposed, or lost its index to another leader, and will not be
/// applied.
fn is_other_leader(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotLeader | ErrorCode::NoLeader | ErrorCode::NotStarted | ErrorCode::PeerUnreachable
    )
}

/// Returns the error of a failed call to the leader. A call that never reached the leader may be retried; the writes of
/// one that broke off may have been proposed.
pub(crate) fn forward_error(status: &tonic::Status) -> Error {
    let detail = helios_proto::detail_of(status);
    let ours = !status.details().is_empty();
    if ours {
        return detail.into();
    }
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return leader_unreachable();
        }
        cause = error.source();
    }
    Error::outcome_unknown()
}

/// Splits commands into parts that fit one message between members, in order.
fn chunks(commands: Vec<Command>) -> Vec<Vec<Command>> {
    let mut chunks: Vec<Vec<Command>> = Vec::new();
    let mut bytes = 0;
    for command in commands {
        let size = command.encoded_len();
        match chunks.last_mut() {
            Some(chunk) if bytes + size <= MAX_FORWARD_BYTES => chunk.push(command),
            _ => {
                bytes = 0;
                chunks.push(vec![command]);
            }
        }
        bytes += size;
    }
    chunks
}

fn too_large(bytes: usize, limit: usize) -> Error {
    Error::new(ErrorCode::TooLarge, format!("the command has {bytes} bytes, more than {limit}"))
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::{Set, command::Op};

    use super::super::names::{MAX_FORWARDED, Names};
    use super::*;

    fn set(bytes: usize) -> Op {
        Op::Set(Set { value: vec![0; bytes].into(), ..Set::default() })
    }

    fn batch(count: usize) -> Batch {
        Batch::new(vec![set(1).into(); count], 1_000, 1)
    }

    fn code(outcome: &Outcome) -> Option<ErrorCode> {
        outcome.as_ref().err().map(|error| error.code)
    }

    #[test]
    fn a_forwarded_batch_is_split_to_fit_messages_in_order() {
        let sizes = [10, MAX_FORWARD_BYTES, 20, 30, 2 * MAX_FORWARD_BYTES];
        let commands: Vec<_> =
            sizes.iter().map(|size| Command { op: Some(set(*size)), ..Command::default() }).collect();
        let cut = chunks(commands.clone());
        assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 2, 1]);
        assert_eq!(cut.concat(), commands);
    }

    #[test]
    fn writes_without_a_request_id_are_retried_only_if_not_proposed() {
        let mut batch = batch(3);
        batch.settle(
            0,
            vec![Err(Error::outcome_unknown()), Err(Error::not_leader(None)), Ok(Reply::default())],
        );
        assert_eq!(batch.open.iter().map(|open| open.slot).collect::<Vec<_>>(), [1]);
        let outcomes = batch.finish();
        assert_eq!(code(&outcomes[0]), Some(ErrorCode::OutcomeUnknown));
        assert_eq!(code(&outcomes[1]), Some(ErrorCode::NoLeader));
        assert!(outcomes[2].is_ok());
    }

    #[tokio::test]
    async fn a_named_write_is_retried_under_its_request_id_and_marked_as_a_retry() {
        let names = Names::new(1, 2);
        let mut batch = batch(2);
        assert_eq!(batch.next_window(), Window::Unnamed(2));
        batch.name(names.take(2, soon()).await.unwrap(), 7);
        let named = |batch: &Batch| -> Vec<_> {
            let ids = batch.open.iter().map(|open| open.command.request_id.clone().unwrap());
            ids.map(|id| (id.client_id, id.sequence)).collect()
        };
        let before = named(&batch);
        batch.settle(0, vec![Err(Error::outcome_unknown()), Err(Error::not_leader(None))]);
        assert_eq!(batch.next_window(), Window::Named(2));
        assert_eq!(named(&batch), before);
        assert!(batch.open.iter().all(|open| open.command.origin.as_ref().unwrap().named_at == 7));
        assert_eq!([batch.open[0].may_be_applied(), batch.open[1].may_be_applied()], [true, false]);
        // The second attempt was certainly not proposed, but the first one may have been.
        batch.settle(0, vec![Err(Error::not_leader(None)), Err(Error::not_leader(None))]);
        let outcomes = batch.finish();
        assert_eq!(code(&outcomes[0]), Some(ErrorCode::OutcomeUnknown));
        assert_eq!(code(&outcomes[1]), Some(ErrorCode::NoLeader));
    }

    #[test]
    fn an_answer_belongs_to_its_own_write_when_an_earlier_one_is_retried() {
        let mut batch = batch(4);
        let reply = |index| Ok(Reply { index, ..Reply::default() });
        assert_eq!(batch.settle(0, vec![Err(Error::not_leader(None)), reply(1)]), 1);
        assert_eq!(batch.settle(1, vec![reply(2)]), 0);
        assert_eq!(batch.open.iter().map(|open| open.slot).collect::<Vec<_>>(), [0, 3]);
        let indexes: Vec<_> =
            batch.finish().iter().map(|outcome| outcome.as_ref().map_or(0, |reply| reply.index)).collect();
        assert_eq!(indexes, [0, 1, 2, 0]);
    }

    #[tokio::test]
    async fn a_large_batch_takes_names_in_windows_and_frees_them_when_answered() {
        let names = Names::new(1, 2);
        let mut batch = batch(2 * MAX_FORWARDED_AT_ONCE + 1);
        for expected in [MAX_FORWARDED_AT_ONCE, MAX_FORWARDED_AT_ONCE, 1] {
            assert_eq!(batch.next_window(), Window::Unnamed(expected));
            batch.name(names.take(expected, soon()).await.unwrap(), 7);
            assert_eq!(names.free(), MAX_FORWARDED - expected);
            assert_eq!(batch.settle(0, vec![Ok(Reply::default()); expected]), 0);
            assert_eq!(names.free(), MAX_FORWARDED);
        }
        assert!(batch.open.is_empty() && batch.finish().iter().all(Result::is_ok));
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_batch_is_lowered_to_what_the_slowest_member_reads() {
        let by_id = || Command { op: Some(state::commands::persist("k".into())), ..Command::default() };
        let with_ids = state::commands::WITH_IDS;
        for (lowest_format, keeps_id) in [(with_ids - 1, false), (with_ids, true)] {
            let mut commands = vec![by_id()];
            lower(&mut commands, &RaftStatus { lowest_format, ..RaftStatus::default() });
            assert_eq!(matches!(commands[0].op, Some(Op::Call(_))), keeps_id);
        }
    }

    #[test]
    fn a_write_above_the_command_limit_is_rejected_at_once() {
        let batch = Batch::new(vec![set(2_000).into(), set(1).into()], 1_000, 1);
        assert_eq!(batch.open.len(), 1);
        assert_eq!(batch.outcomes[0].as_ref().and_then(code), Some(ErrorCode::TooLarge));
    }

    #[test]
    fn a_key_over_the_limit_is_refused_before_it_is_proposed() {
        let long = Set { key: vec![b'k'; state::MAX_KEY_BYTES + 1].into(), ..Set::default() };
        let batch = Batch::new(vec![Op::Set(long).into()], 8 << 20, 1);
        let error = batch.outcomes[0].clone().unwrap().unwrap_err();
        assert_eq!((error.code, batch.open.len()), (ErrorCode::TooLarge, 0));
        assert!(error.message.contains("65536"), "{error}");
    }
}
