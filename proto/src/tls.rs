//! How a member is dialled: links between members, the operator and heliosctl. With [`ClientTls`] both ends show
//! a certificate; without it, nothing is hidden.

mod certificate;
#[cfg(feature = "issue")]
pub mod issue;
mod words;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

pub use certificate::{MANAGEMENT_NAME, names_of, not_after};
pub use words::{Plain, in_words, innermost, why};

/// What HTTP/2 over TLS is called by (RFC 9113).
pub const ALPN_HTTP2: &[u8] = b"h2";

/// PEM, certificate or key that cannot be used. Names no file: whoever read one adds it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error("holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    #[error("holds no private key in PEM (-----BEGIN PRIVATE KEY-----)")]
    NoKey,
    #[error("{0}")]
    Unusable(String),
}

impl TlsError {
    pub fn unusable(reason: impl std::fmt::Display) -> Self {
        Self::Unusable(reason.to_string())
    }
}

/// Why there is no connection, in words that a person can act on. Does not name the address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(pub String);

/// The certificates of a PEM text, the leaf first.
///
/// # Errors
/// When there is none, or one cannot be read.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(TlsError::unusable)?;
    if found.is_empty() { Err(TlsError::NoCertificate) } else { Ok(found) }
}

/// The private key of a PEM text.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    use rustls::pki_types::pem::Error;
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        Error::NoItemsFound => TlsError::NoKey,
        error => TlsError::unusable(error),
    })
}

/// Every certificate of a PEM text as one that others may be signed by: several while a CA is replaced.
///
/// # Errors
/// As [`certificates`].
pub fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(TlsError::unusable)?;
    }
    Ok(roots)
}

/// Whom a client trusts, and what it shows. TLS 1.3 only.
#[derive(Debug, Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// `ca`: one or more certificates. `identity`: certificate, with those between it and the CA, and its key. All PEM.
    ///
    /// # Errors
    /// When one of them cannot be read, or key and certificate do not belong together.
    pub fn from_pem(ca: &[u8], identity: Option<(&[u8], &[u8])>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::unusable)?
            .with_root_certificates(roots(ca)?);
        let mut config = match identity {
            Some((chain, key)) => {
                let (chain, key) = (certificates(chain)?, private_key(key)?);
                builder.with_client_auth_cert(chain, key).map_err(TlsError::unusable)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        // A certificate counts for one connection: what is resumed was checked long ago.
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// The handshake on `stream`. A server may still refuse this client's certificate when it is over.
    ///
    /// # Errors
    /// In words that name neither address nor port.
    pub async fn handshake<S>(&self, stream: S, server_name: &str) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| {
            io::Error::other(format!("{server_name:?} is no name that a certificate could have"))
        })?;
        let connector = TlsConnector::from(Arc::clone(&self.0));
        connector.connect(name, stream).await.map_err(|error| in_words(&error))
    }

    /// The handshake on `stream`, and the first bytes of the server: only with these is it certain that the server
    /// took this client's certificate. For servers that speak first, as those of HTTP/2 do.
    ///
    /// # Errors
    /// In words that name neither address nor port.
    pub async fn greet<S>(&self, stream: S, server_name: &str) -> io::Result<Pipe>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut stream = BufReader::new(self.handshake(stream, server_name).await?);
        match stream.fill_buf().await {
            Ok([]) => Err(in_words(&io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(Box::new(stream)),
            Err(error) => Err(in_words(&error)),
        }
    }
}

/// A connection, with TLS or without.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
pub type Pipe = Box<dyn Stream>;

/// Connects to the member at `address` (host:port), which has to show a certificate for `server_name`; every call
/// ends within `call_timeout`.
///
/// # Errors
/// When there is no connection within `connect_timeout`, or it is refused.
pub async fn connect(
    address: &str,
    server_name: &str,
    tls: Option<&ClientTls>,
    connect_timeout: Duration,
    call_timeout: Duration,
) -> Result<Channel, ConnectError> {
    let tls = tls.cloned();
    let endpoint = endpoint(address)?.connect_timeout(connect_timeout).timeout(call_timeout);
    let dial = dial(address.to_owned(), server_name.to_owned(), move || tls.clone());
    endpoint.connect_with_connector(dial).await.map_err(|error| ConnectError(innermost(&error)))
}

/// Of `address`, host:port. The scheme says nothing of TLS: that is the connector's.
///
/// # Errors
/// When it is no address.
pub fn endpoint(address: &str) -> Result<Endpoint, ConnectError> {
    Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| ConnectError(format!("{address:?} is no host:port: {}", innermost(&error))))
}

/// For [`Endpoint::connect_with_connector`] and its lazy twin: looks the name up, and asks `tls` what counts now, at
/// each dial.
pub fn dial(
    address: String,
    server_name: String,
    tls: impl Fn() -> Option<ClientTls> + Send + 'static,
) -> impl Service<
    tonic::transport::Uri,
    Response = TokioIo<Pipe>,
    Error = io::Error,
    Future = impl Future<Output = io::Result<TokioIo<Pipe>>> + Send,
> + Send
+ 'static {
    tower::service_fn(move |_| {
        let (address, server_name, tls) = (address.clone(), server_name.clone(), tls());
        async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            match tls {
                Some(tls) => tls.greet(stream, &server_name).await.map(TokioIo::new),
                None => Ok(TokioIo::new(Box::new(words::Plain::new(stream)) as Pipe)),
            }
        }
    })
}

/// The host of host:port, as certificates name it.
pub fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

#[cfg(test)]
#[cfg(feature = "issue")]
mod tests;
