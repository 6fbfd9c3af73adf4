//! Names of a cluster's objects, and the ordinal of a pod's name.

use std::collections::BTreeMap;
use std::fmt;

use helios_crds::CLUSTER_LABEL;

pub const FIELD_MANAGER: &str = "helios-operator";
/// Container of the database in a member's pod.
pub const CONTAINER: &str = "heliosd";
/// Volume claim template of the StatefulSet.
pub const VOLUME: &str = "data";

pub const CLIENT_PORT: i32 = 6379;
pub const PEER_PORT: i32 = 7000;
pub const GATEWAY_PORT: i32 = 8443;
pub const METRICS_PORT: i32 = 9090;
pub const GRPC_PORT: i32 = 50051;

/// Namespace and name of a HeliosCluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

pub fn pod(cluster: &str, ordinal: u32) -> String {
    format!("{cluster}-{ordinal}")
}

pub fn volume(cluster: &str, ordinal: u32) -> String {
    format!("{VOLUME}-{cluster}-{ordinal}")
}

pub fn peers_service(cluster: &str) -> String {
    format!("{cluster}-peers")
}

/// The Services for clients: any member, the leader, the followers.
pub fn client_services(cluster: &str) -> [String; 3] {
    [cluster.to_owned(), format!("{cluster}-leader"), format!("{cluster}-read")]
}

/// Every form in which pods may write the name of a Service.
pub fn in_every_length(service: &str, namespace: &str) -> [String; 4] {
    [
        "".to_owned(),
        format!(".{namespace}"),
        format!(".{namespace}.svc"),
        format!(".{namespace}.svc.cluster.local"),
    ]
    .map(|rest| format!("{service}{rest}"))
}

/// Deployment and NetworkPolicy of the archiver.
pub fn archiver(cluster: &str) -> String {
    format!("{cluster}-archiver")
}

/// Job that restores a backup into the first member.
pub fn restore_job(cluster: &str) -> String {
    format!("{cluster}-restore")
}

/// Job of the HeliosBackup `backup`.
pub fn backup_job(backup: &str) -> String {
    format!("{backup}-backup")
}

/// HeliosCluster of the drill with this number of the HeliosScheduledBackup `scheduled`, whose name is cut to the length that a
/// HeliosCluster may have.
pub fn drill(scheduled: &str, number: i64) -> String {
    const LONGEST: usize = 40;
    let end = format!("-drill-{number}");
    // A HeliosCluster begins with a letter, which is what a name of a DNS label need not do.
    let start = if scheduled.starts_with(|c: char| c.is_ascii_lowercase()) { "" } else { "d" };
    let name: String = start.chars().chain(scheduled.chars()).take(LONGEST - end.len()).collect();
    format!("{}{end}", name.trim_end_matches('-'))
}

/// Job that checks the HeliosCluster `drill`, and its NetworkPolicy.
pub fn drill_job(drill: &str) -> String {
    format!("{drill}-check")
}

/// Secret with the authority that signs the members' certificate; never in a pod.
pub fn authority_secret(cluster: &str) -> String {
    format!("{cluster}-ca")
}

/// Secret with the members' certificate, where the operator makes it.
pub fn peer_tls_secret(cluster: &str) -> String {
    format!("{cluster}-peer-tls")
}

/// Secret with the password of clients and the gateway's token.
pub fn auth_secret(cluster: &str) -> String {
    format!("{cluster}-auth")
}

/// Name of a pod that outlives it (docs/design/product.md, M-11). The cluster's domain is left out, because it
/// differs between installations and resolvers add it.
pub fn stable_host(cluster: &str, namespace: &str, ordinal: u32) -> String {
    format!("{}.{}.{namespace}.svc", pod(cluster, ordinal), peers_service(cluster))
}

/// [`stable_host`] with a `port`.
pub fn stable_address(cluster: &str, namespace: &str, ordinal: u32, port: i32) -> String {
    format!("{}:{port}", stable_host(cluster, namespace, ordinal))
}

/// Ordinal of the pod or member `name`; `None` for a name that is not of this cluster.
pub fn ordinal(cluster: &str, name: &str) -> Option<u32> {
    let digits = name.strip_prefix(cluster)?.strip_prefix('-')?;
    let ordinal: u32 = digits.parse().ok()?;
    (ordinal.to_string() == digits).then_some(ordinal)
}

/// Labels that select a cluster's pods; they never change, so selectors may use them.
pub fn selector(cluster: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), "heliosdb".to_owned()),
        (CLUSTER_LABEL.to_owned(), cluster.to_owned()),
    ])
}

/// Labels that select the pods that work for a cluster's backups: `archiver`, `backup`, `restore` or `drill`. They differ from those of
/// its members, so that no Service, budget or policy of the members selects them.
pub fn worker_selector(cluster: &str, component: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), format!("heliosdb-{component}")),
        ("app.kubernetes.io/instance".to_owned(), cluster.to_owned()),
    ])
}

/// Labels on those pods.
pub fn worker_labels(cluster: &str, component: &str) -> BTreeMap<String, String> {
    let mut labels = worker_selector(cluster, component);
    for (key, value) in [
        ("app.kubernetes.io/component", component),
        ("app.kubernetes.io/part-of", "heliosdb"),
        ("app.kubernetes.io/managed-by", FIELD_MANAGER),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// Labels of the operator's own pods, as its chart sets them.
pub fn operator_selector() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), "helios-operator".to_owned()),
        ("app.kubernetes.io/component".to_owned(), "operator".to_owned()),
    ])
}

/// Labels on every object of a cluster.
pub fn labels(cluster: &str) -> BTreeMap<String, String> {
    let mut labels = selector(cluster);
    for (key, value) in [
        ("app.kubernetes.io/instance", cluster),
        ("app.kubernetes.io/component", "database"),
        ("app.kubernetes.io/part-of", "heliosdb"),
        ("app.kubernetes.io/managed-by", FIELD_MANAGER),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// [`selector`] in the form that list calls and the scale subresource take.
pub fn selector_text(cluster: &str) -> String {
    selector(cluster).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinal_is_parsed_only_from_our_own_names() {
        assert_eq!(ordinal("demo", "demo-0"), Some(0));
        assert_eq!(ordinal("demo", "demo-12"), Some(12));
        for stranger in ["demo", "demo-", "demo-01", "demo-x", "demo-1-2", "other-1", "demo-+1"] {
            assert_eq!(ordinal("demo", stranger), None, "{stranger}");
        }
    }

    #[test]
    fn drill_has_a_name_that_a_cluster_may_have() {
        assert_eq!(drill("nightly", 7), "nightly-drill-7");
        assert_eq!(drill("9pm", 12), "d9pm-drill-12");
        let long = drill(&format!("{}-{}", "x".repeat(31), "y".repeat(7)), 1);
        assert_eq!(long, format!("{}-drill-1", "x".repeat(31)));
        assert_eq!(drill(&"x".repeat(39), i64::MAX).len(), 40);
    }

    #[test]
    fn cluster_whose_name_continues_another_is_foreign() {
        assert_eq!(ordinal("demo", "demo-b-1"), None);
    }
}
