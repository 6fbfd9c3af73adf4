//! Users and their roles, as `auth.users_file` has them. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use helios_config::Secret;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::Deserialize;

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
    /// SHA-256 of the password.
    digest: Secret,
}

impl User {
    pub fn with_password(name: &str, role: Role, password: &str) -> Self {
        Self { name: name.to_owned(), role, digest: Secret::new(hashed(password.as_bytes())) }
    }
}

/// Users by name.
#[derive(Debug, Default)]
pub struct Users(BTreeMap<String, Arc<User>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    users: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    password_sha256: String,
    role: Role,
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
        for line in file.users {
            users.add(line.check()?)?;
        }
        Ok(users)
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
            Some(user) => user.digest.matches(&given).then_some(user),
            None => {
                std::hint::black_box(Secret::new([0; SHA256_OUTPUT_LEN]).matches(&given));
                None
            }
        }
    }
}

impl Line {
    fn check(self) -> Result<User, String> {
        let Self { name, password_sha256, role } = self;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
            return Err(format!("user {name:?}: write a name without blanks and colons"));
        }
        let digest = from_hex(&password_sha256).ok_or_else(|| {
            format!("user {name:?}: password_sha256 has to be the 64 digits that `printf %s PASSWORD | sha256sum` prints")
        })?;
        Ok(User { name, role, digest: Secret::new(digest) })
    }
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
