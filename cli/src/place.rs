//! A port of a member, reached directly or through the API server.

use std::io;
use std::time::Duration;

use futures::future::BoxFuture;
use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::{StatusRequest, StatusResponse};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, innermost};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is taken of one answer by HTTP.
const MAX_HTTP_BYTES: u64 = 8 << 20;

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
pub type Pipe = Box<dyn Stream>;

#[derive(Clone)]
pub enum Place {
    /// `HOST:PORT`.
    Address(String),
    /// Through the API server, so that no pod needs to be reachable from here.
    Pod { pods: Box<Api<Pod>>, name: String, port: u16 },
}

impl Place {
    /// How it is called in messages.
    pub fn name(&self) -> &str {
        match self {
            Self::Address(address) => address,
            Self::Pod { name, .. } => name,
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// When there is none within five seconds.
    pub async fn open(&self) -> Result<Pipe, Error> {
        let opened = match timeout(CONNECT_TIMEOUT, self.try_open()).await {
            Ok(opened) => opened,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time")),
        };
        opened.map_err(|error| self.unreachable(error.to_string()))
    }

    async fn try_open(&self) -> io::Result<Pipe> {
        match self {
            Self::Address(address) => Ok(Box::new(TcpStream::connect(address).await?)),
            Self::Pod { pods, name, port } => {
                let refused = |error: kube::Error| io::Error::other(innermost(&error));
                let mut forwarded = pods.portforward(name, &[*port]).await.map_err(refused)?;
                let stream = forwarded.take_stream(*port).expect("the one port that was asked for");
                Ok(Box::new(stream))
            }
        }
    }

    /// A client of the `Cluster` service here, every call of which ends within `limit`.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn cluster(&self, limit: Duration) -> Result<ClusterClient<Channel>, Error> {
        let place = self.clone();
        let connector = tower::service_fn(move |_| {
            let place = place.clone();
            let opened: BoxFuture<'static, io::Result<_>> =
                Box::pin(async move { Ok(TokioIo::new(place.try_open().await?)) });
            opened
        });
        let endpoint = Endpoint::from_static("http://member").connect_timeout(CONNECT_TIMEOUT).timeout(limit);
        let channel = endpoint.connect_with_connector(connector).await;
        channel.map(ClusterClient::new).map_err(|error| self.unreachable(innermost(&error)))
    }

    /// What the node here says of itself.
    ///
    /// # Errors
    /// When it cannot be reached, or does not answer within `limit`.
    pub async fn status(&self, limit: Duration) -> Result<StatusResponse, Error> {
        let ask = async {
            let mut client = self.cluster(limit).await?;
            let answer = client.status(StatusRequest {}).await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| self.unreachable(status.message().to_owned()))
        };
        match timeout(limit, ask).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable(format!("no answer within {} s", limit.as_secs_f64()))),
        }
    }

    /// The body of a GET of `path` by HTTP, at most 8 MiB of it.
    ///
    /// # Errors
    /// When there is no connection, or no whole answer within `limit`.
    pub async fn http_get(&self, path: &str, limit: Duration) -> Result<String, Error> {
        let ask = async {
            let mut pipe = self.try_open().await?;
            // HTTP/1.0: the body ends with the connection.
            let request = format!("GET {path} HTTP/1.0\r\nHost: member\r\n\r\n");
            pipe.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            pipe.take(MAX_HTTP_BYTES).read_to_end(&mut answer).await?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = match timeout(limit, ask).await {
            Ok(answer) => answer.map_err(|error| self.unreachable(error.to_string()))?,
            Err(_) => return Err(self.unreachable(format!("no answer within {} s", limit.as_secs_f64()))),
        };
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.lines().next().is_some_and(|line| line.contains(" 200")) => {
                Ok(body.to_owned())
            }
            _ => {
                Err(self
                    .unreachable(format!("{path} answers {:?}", answer.lines().next().unwrap_or_default())))
            }
        }
    }

    fn unreachable(&self, message: String) -> Error {
        let advice = match self {
            Self::Address(_) => "does the member run, and is this its peer address (port 7000 by default)?",
            Self::Pod { .. } => {
                "does its pod run, and may you create pods/portforward? heliosctl doctor tells"
            }
        };
        Error::Unreachable { place: self.name().to_owned(), message, advice }
    }
}
