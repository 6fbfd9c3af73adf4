//! SeaweedFS's `weed`, a real S3 server, which scripts/tools.sh installs.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Version in scripts/tools.sh.
const PROGRAM: &str = "seaweedfs-4.48/bin/weed";
const ACCESS_KEY: &str = "key";
/// Secret of the one user, an admin. The server creates a bucket with the first object.
pub const SECRET: &str = "secret";
/// SeaweedFS listens for gRPC at each port plus this one.
const GRPC: u16 = 10_000;

/// The server; it is killed when the value is dropped.
pub struct Weed {
    program: PathBuf,
    process: Child,
    directory: tempfile::TempDir,
    /// Ports of the master, the volume, the filer and S3.
    ports: [u16; 4],
}

impl Weed {
    /// Starts the server; it takes requests some seconds later. Returns none if the program is missing and may be skipped.
    ///
    /// # Panics
    /// If the program is missing and may not be skipped, or does not start.
    pub fn start() -> Option<Self> {
        let program = crate::installed("weed", PROGRAM)?;
        let directory = tempfile::tempdir().expect("a directory");
        let identities = format!(
            r#"{{"identities": [{{"name": "admin", "actions": ["Admin", "Read", "Write", "List"],
            "credentials": [{{"accessKey": "{ACCESS_KEY}", "secretKey": "{SECRET}"}}]}}]}}"#
        );
        fs::write(directory.path().join("identities.json"), identities).expect("a file");
        fs::create_dir_all(directory.path().join("data")).expect("a directory");
        let ports = crate::free_ports(GRPC);
        let process = spawn(&program, &directory, ports);
        Some(Self { program, process, directory, ports })
    }

    /// Ends the server by SIGKILL.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn kill(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        self.process.wait().expect("it ends");
    }

    /// Starts the server again after [`Self::kill`], with its data and ports.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.process = spawn(&self.program, &self.directory, self.ports);
    }

    /// Writes a directory of credentials with this secret, as a mounted Secret of Kubernetes is one.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn credentials(&self, name: &str, secret: &str) -> PathBuf {
        let folder = self.directory.path().join(name);
        fs::create_dir_all(&folder).expect("a directory");
        fs::write(folder.join("AWS_ACCESS_KEY_ID"), format!("{ACCESS_KEY}\n")).expect("a file");
        fs::write(folder.join("AWS_SECRET_ACCESS_KEY"), secret).expect("a file");
        folder
    }

    /// URL of a store in the server. Credentials are those of the environment, or of this directory.
    pub fn url(&self, prefix: &str, credentials: Option<&PathBuf>) -> String {
        let [_, _, _, port] = self.ports;
        let credentials =
            credentials.map(|path| format!("&credentials={}", path.display())).unwrap_or_default();
        format!(
            "s3://backups/{prefix}?endpoint=http://127.0.0.1:{port}&region=us-east-1&pathStyle=true&allowHttp=true{credentials}"
        )
    }

    /// Environment of a client without files of credentials.
    pub fn environment(secret: &str) -> [(&'static str, &str); 2] {
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", secret)]
    }

    /// The server's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn spawn(program: &PathBuf, directory: &tempfile::TempDir, ports: [u16; 4]) -> Child {
    let log = File::options().create(true).append(true).open(directory.path().join("log")).expect("a file");
    let mut command = Command::new(program);
    command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.args(["server", "-s3", "-ip=127.0.0.1", "-dir=data", "-s3.config=identities.json"]);
    for (name, port) in ["master", "volume", "filer", "s3"].iter().zip(ports) {
        command.arg(format!("-{name}.port={port}"));
    }
    command.spawn().expect("weed starts")
}
