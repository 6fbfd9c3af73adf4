//! Authentication and authorization, the same for all ports: users with roles, the password of `default`, the
//! gateway's token.

mod basic;
mod client;
mod guesses;
mod pass;
mod prefixes;
mod users;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use helios_config::Secret;
use helios_config::{ConfigError, Settings};
use helios_proto::Error;
use helios_proto::v1::ErrorCode;
use tokio_util::sync::CancellationToken;

pub use basic::{admit_in_turn, admitted};
pub use client::Client;
pub use guesses::MAX_WAIT;
pub use guesses::{FREE_FAILURES, MAX_ADDRESSES};
pub use pass::Pass;
pub use prefixes::{MAX_PREFIX_BYTES, MAX_PREFIXES, Prefixes, first_key_after};
pub use users::{Role, User};

use crate::file_watch;
use crate::rejections::Rejections;
use guesses::Guesses;
use users::Users;

/// User that `client.password` belongs to.
pub const DEFAULT_USER: &str = "default";

/// Access rules of a node; the files behind them are reloaded when they change.
#[derive(Debug, Default)]
pub struct Access {
    password: Option<String>,
    users_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    rules: RwLock<Arc<Rules>>,
    /// Number of reloads of `rules`.
    version: AtomicU64,
    /// Notification of each reload of `rules`.
    changed: tokio::sync::watch::Sender<()>,
    /// Whether protected mode is in effect: authentication is off, and clients of other hosts are refused.
    protected_mode: bool,
    /// Longest delay after wrong passwords (`auth.max_delay`); zero: no delay.
    max_delay: Duration,
    guesses: Mutex<Guesses>,
}

/// The settings that decide who has access; the default lets everyone in.
#[derive(Debug, Clone, Default)]
pub struct AccessOptions {
    /// Password of [`DEFAULT_USER`].
    pub password: Option<String>,
    /// File with the users.
    pub users_file: Option<PathBuf>,
    /// File with the gateway's token.
    pub token_file: Option<PathBuf>,
    /// Longest delay after wrong passwords; zero: none.
    pub max_delay: Duration,
    /// Whether clients of other hosts are refused if authentication is off.
    pub protected_mode: bool,
}

impl AccessOptions {
    pub fn with_password(password: &str) -> Self {
        Self { password: Some(password.to_owned()), ..Self::default() }
    }
}

impl From<&Settings> for AccessOptions {
    fn from(settings: &Settings) -> Self {
        let asks_for_certificates = settings.client_tls.as_ref().is_some_and(|files| files.ca_file.is_some());
        Self {
            password: settings.password.clone(),
            users_file: settings.users_file.clone(),
            token_file: settings.gateway_token_file.clone(),
            max_delay: settings.max_auth_delay,
            protected_mode: settings.protected_mode && !asks_for_certificates,
        }
    }
}

#[derive(Debug, Default)]
struct Rules {
    users: Users,
    /// Digest of the users file; empty without one.
    users_digest: String,
    /// The gateway's token, from a file.
    token: Option<Secret>,
}

/// An authenticated user.
#[derive(Debug, Clone)]
pub struct Identity {
    user: Arc<User>,
    /// `Access::version` at which the user was last found valid.
    version: u64,
}

impl Identity {
    pub fn name(&self) -> &str {
        &self.user.name
    }

    pub fn role(&self) -> Role {
        self.user.role
    }

    /// Keys that the user may access.
    pub fn prefixes(&self) -> &Prefixes {
        &self.user.prefixes
    }

    /// Checks that the user may access the key.
    ///
    /// # Errors
    /// `Forbidden`, with the key and the prefixes.
    pub fn check_key(&self, key: &[u8]) -> Result<(), Error> {
        if self.prefixes().allow(key) { Ok(()) } else { Err(self.prefixes().refusal(self.name(), key)) }
    }

    /// Checks that the user may access all keys, as the request `what` does.
    ///
    /// # Errors
    /// `Forbidden`, with the prefixes.
    pub fn check_all_keys(&self, what: &str) -> Result<(), Error> {
        if self.prefixes().is_limited() { Err(self.prefixes().refusal_of(self.name(), what)) } else { Ok(()) }
    }

    /// The error of an operation that needs the role `needed`.
    pub fn lacks(&self, needed: Role) -> Error {
        let (name, role) = (self.name(), self.role().name());
        let message = format!("user {name} has role {role}, and this requires {}", needed.name());
        Error::new(ErrorCode::Forbidden, message)
    }
}

impl Access {
    /// Loads the access rules that the options name.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn load(options: AccessOptions) -> Result<Self, ConfigError> {
        let AccessOptions { password, users_file, token_file, max_delay, protected_mode } = options;
        let mut access = Self { password, users_file, token_file, max_delay, ..Self::default() };
        access.protected_mode = protected_mode && access.is_open();
        access.rules = RwLock::new(Arc::new(access.read()?));
        Ok(access)
    }

    fn read(&self) -> Result<Rules, ConfigError> {
        let (mut users, users_digest) = match &self.users_file {
            Some(file) => {
                let text = read_text("auth.users_file", file)?;
                let users = Users::parse(&text);
                let users = users
                    .map_err(|error| ConfigError(format!("auth.users_file {}: {error}", file.display())))?;
                (users, users::file_digest(&text))
            }
            None => Default::default(),
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
        Ok(Rules { users, users_digest, token })
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether authentication is off: neither users nor a password are configured, and every client is an admin.
    pub fn is_open(&self) -> bool {
        self.users_file.is_none() && self.password.is_none()
    }

    /// Returns the identity of a connection before it authenticates: an admin if authentication is off, else none.
    pub fn anyone(&self) -> Option<Identity> {
        self.is_open().then(admin)
    }

    /// Whether protected mode is in effect: clients of other hosts are refused.
    pub fn is_protected(&self) -> bool {
        self.protected_mode
    }

    /// Checks that protected mode allows a client at `from`.
    ///
    /// # Errors
    /// `ProtectedMode` if `from` is another host and protected mode is in effect.
    pub fn check_host(&self, from: IpAddr) -> Result<(), Error> {
        if !self.protected_mode || from.to_canonical().is_loopback() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::ProtectedMode,
            "this node is in protected mode: no users are configured, so it serves only clients on its own host. Set \
             auth.users_file or client.password, or, if everyone who reaches this port may do everything, \
             client.protected_mode: false",
        ))
    }

    /// Waits until an authentication attempt from this address may be checked. Holds no lock while it waits.
    ///
    /// # Errors
    /// `Overloaded` if too many attempts wait already; the client may retry later.
    pub async fn turn(&self, from: IpAddr) -> Result<(), Error> {
        let now = Instant::now();
        // A separate statement: the lock is released before the wait.
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

    /// Records a failed attempt from this address: counts it, logs it, delays the next ones.
    pub fn failed(&self, port: &'static str, from: SocketAddr, rejections: &Rejections) {
        let count = self.guesses().failed(from.ip(), self.max_delay, Instant::now());
        // The user name is not logged: some clients send a password in its place.
        let why = format!("wrong user or password or token, attempt {count} from {}", from.ip());
        rejections.report(port, "wrong_password", from, why);
    }

    fn guesses(&self) -> std::sync::MutexGuard<'_, Guesses> {
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gateway has a token in a file.
    pub fn has_token(&self) -> bool {
        self.token_file.is_some()
    }

    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<Identity> {
        // Read before the rules, so that a concurrent reload is noticed later.
        let version = self.version.load(Ordering::Acquire);
        let user = Arc::clone(self.rules().users.find(std::str::from_utf8(name).ok()?, password)?);
        Some(Identity { user, version })
    }

    /// Returns an admin if `token` is the token of `gateway.token_file`.
    pub fn by_token(&self, token: &[u8]) -> Option<Identity> {
        self.rules().token.as_ref().is_some_and(|known| known.matches(token)).then(admin)
    }

    /// Returns the digest of the users file that is in effect; empty without one.
    pub fn users_digest(&self) -> String {
        self.rules().users_digest.clone()
    }

    /// Whether `identity` is still valid: the user exists with the same role and prefixes, and its password, if it was
    /// changed, was changed with an overlap.
    pub fn still_knows(&self, identity: &mut Identity) -> bool {
        let version = self.version.load(Ordering::Acquire);
        if self.is_open() || identity.version == version {
            return true;
        }
        let known = self.rules().users.get(identity.name()).is_some_and(|user| user.is_same(&identity.user));
        if known {
            identity.version = version;
        }
        known
    }

    /// Returns all users.
    pub fn users(&self) -> Vec<Arc<User>> {
        if self.is_open() {
            return vec![admin().user];
        }
        self.rules().users.iter().cloned().collect()
    }

    fn reload(&self) {
        match self.read() {
            Ok(mut rules) => {
                let fresh = self.version.load(Ordering::Acquire) + 1;
                rules.users.continue_from(&self.rules().users, fresh);
                tracing::info!(users = rules.users.iter().count(), "users reloaded");
                *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
                self.version.fetch_add(1, Ordering::Release);
                self.changed.send_replace(());
            }
            Err(error) => {
                tracing::error!(%error, "users not reloaded; the node keeps the current ones")
            }
        }
    }

    /// Reloads the files whenever one of them changes, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let paths: Vec<_> = [&self.users_file, &self.token_file].into_iter().flatten().cloned().collect();
        if paths.is_empty() {
            return;
        }
        file_watch::follow("users", paths, stop, || self.reload()).await;
    }
}

/// Returns an admin identity that belongs to no configured user.
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
    fn an_identity_becomes_invalid_when_its_own_password_or_role_changes() {
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
    fn an_identity_stays_valid_when_its_password_is_changed_with_an_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.yaml");
        let user = |hashes: &str| format!("{{name: app, {hashes}, role: admin, prefixes: [a]}}");
        let other = SECRET.replace("2bb8", "aaaa");
        let access = access(&file, &user(&format!("password_sha256: {SECRET}")));
        let mut identity = access.authenticate(b"app", b"secret").unwrap();
        let digest = access.users_digest();
        // The connection is idle while both passwords are valid.
        for hashes in [
            format!("password_sha256: {other}, previous_password_sha256: {SECRET}"),
            format!("password_sha256: {other}"),
        ] {
            std::fs::write(&file, format!("users: [{}]", user(&hashes))).unwrap();
            access.reload();
        }
        assert!(access.still_knows(&mut identity));
        assert_ne!(access.users_digest(), digest);
        assert!(access.authenticate(b"app", b"secret").is_none());
        let narrower = user(&format!("password_sha256: {other}")).replace("[a]", "[ab]");
        std::fs::write(&file, format!("users: [{narrower}]")).unwrap();
        access.reload();
        assert!(!access.still_knows(&mut identity), "its prefixes changed");
    }

    #[test]
    fn an_identity_stays_invalid_when_its_user_is_removed_and_added_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.yaml");
        let app = format!("{{name: app, password_sha256: {SECRET}, role: read-write}}");
        let access = access(&file, &app);
        let mut identity = access.authenticate(b"app", b"secret").unwrap();
        for users in ["", app.as_str()] {
            std::fs::write(&file, format!("users: [{users}]")).unwrap();
            access.reload();
        }
        assert!(!access.still_knows(&mut identity));
    }

    #[test]
    fn a_broken_users_file_leaves_the_loaded_users_unchanged() {
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
        let access = Access::load(AccessOptions::with_password("secret")).unwrap();
        assert!(access.anyone().is_none());
        assert_eq!(access.authenticate(b"default", b"secret").unwrap().role(), Role::Admin);
        assert!(access.authenticate(b"default", b"").is_none());
    }
}
