//! The stream from a member that keeps the state up to date: one at a time, continued on another member when it ends.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use helios_proto::tls::{dial, endpoint, innermost};
use helios_proto::v1::FollowResponse;
use helios_proto::v1::follow_client::FollowClient;
use helios_proto::v1::follow_response::Kind;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use super::feed::{End, Feed};
use super::{Phase, Replica};
use crate::members::{Member, Members};
use crate::secret::Identity;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after which a member that answers no ping is taken for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Time without a message after which a stream is given up. Members send one every 100 ms, but for the time in which they
/// send snapshots to others first.
const SILENCE: Duration = Duration::from_secs(2);
const SILENCE_WHILE_LOADING: Duration = Duration::from_secs(30);
/// Time after which a stream that ends is continued without a long pause.
const STEADY: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_AFTER_ROUND: Duration = Duration::from_millis(500);
/// Pause after the keys needed too much memory, or had an unknown format.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(60);
/// Encoding of a message beside its records, bytes.
const ENVELOPE_BYTES: u64 = 16 << 20;
/// Messages above this size are applied off the threads of connections, bytes.
const LARGE_BYTES: usize = 64 << 10;

fn record_bytes(kind: &Kind) -> usize {
    match kind {
        Kind::SnapshotPart(part) => part.records.len(),
        Kind::Changes(changes) => changes.records.len(),
        _ => 0,
    }
}

/// The way to the members, and what is followed.
pub struct Link {
    pub replica: Arc<Replica>,
    /// gRPC client ports.
    pub members: Arc<Members>,
    pub identity: watch::Receiver<Arc<Identity>>,
    pub server_name: Option<String>,
    pub prefixes: Vec<Bytes>,
    pub limit_bytes: u64,
}

impl Link {
    /// Follows until the future is dropped.
    pub async fn run(self) {
        let mut feed = Feed::new(self.limit_bytes);
        // Whether the leader serves the stream itself: no other member could in the last round.
        let mut any_member = false;
        loop {
            self.members.resolve().await;
            let (mut has_followed, mut pause) = (false, PAUSE_AFTER_ROUND);
            for member in self.members.in_order() {
                let began = Instant::now();
                let (has_begun, end) = self.follow(&member, &mut feed, any_member).await;
                feed.end(&self.replica);
                self.members.avoid(&member);
                match &end {
                    End::GoTo => continue,
                    End::TooLarge { .. } | End::Format(_) => {
                        self.give_up(&mut feed, &end);
                        pause = PAUSE_AFTER_REFUSAL;
                        break;
                    }
                    End::Failed(reason) if has_begun => {
                        tracing::info!(member = %member.address, reason, "the stream of changes ended");
                    }
                    End::Failed(reason) => {
                        tracing::debug!(member = %member.address, reason, "no stream of changes");
                    }
                }
                if self.replica.phase() != Phase::OverMemory {
                    self.replica.set_phase(Phase::Disconnected);
                }
                if has_begun {
                    has_followed = true;
                    // A stream that fails at once may fail again.
                    pause = if began.elapsed() > STEADY { PAUSE } else { PAUSE_AFTER_ROUND };
                    break;
                }
            }
            any_member = !has_followed && pause == PAUSE_AFTER_ROUND;
            sleep(pause).await;
        }
    }

    /// Drops the state, and says so unless nothing has changed since the last time.
    fn give_up(&self, feed: &mut Feed, end: &End) {
        feed.clear(&self.replica);
        let phase = match end {
            End::TooLarge { .. } => Phase::OverMemory,
            _ => Phase::Disconnected,
        };
        if self.replica.set_phase(phase) || phase == Phase::Disconnected {
            tracing::warn!("all requests are forwarded: {end}");
        }
    }

    /// Follows a member until its stream ends; returns whether it had begun, and why it ended.
    async fn follow(&self, member: &Member, feed: &mut Feed, any_member: bool) -> (bool, End) {
        let mut stream = match self.open(member, feed, any_member).await {
            Ok(stream) => stream,
            Err(reason) => return (false, End::Failed(reason)),
        };
        let mut has_begun = false;
        loop {
            let limit = if feed.is_loading() { SILENCE_WHILE_LOADING } else { SILENCE };
            let kind = match timeout(limit, stream.message()).await {
                Ok(Ok(Some(FollowResponse { kind: Some(kind) }))) => kind,
                // A message of a later version.
                Ok(Ok(Some(FollowResponse { kind: None }))) => continue,
                Ok(Ok(None)) => return (has_begun, End::Failed("the member ended the stream".to_owned())),
                Ok(Err(status)) => return (has_begun, End::Failed(status.message().to_owned())),
                Err(_) => return (has_begun, End::Failed(format!("no message for {limit:?}"))),
            };
            let received = match record_bytes(&kind) > LARGE_BYTES {
                true => tokio::task::block_in_place(|| feed.receive(kind, &self.replica)),
                false => feed.receive(kind, &self.replica),
            };
            if let Err(end) = received {
                return (has_begun, end);
            }
            has_begun = true;
            let phase = match feed.is_loading() {
                // Without a message about it: the same keys may still need too much memory.
                true if self.replica.phase() == Phase::OverMemory => continue,
                true => Phase::Loading,
                false => Phase::Following,
            };
            if self.replica.set_phase(phase) {
                tracing::info!(member = %member.address, phase = phase.label(), "reads of the replica");
            }
        }
    }

    async fn open(
        &self,
        member: &Member,
        feed: &Feed,
        any_member: bool,
    ) -> Result<Streaming<FollowResponse>, String> {
        let identity = Arc::clone(&self.identity.borrow());
        let channel = self.channel(member, &identity).await?;
        let limit = usize::try_from(self.limit_bytes + ENVELOPE_BYTES).unwrap_or(usize::MAX);
        let mut client = FollowClient::new(channel).max_decoding_message_size(limit);
        let mut request = Request::new(feed.request(&self.prefixes, any_member));
        if let Some(password) = &identity.password {
            let user = identity.user.as_deref().unwrap_or("default");
            let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
            let value = MetadataValue::try_from(value).map_err(|error| error.to_string())?;
            request.metadata_mut().insert("authorization", value);
        }
        match timeout(SILENCE, client.follow(request)).await {
            Ok(Ok(stream)) => Ok(stream.into_inner()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err(format!("no answer for {SILENCE:?}")),
        }
    }

    async fn channel(&self, member: &Member, identity: &Identity) -> Result<Channel, String> {
        let address = member.address.to_string();
        let name = self.server_name.clone().unwrap_or_else(|| member.host.to_string());
        let tls = identity.tls.clone();
        let endpoint = endpoint(&address).map_err(|error| error.to_string())?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let connected = endpoint.connect_with_connector(dial(address, name, move || tls.clone()));
        match timeout(2 * CONNECT_TIMEOUT, connected).await {
            Ok(connected) => connected.map_err(|error| innermost(&error)),
            Err(_) => Err("the connection was not accepted in time".to_owned()),
        }
    }
}
