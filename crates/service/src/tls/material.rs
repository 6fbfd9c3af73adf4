//! Certificate, key and CA of one side of a node, reloaded when their files change.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use helios_config::{ConfigError, TlsFiles};
use helios_proto::tls::{ALPN_HTTP2, ClientTls, TlsError, certificates, not_after, private_key, roots};
use prometheus_client::metrics::gauge::Gauge;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio_util::sync::CancellationToken;

use super::Protocol;
use crate::file_watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Connections among members, and of the operator: both ends present a certificate.
    Peer,
    Client,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Client => "client",
        }
    }

    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        const TLS13_ONLY: &[&SupportedProtocolVersion] = &[&TLS13];
        const TLS12_TOO: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
        match self {
            Self::Peer => TLS13_ONLY,
            Self::Client => TLS12_TOO,
        }
    }
}

pub struct Material {
    side: Side,
    files: TlsFiles,
    current: RwLock<Arc<Loaded>>,
}

struct Loaded {
    server: ServerConfig,
    /// Certificate and CA of outgoing links to peers.
    client: Option<ClientTls>,
    /// Expiry of the certificate, seconds since 1970.
    expires_at: i64,
    /// CRC-32C of the files' content.
    checksum: u32,
}

impl Material {
    /// Loads the files.
    ///
    /// # Errors
    /// One line that names the key and the file of the configuration.
    pub fn load(files: TlsFiles, side: Side) -> Result<Self, ConfigError> {
        let loaded = load(&files, side)?;
        if loaded.expires_at < crate::time::wall_ms().cast_signed() / 1_000 {
            tracing::warn!(file = %files.cert_file.display(), "this certificate has expired: peers and clients will reject it");
        }
        Ok(Self { side, files, current: RwLock::new(Arc::new(loaded)) })
    }

    pub fn side(&self) -> Side {
        self.side
    }

    fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the TLS configuration for the next connection to a port of this protocol.
    pub fn server(&self, protocol: Protocol) -> Arc<ServerConfig> {
        let mut config = self.current().server.clone();
        config.alpn_protocols = match protocol {
            Protocol::Redis => Vec::new(),
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 => vec![ALPN_HTTP2.to_vec()],
        };
        Arc::new(config)
    }

    /// Returns the TLS configuration for the next connection to a peer.
    pub fn client(&self) -> Option<ClientTls> {
        self.current().client.clone()
    }

    /// Returns the expiry of the certificate, seconds since 1970.
    pub fn expires_at(&self) -> i64 {
        self.current().expires_at
    }

    fn reload(&self) {
        match load(&self.files, self.side) {
            Ok(loaded) if loaded.checksum == self.current().checksum => {}
            Ok(loaded) => {
                tracing::info!(
                    side = self.side.name(),
                    expires_at = loaded.expires_at,
                    "certificates reloaded"
                );
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
            }
            Err(error) => {
                tracing::error!(%error, "certificates not reloaded; the node keeps the current ones")
            }
        }
    }

    /// Reloads the files whenever one of them changes, until `stop`; sets `expiry` to the expiry of the certificate.
    pub async fn watch(self: Arc<Self>, expiry: Gauge, stop: CancellationToken) {
        expiry.set(self.expires_at());
        let paths = [Some(&self.files.cert_file), Some(&self.files.key_file), self.files.ca_file.as_ref()];
        let paths = paths.into_iter().flatten().cloned().collect();
        file_watch::follow("certificates", paths, stop, || {
            self.reload();
            expiry.set(self.expires_at());
        })
        .await;
    }
}

fn load(files: &TlsFiles, side: Side) -> Result<Loaded, ConfigError> {
    let section = format!("tls.{}", side.name());
    let wrong = |key: &str, file: &Path, error: TlsError| {
        ConfigError(format!("{section}.{key} {}: {error}", file.display()))
    };
    let (certificate, key) =
        (read(&section, "cert_file", &files.cert_file)?, read(&section, "key_file", &files.key_file)?);
    let ca = match &files.ca_file {
        Some(file) => Some((file, read(&section, "ca_file", file)?)),
        None => None,
    };
    let chain = certificates(&certificate).map_err(|error| wrong("cert_file", &files.cert_file, error))?;
    let expires_at = not_after(&certificate).map_err(|error| wrong("cert_file", &files.cert_file, error))?;
    let private = private_key(&key).map_err(|error| wrong("key_file", &files.key_file, error))?;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(side.versions())
        .map_err(|error| wrong("cert_file", &files.cert_file, TlsError::unusable(error)))?;
    let builder = match &ca {
        Some((file, pem)) => {
            let trusted = Arc::new(roots(pem).map_err(|error| wrong("ca_file", file, error))?);
            let verifier = WebPkiClientVerifier::builder_with_provider(trusted, provider).build();
            builder.with_client_cert_verifier(
                verifier.map_err(|error| wrong("ca_file", file, TlsError::unusable(error)))?,
            )
        }
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_single_cert(chain, private).map_err(|error| {
        wrong("key_file", &files.key_file, TlsError::unusable(format!("does not match cert_file: {error}")))
    })?;
    if ca.is_some() {
        // No session resumption: each connection has to present its certificate again, as a resumed one would skip the
        // check.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    let client = match (&ca, side) {
        (Some((file, pem)), Side::Peer) => Some(
            ClientTls::from_pem(pem, Some((&certificate, &key)))
                .map_err(|error| wrong("ca_file", file, error))?,
        ),
        _ => None,
    };
    let texts = [&certificate, &key, ca.as_ref().map_or(&certificate, |(_, pem)| pem)];
    let checksum = texts.into_iter().fold(0, |sum, text| crc32c::crc32c_append(sum, text));
    Ok(Loaded { server, client, expires_at, checksum })
}

fn read(section: &str, key: &str, file: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(file).map_err(|error| ConfigError(format!("{section}.{key} {}: {error}", file.display())))
}
