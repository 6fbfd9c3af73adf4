//! Flags and environment of the operator's process.

use std::net::SocketAddr;

/// Runs HeliosDB clusters on Kubernetes.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "helios-operator", version)]
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

    /// Log filter, e.g. `info` or `helios_operator=debug,kube=warn`.
    #[arg(long, env = "HELIOS_OPERATOR_LOG", default_value = "info")]
    pub log: String,
}
