//! The sections `tls` and `auth`: paths of the files with certificates and users. Pure: their users read the files.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSection {
    /// TLS among members.
    pub peer: TlsFilesSection,
    /// TLS on the ports for clients: `listen.client`, `listen.grpc`, `listen.gateway`.
    pub client: TlsFilesSection,
    /// Which certificates authorize management calls on the peer port (ADR 0018).
    pub management: ManagementIdentity,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ManagementIdentity {
    /// All certificates; members' certificates no more once a certificate with the management name was seen.
    #[default]
    Auto,
    /// Only certificates with the management name.
    Required,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsFilesSection {
    pub cert_file: String,
    pub key_file: String,
    pub ca_file: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSection {
    pub users_file: String,
    /// Longest delay between two attempts of an address after failed attempts.
    pub max_delay: String,
}

impl Default for AuthSection {
    fn default() -> Self {
        Self { users_file: String::new(), max_delay: "2s".into() }
    }
}

/// The upper bound of `auth.max_delay`, and of the wait of one attempt to authenticate.
pub const MAX_AUTH_DELAY: Duration = Duration::from_secs(10);

/// Paths of certificate, key and CA, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// File of CA certificates; more than one while the CA is rotated.
    pub ca_file: Option<PathBuf>,
}

/// Checks `tls.peer`: all three files are set, or none.
pub fn peer_files(section: TlsFilesSection) -> Result<Option<TlsFiles>, ConfigError> {
    let files = client_files("peer", section)?;
    match &files {
        Some(files) if files.ca_file.is_none() => Err(missing("peer", "ca_file")),
        _ => Ok(files),
    }
}

/// Checks `tls.client`: certificate and key are set, or none. With a CA, clients have to present a certificate.
pub fn client_files(side: &str, section: TlsFilesSection) -> Result<Option<TlsFiles>, ConfigError> {
    let TlsFilesSection { cert_file, key_file, ca_file } = section;
    match (cert_file.is_empty(), key_file.is_empty(), ca_file.is_empty()) {
        (true, true, true) => Ok(None),
        (false, false, _) => Ok(Some(TlsFiles {
            cert_file: cert_file.into(),
            key_file: key_file.into(),
            ca_file: some_path(ca_file),
        })),
        (true, ..) => Err(missing(side, "cert_file")),
        (_, true, _) => Err(missing(side, "key_file")),
    }
}

fn missing(side: &str, key: &str) -> ConfigError {
    let all = if side == "peer" { "cert_file, key_file and ca_file" } else { "cert_file and key_file" };
    ConfigError(format!("tls.{side}.{key} is missing: give {all}, or none of them for no TLS"))
}

pub fn some_path(path: String) -> Option<PathBuf> {
    (!path.is_empty()).then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Settings};

    fn settings(more: &str) -> Result<Settings, ConfigError> {
        let config: Config = serde_saphyr::from_str(&format!("{{node: {{name: a}}, {more}}}")).unwrap();
        Settings::try_from(config)
    }

    #[test]
    fn an_incomplete_tls_section_is_rejected() {
        let off = settings("tls: {peer: {cert_file: ''}}").unwrap();
        assert_eq!((off.peer_tls, off.client_tls), (None, None));
        let on = settings(
            "tls: {peer: {cert_file: c, key_file: k, ca_file: a}, client: {cert_file: c, key_file: k}}",
        );
        let on = on.unwrap();
        assert_eq!(on.peer_tls.unwrap().ca_file, Some("a".into()));
        assert_eq!(on.client_tls.unwrap().ca_file, None);
        for (partly, key) in [
            ("peer: {cert_file: c, key_file: k}", "tls.peer.ca_file"),
            ("peer: {ca_file: a}", "tls.peer.cert_file"),
            ("client: {cert_file: c}", "tls.client.key_file"),
            ("client: {ca_file: a}", "tls.client.cert_file"),
        ] {
            let error = settings(&format!("tls: {{{partly}}}")).unwrap_err().0;
            assert!(error.starts_with(&format!("{key} is missing")), "{error}");
        }
    }

    #[test]
    fn a_gateway_off_loopback_requires_authentication() {
        let open = "listen: {gateway: '0.0.0.0:8443'}";
        assert!(settings(open).unwrap_err().0.contains("gateway.token_file"));
        assert!(settings(&format!("{open}, gateway: {{token_file: t}}")).is_ok());
        assert!(settings(&format!("{open}, auth: {{users_file: u}}")).is_ok());
        let both = settings("gateway: {token: t, token_file: f}").unwrap_err().0;
        assert!(both.contains("gateway.token") && both.contains("one of"), "{both}");
    }
}
