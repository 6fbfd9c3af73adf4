//! Certificates for clusters without Kubernetes: one CA in a directory, and the leaf certificates that it
//! signs.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use helios_proto::tls::issue::{IssueError, Pair};
use jiff::Timestamp;

use crate::error::Error;
use crate::lock::read;

const CA_DAYS: u32 = 3650;
/// Seconds by which a certificate is valid before now, so that members whose clocks are a little behind
/// accept it.
const VALID_BEFORE_NOW: i64 = 3600;
const DAY: i64 = 24 * 3600;
const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

/// Creates `NAME.crt` and `NAME.key` in `dir`, and `ca.crt` and `ca.key` when there are none yet.
///
/// # Errors
/// When a file cannot be written, exists already, or the CA there cannot be used.
pub fn create(dir: &Path, name: &str, hosts: &[String], days: u32) -> Result<String, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name == "ca" || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(Error::Impossible(format!("--name {name:?}: write letters, digits, '-', '_' and '.'")));
    }
    fs::create_dir_all(dir).map_err(unwritable(dir))?;
    let (ca_file, ca_key_file) = (dir.join("ca.crt"), dir.join("ca.key"));
    let made = !ca_file.exists() && !ca_key_file.exists();
    if made {
        let authority = Pair::authority("HeliosDB CA", valid_for(CA_DAYS))?;
        write(&ca_key_file, &authority.key, PRIVATE)?;
        write(&ca_file, &authority.certificate, PUBLIC)?;
    }
    let text = |path: &PathBuf| Ok::<_, Error>(String::from_utf8_lossy(&read(path)?).into_owned());
    let authority = Pair { certificate: text(&ca_file)?, key: text(&ca_key_file)? };
    let leaf = authority.sign(name, hosts, valid_for(days))?;
    write(&dir.join(format!("{name}.key")), &leaf.key, PRIVATE)?;
    write(&dir.join(format!("{name}.crt")), &leaf.certificate, PUBLIC)?;
    let dir = dir.display();
    let ca_note = if made {
        format!("{dir}/ca.crt and ca.key are a new CA; keep ca.key to yourself\n")
    } else {
        String::new()
    };
    Ok(format!(
        "{ca_note}{dir}/{name}.crt and {name}.key are valid for {days} days, for {}",
        hosts.join(", ")
    ))
}

fn valid_for(days: u32) -> Range<i64> {
    let now = Timestamp::now().as_second();
    now - VALID_BEFORE_NOW..now + DAY * i64::from(days)
}

/// Writes a new file with `mode`; an existing file is an error.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(unwritable(path))
}

fn unwritable(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::File { path: path.to_owned(), source }
}

impl From<IssueError> for Error {
    fn from(error: IssueError) -> Self {
        Self::Impossible(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use helios_proto::tls::{ClientTls, not_after};

    use super::*;

    #[test]
    fn ca_is_created_once_and_members_accept_its_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let said = create(dir.path(), "node-1", &hosts, 30).unwrap();
        assert!(said.contains("a new CA"), "{said}");
        let ca = fs::read(dir.path().join("ca.crt")).unwrap();
        let said = create(dir.path(), "node-2", &hosts, 30).unwrap();
        assert!(!said.contains("a new CA"), "{said}");
        assert_eq!(fs::read(dir.path().join("ca.crt")).unwrap(), ca);
        let file = |name: &str| fs::read(dir.path().join(name)).unwrap();
        let (certificate, key) = (file("node-2.crt"), file("node-2.key"));
        ClientTls::from_pem(&ca, Some((&certificate, &key))).unwrap();
        let days = (not_after(&certificate).unwrap() - Timestamp::now().as_second()) / 86_400;
        assert!((29..=31).contains(&days), "{days}");
        for private in ["ca.key", "node-1.key"] {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(dir.path().join(private)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, PRIVATE, "{private}");
        }
        assert!(matches!(create(dir.path(), "node-1", &hosts, 30), Err(Error::File { .. })), "written over");
        assert!(create(dir.path(), "../x", &hosts, 30).is_err());
    }

    #[test]
    fn admin_certificate_names_no_host() {
        use clap::Parser as _;
        use helios_proto::tls::{MANAGEMENT_NAME, certificates, names_of};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        let words = ["heliosctl", "certs", "create", "--ca-dir", &path, "--name", "me"];
        let parsed = |more: &[&str]| crate::args::Cli::try_parse_from(words.iter().chain(more).copied());
        assert!(parsed(&[]).is_err() && parsed(&["--admin", "--host", "a"]).is_err());
        let cli = parsed(&["--admin"]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(crate::run::run(&cli)).unwrap();
        let leaf = certificates(&fs::read(dir.path().join("me.crt")).unwrap()).unwrap().remove(0);
        assert_eq!(names_of(&leaf).unwrap(), [MANAGEMENT_NAME]);
    }
}
