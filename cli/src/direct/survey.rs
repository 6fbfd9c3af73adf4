//! The survey: asks every member for its status.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use helios_proto::v1::{Membership, Role, StatusResponse};

use crate::lock::Lock;
use crate::place::Place;

/// Largest number of addresses asked; a cluster has up to seven members and some learners.
const MAX_MEMBERS: usize = 32;

/// Peer addresses of the members, and the TLS settings for connections to them.
pub struct Endpoints {
    pub addresses: Vec<String>,
    pub lock: Lock,
}

impl Endpoints {
    pub fn place(&self, address: String) -> Place {
        Place::address(address, self.lock.clone())
    }
}

/// Result of asking one address for its status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub address: String,
    /// The status, or the error as text.
    pub status: Result<StatusResponse, String>,
}

impl Answer {
    pub fn status(&self) -> Option<&StatusResponse> {
        self.status.as_ref().ok()
    }
}

/// Asks `endpoints` concurrently, and then the members of the membership that were not among them.
pub async fn survey(endpoints: &Endpoints, limit: Duration) -> Vec<Answer> {
    let given: BTreeSet<&str> = endpoints.addresses.iter().map(String::as_str).take(MAX_MEMBERS).collect();
    let mut answers = ask(endpoints, given.into_iter().map(str::to_owned), limit).await;
    let answered: BTreeSet<String> =
        answers.iter().filter_map(Answer::status).map(|status| status.name.clone()).collect();
    let others: Vec<String> = newest_membership(&answers)
        .map(|membership| membership.members.clone())
        .unwrap_or_default()
        .into_iter()
        .filter(|member| !answered.contains(&member.name))
        .map(|member| member.peer_addr)
        .filter(|address| !answers.iter().any(|answer| &answer.address == address))
        .take(MAX_MEMBERS)
        .collect();
    answers.extend(ask(endpoints, others.into_iter(), limit).await);
    answers
}

async fn ask(endpoints: &Endpoints, addresses: impl Iterator<Item = String>, limit: Duration) -> Vec<Answer> {
    let asked = addresses.map(|address| async move {
        let status = endpoints.place(address.clone()).status(limit).await;
        Answer { status: status.map_err(|error| error.to_string()), address }
    });
    join_all(asked).await
}

/// Returns the membership of the leader with the highest term, or else the one with the highest index.
pub fn newest_membership(answers: &[Answer]) -> Option<&Membership> {
    leader(answers)
        .and_then(|leader| leader.membership.as_ref())
        .or_else(|| {
            let all =
                answers.iter().filter_map(Answer::status).filter_map(|status| status.membership.as_ref());
            all.max_by_key(|membership| membership.index)
        })
        .filter(|membership| !membership.members.is_empty())
}

/// Returns the status of the leader with the highest term.
pub fn leader(answers: &[Answer]) -> Option<&StatusResponse> {
    let leaders = answers.iter().filter_map(Answer::status).filter(|status| status.role() == Role::Leader);
    leaders.max_by_key(|status| status.term)
}
