//! Dialing a member, for links between members, the operator and heliosctl. With [`ClientTls`] both ends authenticate
//! by a certificate; without it, the connection is plaintext.

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

/// ALPN protocol id of HTTP/2 over TLS (RFC 9113).
pub const ALPN_HTTP2: &[u8] = b"h2";

/// PEM, certificate or key that cannot be used. Does not name the file: the caller adds it.
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

/// Reason for a failed connection, as a text that a user can act on. Does not name the address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(pub String);

/// Returns the certificates of a PEM text, the leaf first.
///
/// # Errors
/// When there is none, or one cannot be read.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(TlsError::unusable)?;
    if found.is_empty() { Err(TlsError::NoCertificate) } else { Ok(found) }
}

/// Returns the private key of a PEM text.
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

/// Returns every certificate of a PEM text as a trusted CA: several while a CA is replaced.
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

/// CAs that a client trusts, and its own certificate. TLS 1.3 only.
#[derive(Debug, Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// Builds the configuration from PEM texts. `ca`: one or more certificates. `identity`: the certificate, with its
    /// intermediates, and its key.
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
        // A certificate is checked for each connection: a resumed session would rely on an old check.
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// Performs the handshake on `stream`. The server may still reject this client's certificate afterwards.
    ///
    /// # Errors
    /// If the handshake fails, with a text that names neither address nor port.
    pub async fn handshake<S>(&self, stream: S, server_name: &str) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| {
            io::Error::other(format!("{server_name:?} is not a valid name for a certificate"))
        })?;
        let connector = TlsConnector::from(Arc::clone(&self.0));
        connector.connect(name, stream).await.map_err(|error| in_words(&error))
    }

    /// Performs the handshake on `stream`, and waits for the first bytes of the server: only these prove that the server
    /// accepted this client's certificate. For protocols in which the server speaks first, such as HTTP/2.
    ///
    /// # Errors
    /// If the handshake fails, with a text that names neither address nor port.
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

/// A connection with or without TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
pub type Pipe = Box<dyn Stream>;

/// Connects to the member at `address` (host:port), which must present a certificate for `server_name`. Every
/// call on the channel ends within `call_timeout`.
///
/// # Errors
/// When the connection is refused or takes longer than `connect_timeout`.
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

/// Returns the endpoint of `address`, host:port. Its scheme is always http: the connector adds TLS.
///
/// # Errors
/// If `address` is not host:port.
pub fn endpoint(address: &str) -> Result<Endpoint, ConnectError> {
    Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| ConnectError(format!("{address:?} is not host:port: {}", innermost(&error))))
}

/// Returns a connector for [`Endpoint::connect_with_connector`] and its lazy variant: at each dial it resolves the name
/// and takes the current configuration from `tls`.
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

/// Returns the host of host:port, as certificates name it.
pub fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

#[cfg(test)]
#[cfg(feature = "issue")]
mod tests;
