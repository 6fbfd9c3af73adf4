//! Contents of the Secret `<cluster>-auth`: drawn once, and from then on the user's to change. Pure, but for the
//! randomness that it is given.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::certificates::{AUTHORITY, Data};

pub const USERNAME: &str = "username";
pub const PASSWORD: &str = "password";
pub const TOKEN: &str = "token";
pub const USERS: &str = "users.yaml";
/// User of the archiver and of backups, and the entry with its password.
pub const BACKUP_USER: &str = "backup";
pub const BACKUP_PASSWORD: &str = "backup-password";
/// User of a client that sends a password and no name, as most Redis clients do.
const DEFAULT_USER: &str = "default";
const SECRET_BYTES: usize = 24;

/// Facts that the entries of the Secret follow from: where clients reach the cluster, and the users that it needs.
#[derive(Debug, Clone)]
pub struct Needed {
    pub host: String,
    pub port: u16,
    /// Followers, or the leader of a cluster of one.
    pub read_host: String,
    /// Authority that they have to trust there, PEM; `None` without TLS.
    pub authority: Option<String>,
    /// The cluster has backups. Members of an earlier version reject a list with the role `backup`, so the user is not added
    /// to clusters without.
    pub backup_user: bool,
}

/// As the members read it (`auth.users_file`).
#[derive(Debug, Default, Serialize, Deserialize)]
struct Users {
    #[serde(default)]
    users: Vec<BTreeMap<String, Value>>,
    /// Users of HeliosClients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    clients: Vec<ClientLine>,
}

/// Line of a HeliosClient's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientLine {
    pub name: String,
    pub password_sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_password_sha256: Option<String>,
    pub role: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefixes: Option<Vec<String>>,
}

/// Returns the lines of HeliosClients in a list of users, and the names of the other users.
///
/// # Errors
/// In words, when the list is none.
pub fn clients_of(list: &str) -> Result<(Vec<ClientLine>, Vec<String>), String> {
    let Users { users, clients } = parse(list)?;
    let names = users.iter().filter_map(|user| user.get("name")?.as_str().map(str::to_owned));
    Ok((clients, names.collect()))
}

/// Returns the list with these lines of HeliosClients in place of those that it has.
///
/// # Errors
/// In words, when the list is none.
pub fn with_clients(list: &str, clients: Vec<ClientLine>) -> Result<String, String> {
    let users = Users { clients, ..parse(list)? };
    serde_saphyr::to_string(&users).map_err(|error| error.to_string())
}

fn parse(list: &str) -> Result<Users, String> {
    serde_saphyr::from_str::<Users>(list).map_err(|error| {
        format!(
            "{USERS} is not a list of users ({error}); correct it, or remove that key to have it made again"
        )
    })
}

/// Digest of the list as members report it (`users_file_digest`).
pub fn list_digest(list: &str) -> String {
    hex(&digest(&SHA256, list.as_bytes()).as_ref()[..8])
}

/// Returns the URI of a user at a host.
pub fn uri(has_tls: bool, user: &str, password: &str, host: &str, port: u16) -> String {
    let scheme = if has_tls { "rediss" } else { "redis" };
    format!("{scheme}://{}:{}@{host}:{port}", in_uri(user), in_uri(password))
}

/// `found` has all entries, and those that follow from others are up to date.
///
/// # Errors
/// In words, when the list of users in `found` is none.
pub fn is_complete(found: &Data, needed: &Needed) -> Result<bool, String> {
    complete(found, needed, || "drawn".to_owned()).map(|complete| complete == *found)
}

/// `found` with what it lacks, and with what follows from the rest brought up to date. `draw` makes a random secret.
///
/// # Errors
/// In words, when the list of users in `found` is none.
pub fn complete(found: &Data, needed: &Needed, mut draw: impl FnMut() -> String) -> Result<Data, String> {
    let mut data = found.clone();
    let mut text = |name: &str, default: &mut dyn FnMut() -> String| {
        let entry = data.entry(name.to_owned()).or_default();
        if entry.is_empty() {
            *entry = default();
        }
        entry.clone()
    };
    let username = text(USERNAME, &mut || DEFAULT_USER.to_owned());
    let password = text(PASSWORD, &mut draw);
    text(TOKEN, &mut draw);
    let backup = needed.backup_user.then(|| text(BACKUP_PASSWORD, &mut draw));
    let mut users = with_password(found.get(USERS).map(String::as_str), &username, &password, "admin")?;
    if let Some(password) = backup {
        users = with_password(Some(&users), BACKUP_USER, &password, "backup")?;
    }
    let Needed { host, port, read_host: _, authority, backup_user: _ } = needed;
    let uri = uri(authority.is_some(), &username, &password, host, *port);
    let follows = [("host", host.clone()), ("port", port.to_string()), ("uri", uri), (USERS, users)];
    data.extend(follows.map(|(name, value)| (name.to_owned(), value)));
    data.extend(authority.clone().map(|pem| (AUTHORITY.to_owned(), pem)));
    Ok(data)
}

/// The list with the hash of `password` for `username`, who gets `role` if the list has no such user; other users in it stay
/// as they are, and so does its text when nothing changes.
fn with_password(list: Option<&str>, username: &str, password: &str, role: &str) -> Result<String, String> {
    let list = list.filter(|text| !text.trim().is_empty());
    let mut users = match list {
        Some(text) => parse(text)?,
        None => Users::default(),
    };
    let hash = Value::from(hash(password));
    let mine = users.users.iter_mut().find(|user| user.get("name").is_some_and(|name| name == username));
    match (mine, list) {
        (Some(user), Some(text)) if user.get("password_sha256") == Some(&hash) => return Ok(text.to_owned()),
        (Some(user), _) => _ = user.insert("password_sha256".to_owned(), hash),
        (None, _) => users.users.push(BTreeMap::from([
            ("name".to_owned(), username.into()),
            ("password_sha256".to_owned(), hash),
            ("role".to_owned(), role.into()),
        ])),
    }
    serde_saphyr::to_string(&users).map_err(|error| error.to_string())
}

/// SHA-256 of a password, as `sha256sum` prints it.
pub fn hash(password: &str) -> String {
    hex(digest(&SHA256, password.as_bytes()).as_ref())
}

/// 192 random bits, in digits that need no quoting anywhere.
///
/// # Errors
/// In words, when the system has no randomness to give.
pub fn draw() -> Result<String, String> {
    let mut bytes = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system has no randomness to give".to_owned())?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Everything but the characters that RFC 3986 leaves unreserved, by its bytes.
fn in_uri(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Needed {
        Needed {
            host: "demo.team.svc".to_owned(),
            port: 6379,
            read_host: "demo-read.team.svc".to_owned(),
            authority: None,
            backup_user: false,
        }
    }

    fn drawn() -> Data {
        let mut count = 0;
        complete(&Data::new(), &address(), || {
            count += 1;
            format!("drawn{count}")
        })
        .unwrap()
    }

    fn never() -> String {
        panic!("nothing is drawn a second time")
    }

    #[test]
    fn password_and_token_are_drawn_once() {
        let data = drawn();
        assert_eq!(
            (data[USERNAME].as_str(), data[PASSWORD].as_str(), data[TOKEN].as_str()),
            ("default", "drawn1", "drawn2")
        );
        assert_eq!(data["uri"], "redis://default:drawn1@demo.team.svc:6379");
        assert!(
            data[USERS].contains(&hash("drawn1")) && !data[USERS].contains("drawn1\n"),
            "{}",
            data[USERS]
        );
        assert_eq!(complete(&data, &address(), never).unwrap(), data);
        assert_ne!(draw().unwrap(), draw().unwrap());
    }

    #[test]
    fn derived_entries_change_when_the_password_does_and_other_users_do_not() {
        let mut data = drawn();
        let guest = format!("{}- name: guest\n  password_sha256: abc\n  role: read-only\n", data[USERS]);
        data.insert(USERS.to_owned(), guest.clone());
        assert_eq!(complete(&data, &address(), never).unwrap()[USERS], guest, "the user's text stays");
        data.insert(PASSWORD.to_owned(), "p@ss/word".to_owned());
        let changed = complete(&data, &address(), never).unwrap();
        assert!(
            changed[USERS].contains(&hash("p@ss/word")) && changed[USERS].contains("guest"),
            "{}",
            changed[USERS]
        );
        assert!(!changed[USERS].contains(&hash("drawn1")));
        assert_eq!(changed["uri"], "redis://default:p%40ss%2Fword@demo.team.svc:6379");
    }

    #[test]
    fn backup_user_is_added_once_when_the_cluster_has_backups() {
        let needed = Needed { backup_user: true, ..address() };
        let without = drawn();
        let data = complete(&without, &needed, || "drawn3".to_owned()).unwrap();
        assert_eq!((data[BACKUP_PASSWORD].as_str(), &data[PASSWORD]), ("drawn3", &without[PASSWORD]));
        assert!(data[USERS].starts_with(&without[USERS]), "{}", data[USERS]);
        assert!(data[USERS].contains(&hash("drawn3")) && data[USERS].contains("role: backup"));
        assert_eq!(complete(&data, &needed, never).unwrap(), data);
        assert_eq!(complete(&data, &address(), never).unwrap(), data, "it stays when backups are turned off");
    }

    #[test]
    fn lines_of_clients_are_replaced_and_kept_when_the_password_changes() {
        let line = |name: &str| ClientLine {
            name: name.to_owned(),
            password_sha256: hash(name),
            previous_password_sha256: None,
            role: "read-only".to_owned(),
            prefixes: Some(vec!["a:".to_owned()]),
        };
        let mut data = drawn();
        let list = with_clients(&data[USERS], vec![line("ns.a"), line("ns.b")]).unwrap();
        assert_eq!(clients_of(&list), Ok((vec![line("ns.a"), line("ns.b")], vec!["default".to_owned()])));
        data.insert(USERS.to_owned(), list.clone());
        data.insert(PASSWORD.to_owned(), "changed".to_owned());
        let changed = complete(&data, &address(), never).unwrap();
        assert!(changed[USERS].contains(&hash("changed")));
        assert_eq!(clients_of(&changed[USERS]).unwrap().0, [line("ns.a"), line("ns.b")]);
        assert!(
            !with_clients(&list, Vec::new()).unwrap().contains("clients"),
            "members of an earlier version read it"
        );
        assert_ne!(list_digest(&list), list_digest(&data[PASSWORD]));
    }

    #[test]
    fn list_of_users_is_not_replaced_when_it_cannot_be_parsed() {
        let mut data = drawn();
        data.insert(USERS.to_owned(), "users: nobody".to_owned());
        assert!(complete(&data, &address(), never).unwrap_err().contains("correct it"));
    }

    #[test]
    fn secret_has_the_authority_when_client_ports_have_tls() {
        let address = Needed { authority: Some("PEM".to_owned()), ..address() };
        let data = complete(&drawn(), &address, never).unwrap();
        assert_eq!(data[AUTHORITY], "PEM");
        assert!(data["uri"].starts_with("rediss://"), "{}", data["uri"]);
    }

    #[test]
    fn hash_is_the_one_that_sha256sum_prints() {
        assert_eq!(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
