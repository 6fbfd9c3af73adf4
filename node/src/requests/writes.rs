//! Writes: on the leader through its own log, elsewhere one hop to the leader.
//!
//! What was certainly not proposed is tried again until the request's deadline. What may have been
//! is tried again only under a request id, which the state machine applies once; every write that
//! is sent on to a leader has one (product.md, C5 and C12).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use helios_proto::v1::peer_client::PeerClient;
use helios_proto::v1::{AckLevel, Command, ErrorCode, ForwardRequest, Reply, RequestId, write_result};
use prost::Message as _;
use tokio::time::{Instant, timeout_at};

use super::{leader_unreachable, no_leader};
use crate::database::{Ack, WriteRequest};
use crate::error::Error;
use crate::node::{ActiveMember, Node};
use crate::peer::MAX_MESSAGE_BYTES;
use crate::raft::{RaftStatus, Role, membership};

/// Commands sent to the leader in one message, bytes.
const MAX_FORWARD_BYTES: usize = 4 << 20;
/// How soon a write that met a change of leader looks again if nothing is heard.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub type Outcome = Result<Reply, Error>;

/// Names for the writes that this process sends on. They are spread over several clients, so that
/// the state machine remembers as many at once as a leader takes.
pub struct RequestIds {
    /// A zero, the member's id, a number of this process's own: another process, even one on a
    /// restored copy of the disk, never says the same twice.
    process: Vec<u8>,
    next: AtomicU64,
}

const LANES: u64 = 32;

impl RequestIds {
    pub fn new(member_id: u64, boot_nonce: u64) -> Self {
        let process = [&[0][..], &member_id.to_be_bytes(), &boot_nonce.to_be_bytes()].concat();
        Self { process, next: AtomicU64::new(0) }
    }

    fn next(&self) -> RequestId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let lane = (number % LANES) as u8;
        let client_id = Bytes::from([&self.process[..], &[lane]].concat());
        RequestId { client_id, sequence: number / LANES + 1, retry: false }
    }
}

/// What a batch of writes asks for.
pub(super) struct Terms {
    /// At least; the configuration may ask for more.
    pub ack: Ack,
    /// What another member has to write is sent on to it, instead of telling who that is.
    pub forwards: bool,
    pub deadline: Instant,
}

/// A write without an outcome yet.
#[derive(Debug, Clone, PartialEq)]
struct Open {
    /// Its place among the outcomes.
    slot: usize,
    command: Command,
}

impl Open {
    /// Whether an earlier try may have been proposed.
    fn may_be_applied(&self) -> bool {
        self.command.request_id.as_ref().is_some_and(|id| id.retry)
    }
}

/// Writes on their way, and what became of them.
struct Batch {
    outcomes: Vec<Option<Outcome>>,
    open: Vec<Open>,
}

impl Batch {
    /// Refuses at once what the log does not take.
    fn new(writes: Vec<WriteRequest>, max_command_bytes: usize, now_ms: u64) -> Self {
        let mut batch = Self { outcomes: Vec::with_capacity(writes.len()), open: Vec::new() };
        for WriteRequest { op, request_id } in writes {
            let command = Command { now_ms, request_id, op: Some(op), ..Command::default() };
            let bytes = command.encoded_len();
            if bytes > max_command_bytes {
                batch.outcomes.push(Some(Err(too_large(bytes, max_command_bytes))));
            } else {
                batch.open.push(Open { slot: batch.outcomes.len(), command });
                batch.outcomes.push(None);
            }
        }
        batch
    }

    fn name(&mut self, ids: &RequestIds) {
        for open in &mut self.open {
            open.command.request_id.get_or_insert_with(|| ids.next());
        }
    }

    fn commands(&self) -> Vec<Command> {
        self.open.iter().map(|open| open.command.clone()).collect()
    }

    /// Files the answers; what may be tried again stays open.
    fn settle(&mut self, answers: Vec<Outcome>) {
        let mut answers = answers.into_iter();
        for mut open in std::mem::take(&mut self.open) {
            let answer = answers.next().unwrap_or_else(|| Err(Error::outcome_unknown()));
            match (&answer, &mut open.command.request_id) {
                (Err(error), _) if is_other_leader(error.code) => self.open.push(open),
                (Err(error), Some(id)) if error.code == ErrorCode::OutcomeUnknown => {
                    id.retry = true;
                    self.open.push(open);
                }
                _ => self.outcomes[open.slot] = Some(answer),
            }
        }
    }

    /// Certainly none of what is open was proposed, unless an earlier try may have been.
    fn refuse(mut self, error: &Error) -> Vec<Outcome> {
        for open in self.open.extract_if(.., |open| !open.may_be_applied()) {
            self.outcomes[open.slot] = Some(Err(error.clone()));
        }
        self.finish()
    }

    /// No more tries.
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
            let answers = self.write_once(member, &status, &mut batch, ack, deadline).await;
            batch.settle(answers);
            if batch.open.is_empty() || Instant::now() >= deadline {
                break;
            }
            let pause = (Instant::now() + RETRY_PAUSE).min(deadline);
            drop(member.raft.wait_status(pause, |now| led_otherwise(now, &status)).await);
        }
        batch.finish()
    }

    /// One try: here if this member leads, else at the leader.
    async fn write_once(
        &self,
        member: &ActiveMember,
        status: &RaftStatus,
        batch: &mut Batch,
        ack: Ack,
        deadline: Instant,
    ) -> Vec<Outcome> {
        if status.role == Role::Leader {
            return self.propose(member, batch.commands(), ack, deadline).await;
        }
        batch.name(&member.request_ids);
        let commands = batch.commands();
        let count = commands.len();
        self.inner().metrics.forwarded.inc_by(count as u64);
        let mut outcomes = Vec::with_capacity(count);
        for chunk in chunks(commands) {
            let sent = chunk.len();
            match self.forward(member, status, chunk, ack, deadline).await {
                Ok(answers) if answers.len() == sent => outcomes.extend(answers),
                Ok(_) => outcomes.extend(vec![Err(Error::outcome_unknown()); sent]),
                Err(error) => outcomes.extend(vec![Err(error); sent]),
            }
            // What follows a failure was not sent, so that order holds when it is tried again.
            if outcomes.last().is_some_and(Result::is_err) {
                outcomes.resize(count, Err(leader_unreachable()));
                break;
            }
        }
        outcomes
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
            // A little less, so that the leader's answer is here by then even if it is that time is up.
            timeout_ms: (left - left / 10).as_millis() as u32,
            ack: AckLevel::from(ack).into(),
            from: self.handshake_to(status, status.leader_id),
        };
        let mut client = PeerClient::new(channel)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let answered = tokio::select! {
            answered = client.forward(request) => answered,
            // A leader that hangs answers nobody; the next one tells what became of it. Without
            // another leader this waits until the deadline.
            _ = member.raft.wait_status(deadline, |now| now.leader_id != 0 && led_otherwise(now, status)) => {
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

    /// Writes sent on by a follower: proposed here or refused, never sent on again.
    pub(crate) async fn take_forwarded(&self, request: ForwardRequest) -> Result<Vec<Outcome>, Error> {
        let ack = Ack::from(request.ack()).max(self.settings().ack);
        let ForwardRequest { cluster_id, mut commands, timeout_ms, ack: _, from: _ } = request;
        let member = self.active_in(&cluster_id)?;
        let timeout = Duration::from_millis(timeout_ms.into()).min(self.settings().request_timeout);
        // The log's clock is the leader's (node.md, pitfall 23).
        let now_ms = self.bounded_ms();
        commands.iter_mut().for_each(|command| command.now_ms = now_ms);
        Ok(self.propose(member, commands, ack, Instant::now() + timeout).await)
    }

    async fn propose(
        &self,
        member: &ActiveMember,
        commands: Vec<Command>,
        ack: Ack,
        deadline: Instant,
    ) -> Vec<Outcome> {
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

fn led_otherwise(now: &RaftStatus, before: &RaftStatus) -> bool {
    (now.term, now.leader_id) != (before.term, before.leader_id)
}

/// The write was not proposed, or lost its place for good, because another member leads.
fn is_other_leader(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotLeader | ErrorCode::NoLeader | ErrorCode::NotStarted | ErrorCode::PeerUnreachable
    )
}

/// A call that never reached the leader may be made again; one that broke off in between may have
/// been proposed.
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

/// Parts that fit one message between peers, in order.
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
    use std::collections::HashSet;

    use helios_proto::v1::{Set, command::Op};

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
    fn a_batch_is_cut_to_fit_and_keeps_its_order() {
        let sizes = [10, MAX_FORWARD_BYTES, 20, 30, 2 * MAX_FORWARD_BYTES];
        let commands: Vec<_> =
            sizes.iter().map(|size| Command { op: Some(set(*size)), ..Command::default() }).collect();
        let cut = chunks(commands.clone());
        assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 2, 1]);
        assert_eq!(cut.concat(), commands);
    }

    #[test]
    fn without_a_name_only_what_was_certainly_not_proposed_is_tried_again() {
        let mut batch = batch(3);
        batch.settle(vec![Err(Error::outcome_unknown()), Err(Error::not_leader(None)), Ok(Reply::default())]);
        assert_eq!(batch.open.iter().map(|open| open.slot).collect::<Vec<_>>(), [1]);
        let outcomes = batch.finish();
        assert_eq!(code(&outcomes[0]), Some(ErrorCode::OutcomeUnknown));
        assert_eq!(code(&outcomes[1]), Some(ErrorCode::NoLeader));
        assert!(outcomes[2].is_ok());
    }

    #[test]
    fn a_named_write_is_tried_again_under_its_name_and_marked_as_a_retry() {
        let ids = RequestIds::new(1, 2);
        let mut batch = batch(2);
        batch.name(&ids);
        let before = batch.open.clone();
        batch.settle(vec![Err(Error::outcome_unknown()), Err(Error::not_leader(None))]);
        batch.name(&ids);
        let names = |open: &[Open]| -> Vec<_> {
            let names = open.iter().map(|open| open.command.request_id.clone().unwrap());
            names.map(|id| (id.client_id, id.sequence)).collect()
        };
        assert_eq!(names(&batch.open), names(&before));
        assert_eq!([batch.open[0].may_be_applied(), batch.open[1].may_be_applied()], [true, false]);
        // Lost again, and certainly not proposed this time: the first try may have been all the same.
        batch.settle(vec![Err(Error::not_leader(None)), Err(Error::not_leader(None))]);
        let outcomes = batch.finish();
        assert_eq!(code(&outcomes[0]), Some(ErrorCode::OutcomeUnknown));
        assert_eq!(code(&outcomes[1]), Some(ErrorCode::NoLeader));
    }

    #[test]
    fn no_two_writes_have_the_same_name() {
        let (first, second) = (RequestIds::new(1, 2), RequestIds::new(1, 3));
        let names = (0..1_000).flat_map(|_| [first.next(), second.next()]);
        let names: HashSet<_> = names.map(|id| (id.client_id, id.sequence)).collect();
        assert_eq!(names.len(), 2_000);
    }

    #[test]
    fn what_the_log_does_not_take_is_refused_at_once() {
        let batch = Batch::new(vec![set(2_000).into(), set(1).into()], 1_000, 1);
        assert_eq!(batch.open.len(), 1);
        assert_eq!(batch.outcomes[0].as_ref().and_then(code), Some(ErrorCode::TooLarge));
    }
}
