//! TLS certificates and Redis users, which a member's ports require.

use std::path::{Path, PathBuf};

use clap::Args;
use helios_proto::tls::ClientTls;

use crate::error::Error;

/// Certificates for members with TLS. On Kubernetes they are read from the cluster's Secret when none is
/// given.
#[derive(Debug, Args)]
pub struct Certificates {
    /// CA of the members, PEM; heliosctl then talks TLS to them.
    #[arg(long, env = "HELIOSCTL_CACERT", global = true, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Certificate of this client, PEM; the peer port requires one.
    #[arg(long, env = "HELIOSCTL_CERT", global = true, value_name = "FILE", requires = "private_key")]
    pub cert: Option<PathBuf>,
    /// Private key of --cert, PEM.
    #[arg(long = "key", env = "HELIOSCTL_KEY", global = true, value_name = "FILE", requires = "cert")]
    pub private_key: Option<PathBuf>,
}

/// TLS settings for connections to members.
#[derive(Debug, Clone, Default)]
pub struct Lock {
    /// Client TLS; `None` for plain connections.
    pub tls: Option<ClientTls>,
    /// Remedy when the member requires more, e.g. a certificate that could not be read.
    pub advice: Option<String>,
}

impl Certificates {
    /// # Errors
    /// When a file cannot be read or used.
    pub fn lock(&self) -> Result<Option<Lock>, Error> {
        let Some(ca) = &self.cacert else {
            return match &self.cert {
                Some(_) => Err(Error::Impossible("--cert needs --cacert, the CA of the members".into())),
                None => Ok(None),
            };
        };
        let identity = match self.cert.as_ref().zip(self.private_key.as_ref()) {
            Some((cert, key)) => Some((read(cert)?, read(key)?)),
            None => None,
        };
        let identity = identity.as_ref().map(|(cert, key)| (cert.as_slice(), key.as_slice()));
        let tls = ClientTls::from_pem(&read(ca)?, identity);
        let tls = tls.map_err(|error| Error::Impossible(format!("--cacert, --cert or --key {error}")))?;
        Ok(Some(Lock { tls: Some(tls), advice: None }))
    }
}

pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })
}

/// The user that authenticates for key commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User name; `default` when not given.
    pub name: Option<String>,
    pub password: Option<String>,
}

impl User {
    /// Returns the user with `password`, or with the first line of `file` as the password.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn new(name: Option<String>, password: Option<String>, file: Option<&Path>) -> Result<Self, Error> {
        let password = match file {
            Some(file) => {
                let text = read(file)?;
                let text = String::from_utf8_lossy(&text);
                Some(text.lines().next().unwrap_or_default().to_owned())
            }
            None => password,
        };
        Ok(Self { name, password })
    }
}
