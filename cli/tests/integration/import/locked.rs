//! A source with TLS and users, and a target with TLS and users.

use std::path::Path;

use super::live::Import;
use super::servers::{Redis, have_redis};
use crate::site::Site;

const KEYS: u64 = 500;
/// Password of the source's default user.
const ADMIN: &str = "admin-secret";
/// The user `importer` with the rights that the guide lists.
const IMPORTER: &str =
    "--user importer on >source-secret ~* -@all +psync +replconf +ping +info +client +config +@read";

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn locked_redis(site: &Site) -> Redis {
    Redis::start_with(Path::new("redis-server"), ":admin-secret@", |port| {
        let mut settings = words(&format!("--tls-port {port} --tls-auth-clients no --requirepass {ADMIN}"));
        for (name, file) in
            [("cert-file", "member.crt"), ("key-file", "member.key"), ("ca-cert-file", "ca.crt")]
        {
            settings.extend([format!("--tls-{name}"), site.path(file)]);
        }
        settings.extend(words(IMPORTER));
        settings
    })
}

#[test]
fn import_from_a_source_with_tls_and_users_into_a_target_with_tls_and_users() {
    if !have_redis() {
        return;
    }
    let mut site = Site::new();
    let members = site.start_cluster();
    let source = locked_redis(&site);
    let mut pipe = redis::pipe();
    for key in 0..KEYS {
        pipe.cmd("SET").arg(format!("key:{key:05}")).arg(format!("value {key}")).ignore();
    }
    pipe.exec(&mut source.connection()).unwrap();
    std::fs::write(site.path("source-password"), "source-secret\n").unwrap();
    std::fs::write(site.path("wrong-password"), "wrong\n").unwrap();

    let url = format!("rediss://importer@localhost:{}", source.tls_port);
    let (to, ca) = (site.clients.join(","), site.path("ca.crt"));
    let [of_source, wrong, of_target] =
        ["source-password", "wrong-password", "password"].map(|name| site.path(name));
    let from = ["--from-cacert", &ca, "--from-password-file", &of_source];
    let into = ["--cacert", &ca, "--user", "app", "--password-file", &of_target];
    let refused = |url: &str, words: &[&[&str]]| {
        let (succeeded, _, message) = Import::start_from(url, &to, &words.concat()).end();
        assert!(!succeeded, "{words:?}: {message}");
        assert!(!message.contains("secret"), "a password is shown: {message}");
        message
    };
    let short = ["--patience", "1s"];
    let message = refused(&url, &[&from[..2], &["--from-password-file", &wrong], &into, &short]);
    assert!(message.contains("WRONGPASS") && message.contains("--from-password-file"), "{message}");
    let message = refused(&url, &[&from[2..], &into, &short]);
    assert!(message.contains("needs --from-cacert"), "{message}");
    let plain = url.replace("rediss://", "redis://");
    let message = refused(&plain, &[&from[2..], &into, &short]);
    assert!(message.contains("the source localhost") && message.contains("needs rediss://"), "{message}");
    let message = refused(&url, &[&from, &into[..2], &short]);
    assert!(message.contains("NOAUTH") && message.contains("--password-file"), "{message}");

    let report =
        Import::start_from(&url, &to, &[&from[..], &into, &["--cut-over", "--fence"]].concat()).report();
    assert_eq!((&report["cutOver"]["fenced"], &report["keys"]), (&true.into(), &KEYS.into()), "{report}");
    let found = site.client(&members).entries();
    let written: Vec<_> = (0..KEYS).map(|key| (format!("key:{key:05}"), format!("value {key}"))).collect();
    assert_eq!(found, written);
}
