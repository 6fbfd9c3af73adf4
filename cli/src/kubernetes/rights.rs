//! Rights that each command needs, as one list for `doctor` and for the reference page.

/// A right in Kubernetes, and the commands that need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    pub verb: &'static str,
    pub group: &'static str,
    /// Resource, with its subresource after a `/`.
    pub resource: &'static str,
    pub commands: &'static str,
}

const fn right(
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    commands: &'static str,
) -> Right {
    Right { verb, group, resource, commands }
}

pub const RIGHTS: [Right; 15] = [
    right("get", "heliosdb.io", "heliosclusters", "all"),
    right("list", "heliosdb.io", "heliosclusters", "all, where no cluster is named"),
    right("list", "", "pods", "status, members, plan, log skip, logs, report, keys, sidecars"),
    right("list", "", "persistentvolumeclaims", "status, members, plan, report"),
    right("patch", "heliosdb.io", "heliosclusters", "restart, pause, resume, hibernate, wake"),
    right("watch", "heliosdb.io", "heliosclusters", "transfer, switchover, step-down, restart --wait"),
    right(
        "create",
        "",
        "pods/portforward",
        "transfer, switchover, step-down, snapshot, log skip, report, keys",
    ),
    right(
        "get",
        "",
        "secrets",
        "transfer, switchover, step-down, snapshot, log skip, report, keys, where members have TLS or users",
    ),
    right("get", "", "pods/log", "logs, report"),
    right("list", "heliosdb.io", "heliosclients", "sidecars"),
    right("get", "", "pods/proxy", "sidecars"),
    right("list", "apps", "statefulsets", "report"),
    right("list", "", "services", "report"),
    right("list", "", "configmaps", "report"),
    right("list", "", "events", "report"),
];

impl Right {
    /// Returns the right as an argument of `kubectl auth can-i`.
    pub fn words(&self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let (resource, subresource) = self.parts();
        let subresource = subresource.map_or_else(String::new, |name| format!("/{name}"));
        format!("{} {resource}{group}{subresource}", self.verb)
    }

    pub fn parts(&self) -> (&'static str, Option<&'static str>) {
        match self.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (self.resource, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_is_written_as_kubectl_expects_it() {
        let words = RIGHTS.map(|right| right.words());
        assert!(words.contains(&"get heliosclusters.heliosdb.io".to_owned()));
        assert!(words.contains(&"create pods/portforward".to_owned()));
    }
}
