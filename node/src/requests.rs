//! How a node answers reads and writes: on the leader through its own log, elsewhere through the
//! leader. Nothing that was proposed is ever tried again; what was certainly not proposed is, until
//! the request's deadline (product.md, C5 and C12).

use std::time::Duration;

use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::peer_client::PeerClient;
use helios_proto::v1::{
    Command, ErrorCode, ForwardRequest, Reply, StatusRequest, StatusResponse, command::Op, write_result,
};
use prost::Message as _;
use tokio::time::{Instant, timeout_at};

use crate::database::Database;
use crate::error::Error;
use crate::node::{ActiveMember, Node};
use crate::peer::MAX_MESSAGE_BYTES;
use crate::raft::{RaftStatus, Role, membership};
use crate::state::Store;

/// Commands sent to the leader in one message, bytes.
const MAX_FORWARD_BYTES: usize = 4 << 20;
/// How soon a write that met a change of leader looks again if nothing is heard.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How often a follower asks the leader again on behalf of WAIT.
const WAIT_POLL: Duration = Duration::from_millis(10);

type Outcome = Result<Reply, Error>;

impl Database for Node {
    async fn write(&self, ops: Vec<Op>) -> Vec<Outcome> {
        let deadline = Instant::now() + self.inner().settings.request_timeout;
        let member = match self.active() {
            Ok(member) => member,
            Err(error) => return vec![Err(error); ops.len()],
        };
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(ops.len());
        let mut open = Vec::with_capacity(ops.len());
        for op in ops {
            let command = Command { now_ms: crate::wall_ms(), op: Some(op) };
            let limit = self.inner().max_command_bytes;
            if command.encoded_len() > limit {
                outcomes.push(Some(Err(too_large(command.encoded_len(), limit))));
            } else {
                open.push((outcomes.len(), command));
                outcomes.push(None);
            }
        }
        while !open.is_empty() {
            let Some(status) = member.raft.wait_status(deadline, |status| status.leader_id != 0).await else {
                fail(&mut outcomes, &open, &no_leader());
                break;
            };
            let commands = open.iter().map(|(_, command)| command.clone()).collect();
            let answers = self.write_once(member, &status, commands, deadline).await;
            open = settle(&mut outcomes, open, answers);
            if open.is_empty() || Instant::now() >= deadline {
                fail(&mut outcomes, &open, &no_leader());
                break;
            }
            let pause = (Instant::now() + RETRY_PAUSE).min(deadline);
            let known = (status.term, status.leader_id);
            drop(member.raft.wait_status(pause, |now| (now.term, now.leader_id) != known).await);
        }
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(Error::outcome_unknown()))).collect()
    }

    async fn read_barrier(&self) -> Result<(), Error> {
        let member = self.active()?;
        let deadline = Instant::now() + self.inner().settings.request_timeout;
        let barrier = async {
            let index = member.raft.read_index().await?;
            member.raft.wait_applied(index).await
        };
        match timeout_at(deadline, barrier).await {
            Ok(done) => done,
            Err(_) if member.raft.status().leader_id == 0 => Err(no_leader()),
            Err(_) => Err(Error::new(
                ErrorCode::NoQuorum,
                "no majority confirmed the read in time; check that most members run and reach each other",
            )),
        }
    }

    async fn wait_replicas(&self, index: u64, replicas: u64, timeout: Duration) -> Result<u64, Error> {
        let member = self.active()?;
        let deadline = (timeout > Duration::ZERO).then(|| Instant::now() + timeout);
        loop {
            let found = replicas_of(self, member, index).await?;
            let now = Instant::now();
            if found >= replicas || deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(found);
            }
            let pause = deadline.unwrap_or(now + WAIT_POLL).min(now + WAIT_POLL);
            tokio::time::sleep_until(pause).await;
        }
    }

    fn store(&self) -> &Store {
        &self.inner().store
    }

    fn status(&self) -> StatusResponse {
        crate::status::of(self)
    }
}

impl Node {
    /// One try: here if this member leads, else at the leader.
    async fn write_once(
        &self,
        member: &ActiveMember,
        status: &RaftStatus,
        commands: Vec<Command>,
        deadline: Instant,
    ) -> Vec<Outcome> {
        let count = commands.len();
        if status.role == Role::Leader {
            return propose(member, commands, deadline).await;
        }
        self.inner().metrics.forwarded.inc_by(count as u64);
        let mut outcomes = Vec::with_capacity(count);
        for chunk in chunks(commands) {
            let sent = chunk.len();
            match self.forward(member, status, chunk, deadline).await {
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
        deadline: Instant,
    ) -> Result<Vec<Outcome>, Error> {
        let channel = self.channel_to(status, status.leader_id)?;
        let request = ForwardRequest {
            cluster_id: member.cluster_id.clone(),
            commands,
            timeout_ms: deadline.saturating_duration_since(Instant::now()).as_millis() as u32,
        };
        let mut client = PeerClient::new(channel)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        match timeout_at(deadline, client.forward(request)).await {
            Err(_) => Err(Error::outcome_unknown()),
            Ok(Err(status)) => Err(forward_error(&status)),
            Ok(Ok(response)) => {
                let outcomes = response.into_inner().results.into_iter().map(|result| match result.kind {
                    Some(write_result::Kind::Reply(reply)) => Ok(reply),
                    Some(write_result::Kind::Error(error)) => Err(error.into()),
                    None => Err(Error::outcome_unknown()),
                });
                Ok(outcomes.collect())
            }
        }
    }

    /// Writes sent on by a follower: proposed here or refused, never sent on again.
    pub(crate) async fn take_forwarded(
        &self,
        cluster_id: &str,
        mut commands: Vec<Command>,
        timeout: Duration,
    ) -> Result<Vec<Outcome>, Error> {
        let member = self.active()?;
        if member.cluster_id != cluster_id {
            return Err(Error::new(
                ErrorCode::WrongCluster,
                format!("this is cluster {}, not {cluster_id}", member.cluster_id),
            ));
        }
        let timeout = timeout.min(self.inner().settings.request_timeout);
        // The log's clock is the leader's (node.md, pitfall 23).
        let now_ms = crate::wall_ms();
        commands.iter_mut().for_each(|command| command.now_ms = now_ms);
        Ok(propose(member, commands, Instant::now() + timeout).await)
    }
}

async fn propose(member: &ActiveMember, commands: Vec<Command>, deadline: Instant) -> Vec<Outcome> {
    let count = commands.len();
    let encoded = commands.iter().map(Command::encode_to_vec).collect();
    let receivers = match member.raft.propose(encoded) {
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
    outcomes
}

/// Files the answers; gives back what was certainly not proposed and may be tried again.
fn settle(
    outcomes: &mut [Option<Outcome>],
    open: Vec<(usize, Command)>,
    answers: Vec<Outcome>,
) -> Vec<(usize, Command)> {
    let mut answers = answers.into_iter();
    let mut again = Vec::new();
    for (slot, command) in open {
        match answers.next().unwrap_or_else(|| Err(Error::outcome_unknown())) {
            Err(error) if is_other_leader(error.code) => again.push((slot, command)),
            outcome => outcomes[slot] = Some(outcome),
        }
    }
    again
}

fn fail(outcomes: &mut [Option<Outcome>], open: &[(usize, Command)], error: &Error) {
    for (slot, _) in open {
        outcomes[*slot] = Some(Err(error.clone()));
    }
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
fn forward_error(status: &tonic::Status) -> Error {
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

async fn replicas_of(node: &Node, member: &ActiveMember, index: u64) -> Result<u64, Error> {
    let status = member.raft.status();
    let (progress, voters) = if status.role == Role::Leader {
        (status.progress.clone(), status.membership.voters.clone())
    } else {
        let channel = node.channel_to(&status, status.leader_id)?;
        let answer = ClusterClient::new(channel).status(StatusRequest {}).await;
        let answer = answer.map_err(|status| Error::from(helios_proto::detail_of(&status)))?.into_inner();
        (answer.progress, answer.membership.unwrap_or_default().voters)
    };
    let holds = |progress: &&helios_proto::v1::Progress| {
        progress.match_index >= index && voters.contains(&progress.id)
    };
    Ok(progress.iter().filter(holds).count() as u64)
}

impl Node {
    /// A channel to another member; kept, since a connection per request would be its cost.
    fn channel_to(&self, status: &RaftStatus, id: u64) -> Result<tonic::transport::Channel, Error> {
        let record = membership::member(&status.membership, id).ok_or_else(no_leader)?;
        self.inner().channels.get(&record.peer_addr)
    }
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

fn leader_unreachable() -> Error {
    Error::new(ErrorCode::PeerUnreachable, "the leader cannot be reached; try again")
}

fn no_leader() -> Error {
    Error::new(
        ErrorCode::NoLeader,
        "the cluster has no leader: check that most members run and reach each other",
    )
}

fn too_large(bytes: usize, limit: usize) -> Error {
    Error::new(ErrorCode::TooLarge, format!("the command has {bytes} bytes, more than {limit}"))
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::Set;

    use super::*;

    fn command(bytes: usize) -> Command {
        let set = Set { value: vec![0; bytes].into(), ..Set::default() };
        Command { now_ms: 1, op: Some(Op::Set(set)) }
    }

    #[test]
    fn a_batch_is_cut_to_fit_and_keeps_its_order() {
        let sizes = [10, MAX_FORWARD_BYTES, 20, 30, 2 * MAX_FORWARD_BYTES];
        let cut = chunks(sizes.iter().map(|size| command(*size)).collect());
        assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 2, 1]);
        assert_eq!(cut.concat(), sizes.iter().map(|size| command(*size)).collect::<Vec<_>>());
    }

    #[test]
    fn only_what_was_certainly_not_proposed_is_tried_again() {
        let mut outcomes = vec![None, None, None];
        let open = (0..3).map(|slot| (slot, command(1))).collect();
        let answers = vec![Err(Error::outcome_unknown()), Err(Error::not_leader(None)), Ok(Reply::default())];
        let again = settle(&mut outcomes, open, answers);
        assert_eq!(again.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [1]);
        assert!(matches!(&outcomes[0], Some(Err(error)) if error.code == ErrorCode::OutcomeUnknown));
        assert!(outcomes[1].is_none());
        assert!(matches!(&outcomes[2], Some(Ok(_))));
    }
}
