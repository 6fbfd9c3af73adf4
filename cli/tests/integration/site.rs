//! Members with TLS on all ports and with users, whose certificates heliosctl creates.

use std::fs::{self, File};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::dev::{ctl, free_ports, heliosd};
use crate::process::{Process, eventually};

/// SHA-256 of the password `secret`.
const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
const MEMBERS: u16 = 3;

/// Directory with the certificates, the users and the data of all members. The users `app`, who may write, and `archiver` have the
/// password `secret`, which is in the file `password`.
pub struct Site {
    dir: tempfile::TempDir,
    processes: Vec<Process>,
    /// Redis ports of all members.
    pub clients: Vec<String>,
    ports: Vec<File>,
}

impl Site {
    pub fn new() -> Self {
        let (processes, clients, ports) = (Vec::new(), Vec::new(), Vec::new());
        let site = Self { dir: tempfile::tempdir().unwrap(), processes, clients, ports };
        let authority = site.path("");
        let certify = |words: &[&str]| {
            let made = ctl(&[&["certs", "create", "--ca-dir", &authority], words].concat());
            assert!(made.status.success(), "{made:?}");
        };
        certify(&["--name", "member", "--host", "localhost", "--host", "127.0.0.1"]);
        certify(&["--name", "adm", "--admin"]);
        let user =
            |name: &str, role: &str| format!("{{name: {name}, password_sha256: {HASH}, role: {role}}}");
        let users = format!("users: [{}, {}]", user("app", "read-write"), user("archiver", "backup"));
        fs::write(site.path("users.yaml"), users).unwrap();
        fs::write(site.path("password"), "secret\n").unwrap();
        site
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Starts a member and waits until it listens.
    fn start(&mut self, name: &str, bootstrap: &str, offset: u16) {
        let port = |base: u16| format!("127.0.0.1:{}", base + offset);
        let config = format!(
            "node: {{name: {name}, data_dir: {name}, {bootstrap}}}\n\
             listen: {{client: '{}', peer: '{}', grpc: '{}'}}\n\
             tls: {{peer: {{cert_file: member.crt, key_file: member.key, ca_file: ca.crt}}, \
             client: {{cert_file: member.crt, key_file: member.key}}}}\nauth: {{users_file: users.yaml}}\n",
            port(6379),
            port(7000),
            port(50051)
        );
        fs::write(self.path(&format!("{name}.yaml")), config).unwrap();
        let mut command = Command::new(heliosd());
        command.current_dir(self.dir.path()).args(["--config", &format!("{name}.yaml")]).env_clear();
        command.stdin(Stdio::null()).stderr(File::create(self.path(&format!("{name}.log"))).unwrap());
        let mut process = Process::start(&mut command);
        eventually("a member listens", || {
            let log = || fs::read_to_string(self.path(&format!("{name}.log")));
            assert!(process.0.try_wait().unwrap().is_none(), "{name} ended: {:?}", log());
            TcpStream::connect(port(50051)).ok()
        });
        self.processes.push(process);
        self.clients.push(port(6379));
    }

    /// Starts three members; returns the addresses of their gRPC ports.
    pub fn start_cluster(&mut self) -> Vec<String> {
        let (offset, ports) = free_ports();
        self.ports.push(ports);
        let name = |n: u16| format!("n{n}");
        let list: Vec<String> = (0..MEMBERS)
            .map(|n| format!("{{name: {}, address: '127.0.0.1:{}'}}", name(n), 7000 + offset + n))
            .collect();
        let initial = format!("initial_members: [{}]", list.join(", "));
        (0..MEMBERS).for_each(|n| self.start(&name(n), &initial, offset + n));
        (0..MEMBERS).map(|n| format!("127.0.0.1:{}", 50051 + offset + n)).collect()
    }

    /// Starts a node that belongs to no cluster; returns the addresses of its peer and gRPC ports.
    pub fn start_blank(&mut self) -> [String; 2] {
        let (offset, ports) = free_ports();
        self.ports.push(ports);
        self.start("blank", "bootstrap: operator", offset);
        [7000, 50051].map(|base| format!("127.0.0.1:{}", base + offset))
    }
}
