//! Flags and environment of the operator's process.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Runs HeliosDB clusters on Kubernetes.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "helios-operator", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub operator: Config,
}

#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Adds the sidecar to pods with the label heliosdb.io/inject, when the API server asks.
    Webhook(WebhookConfig),
}

#[derive(Debug, Clone, clap::Args)]
pub struct WebhookConfig {
    /// Image of the sidecar.
    #[arg(long, env = "HELIOS_WEBHOOK_NODE_IMAGE")]
    pub node_image: String,

    /// Address for the API server, with TLS.
    #[arg(long, env = "HELIOS_WEBHOOK_LISTEN", default_value = "0.0.0.0:9443")]
    pub listen: SocketAddr,

    /// Directory with tls.crt and tls.key, read again when they change: the Secret that the operator writes.
    #[arg(long, env = "HELIOS_WEBHOOK_CERTIFICATE_DIR", default_value = "/etc/helios-webhook")]
    pub certificate_dir: PathBuf,

    /// Address for /livez, /readyz and /metrics.
    #[arg(long, env = "HELIOS_WEBHOOK_HTTP_ADDR", default_value = "0.0.0.0:8080")]
    pub http_addr: SocketAddr,

    /// Log filter, e.g. `info`.
    #[arg(long, env = "HELIOS_WEBHOOK_LOG", default_value = "info")]
    pub log: String,
}

/// Flags of the operator.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Image of the database for clusters that name none in spec.image.
    #[arg(long, env = "HELIOS_OPERATOR_NODE_IMAGE")]
    pub node_image: Option<String>,

    /// Namespaces to watch, separated by commas; all when empty.
    #[arg(long, env = "HELIOS_OPERATOR_NAMESPACE", value_delimiter = ',', alias = "watch-namespaces")]
    pub namespace: Vec<String>,

    /// Name of the Lease by which replicas of the operator agree on the one that acts.
    #[arg(long, env = "HELIOS_OPERATOR_LEASE_NAME", default_value = "helios-operator")]
    pub lease_name: String,

    /// Namespace of the Lease; the pod's own, or that of the kubeconfig, when not given.
    #[arg(long, env = "HELIOS_OPERATOR_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,

    /// Name under which this process holds the Lease; must differ between replicas.
    #[arg(long, env = "HELIOS_OPERATOR_IDENTITY")]
    pub identity: Option<String>,

    /// Address for /livez, /readyz and /metrics.
    #[arg(long, env = "HELIOS_OPERATOR_HTTP_ADDR", default_value = "0.0.0.0:8080")]
    pub http_addr: SocketAddr,

    /// Name of the MutatingWebhookConfiguration, the Service and the Secret of the webhook, whose certificate this process then
    /// keeps.
    #[arg(long, env = "HELIOS_OPERATOR_INJECTION_WEBHOOK")]
    pub injection_webhook: Option<String>,

    /// Evict pods that ask for a sidecar and were created without one.
    #[arg(long, env = "HELIOS_OPERATOR_INJECTION_WATCHDOG")]
    pub injection_watchdog: bool,

    /// Log filter, e.g. `info` or `helios_operator=debug,kube=warn`.
    #[arg(long, env = "HELIOS_OPERATOR_LOG", default_value = "info")]
    pub log: String,
}
