//! TLS, users, and a Secret that changes while the application works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redis::AsyncCommands;

use super::{Raw, SECRET, Sidecar};
use crate::common::{Authority, Cluster, Mounted, eventually, temporary_directory};

/// SHA-256 of the password `other`.
const OTHER: &str = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa";

/// A cluster of one with TLS and users.
struct Guarded {
    cluster: Cluster,
    users: Mounted,
    secret: Mounted,
    authority: Authority,
    dir: tempfile::TempDir,
}

fn users(users: &[(&str, &str)]) -> String {
    let line = |(name, hash): &(&str, &str)| {
        format!("- {{name: {name}, password_sha256: {hash}, role: read-write}}\n")
    };
    format!("users:\n{}", users.iter().map(line).collect::<String>())
}

impl Guarded {
    async fn start() -> Self {
        let (dir, authority) = (temporary_directory(), Authority::new("ours"));
        let mut tls = Mounted::new(&dir.path().join("tls"));
        tls.put_certificates(&authority.leaf(2081), &[&authority]);
        let mut mounted = Mounted::new(&dir.path().join("users"));
        mounted.put(&[("users.yaml", &users(&[("app", SECRET)]))]);
        let section = format!("{{users_file: '{}'}}", mounted.file("users.yaml"));
        let mut cluster =
            Cluster::single(&format!("auth: {section}\ntls: {{client: {}}}\n", tls.open_section()));
        cluster.start_all();
        cluster.wait_ready().await;
        let secret = Mounted::new(&dir.path().join("secret"));
        let mut guarded = Self { cluster, users: mounted, secret, authority, dir };
        guarded.put_secret("app", "secret");
        guarded
    }

    fn put_secret(&mut self, user: &str, password: &str) {
        let uri = format!("rediss://{user}:{password}@127.0.0.1:{}", self.cluster[0].ports.client);
        let ca = self.authority.pem();
        self.secret.put(&[("uri", &uri), ("user", user), ("password", password), ("ca.crt", ca)]);
    }

    async fn sidecar(&self) -> Sidecar {
        let dir = self.dir.path().join("secret").display().to_string();
        // The members are those of the Secret.
        let sidecar = Sidecar::started("", &["--secret-dir", &dir]);
        sidecar.wait_ready().await;
        sidecar
    }
}

#[tokio::test]
async fn rotated_password_costs_no_command() {
    let mut guarded = Guarded::start().await;
    let sidecar = guarded.sidecar().await;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..4 {
        let mut client = sidecar.redis().await;
        let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
        workers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let () = client.set(number, "v").await.unwrap();
                let _: String = client.get(number).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let works = async || {
        let target = count.load(Ordering::Relaxed) + 20;
        eventually("the application works", async || (count.load(Ordering::Relaxed) >= target).then_some(()))
            .await;
    };
    let mut whoami = sidecar.raw().await;
    works().await;
    // Both are valid while the Secret changes; an idle connection authenticates again as well.
    assert_eq!(whoami.ask("ACL WHOAMI\r\nECHO end", "end\r\n").await, "$3\r\napp\r\n$3\r\nend\r\n");
    guarded.users.put(&[("users.yaml", &users(&[("app", SECRET), ("app-b", OTHER)]))]);
    eventually("the member knows the second user", async || {
        let ca = guarded.authority.client(None);
        let stream =
            tokio::net::TcpStream::connect(("127.0.0.1", guarded.cluster[0].ports.client)).await.ok()?;
        let mut stream = ca.handshake(stream, "127.0.0.1").await.ok()?;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"AUTH app-b other\r\n").await.ok()?;
        let mut reply = [0; 5];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut reply).await.ok()?;
        (&reply == b"+OK\r\n").then_some(())
    })
    .await;
    guarded.put_secret("app-b", "other");
    eventually("the connection is the second user's", async || {
        whoami.ask("ACL WHOAMI\r\nECHO end", "end\r\n").await.contains("app-b").then_some(())
    })
    .await;
    guarded.users.put(&[("users.yaml", &users(&[("app-b", OTHER)]))]);
    works().await;
    // Without an overlap: commands wait until the Secret has the password that the members require.
    guarded.users.put(&[("users.yaml", &users(&[("app-b", SECRET)]))]);
    guarded.put_secret("app-b", "secret");
    works().await;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(sidecar.metric("errors_total{reason=\"cut_off\"}").await, 0);
}

#[tokio::test]
async fn sidecar_with_a_wrong_password_or_ca_is_not_ready_and_says_why() {
    let mut guarded = Guarded::start().await;
    let answers_with = async |sidecar: &Sidecar, reason: &str| {
        eventually(reason, async || {
            let (code, text) = sidecar.readiness().await?;
            (code == 503 && text.contains(reason)).then_some(())
        })
        .await;
    };
    guarded.put_secret("app", "wrong");
    let dir = guarded.dir.path().join("secret").display().to_string();
    let sidecar = Sidecar::started("", &["--secret-dir", &dir, "--cut-off-after-ms", "500"]);
    answers_with(&sidecar, "WRONGPASS invalid username-password pair").await;
    let mut raw = Raw::connect(sidecar.port()).await;
    let error = raw.ask("GET k", "\r\n").await;
    assert!(error.starts_with("-CLUSTERDOWN cut off") && error.contains("WRONGPASS"), "{error}");
    guarded.put_secret("app", "secret");
    sidecar.wait_ready().await;
    // The member delays an address that guessed passwords.
    eventually("the application works", async || (raw.ask("GET k", "\r\n").await == "$-1\r\n").then_some(()))
        .await;

    let other = Authority::new("theirs");
    let ca = dir.clone() + "-ca.crt";
    std::fs::write(&ca, other.pem()).unwrap();
    let stranger = Sidecar::started("", &["--secret-dir", &dir, "--tls-ca-file", &ca]);
    answers_with(&stranger, "not signed by a trusted CA").await;
}
