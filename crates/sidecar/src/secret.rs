//! The identity of the sidecar and the CAs that it trusts, from files that are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use helios_proto::tls::ClientTls;
use helios_service::file_watch;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::{ConfigError, SidecarArgs};

/// Files of a Secret of a HeliosClient.
pub const URI: &str = "uri";
pub const FOLLOW: &str = "follow";
const USER: &str = "user";
const PASSWORD: &str = "password";
const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// User, password and CAs that connections to members are opened with. `number` differs between two versions.
#[derive(Clone, Default)]
pub struct Identity {
    pub number: u64,
    pub user: Option<String>,
    pub password: Option<String>,
    pub tls: Option<ClientTls>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Identity")
            .field("number", &self.number)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Returns the request that authenticates a connection; `None` without a password.
    pub fn auth(&self) -> Option<Vec<&str>> {
        let password = self.password.as_deref()?;
        Some(std::iter::once("AUTH").chain(self.user.as_deref()).chain([password]).collect())
    }
}

/// Where the parts of an identity are.
#[derive(Debug, Clone, Default)]
pub struct Files {
    user: Option<String>,
    user_file: Option<PathBuf>,
    password_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Files {
    /// Returns the files that the command line names; those of the Secret count where no flag names one.
    pub fn of(args: &SidecarArgs) -> Self {
        let in_secret = |name: &str| {
            let path = args.secret_dir.as_ref()?.join(name);
            path.exists().then_some(path)
        };
        Self {
            user: args.user.clone(),
            user_file: if args.user.is_some() { None } else { in_secret(USER) },
            password_file: args.password_file.clone().or_else(|| in_secret(PASSWORD)),
            ca: args.tls_ca_file.clone().or_else(|| in_secret(CA)),
            certificate: args.tls_cert_file.clone().or_else(|| in_secret(CERTIFICATE)),
            key: args.tls_key_file.clone().or_else(|| in_secret(KEY)),
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn read(&self) -> Result<Identity, ConfigError> {
        let line = |path: &Option<PathBuf>| {
            path.as_deref()
                .map(|path| Ok(text(path)?.lines().next().unwrap_or_default().to_owned()))
                .transpose()
        };
        let password = line(&self.password_file)?;
        if let (Some(""), Some(path)) = (password.as_deref(), &self.password_file) {
            return Err(ConfigError(format!(
                "{}: the first line is empty: it must be the password",
                path.display()
            )));
        }
        let user = match &self.user {
            Some(user) => Some(user.clone()),
            None => line(&self.user_file)?.filter(|user| !user.is_empty()),
        };
        if user.is_some() && password.is_none() {
            return Err(ConfigError("there is a user and no password: set --password-file".to_owned()));
        }
        Ok(Identity { number: 0, user, password, tls: self.tls()? })
    }

    fn tls(&self) -> Result<Option<ClientTls>, ConfigError> {
        let Some(ca) = &self.ca else { return Ok(None) };
        let pair = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((text(certificate)?, text(key)?)),
            _ => None,
        };
        let identity = pair.as_ref().map(|(certificate, key)| (certificate.as_bytes(), key.as_bytes()));
        ClientTls::from_pem(text(ca)?.as_bytes(), identity)
            .map(Some)
            .map_err(|error| ConfigError(format!("{} or the client certificate: {error}", ca.display())))
    }

    fn paths(&self) -> Vec<PathBuf> {
        let files = [&self.user_file, &self.password_file, &self.ca, &self.certificate, &self.key];
        files.into_iter().flatten().cloned().collect()
    }

    /// Reads the files whenever they change, until `stop`. Files that cannot be used are logged, and the old identity
    /// stays.
    pub async fn watch(self, current: Arc<watch::Sender<Arc<Identity>>>, stop: CancellationToken) {
        let paths = self.paths();
        if paths.is_empty() {
            return stop.cancelled().await;
        }
        let mut last: Vec<_> = Vec::new();
        let reload = || {
            let texts: Vec<_> = paths.iter().map(|path| std::fs::read(path).ok()).collect();
            let is_first = std::mem::replace(&mut last, texts).is_empty();
            match self.read() {
                Err(error) => tracing::warn!("the changed files are not used: {error}"),
                Ok(_) if is_first && current.borrow().number > 0 => {}
                Ok(identity) => {
                    let number = current.borrow().number + 1;
                    tracing::info!("user, password and CA were read");
                    current.send_replace(Arc::new(Identity { number, ..identity }));
                }
            }
        };
        file_watch::follow("user, password or CA of the sidecar", paths.clone(), stop, reload).await;
    }
}

/// Returns the text of a small file.
///
/// # Errors
/// It cannot be read, with its path.
pub fn text(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &Path) -> SidecarArgs {
        SidecarArgs::of(&["--cluster", "a:1", "--secret-dir", &dir.display().to_string()])
    }

    #[test]
    fn identity_is_read_from_the_files_of_a_secret() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let read = || Files::of(&args(dir.path())).read();
        assert_eq!(read().unwrap().auth(), None);
        write(USER, "app\n");
        assert!(read().unwrap_err().0.contains("--password-file"));
        write(PASSWORD, "\n");
        assert!(read().unwrap_err().0.contains("the first line is empty"));
        write(PASSWORD, "secret\nnotes");
        assert_eq!(read().unwrap().auth().unwrap(), ["AUTH", "app", "secret"]);
        write(CA, "no certificate");
        let error = read().unwrap_err().0;
        assert!(error.contains("ca.crt") && error.contains("no certificate in PEM"), "{error}");
    }

    #[test]
    fn identity_does_not_show_its_password() {
        let identity = Identity { password: Some("hunter2".into()), ..Identity::default() };
        assert!(!format!("{identity:?}").contains("hunter2"));
    }
}
