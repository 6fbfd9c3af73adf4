//! A member with certificates and users, which were created by heliosctl alone.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::dev::{ctl, free_ports, heliosd};
use crate::process::Process;

/// SHA-256 of the password `secret`.
const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

fn start(dir: &Path, offset: u16) -> Process {
    let port = |base: u16| format!("127.0.0.1:{}", base + offset);
    let tls = "cert_file: member.crt, key_file: member.key, ca_file: ca.crt";
    let config = format!(
        "node: {{name: node-1, bootstrap: single}}\nlisten: {{client: '{}', peer: '{}'}}\n\
         tls: {{peer: {{{tls}}}, client: {{{}}}}}\nauth: {{users_file: users.yaml}}\n",
        port(6379),
        port(7000),
        tls.trim_end_matches(", ca_file: ca.crt")
    );
    std::fs::write(dir.join("heliosd.yaml"), config).unwrap();
    let users = format!("users: [{{name: app, password_sha256: {HASH}, role: read-write}}]");
    std::fs::write(dir.join("users.yaml"), users).unwrap();
    let mut command = Command::new(heliosd());
    command.current_dir(dir).args(["--config", "heliosd.yaml"]).stderr(Stdio::null());
    let mut member = Process::start(&mut command);
    while TcpStream::connect(port(7000)).is_err() {
        assert!(member.0.try_wait().unwrap().is_none(), "the member ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    member
}

fn error(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn heliosctl_creates_and_presents_certificates_and_authenticates() {
    let (dir, (offset, _ports)) = (tempfile::tempdir().unwrap(), free_ports());
    let path = |name: &str| dir.path().join(name).display().to_string();
    for name in ["member", "me"] {
        let hosts = ["--host", "localhost", "--host", "127.0.0.1"];
        let made = ctl(&[&["certs", "create", "--ca-dir", &path(""), "--name", name], &hosts[..]].concat());
        assert!(made.status.success(), "{made:?}");
    }
    let _member = start(dir.path(), offset);
    let endpoint = format!("127.0.0.1:{}", 7000 + offset);
    let (ca, cert, key) = (path("ca.crt"), path("me.crt"), path("me.key"));
    let with = ["--endpoint", &endpoint, "--cacert", &ca, "--cert", &cert, "--key", &key];
    // The member registers its client address a moment after its start.
    let status = (0..100).map(|_| ctl(&[&with[..], &["status"]].concat())).find(|output| {
        std::thread::sleep(Duration::from_millis(100));
        output.status.success()
    });
    assert!(String::from_utf8(status.expect("it is healthy").stdout).unwrap().contains("HEALTHY"));

    let message = error(&ctl(&["--endpoint", &endpoint, "snapshot", "node-1"]));
    assert!(message.contains("no leader"), "{message}");
    let message = String::from_utf8(ctl(&["--endpoint", &endpoint, "status"]).stdout).unwrap();
    assert!(message.contains("speaks TLS only") && message.contains("--cacert"), "{message}");
    let without = ["--endpoint", &endpoint, "--cacert", &ca, "status"];
    let message = String::from_utf8(ctl(&without).stdout).unwrap();
    assert!(message.contains("asks for a certificate, and none was shown"), "{message}");

    std::fs::write(path("password"), "secret\n").unwrap();
    let user = ["--user", "app", "--password-file", &path("password")];
    let done = ctl(&[&with[..], &["set", "k", "v"], &user].concat());
    assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(0), b"OK\n".as_slice()), "{done:?}");
    let message = error(&ctl(&[&with[..], &["get", "k"]].concat()));
    assert!(message.contains("NOAUTH") && message.contains("--password-file"), "{message}");
    let message = error(&ctl(&[&with[..], &["get", "k", "--user", "app", "--password", "wrong"]].concat()));
    assert!(message.contains("WRONGPASS"), "{message}");
}
