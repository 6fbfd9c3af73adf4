//! A certificate authority, and its certificates mounted as the kubelet mounts a Secret.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

pub use helios_proto::tls::issue::Pair as Leaf;

use helios_proto::tls::{ClientTls, MANAGEMENT_NAME};

pub struct Authority(Leaf);

impl Authority {
    pub fn new(name: &str) -> Self {
        Self(Leaf::authority(name, 0..begin_of(2090)).unwrap())
    }

    pub fn pem(&self) -> &str {
        &self.0.certificate
    }

    /// Returns a certificate for this host, for servers and clients, that expires when `year` begins.
    pub fn leaf(&self, year: i64) -> Leaf {
        self.0.sign("a member", &["localhost".to_owned(), "127.0.0.1".to_owned()], 0..begin_of(year)).unwrap()
    }

    /// Returns a certificate for managing a cluster.
    pub fn admin(&self) -> Leaf {
        self.0.sign("an admin", &[MANAGEMENT_NAME.to_owned()], 0..begin_of(2081)).unwrap()
    }

    /// Returns a client that trusts this authority and presents `leaf`.
    pub fn client(&self, leaf: Option<&Leaf>) -> ClientTls {
        let identity = leaf.map(|leaf| (leaf.certificate.as_bytes(), leaf.key.as_bytes()));
        ClientTls::from_pem(self.pem().as_bytes(), identity).unwrap()
    }
}

/// Returns the start of `year` in seconds since 1970, to a day or so.
pub fn begin_of(year: i64) -> i64 {
    (year - 1970) * 31_556_952
}

/// A mounted Secret: its files are links into `..data`, which is a link to the directory of one version.
pub struct Mounted {
    dir: PathBuf,
    versions: u32,
}

impl Mounted {
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        Self { dir: dir.to_owned(), versions: 0 }
    }

    /// Changes all files at once.
    pub fn put(&mut self, files: &[(&str, &str)]) {
        self.versions += 1;
        let version = format!("..{}", self.versions);
        fs::create_dir(self.dir.join(&version)).unwrap();
        for (name, text) in files {
            fs::write(self.dir.join(&version).join(name), text).unwrap();
        }
        symlink(&version, self.dir.join("..new")).unwrap();
        fs::rename(self.dir.join("..new"), self.dir.join("..data")).unwrap();
        for (name, _) in files {
            if self.dir.join(name).symlink_metadata().is_err() {
                symlink(format!("..data/{name}"), self.dir.join(name)).unwrap();
            }
        }
    }

    pub fn put_certificates(&mut self, leaf: &Leaf, authorities: &[&Authority]) {
        let trusted: String = authorities.iter().map(|authority| authority.pem()).collect();
        self.put(&[("tls.crt", &leaf.certificate), ("tls.key", &leaf.key), ("ca.crt", &trusted)]);
    }

    pub fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Returns the keys of one side of the section `tls`.
    pub fn section(&self) -> String {
        format!("{{{}, ca_file: '{}'}}", self.own_keys(), self.file("ca.crt"))
    }

    /// As `section`, for a side that requires no client certificate.
    pub fn open_section(&self) -> String {
        format!("{{{}}}", self.own_keys())
    }

    fn own_keys(&self) -> String {
        format!("cert_file: '{}', key_file: '{}'", self.file("tls.crt"), self.file("tls.key"))
    }
}
