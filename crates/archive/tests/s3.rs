//! The archive on a real S3 server, SeaweedFS's `weed`, which scripts/tools.sh installs.

// Helpers are no `#[test]` functions, for which `clippy.toml` allows unwrap; a failed test may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use helios_archive::plan::Target;
use helios_archive::verify::verify;
use helios_archive::{Archive, ArchiveError, History, Object, Store};

use common::{content, keyring, origin, restore, write_base, write_history, write_log};

const DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);
/// Version in scripts/tools.sh.
const WEED: &str = "seaweedfs-4.48/bin/weed";

struct Server {
    process: Child,
    directory: tempfile::TempDir,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ports of which the one 10 000 above, which SeaweedFS uses for gRPC, is free, too.
fn free_ports<const N: usize>() -> [u16; N] {
    let mut held = Vec::new();
    let mut ports = Vec::new();
    let start = 20_000 + (std::process::id() % 20_000) as u16;
    for port in start.. {
        let pair = [port, port + 10_000].map(|port| TcpListener::bind(("127.0.0.1", port)));
        if pair.iter().all(Result::is_ok) {
            held.extend(pair);
            ports.push(port);
        }
        if let Ok(ports) = ports.clone().try_into() {
            return ports;
        }
    }
    panic!("no free ports");
}

impl Server {
    /// Returns no server if its program is missing and may be skipped.
    fn start() -> Option<Self> {
        let Some(weed) = helios_testing::cache().map(|cache| cache.join(WEED)).filter(|path| path.exists())
        else {
            helios_testing::skip_or_fail("weed", "`make test` installs it");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let identities = r#"{"identities": [{"name": "archiver", "actions": ["Admin", "Read", "Write", "List"],
            "credentials": [{"accessKey": "key", "secretKey": "secret"}]}]}"#;
        fs::write(directory.path().join("identities.json"), identities).unwrap();
        fs::create_dir_all(directory.path().join("data")).unwrap();
        let [master, volume, filer, port] = free_ports();
        let process = Command::new(weed)
            .current_dir(directory.path())
            .args(["server", "-s3", "-ip=127.0.0.1", "-dir=data", "-s3.config=identities.json"])
            .arg(format!("-master.port={master}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-filer.port={filer}"))
            .arg(format!("-s3.port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::from(fs::File::create(directory.path().join("log")).unwrap()))
            .spawn()
            .unwrap();
        Some(Self { process, directory, port })
    }

    fn credentials(&self, name: &str, secret: &str) -> String {
        let folder = self.directory.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("AWS_ACCESS_KEY_ID"), "key\n").unwrap();
        fs::write(folder.join("AWS_SECRET_ACCESS_KEY"), secret).unwrap();
        folder.display().to_string()
    }

    fn archive(&self, credentials: &str) -> Archive {
        let url = format!(
            "s3://backups/team/a?endpoint=http://127.0.0.1:{}&region=us-east-1&pathStyle=true&allowHttp=true&credentials={credentials}",
            self.port
        );
        Archive::new(Store::open(&url).unwrap(), History::new("cluster-a", 1).unwrap(), keyring())
    }

    /// The server creates a bucket when an admin writes the first object.
    async fn await_ready(&self, archive: &Archive) {
        let start = tokio::time::Instant::now();
        loop {
            match archive.begin(&origin()).await {
                Ok(()) => return,
                Err(error) if start.elapsed() > DEADLINE => {
                    let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                    panic!("the S3 server is not ready: {error}\n{log}");
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

#[tokio::test]
async fn history_is_written_restored_verified_and_deleted_on_a_real_s3_server() {
    let Some(server) = Server::start() else { return };
    let credentials = server.credentials("right", "secret");
    let archive = server.archive(&credentials);
    server.await_ready(&archive).await;

    write_history(&archive).await;
    assert_eq!(archive.store().histories().await.unwrap(), [archive.history().clone()]);
    let catalog = archive.catalog().await.unwrap();
    let (base, entries) = restore(&archive, &catalog, Target::Time(1041)).await.unwrap();
    assert_eq!((base, entries.last().unwrap().index), (content(14_000), 41));
    let report = verify(&archive, &catalog).await.unwrap();
    assert!(report.is_intact() && report.bases.len() == 2, "{report:?}");

    // Conditional writes: equal content is no fork, other content is.
    write_base(&archive, 10, &content(10_000)).await.unwrap();
    let other = helios_archive::Origin { name: "other".to_owned(), ..origin() };
    assert!(matches!(archive.begin(&other).await, Err(ArchiveError::Forked { .. })));

    // A rotated secret takes effect with the next request, and a wrong one is a refused call.
    fs::write(Path::new(&credentials).join("AWS_SECRET_ACCESS_KEY"), "wrong").unwrap();
    let error = write_log(&archive, 61..=70).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Refused { .. }), "{error}");
    fs::write(Path::new(&credentials).join("AWS_SECRET_ACCESS_KEY"), "secret").unwrap();
    write_log(&archive, 61..=70).await.unwrap();

    let catalog = archive.catalog().await.unwrap();
    for id in catalog.segments.keys() {
        archive.delete(Object::Segment(*id)).await.unwrap();
    }
    let text = restore(&archive, &archive.catalog().await.unwrap(), Target::Index(70)).await.unwrap_err();
    assert!(text.contains("the nearest is index 30"), "{text}");
}
