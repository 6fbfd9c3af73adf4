//! Users and their roles, as `auth.users_file` has them. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use helios_config::Secret;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::Deserialize;

use super::prefixes::Prefixes;

/// Role of a user. Roles are not in one order: see [`Role::includes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    ReadOnly,
    ReadWrite,
    /// May read, and take backups: the whole state and the log.
    Backup,
    Admin,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
            Self::Backup => "backup",
            Self::Admin => "admin",
        }
    }

    /// Whether a user with this role may do what requires the role `needed`. `Backup` and `ReadWrite` both include
    /// `ReadOnly`, and neither includes the other.
    pub fn includes(self, needed: Self) -> bool {
        match self {
            Self::Admin => true,
            Self::ReadOnly | Self::ReadWrite | Self::Backup => needed == self || needed == Self::ReadOnly,
        }
    }
}

#[derive(Debug, PartialEq)]
pub struct User {
    pub name: String,
    pub role: Role,
    pub prefixes: Prefixes,
    /// SHA-256 of the password.
    digest: Secret,
    /// SHA-256 of the password before, which stays valid while clients take over the other one.
    previous: Option<Secret>,
    /// Reload of the rules with which this user appeared, or changed other than by a password with overlap.
    lineage: u64,
}

impl User {
    pub fn with_password(name: &str, role: Role, password: &str) -> Self {
        let digest = Secret::new(hashed(password.as_bytes()));
        Self {
            name: name.to_owned(),
            role,
            prefixes: Prefixes::default(),
            digest,
            previous: None,
            lineage: 0,
        }
    }

    fn has_digest(&self, digest: &[u8]) -> bool {
        // Both are compared, so that the time does not depend on which one matches.
        let is_previous = self.previous.as_ref().is_some_and(|previous| previous.matches(digest));
        self.digest.matches(digest) | is_previous
    }

    /// Whether a connection that `old` authenticated stays valid: the same rights, and a password in common.
    fn continues(&self, old: &Self) -> bool {
        let digests = [Some(&old.digest), old.previous.as_ref()];
        let has_common = digests
            .into_iter()
            .flatten()
            .any(|digest| *digest == self.digest || self.previous.as_ref() == Some(digest));
        self.role == old.role && self.prefixes == old.prefixes && has_common
    }

    /// Whether a connection that `known` authenticated is still one of this user.
    pub fn is_same(&self, known: &Self) -> bool {
        self.name == known.name && self.lineage == known.lineage
    }
}

/// Users by name.
#[derive(Debug, Default)]
pub struct Users(BTreeMap<String, Arc<User>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    users: Vec<Line>,
    /// Users of HeliosClients, kept by the operator.
    #[serde(default)]
    clients: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    password_sha256: String,
    previous_password_sha256: Option<String>,
    role: Role,
    prefixes: Option<Vec<String>>,
}

impl Users {
    /// Parses the users file.
    ///
    /// # Errors
    /// One line that says what to write, without any part of a password hash.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| {
            // The first line names the position; the rest quotes the file, hashes included.
            error.to_string().lines().next().unwrap_or_default().to_owned()
        })?;
        let mut users = Self::default();
        for line in file.users.into_iter().chain(file.clients) {
            users.add(line.check()?)?;
        }
        Ok(users)
    }

    /// Gives users that continue those of `old` their lineage, and all others a `fresh` one.
    pub fn continue_from(&mut self, old: &Self, fresh: u64) {
        for user in self.0.values_mut().filter_map(Arc::get_mut) {
            let known = old.0.get(&user.name).filter(|known| user.continues(known));
            user.lineage = known.map_or(fresh, |known| known.lineage);
        }
    }

    /// Adds a user.
    ///
    /// # Errors
    /// A user with this name exists.
    pub fn add(&mut self, user: User) -> Result<(), String> {
        match self.0.insert(user.name.clone(), Arc::new(user)) {
            Some(other) => Err(format!("user {:?} is listed twice", other.name)),
            None => Ok(()),
        }
    }

    pub fn get(&self, name: &str) -> Option<&Arc<User>> {
        self.0.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<User>> {
        self.0.values()
    }

    /// Returns the user with this name and password. Takes equally long for an unknown name.
    pub fn find(&self, name: &str, password: &[u8]) -> Option<&Arc<User>> {
        let given = hashed(password);
        match self.0.get(name) {
            Some(user) => user.has_digest(&given).then_some(user),
            None => {
                std::hint::black_box(Secret::new([0; SHA256_OUTPUT_LEN]).matches(&given));
                None
            }
        }
    }
}

impl Line {
    fn check(self) -> Result<User, String> {
        let Self { name, password_sha256, previous_password_sha256, role, prefixes } = self;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
            return Err(format!("user {name:?}: write a name without blanks and colons"));
        }
        let digest = |key: &str, text: &str| {
            let digits = from_hex(text).map(Secret::new);
            digits.ok_or_else(|| {
                format!("user {name:?}: {key} has to be the 64 digits that `printf %s PASSWORD | sha256sum` prints")
            })
        };
        let previous = previous_password_sha256.as_deref();
        let previous = previous.map(|text| digest("previous_password_sha256", text)).transpose()?;
        let digest = digest("password_sha256", &password_sha256)?;
        let prefixes =
            prefixes.map(Prefixes::new).transpose().map_err(|error| format!("user {name:?}: {error}"))?;
        Ok(User { name, role, prefixes: prefixes.unwrap_or_default(), digest, previous, lineage: 0 })
    }
}

/// Returns the digest of the users file by which the operator knows the file that a member uses.
pub fn file_digest(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hashed(password: &[u8]) -> Vec<u8> {
    digest(&SHA256, password).as_ref().to_vec()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 2 * SHA256_OUTPUT_LEN || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of the text `secret`.
    const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    #[test]
    fn a_user_is_found_by_name_and_password() {
        let users =
            Users::parse(&format!("users: [{{name: app, password_sha256: {HASH}, role: read-write}}]"));
        let users = users.unwrap();
        let found = users.find("app", b"secret").unwrap();
        assert_eq!((found.name.as_str(), found.role), ("app", Role::ReadWrite));
        assert_eq!(**found, User::with_password("app", Role::ReadWrite, "secret"));
        for (name, password) in [("app", "Secret"), ("app", ""), ("app", HASH), ("other", "secret"), ("", "")]
        {
            assert!(users.find(name, password.as_bytes()).is_none(), "{name} {password}");
        }
        assert!(!format!("{users:?}").contains("2bb8"));
    }

    #[test]
    fn both_passwords_of_a_user_are_valid() {
        let previous = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let line = format!(
            "{{name: a, password_sha256: {HASH}, previous_password_sha256: {previous}, role: admin}}"
        );
        let users = Users::parse(&format!("clients: [{line}]")).unwrap();
        for (password, expected) in [("secret", true), ("abc", true), ("ab", false), ("", false)] {
            assert_eq!(users.find("a", password.as_bytes()).is_some(), expected, "{password}");
        }
        assert!(Users::parse(&format!("users: [{line}]\nclients: [{line}]")).unwrap_err().contains("twice"));
        let wrong = line.replace(previous, "ba78");
        assert!(Users::parse(&format!("users: [{wrong}]")).unwrap_err().contains("previous_password_sha256"));
    }

    #[test]
    fn errors_in_the_users_file_are_reported_without_the_hash() {
        let line = |name: &str, hash: &str, role: &str| {
            format!("users:\n- {{name: '{name}', password_sha256: '{hash}', role: {role}}}\n")
        };
        let short = &HASH[1..];
        for (text, expected) in [
            (line("app", short, "admin"), "64 digits"),
            (line("app", &format!("x{short}"), "admin"), "64 digits"),
            (line("a b", HASH, "admin"), "without blanks"),
            (line("app", HASH, "root"), "root"),
            (
                format!(
                    "{0}- {{name: app, password_sha256: {HASH}, role: admin}}\n",
                    line("app", HASH, "admin")
                ),
                "twice",
            ),
            (format!("users: [{{name: app, password: {HASH}, role: admin}}]"), "password"),
            (
                format!("users: [{{name: app, password_sha256: {HASH}, role: admin, prefixes: []}}]"),
                "leave prefixes out",
            ),
            ("- app".to_owned(), ""),
        ] {
            let error = Users::parse(&text).unwrap_err();
            assert!(error.contains(expected) && error.lines().count() <= 1, "{error}");
            assert!(!error.contains(&short[..8]), "{error}");
        }
    }

    #[test]
    fn backup_may_read_and_write_may_not_take_backups() {
        use Role::{Admin, Backup, ReadOnly, ReadWrite};
        let included: [(Role, &[Role]); 4] = [
            (ReadOnly, &[ReadOnly]),
            (ReadWrite, &[ReadOnly, ReadWrite]),
            (Backup, &[ReadOnly, Backup]),
            (Admin, &[ReadOnly, ReadWrite, Backup, Admin]),
        ];
        for (role, expected) in included {
            for needed in [ReadOnly, ReadWrite, Backup, Admin] {
                assert_eq!(role.includes(needed), expected.contains(&needed), "{role:?}, {needed:?}");
            }
        }
    }
}
