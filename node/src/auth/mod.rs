//! Who is there, and what they may do: users with roles, the password of `default`, the gateway's token. One
//! answer for all ports.

mod basic;
mod client;
mod guesses;
mod pass;
mod users;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use helios_proto::v1::ErrorCode;
use tokio_util::sync::CancellationToken;

pub use basic::{admit_in_turn, admitted};
pub use client::Client;
pub use guesses::MAX_WAIT;
#[cfg(test)]
pub use guesses::{FREE_FAILURES, MAX_ADDRESSES};
pub use pass::Pass;
pub use users::{Role, User};

use crate::config::{ConfigError, Settings};
use crate::error::Error;
use crate::refusals::Refusals;
use crate::watched;
use guesses::Guesses;
use helios_config::Secret;
use users::Users;

/// Who `client.password` is the password of.
pub const DEFAULT_USER: &str = "default";

/// Followed while the node runs.
#[derive(Debug, Default)]
pub struct Access {
    password: Option<String>,
    users_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    rules: RwLock<Arc<Rules>>,
    /// Counts the changes of `rules`.
    version: AtomicU64,
    /// Sent to whoever waits for a change.
    changed: tokio::sync::watch::Sender<()>,
    /// Nobody was told to say who they are, and clients of other hosts are refused for it.
    protects: bool,
    /// Zero: wrong passwords delay nobody.
    max_delay: Duration,
    guesses: Mutex<Guesses>,
}

#[derive(Debug, Default)]
struct Rules {
    users: Users,
    /// The gateway's, from a file.
    token: Option<Secret>,
}

/// Somebody who is let in.
#[derive(Debug, Clone)]
pub struct Identity {
    user: Arc<User>,
    /// Of the rules by which this is known to be so.
    version: u64,
}

impl Identity {
    pub fn name(&self) -> &str {
        &self.user.name
    }

    pub fn role(&self) -> Role {
        self.user.role
    }

    /// Why it may not do what asks for `needed`.
    pub fn lacks(&self, needed: Role) -> Error {
        let (name, role) = (self.name(), self.role().name());
        let message = format!("user {name} is {role}, and this takes {}", needed.name());
        Error::new(ErrorCode::Forbidden, message)
    }
}

impl Access {
    /// # Errors
    /// When a file cannot be read or used.
    pub fn load(settings: &Settings) -> Result<Self, ConfigError> {
        let mut access = Self {
            password: settings.password.clone(),
            users_file: settings.users_file.clone(),
            token_file: settings.gateway_token_file.clone(),
            max_delay: settings.max_auth_delay,
            ..Self::default()
        };
        let asks_for_certificates = settings.client_tls.as_ref().is_some_and(|files| files.ca_file.is_some());
        access.protects = settings.protected_mode && access.is_open() && !asks_for_certificates;
        access.rules = RwLock::new(Arc::new(access.read()?));
        Ok(access)
    }

    #[cfg(test)]
    pub fn protected() -> Self {
        Self { protects: true, ..Self::default() }
    }

    #[cfg(test)]
    pub fn with_password(password: &str) -> Self {
        let mut access = Self { password: Some(password.to_owned()), ..Self::default() };
        access.rules = RwLock::new(Arc::new(access.read().unwrap()));
        access
    }

    fn read(&self) -> Result<Rules, ConfigError> {
        let mut users = match &self.users_file {
            Some(file) => {
                let text = read_text("auth.users_file", file)?;
                let users = Users::parse(&text);
                users.map_err(|error| ConfigError(format!("auth.users_file {}: {error}", file.display())))?
            }
            None => Users::default(),
        };
        if let Some(password) = &self.password {
            let default = User::with_password(DEFAULT_USER, Role::Admin, password);
            users.add(default).map_err(|_| {
                ConfigError(
                    "client.password and auth.users_file both have user default: leave one of them out"
                        .into(),
                )
            })?;
        }
        let token = match &self.token_file {
            Some(file) => {
                let text = read_text("gateway.token_file", file)?;
                if text.trim().is_empty() {
                    return Err(ConfigError(format!("gateway.token_file {}: it is empty", file.display())));
                }
                Some(Secret::new(text.trim()))
            }
            None => None,
        };
        Ok(Rules { users, token })
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether anyone may do anything: nobody was told to say who they are.
    pub fn is_open(&self) -> bool {
        self.users_file.is_none() && self.password.is_none()
    }

    /// Who a new connection is of before it says so.
    pub fn anyone(&self) -> Option<Identity> {
        self.is_open().then(admin)
    }

    /// Whether clients of other hosts are refused.
    pub fn is_protected(&self) -> bool {
        self.protects
    }

    /// # Errors
    /// When `from` is another host and there is nothing by which its clients could say who they are.
    pub fn check_host(&self, from: IpAddr) -> Result<(), Error> {
        if !self.protects || from.to_canonical().is_loopback() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::ProtectedMode,
            "this node is in protected mode: no users are configured, so it serves clients of its own host only. Set \
             auth.users_file or client.password, or, if everyone who reaches this port may do everything, \
             client.protected_mode: false",
        ))
    }

    /// Waits until an attempt to authenticate from there may be looked at. Holds no lock meanwhile.
    ///
    /// # Errors
    /// When too many wait already; the attempt may be repeated later.
    pub async fn turn(&self, from: IpAddr) -> Result<(), Error> {
        let now = Instant::now();
        // A statement of its own: the lock is not held while it waits.
        let turn = self.guesses().turn(from, self.max_delay, now);
        match turn {
            Some(turn) if turn <= now => {}
            Some(turn) => tokio::time::sleep_until(turn.into()).await,
            None => {
                let message = format!(
                    "too many wrong passwords came from this address, and too many attempts wait: try again in \
                     {MAX_WAIT:?}"
                );
                return Err(Error::new(ErrorCode::Overloaded, message));
            }
        }
        Ok(())
    }

    /// An attempt from there was wrong: counts it, logs it, delays the next ones.
    pub fn failed(&self, port: &'static str, from: SocketAddr, refusals: &Refusals) {
        let count = self.guesses().failed(from.ip(), self.max_delay, Instant::now());
        // Not the name: some clients send a password in its place.
        let why = format!("wrong user or password or token, attempt {count} from {}", from.ip());
        refusals.tell(port, "wrong_password", from, why);
    }

    fn guesses(&self) -> std::sync::MutexGuard<'_, Guesses> {
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the gateway has a token in a file.
    pub fn has_token(&self) -> bool {
        self.token_file.is_some()
    }

    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<Identity> {
        // Before the rules: a change in between is noticed then.
        let version = self.version.load(Ordering::Acquire);
        let user = Arc::clone(self.rules().users.find(std::str::from_utf8(name).ok()?, password)?);
        Some(Identity { user, version })
    }

    /// Whoever has the token of the gateway's file is an admin.
    pub fn by_token(&self, token: &[u8]) -> Option<Identity> {
        self.rules().token.as_ref().is_some_and(|known| known.matches(token)).then(admin)
    }

    /// Whether `identity` is still let in as who it was: same password, same role.
    pub fn still_knows(&self, identity: &mut Identity) -> bool {
        let version = self.version.load(Ordering::Acquire);
        if self.is_open() || identity.version == version {
            return true;
        }
        let known = self.rules().users.get(identity.name()).is_some_and(|user| **user == *identity.user);
        if known {
            identity.version = version;
        }
        known
    }

    /// Names and roles.
    pub fn users(&self) -> Vec<(String, Role)> {
        if self.is_open() {
            return vec![(DEFAULT_USER.to_owned(), Role::Admin)];
        }
        self.rules().users.iter().map(|user| (user.name.clone(), user.role)).collect()
    }

    fn reload(&self) {
        match self.read() {
            Ok(rules) => {
                tracing::info!(users = rules.users.iter().count(), "users taken over");
                *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
                self.version.fetch_add(1, Ordering::Release);
                self.changed.send_replace(());
            }
            Err(error) => tracing::error!(%error, "users not taken over; the node goes on with those it has"),
        }
    }

    /// Reads the files again whenever one of them changes, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let paths: Vec<_> = [&self.users_file, &self.token_file].into_iter().flatten().cloned().collect();
        if paths.is_empty() {
            return;
        }
        watched::follow("users", paths, stop, || self.reload()).await;
    }
}

/// Nobody in particular, who may do everything.
fn admin() -> Identity {
    Identity { user: Arc::new(User::with_password(DEFAULT_USER, Role::Admin, "")), version: 0 }
}

fn read_text(key: &str, file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|error| ConfigError(format!("{key} {}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn access(file: &Path, users: &str) -> Access {
        std::fs::write(file, format!("users: [{users}]")).unwrap();
        let mut access = Access { users_file: Some(file.to_owned()), ..Access::default() };
        access.rules = RwLock::new(Arc::new(access.read().unwrap()));
        access
    }

    #[test]
    fn a_change_of_password_or_role_counts_and_a_change_of_others_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.yaml");
        let app = format!("{{name: app, password_sha256: {SECRET}, role: read-write}}");
        let access = access(&file, &app);
        let mut identity = access.authenticate(b"app", b"secret").unwrap();
        assert!(access.still_knows(&mut identity));
        let cases = [
            (format!("{app}, {{name: b, password_sha256: {SECRET}, role: admin}}"), true),
            (app.replace("read-write", "admin"), false),
            (app.replace("2bb8", "aaaa"), false),
            (String::new(), false),
        ];
        for (users, expected) in cases {
            let mut identity = identity.clone();
            std::fs::write(&file, format!("users: [{users}]")).unwrap();
            access.reload();
            assert_eq!(access.still_knows(&mut identity), expected, "{users}");
            assert_eq!(access.still_knows(&mut identity), expected, "{users}, asked again");
        }
    }

    #[test]
    fn a_broken_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.yaml");
        let access = access(&file, &format!("{{name: app, password_sha256: {SECRET}, role: admin}}"));
        let mut identity = access.authenticate(b"app", b"secret").unwrap();
        std::fs::write(&file, "users: nonsense").unwrap();
        access.reload();
        assert!(access.still_knows(&mut identity));
        assert!(access.authenticate(b"app", b"secret").is_some());
    }

    #[test]
    fn without_users_and_password_everyone_is_admin() {
        assert_eq!(Access::default().anyone().unwrap().role(), Role::Admin);
        let access = Access::with_password("secret");
        assert!(access.anyone().is_none());
        assert_eq!(access.authenticate(b"default", b"secret").unwrap().role(), Role::Admin);
        assert!(access.authenticate(b"default", b"").is_none());
    }
}
