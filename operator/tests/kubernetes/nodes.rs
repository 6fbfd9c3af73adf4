//! Simulated members: one `Cluster` service that answers for all of them, each at a separate
//! address in 127/8. Membership changes as with real ones; nothing replicates.

mod locked;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use helios_proto::status_of;
use helios_proto::v1::cluster_server::{Cluster, ClusterServer};
use helios_proto::v1::*;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Second octets that one test may use, 200 clusters in each, and tests that may run at once.
const CLUSTER_SUBNETS: u8 = 4;
const SUBNETS: u8 = 32;

/// A call that changes something, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub name: &'static str,
    pub fencing_token: u64,
    pub accepted: bool,
    pub changed: bool,
}

#[derive(Debug, Default)]
struct Members {
    membership: Option<Membership>,
    /// The first voter while nobody was elected.
    leader: Option<u64>,
    calls: Vec<Call>,
    script: Script,
    /// Digest of the list of users that they use.
    users_digest: String,
    /// How often each has said its status.
    answers: BTreeMap<u32, u64>,
}

/// Behaviour of members beside answering.
#[derive(Debug, Default)]
struct Script {
    /// Clients write all the time: positions move with every answer.
    busy: bool,
    silent: BTreeSet<u32>,
    /// From one answer of a member to its next, another of these leads.
    alternating: Vec<u64>,
}

/// All clusters of one test, by name, and which part of 127/8 their members listen in: tests run side by side.
#[derive(Debug, Clone)]
pub struct Nodes(Arc<Mutex<BTreeMap<String, Members>>>, u8);

impl Default for Nodes {
    fn default() -> Self {
        static TESTS: AtomicU8 = AtomicU8::new(0);
        Self(Arc::default(), TESTS.fetch_add(1, Ordering::Relaxed) % SUBNETS)
    }
}

impl Nodes {
    /// Where a member listens, on [`helios_operator::names::PEER_PORT`]. Clusters are named `c0`, `c1` and so on, those of drills
    /// by their number.
    pub fn address(&self, cluster: &str, ordinal: u32) -> IpAddr {
        const DRILLS: u32 = 180;
        let of = |text: &str| text.parse::<u32>().ok();
        let number = match cluster.rsplit_once("-drill-") {
            Some((_, number)) => of(number).map(|number| DRILLS + number),
            None => cluster.strip_prefix('c').and_then(of),
        };
        let number = number.unwrap();
        let part = |value: u32| u8::try_from(value).unwrap();
        let subnet = part(64 + number / 200) + self.1 * CLUSTER_SUBNETS;
        Ipv4Addr::new(127, subnet, part(1 + number % 200), part(1 + ordinal)).into()
    }

    pub fn calls(&self, cluster: &str) -> Vec<Call> {
        self.0.lock().unwrap().get(cluster).map(|members| members.calls.clone()).unwrap_or_default()
    }

    pub fn membership(&self, cluster: &str) -> Option<Membership> {
        self.0.lock().unwrap().get(cluster)?.membership.clone()
    }

    /// As if a Job had restored a backup into the first member, as the cluster `cluster_id`.
    pub fn restore(&self, cluster: &str, cluster_id: &str) {
        let node = Node { all: self.clone(), cluster: cluster.to_owned(), ordinal: 0 };
        let first = Member { id: 1, name: node.name(), disk_id: node.disk_id(), ..Default::default() };
        let membership = Membership {
            members: vec![first],
            voters: vec![1],
            next_id: 2,
            cluster_id: cluster_id.to_owned(),
            ..Default::default()
        };
        self.0.lock().unwrap().get_mut(cluster).unwrap().membership = Some(membership);
    }

    /// From now on the member `id` leads, in a later term.
    pub fn elect(&self, cluster: &str, id: u64) {
        self.0.lock().unwrap().get_mut(cluster).unwrap().leader = Some(id);
    }

    /// From now on clients write to the cluster.
    pub fn keep_busy(&self, cluster: &str) {
        self.0.lock().unwrap().get_mut(cluster).unwrap().script.busy = true;
    }

    /// From now on the member does not answer, and its leader does not hear it.
    pub fn silence(&self, cluster: &str, ordinal: u32) {
        self.0.lock().unwrap().get_mut(cluster).unwrap().script.silent.insert(ordinal);
    }

    /// From now on another of `leaders` leads in each answer; none: as before.
    pub fn alternate(&self, cluster: &str, leaders: &[u64]) {
        self.0.lock().unwrap().get_mut(cluster).unwrap().script.alternating = leaders.to_vec();
    }

    /// Answers of all members so far.
    pub fn answers(&self, cluster: &str) -> u64 {
        self.0.lock().unwrap()[cluster].answers.values().sum()
    }

    /// From now on the members use the list of users with this digest.
    pub fn use_users(&self, cluster: &str, digest: String) {
        self.0.lock().unwrap().entry(cluster.to_owned()).or_default().users_digest = digest;
    }

    /// As if an operator with this token had changed the membership.
    pub fn record_token(&self, cluster: &str, fencing_token: u64) {
        let mut all = self.0.lock().unwrap();
        all.get_mut(cluster).unwrap().membership.as_mut().unwrap().fencing_token = fencing_token;
    }

    /// Starts to answer for a member, at [`Nodes::address`]; with what its Secret holds, over TLS.
    pub async fn start(&self, cluster: &str, ordinal: u32, secret: Option<&BTreeMap<String, Vec<u8>>>) {
        self.0.lock().unwrap().entry(cluster.to_owned()).or_default();
        let address =
            SocketAddr::new(self.address(cluster, ordinal), helios_operator::names::PEER_PORT as u16);
        let listener = TcpListener::bind(address).await;
        let listener =
            listener.unwrap_or_else(|error| panic!("{address} is not free; end what listens there: {error}"));
        let node = Node { all: self.clone(), cluster: cluster.to_owned(), ordinal };
        let server = tonic::transport::Server::builder().add_service(ClusterServer::new(node));
        match secret.map(locked::acceptor) {
            Some(acceptor) => {
                tokio::spawn(server.serve_with_incoming(locked::connections(listener, acceptor)));
            }
            None => {
                tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
            }
        }
    }
}

struct Node {
    all: Nodes,
    cluster: String,
    ordinal: u32,
}

impl Node {
    fn name(&self) -> String {
        helios_operator::names::pod(&self.cluster, self.ordinal)
    }

    fn disk_id(&self) -> String {
        format!("disk of {}", self.name())
    }

    /// Applies `change`, which answers whether it changed anything, unless the caller is fenced.
    fn change(
        &self,
        name: &'static str,
        fencing_token: u64,
        change: impl FnOnce(&mut Option<Membership>) -> bool,
    ) -> Result<Membership, Status> {
        let mut all = self.all.0.lock().unwrap();
        let members = all.get_mut(&self.cluster).unwrap();
        let recorded = members.membership.as_ref().map_or(0, |membership| membership.fencing_token);
        let accepted = fencing_token >= recorded;
        let changed = accepted && change(&mut members.membership);
        members.calls.push(Call { name, fencing_token, accepted, changed });
        if !accepted {
            return Err(refusal(ErrorCode::Fenced, "another operator has acted since"));
        }
        let Some(membership) = &mut members.membership else {
            return Err(refusal(ErrorCode::NotStarted, "no cluster yet"));
        };
        membership.fencing_token = fencing_token;
        membership.index += u64::from(changed);
        Ok(membership.clone())
    }

    fn changed(
        &self,
        name: &'static str,
        fencing_token: u64,
        change: impl FnOnce(&mut Membership) -> bool,
    ) -> Result<Response<MembershipResponse>, Status> {
        let membership =
            self.change(name, fencing_token, |membership| membership.as_mut().is_some_and(change))?;
        Ok(Response::new(MembershipResponse { membership: Some(membership) }))
    }

    /// `None`: it does not answer.
    fn status(&self) -> Option<StatusResponse> {
        let mut all = self.all.0.lock().unwrap();
        let members = all.get_mut(&self.cluster).unwrap();
        if members.script.silent.contains(&self.ordinal) {
            return None;
        }
        let answers = members.answers.entry(self.ordinal).or_default();
        *answers += 1;
        let answer = *answers;
        Some(self.answer(members, answer))
    }

    fn answer(&self, members: &Members, number: u64) -> StatusResponse {
        let Script { busy, silent, alternating } = &members.script;
        let name = self.name();
        let disk_id = self.disk_id();
        let blank = StatusResponse { name, disk_id: disk_id.clone(), boot_epoch: 1, ..Default::default() };
        let Some(membership) = members.membership.clone() else { return blank };
        let Some(me) = membership.members.iter().find(|member| member.disk_id == disk_id) else {
            return blank;
        };
        let elected = match alternating.len() as u64 {
            0 => members.leader,
            count => Some(alternating[(number % count) as usize]),
        };
        let leader = elected.unwrap_or(membership.voters[0]);
        let index = if *busy { 1_000 * number } else { 100 };
        // Below the lag that a member in service may have.
        let behind = if *busy { 37 * number % 900 } else { 0 };
        let role = match () {
            () if me.id == leader => Role::Leader,
            () if membership.voters.contains(&me.id) => Role::Follower,
            () => Role::Learner,
        };
        let others = membership.members.iter().filter(|member| member.id != leader);
        let is_silent = |member: &Member| {
            silent.iter().any(|ordinal| member.name == helios_operator::names::pod(&self.cluster, *ordinal))
        };
        let heard = |member: &Member| Progress {
            id: member.id,
            match_index: index - behind,
            active: !is_silent(member),
            ..Default::default()
        };
        StatusResponse {
            cluster_id: membership.cluster_id.clone(),
            member_id: me.id,
            role: role.into(),
            term: if elected.is_some() { 3 } else { 2 },
            leader_id: leader,
            last_index: index,
            commit_index: index,
            applied_index: index,
            progress: if role == Role::Leader { others.map(heard).collect() } else { Vec::new() },
            ready: true,
            version: "0.0.0".to_owned(),
            users_file_digest: members.users_digest.clone(),
            membership: Some(membership),
            ..blank
        }
    }
}

fn refusal(code: ErrorCode, message: &str) -> Status {
    status_of(&ErrorDetail { code: code.into(), message: message.to_owned(), ..Default::default() })
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in these tests"))
}

#[tonic::async_trait]
impl Cluster for Node {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.status().map(Response::new).ok_or_else(|| Status::unavailable("silent"))
    }

    async fn initialize(
        &self,
        request: Request<InitializeRequest>,
    ) -> Result<Response<InitializeResponse>, Status> {
        let InitializeRequest { cluster_id, expected_disk_id, fencing_token } = request.into_inner();
        let name = self.name();
        let membership = self.change("initialize", fencing_token, |membership| {
            let begins = membership.is_none();
            let first = Member { id: 1, name, disk_id: expected_disk_id, ..Default::default() };
            membership.get_or_insert(Membership {
                members: vec![first],
                voters: vec![1],
                next_id: 2,
                cluster_id,
                ..Default::default()
            });
            begins
        })?;
        Ok(Response::new(InitializeResponse { membership: Some(membership) }))
    }

    async fn add_learner(
        &self,
        request: Request<AddLearnerRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let AddLearnerRequest { name, disk_id, fencing_token, .. } = request.into_inner();
        self.changed("add_learner", fencing_token, |membership| {
            let news = membership.members.iter().all(|member| member.disk_id != disk_id);
            if news {
                let id = membership.next_id;
                membership.next_id += 1;
                membership.members.push(Member { id, name, disk_id, ..Default::default() });
                membership.learners.push(id);
            }
            news
        })
    }

    async fn promote(
        &self,
        request: Request<PromoteRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let PromoteRequest { id, fencing_token, .. } = request.into_inner();
        self.changed("promote", fencing_token, |membership| {
            let news = membership.learners.contains(&id);
            if news {
                membership.learners.retain(|learner| *learner != id);
                membership.voters.push(id);
            }
            news
        })
    }

    async fn change_membership(
        &self,
        request: Request<ChangeMembershipRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let ChangeMembershipRequest { promote, remove, fencing_token, .. } = request.into_inner();
        self.changed("change_membership", fencing_token, |membership| {
            let before = membership.clone();
            membership.learners.retain(|id| !promote.contains(id));
            membership.voters.extend(promote.iter().filter(|id| !before.voters.contains(id)));
            membership.voters.retain(|id| !remove.contains(id));
            membership.members.retain(|member| !remove.contains(&member.id));
            *membership != before
        })
    }

    async fn remove(&self, _: Request<RemoveRequest>) -> Result<Response<MembershipResponse>, Status> {
        unused()
    }

    async fn force_new(&self, _: Request<ForceNewRequest>) -> Result<Response<MembershipResponse>, Status> {
        unused()
    }

    async fn transfer_leadership(
        &self,
        _: Request<TransferRequest>,
    ) -> Result<Response<TransferResponse>, Status> {
        unused()
    }

    async fn step_down(&self, _: Request<StepDownRequest>) -> Result<Response<TransferResponse>, Status> {
        unused()
    }

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<SnapshotResponse>, Status> {
        unused()
    }

    async fn skip_entry(&self, _: Request<SkipEntryRequest>) -> Result<Response<SkipEntryResponse>, Status> {
        unused()
    }
}
