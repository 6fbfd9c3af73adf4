//! Calls of the members on their gRPC client ports.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use helios_archive::History;
use helios_proto::detail_of;
use helios_proto::tls::{ClientTls, dial, endpoint, host_of, why};
use helios_proto::v1::archive_client::ArchiveClient;
use helios_proto::v1::cluster_info_client::ClusterInfoClient;
use helios_proto::v1::{
    BaseChunk, BaseRequest, ErrorCode, ErrorDetail, HoldRequest, LogChunk, LogRequest, StatusRequest,
    StatusResponse,
};
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after which a member that answers no ping is taken for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Limit of a message: a chunk of the log has at least one entry, and an entry may be large.
pub const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// A call of a member that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{address}: {}", .detail.message)]
pub struct MemberError {
    pub address: String,
    pub detail: ErrorDetail,
}

impl MemberError {
    pub fn code(&self) -> ErrorCode {
        self.detail.code()
    }

    /// Whether the same call may succeed at the same member later.
    pub fn is_transient(&self) -> bool {
        use ErrorCode::*;
        self.detail.retryable || matches!(self.code(), PeerUnreachable | DeadlineExceeded | Internal)
    }
}

/// TLS and user of connections to members. Files are read for each connection and call, so that a rotated Secret is used.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    /// Certificate and key.
    pub identity_files: Option<(PathBuf, PathBuf)>,
}

impl Connection {
    /// Returns the TLS configuration; `None` without a CA.
    pub fn tls(&self) -> Result<Option<ClientTls>, Failure> {
        let Some(ca) = &self.ca_file else { return Ok(None) };
        let identity = match &self.identity_files {
            Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
            None => None,
        };
        let identity = identity.as_ref().map(|(certificate, key)| (certificate.as_slice(), key.as_slice()));
        let tls = ClientTls::from_pem(&read(ca)?, identity);
        tls.map(Some)
            .map_err(|error| Failure::usage(format!("{} or the certificate beside it {error}", ca.display())))
    }

    fn has_user(&self) -> bool {
        self.user.is_some() || self.password_file.is_some()
    }

    /// Advice for a member that does not authenticate the user.
    fn unauthenticated(&self) -> &'static str {
        if self.has_user() {
            "wrong user or password; check --user and --password-file"
        } else {
            "the member asks for a user; give --user and --password-file of one with the role backup"
        }
    }

    fn authorization(&self) -> Result<Option<String>, Failure> {
        if !self.has_user() {
            return Ok(None);
        }
        let password = match &self.password_file {
            Some(file) => String::from_utf8_lossy(&read(file)?).lines().next().unwrap_or_default().to_owned(),
            None => String::new(),
        };
        let user = self.user.as_deref().unwrap_or("default");
        Ok(Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))))
    }

    /// Returns a channel that connects when it is used, and again after a failure.
    pub fn channel(&self, address: &str) -> Result<Channel, Failure> {
        // For its error now; later the connection without TLS fails at the member.
        self.tls()?;
        let connection = self.clone();
        let tls = move || connection.tls().ok().flatten();
        let endpoint = endpoint(address).map_err(|error| Failure::usage(error.to_string()))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let dial = dial(address.to_owned(), host_of(address).to_owned(), tls);
        Ok(endpoint.connect_with_connector_lazy(dial))
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|e| Failure::usage(format!("cannot read {}: {e}", file.display())))
}

/// A member by its address.
#[derive(Debug, Clone)]
pub struct Member {
    address: Arc<str>,
    channel: Channel,
    connection: Arc<Connection>,
}

/// Result of asking one member for its status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub address: String,
    /// The status, or the error as text.
    pub status: Result<StatusResponse, String>,
}

impl Member {
    pub fn address(&self) -> &str {
        &self.address
    }

    fn error(&self, status: &Status) -> MemberError {
        let mut detail = detail_of(status);
        match detail.code() {
            ErrorCode::PeerUnreachable => detail.message = why(status),
            // The member says what a header of HTTP has to be.
            ErrorCode::Unauthenticated => detail.message = self.connection.unauthenticated().to_owned(),
            _ => {}
        }
        MemberError { address: self.address.to_string(), detail }
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, MemberError> {
        let invalid = |message: String| {
            let detail =
                ErrorDetail { code: ErrorCode::Unauthenticated.into(), message, ..Default::default() };
            MemberError { address: self.address.to_string(), detail }
        };
        let mut request = Request::new(message);
        if let Some(value) = self.connection.authorization().map_err(|failure| invalid(failure.message))? {
            let value = MetadataValue::try_from(value);
            let value =
                value.map_err(|_| invalid("the password has bytes that no header can have".to_owned()))?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }

    /// Runs a call with one answer.
    async fn unary<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, MemberError> {
        let late = || Status::deadline_exceeded(format!("no answer within {} s", CALL_TIMEOUT.as_secs()));
        let answer = timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| Err(late()));
        answer.map(tonic::Response::into_inner).map_err(|status| self.error(&status))
    }

    fn archive(&self) -> ArchiveClient<Channel> {
        ArchiveClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub async fn status(&self) -> Result<StatusResponse, MemberError> {
        let mut client = ClusterInfoClient::new(self.channel.clone());
        self.unary(client.status(self.request(StatusRequest {})?)).await
    }

    /// Opens a stream of the state. The member may write a snapshot before it answers, so there is no timeout; the
    /// connection ends when the member answers no pings.
    pub async fn base(&self, request: BaseRequest) -> Result<Chunks<BaseChunk>, MemberError> {
        let answer = self.archive().base(self.request(request)?).await;
        self.chunks(answer)
    }

    /// Opens a stream of the log.
    pub async fn log(&self, history: &History, from_index: u64) -> Result<Chunks<LogChunk>, MemberError> {
        let (cluster_id, incarnation) = (history.cluster_id().to_owned(), history.incarnation());
        let request = self.request(LogRequest { from_index, cluster_id, incarnation })?;
        let answer = self.archive().log(request).await;
        self.chunks(answer)
    }

    /// Asks the member to keep its log from an index on, and reports to it; returns the first index that it has.
    pub async fn hold(&self, request: HoldRequest) -> Result<u64, MemberError> {
        let mut client = self.archive();
        let answer = self.unary(client.hold(self.request(request)?)).await?;
        Ok(answer.first_index)
    }

    fn chunks<T>(
        &self,
        answer: Result<tonic::Response<Streaming<T>>, Status>,
    ) -> Result<Chunks<T>, MemberError> {
        match answer {
            Ok(answer) => Ok(Chunks { member: self.clone(), stream: answer.into_inner() }),
            Err(status) => Err(self.error(&status)),
        }
    }
}

/// A stream of a member.
pub struct Chunks<T> {
    member: Member,
    stream: Streaming<T>,
}

impl<T> Chunks<T> {
    pub fn address(&self) -> &str {
        self.member.address()
    }

    /// Returns the next chunk; `None` at the end. It may be dropped while it waits.
    pub async fn next(&mut self) -> Result<Option<T>, MemberError> {
        self.stream.message().await.map_err(|status| self.member.error(&status))
    }
}

/// The members of a cluster.
#[derive(Debug, Clone)]
pub struct Members(Vec<Member>);

impl Members {
    pub fn new(addresses: &[String], connection: Connection) -> Result<Self, Failure> {
        let connection = Arc::new(connection);
        let member = |address: &String| {
            let (channel, connection) = (connection.channel(address)?, Arc::clone(&connection));
            Ok(Member { address: address.as_str().into(), channel, connection })
        };
        addresses.iter().map(member).collect::<Result<_, _>>().map(Self)
    }

    pub fn get(&self, address: &str) -> Option<&Member> {
        self.0.iter().find(|member| member.address() == address)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.0.iter()
    }

    /// Asks all members for their status, at once.
    pub async fn survey(&self) -> Vec<Answer> {
        let asked = self.iter().map(async |member| Answer {
            address: member.address().to_owned(),
            status: member.status().await.map_err(|error| error.to_string()),
        });
        join_all(asked).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unauthenticated_call_names_the_flags() {
        let message = |connection: Connection| {
            let members = Members::new(&["h:50051".to_owned()], connection).unwrap();
            members.0[0]
                .error(&Status::unauthenticated("authenticate: Authorization: Basic <...>"))
                .to_string()
        };
        assert_eq!(
            message(Connection::default()),
            "h:50051: the member asks for a user; give --user and --password-file of one with the role backup"
        );
        let user = Connection { user: Some("app".to_owned()), ..Connection::default() };
        assert_eq!(message(user), "h:50051: wrong user or password; check --user and --password-file");
    }
}
