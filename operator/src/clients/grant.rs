//! Whether a cluster grants a HeliosClient its user, and with which rights. Pure.

use std::collections::{BTreeMap, BTreeSet};

use helios_crds::{ClientGrant, ClientRole, HeliosClientSpec, HeliosCluster, Reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

/// Rights of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    pub role: ClientRole,
    /// Empty: all keys.
    pub prefixes: Vec<String>,
}

/// Namespace of a HeliosClient.
#[derive(Debug, Clone)]
pub struct Namespace {
    pub name: String,
    /// `None`: the operator may not read them.
    pub labels: Option<BTreeMap<String, String>>,
}

/// Decides what `cluster` grants the HeliosClient with this spec.
///
/// # Errors
/// The reason, and the field that would have to change.
pub fn grant(
    cluster: &HeliosCluster,
    spec: &HeliosClientSpec,
    namespace: &Namespace,
) -> Result<Rights, (Reason, String)> {
    let (name, own) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    let mut entries = Vec::new();
    for entry in cluster.spec.clients.iter().flat_map(|clients| &clients.allow) {
        if selects(entry, namespace)? {
            entries.push(entry.clone());
        }
    }
    // Who may create a HeliosClient beside the cluster gets no more than the application's rights by it.
    if namespace.name == own {
        entries.push(ClientGrant::default());
    }
    let field = format!("spec.clients.allow of HeliosCluster {own}/{name}");
    if entries.is_empty() {
        let message = format!("namespace {} is in no entry of {field}; add one", namespace.name);
        return Err((Reason::NamespaceNotAllowed, message));
    }
    let role = spec.role;
    entries.retain(|entry| entry.max_role.includes(role));
    if entries.is_empty() {
        let message = format!(
            "{field} grants namespace {} no role {}; write another spec.role, or raise maxRole",
            namespace.name,
            role.name()
        );
        return Err((Reason::RoleNotAllowed, message));
    }
    let is_for_all_keys = entries.iter().any(|entry| entry.prefixes.is_empty());
    let granted: BTreeSet<_> = entries.iter().flat_map(|entry| &entry.prefixes).collect();
    let outside = |prefix: &&String| !granted.iter().any(|granted| prefix.starts_with(granted.as_str()));
    let refused = |what: &str| {
        let granted: Vec<_> = granted.iter().map(|prefix| prefix.as_str()).collect();
        let message = format!(
            "{field} grants namespace {} keys that begin with {}, and {what}; write another, or add it there",
            namespace.name,
            granted.join(", ")
        );
        (Reason::PrefixNotAllowed, message)
    };
    let prefixes: BTreeSet<_> = match is_for_all_keys {
        true => spec.prefixes.iter().collect(),
        false if spec.prefixes.is_empty() => granted.clone(),
        false => match spec.prefixes.iter().find(outside) {
            Some(prefix) => return Err(refused(&format!("not the prefix {prefix:?} of spec.prefixes"))),
            None => spec.prefixes.iter().collect(),
        },
    };
    if !prefixes.is_empty() && !ClientRole::ReadWrite.includes(role) {
        return Err(refused(&format!("the role {} is for all keys", role.name())));
    }
    Ok(Rights { role, prefixes: prefixes.into_iter().cloned().collect() })
}

fn selects(entry: &ClientGrant, namespace: &Namespace) -> Result<bool, (Reason, String)> {
    let Some(selector) = &entry.namespace_selector else {
        return Ok(entry.namespaces.contains(&namespace.name));
    };
    if *selector == LabelSelector::default() {
        return Ok(true);
    }
    let Some(labels) = &namespace.labels else {
        let message = format!(
            "the operator may not read the labels of namespace {}; write spec.clients.allow[].namespaces in place of namespaceSelector",
            namespace.name
        );
        return Err((Reason::NamespaceNotAllowed, message));
    };
    let selector = Selector::try_from(selector.clone()).map_err(|error| {
        (
            Reason::NamespaceNotAllowed,
            format!("spec.clients.allow[].namespaceSelector cannot be used: {error}"),
        )
    })?;
    Ok(selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn decide(allow: Value, spec: Value, namespace: &str) -> Result<Rights, Reason> {
        let mut cluster =
            HeliosCluster::new("demo", serde_json::from_value(json!({"clients": {"allow": allow}})).unwrap());
        cluster.metadata.namespace = Some("data".to_owned());
        let mut spec = spec;
        spec["cluster"] = json!({"name": "demo", "namespace": "data"});
        let labels = BTreeMap::from([("team".to_owned(), namespace.to_owned())]);
        let namespace = Namespace { name: namespace.to_owned(), labels: Some(labels) };
        grant(&cluster, &serde_json::from_value(spec).unwrap(), &namespace).map_err(|(reason, message)| {
            assert!(message.contains("spec."), "{message}");
            reason
        })
    }

    fn rights(role: ClientRole, prefixes: &[&str]) -> Result<Rights, Reason> {
        Ok(Rights { role, prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect() })
    }

    #[test]
    fn namespace_is_granted_only_by_an_entry_or_as_the_clusters_own() {
        use ClientRole::{ReadOnly, ReadWrite};
        assert_eq!(decide(json!([]), json!({}), "shop"), Err(Reason::NamespaceNotAllowed));
        assert_eq!(decide(json!([]), json!({}), "data"), rights(ReadWrite, &[]));
        let shop = json!([{"namespaces": ["shop"]}]);
        assert_eq!(
            decide(shop.clone(), json!({"role": "read-only", "prefixes": ["a"]}), "shop"),
            rights(ReadOnly, &["a"])
        );
        assert_eq!(decide(shop, json!({}), "shop2"), Err(Reason::NamespaceNotAllowed));
        let labelled = json!([{"namespaceSelector": {"matchLabels": {"team": "shop"}}}]);
        assert_eq!(decide(labelled.clone(), json!({}), "shop"), rights(ReadWrite, &[]));
        assert_eq!(decide(labelled, json!({}), "other"), Err(Reason::NamespaceNotAllowed));
        assert_eq!(decide(json!([{"namespaceSelector": {}}]), json!({}), "any"), rights(ReadWrite, &[]));
    }

    #[test]
    fn role_is_granted_up_to_the_entrys_and_in_the_own_namespace_up_to_read_write() {
        use ClientRole::Admin;
        let with = |most: &str, role: &str, namespace: &str| {
            decide(json!([{"namespaces": ["shop"], "maxRole": most}]), json!({"role": role}), namespace).err()
        };
        assert_eq!(with("read-only", "read-write", "shop"), Some(Reason::RoleNotAllowed));
        assert_eq!(with("read-write", "backup", "shop"), Some(Reason::RoleNotAllowed));
        assert_eq!(with("admin", "backup", "shop"), None);
        for role in ["admin", "backup"] {
            assert_eq!(with("admin", role, "data"), Some(Reason::RoleNotAllowed), "{role}");
        }
        let own = json!([{"namespaces": ["data"], "maxRole": "admin"}]);
        assert_eq!(decide(own, json!({"role": "admin"}), "data"), rights(Admin, &[]));
    }

    #[test]
    fn prefixes_are_within_those_of_the_entries_that_grant_the_role() {
        use ClientRole::{ReadOnly, ReadWrite};
        let allow = json!([
            {"namespaces": ["shop"], "prefixes": ["shop:"]},
            {"namespaces": ["shop"], "prefixes": ["catalog:"], "maxRole": "read-only"},
        ]);
        let with = |spec: Value| decide(allow.clone(), spec, "shop");
        assert_eq!(with(json!({})), rights(ReadWrite, &["shop:"]), "all that is granted");
        assert_eq!(with(json!({"role": "read-only"})), rights(ReadOnly, &["catalog:", "shop:"]));
        assert_eq!(with(json!({"prefixes": ["shop:cart:"]})), rights(ReadWrite, &["shop:cart:"]));
        for outside in ["shop", "catalog:", "s"] {
            assert_eq!(
                with(json!({"prefixes": ["shop:a", outside]})),
                Err(Reason::PrefixNotAllowed),
                "{outside}"
            );
        }
        let admin = json!([{"namespaces": ["shop"], "prefixes": ["shop:"], "maxRole": "admin"}]);
        assert_eq!(decide(admin, json!({"role": "admin"}), "shop"), Err(Reason::PrefixNotAllowed));
    }
}
