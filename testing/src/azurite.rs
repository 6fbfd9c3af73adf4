//! Azurite, Microsoft's emulator of Azure Blob Storage, which scripts/tools.sh installs.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use ring::hmac;

/// Version in scripts/tools.sh.
const PROGRAM: &str = "azurite-3.35.0/node_modules/.bin/azurite-blob";
/// Account of every Azurite, and its key (Microsoft's documentation of Azurite).
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const API_VERSION: &str = "2021-12-02";
const CONTAINER: &str = "backups";
const DEADLINE: Duration = Duration::from_secs(60);

/// The server; it is killed when the value is dropped.
pub struct Azurite {
    process: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Azurite {
    /// Starts the server, and creates the container. Returns none if the program is missing and may be skipped.
    ///
    /// # Panics
    /// If the program is missing and may not be skipped, or does not start.
    pub fn start() -> Option<Self> {
        let program = crate::installed("azurite", PROGRAM)?;
        let directory = tempfile::tempdir().expect("a directory");
        let [port] = crate::free_ports(0);
        let log = File::create(directory.path().join("log")).expect("a file");
        let mut command = Command::new(program);
        command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--location", "data"]);
        command.args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"]);
        let process = command.spawn().expect("Azurite starts");
        let mut server = Self { process, port, directory };
        server.create_container();
        Some(server)
    }

    /// URL of a store in the server.
    pub fn url(&self, prefix: &str) -> String {
        format!("az://{CONTAINER}/{prefix}?account={ACCOUNT}")
    }

    /// Environment of a client: the endpoint, and the account's key.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("AZURE_STORAGE_ENDPOINT", format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY.to_owned()),
            ("AZURE_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    fn create_container(&mut self) {
        let began = Instant::now();
        loop {
            let answer = self.send(&creation()).unwrap_or_default();
            if answer.starts_with("HTTP/1.1 201") {
                return;
            }
            let ended = self.process.try_wait().expect("it is a child");
            assert!(
                ended.is_none() && began.elapsed() < DEADLINE,
                "the container is not created: {answer:?} {ended:?}\n{}",
                fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn send(&self, request: &str) -> std::io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        connection.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The request that creates the container, signed by the scheme Shared Key of Azure Storage. The signed resource has the account
/// twice, as the path of an emulator's URL begins with it.
fn creation() -> String {
    let date = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
    let text = format!(
        "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{API_VERSION}\n/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(KEY).expect("base64"));
    let signature = STANDARD.encode(hmac::sign(&key, text.as_bytes()));
    format!(
        "PUT /{ACCOUNT}/{CONTAINER}?restype=container HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n\
         x-ms-date: {date}\r\nx-ms-version: {API_VERSION}\r\nAuthorization: SharedKey {ACCOUNT}:{signature}\r\n\r\n"
    )
}
