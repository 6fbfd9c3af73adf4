//! A real API server with its etcd, for one test: on separate ports, without nodes and without
//! controllers. Its program is that of the local cluster.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use helios_testing::cluster::program;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use super::until;

/// A process that ends with its owner.
pub struct Process(pub Child);

impl Process {
    /// `command`, with its output in `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let log = fs::File::create(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        Self(child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

pub struct Server {
    pub client: Client,
    // In this order: a process is dropped before the one that it uses.
    _api_server: Process,
    _etcd: Process,
    directory: tempfile::TempDir,
}

impl Server {
    /// Starts it, with the HeliosCluster resource installed.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (clients, port) = (format!("http://127.0.0.1:{}", free_port()), free_port());
        let etcd = Process::start(&mut etcd(path, &clients), &path.join("etcd.log"));
        let api_server = Process::start(&mut api_server(path, &clients, port), &path.join("apiserver.log"));
        fs::write(path.join("kubeconfig"), kubeconfig(port)).unwrap();
        let config = Kubeconfig::read_from(path.join("kubeconfig")).unwrap();
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let server = Self { client, _api_server: api_server, _etcd: etcd, directory };
        until("the API server answers", Duration::from_secs(120), async || {
            Api::<CustomResourceDefinition>::all(server.client.clone())
                .list(&Default::default())
                .await
                .is_ok()
        })
        .await;
        for manifest in helios_crds::manifests() {
            server.install(&manifest.yaml().unwrap()).await;
        }
        until("the resources are served", Duration::from_secs(30), async || {
            let client = || server.client.clone();
            let last = Api::<helios_crds::HeliosClient>::default_namespaced(client());
            Api::<helios_crds::HeliosCluster>::default_namespaced(client())
                .list(&Default::default())
                .await
                .is_ok()
                && last.list(&Default::default()).await.is_ok()
        })
        .await;
        server
    }

    /// For logs and whatever else a test leaves.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory().join("kubeconfig")
    }

    async fn install(&self, manifest: &str) {
        let definition: CustomResourceDefinition = serde_saphyr::from_str(manifest).unwrap();
        let api = Api::<CustomResourceDefinition>::all(self.client.clone());
        api.create(&PostParams::default(), &definition).await.unwrap();
    }
}

fn etcd(directory: &Path, clients: &str) -> Command {
    let peers = format!("http://127.0.0.1:{}", free_port());
    let mut etcd = Command::new(program("kube"));
    etcd.args(["etcd", "--unsafe-no-fsync", "--log-level", "error", "--initial-cluster"]);
    etcd.arg(format!("default={peers}")).arg("--data-dir").arg(directory.join("etcd"));
    etcd.args(["--listen-client-urls", clients, "--advertise-client-urls", clients]);
    etcd.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    etcd
}

fn api_server(directory: &Path, etcd: &str, port: u16) -> Command {
    let key = directory.join("service-account.key");
    let made = Command::new("openssl")
        .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success(), "openssl makes no key");
    fs::write(directory.join("tokens.csv"), "admin,admin,admin,\"system:masters\"\n").unwrap();
    let mut server = Command::new(program("kube"));
    server.args(["apiserver", "--etcd-servers", etcd, "--bind-address", "127.0.0.1"]);
    server.args(["--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none"]);
    server.args(["--secure-port", &port.to_string(), "--authorization-mode", "RBAC"]);
    // Nobody makes the service accounts that it would ask for.
    server.args(["--disable-admission-plugins", "ServiceAccount"]);
    // Room for the Services of 500 clusters.
    server.args(["--service-cluster-ip-range", "198.19.0.0/16"]);
    server.args(["--service-account-issuer", "https://kubernetes.default.svc.cluster.local"]);
    server.arg("--service-account-key-file").arg(&key);
    server.arg("--service-account-signing-key-file").arg(&key);
    server.arg("--cert-dir").arg(directory.join("certificates"));
    // On by default from Kubernetes 1.36 on.
    server.args(["--feature-gates", "MutatingAdmissionPolicy=true"]);
    server.args(["--runtime-config", "admissionregistration.k8s.io/v1beta1=true"]);
    server.arg("--token-auth-file").arg(directory.join("tokens.csv"));
    server
}

fn kubeconfig(port: u16) -> String {
    format!(
        "{{apiVersion: v1, kind: Config, current-context: test,
  clusters: [{{name: test, cluster: {{server: 'https://127.0.0.1:{port}', insecure-skip-tls-verify: true}}}}],
  users: [{{name: test, user: {{token: admin}}}}],
  contexts: [{{name: test, context: {{cluster: test, user: test}}}}]}}\n"
    )
}

pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
