//! A port of a member, reached directly or through the API server.

use std::io;
use std::time::Duration;

use futures::future::BoxFuture;
use helios_proto::tls::{Pipe, Plain, host_of, why};
use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::{StatusRequest, StatusResponse};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, innermost};
use crate::lock::Lock;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest HTTP response that is read, in bytes.
const MAX_HTTP_BYTES: u64 = 8 << 20;

#[derive(Clone)]
pub struct Place {
    at: At,
    lock: Lock,
}

#[derive(Clone)]
enum At {
    /// `HOST:PORT`.
    Address(String),
    /// Port of a pod, reached through the API server, so that no pod needs to be reachable from here.
    Pod { pods: Box<Api<Pod>>, name: String, port: u16, host: String },
}

impl Place {
    /// Returns the place at `address`, which is HOST:PORT.
    pub fn address(address: String, lock: Lock) -> Self {
        Self { at: At::Address(address), lock }
    }

    /// Returns a port of the pod `name`, whose certificate is for `host`.
    pub fn pod(pods: Api<Pod>, name: &str, port: u16, host: String, lock: Lock) -> Self {
        Self { at: At::Pod { pods: Box::new(pods), name: name.to_owned(), port, host }, lock }
    }

    /// Returns the same place without TLS.
    pub fn unlocked(self) -> Self {
        Self { lock: Lock { tls: None, ..self.lock }, ..self }
    }

    /// Returns the name of the place for messages.
    pub fn name(&self) -> &str {
        match &self.at {
            At::Address(address) => address,
            At::Pod { name, .. } => name,
        }
    }

    fn host(&self) -> &str {
        match &self.at {
            At::Address(address) => host_of(address),
            At::Pod { host, .. } => host,
        }
    }

    /// Opens a connection, with TLS where it is configured.
    ///
    /// # Errors
    /// When the connection is not established within five seconds.
    pub async fn open(&self) -> Result<Pipe, Error> {
        let open = async {
            let pipe = self.try_open().await?;
            match &self.lock.tls {
                Some(tls) => Ok(Box::new(tls.handshake(pipe, self.host()).await?) as Pipe),
                None => Ok(pipe),
            }
        };
        let opened = match timeout(CONNECT_TIMEOUT, open).await {
            Ok(opened) => opened,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time")),
        };
        opened.map_err(|error| self.unreachable(error.to_string()))
    }

    async fn try_open(&self) -> io::Result<Pipe> {
        match &self.at {
            At::Address(address) => Ok(Box::new(TcpStream::connect(address).await?)),
            At::Pod { pods, name, port, .. } => {
                let refused = |error: kube::Error| io::Error::other(innermost(&error));
                let mut forwarded = pods.portforward(name, &[*port]).await.map_err(refused)?;
                let stream = forwarded.take_stream(*port).expect("the one port that was asked for");
                Ok(Box::new(stream))
            }
        }
    }

    /// Opens a connection for HTTP/2. It returns only after the member has accepted or rejected this client's
    /// certificate.
    async fn greet(&self) -> io::Result<Pipe> {
        let pipe = self.try_open().await?;
        match &self.lock.tls {
            Some(tls) => tls.greet(pipe, self.host()).await,
            None => Ok(Box::new(Plain::new(pipe))),
        }
    }

    /// Returns a client of the `Cluster` service here, every call of which ends within `limit`.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn cluster(&self, limit: Duration) -> Result<ClusterClient<Channel>, Error> {
        let place = self.clone();
        let connector = tower::service_fn(move |_| {
            let place = place.clone();
            let opened: BoxFuture<'static, io::Result<_>> =
                Box::pin(async move { Ok(TokioIo::new(place.greet().await?)) });
            opened
        });
        let endpoint = Endpoint::from_static("http://member").connect_timeout(CONNECT_TIMEOUT).timeout(limit);
        let channel = endpoint.connect_with_connector(connector).await;
        channel.map(ClusterClient::new).map_err(|error| self.unreachable(innermost(&error)))
    }

    /// Returns the status that the node reports.
    ///
    /// # Errors
    /// When the node cannot be reached, or does not answer within `limit`.
    pub async fn status(&self, limit: Duration) -> Result<StatusResponse, Error> {
        let ask = async {
            let mut client = self.cluster(limit).await?;
            let answer = client.status(StatusRequest {}).await;
            answer.map(tonic::Response::into_inner).map_err(|status| self.unreachable(why(&status)))
        };
        match timeout(limit, ask).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable(format!("no answer within {} s", limit.as_secs_f64()))),
        }
    }

    /// Returns the body of an HTTP GET of `path`, at most 8 MiB of it.
    ///
    /// # Errors
    /// When there is no connection, or no whole answer within `limit`.
    pub async fn http_get(&self, path: &str, limit: Duration) -> Result<String, Error> {
        let ask = async {
            let mut pipe = self.try_open().await?;
            // With HTTP/1.0 the body ends with the connection.
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
        let is_about_tls = message.contains("TLS") || message.contains("certificate");
        let advice = match (&self.at, &self.lock.advice) {
            (_, Some(advice)) if is_about_tls => advice.clone(),
            _ if is_about_tls => {
                "give the certificates of the cluster: --cacert, --cert and --key, or HELIOSCTL_CACERT, _CERT and _KEY"
                    .to_owned()
            }
            (At::Address(_), _) => {
                "does the member run, and is this its peer address (port 7000 by default)?".to_owned()
            }
            (At::Pod { .. }, _) => {
                "does its pod run, and may you create pods/portforward? heliosctl doctor checks both".to_owned()
            }
        };
        Error::Unreachable { place: self.name().to_owned(), message, advice }
    }
}
