//! A certificate authority, and its certificates as the kubelet puts a Secret into a pod.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use helios_proto::tls::ClientTls;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Certificate and key, PEM.
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For this host, servers and clients, until the end of `year`.
    pub fn leaf(&self, year: i32) -> Leaf {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "a member");
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Leaf { certificate, key: key.serialize_pem() }
    }

    /// Trusts this authority and shows `leaf`.
    pub fn client(&self, leaf: Option<&Leaf>) -> ClientTls {
        let identity = leaf.map(|leaf| (leaf.certificate.as_bytes(), leaf.key.as_bytes()));
        ClientTls::from_pem(self.pem().as_bytes(), identity).unwrap()
    }
}

/// A mounted Secret: its files are links into `..data`, which is a link to one version of all of them.
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

    /// The keys of one side of the section `tls`.
    pub fn section(&self) -> String {
        format!("{{{}, ca_file: '{}'}}", self.own_keys(), self.file("ca.crt"))
    }

    /// As `section`, for a side that asks for no certificate.
    pub fn open_section(&self) -> String {
        format!("{{{}}}", self.own_keys())
    }

    fn own_keys(&self) -> String {
        format!("cert_file: '{}', key_file: '{}'", self.file("tls.crt"), self.file("tls.key"))
    }
}
