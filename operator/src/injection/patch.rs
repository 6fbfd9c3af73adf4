//! Decides whether a pod gets a sidecar, and by which changes. Pure.

use helios_crds::{
    INJECT_LABEL, SIDECAR, SIDECAR_PORT, SIDECAR_PROBE_PORT, SIDECAR_URL, SidecarSettings, is_client_name,
    sidecar_container, sidecar_volume,
};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, PodSpec};
use kube::ResourceExt;
use serde::Serialize;
use serde_json::{Value, json};

/// Request of a pod that is created.
#[derive(Debug, PartialEq)]
pub enum Asked<'a> {
    /// It does not ask for a sidecar, or has one.
    Nothing,
    /// It asks for one and cannot have it: the reason, and what to do.
    Impossible(String),
    /// A sidecar of the HeliosClient `client` in the namespace of the pod.
    Sidecar { client: &'a str, spec: &'a PodSpec },
}

/// Whether the pod has a container of the sidecar, injected or written by hand.
pub fn has_sidecar(spec: &PodSpec) -> bool {
    all_containers(spec).any(|container| container.name == SIDECAR)
}

/// Decides by the pod alone.
pub fn asked(pod: &Pod) -> Asked<'_> {
    let (Some(client), Some(spec)) = (pod.labels().get(INJECT_LABEL), &pod.spec) else {
        return Asked::Nothing;
    };
    if has_sidecar(spec) {
        return Asked::Nothing;
    }
    match refusal(client, spec) {
        Some(reason) => Asked::Impossible(reason),
        None => Asked::Sidecar { client, spec },
    }
}

fn refusal(client: &str, spec: &PodSpec) -> Option<String> {
    if !is_client_name(client) {
        return Some(format!(
            "label {INJECT_LABEL}={client:?} is not the name of a HeliosClient; write the name of one in this namespace"
        ));
    }
    if spec.host_network == Some(true) {
        return Some(format!(
            "a pod with hostNetwork cannot have a sidecar: every process of the node could use it at port {SIDECAR_PORT}; \
             remove hostNetwork or the label {INJECT_LABEL}"
        ));
    }
    if spec.volumes.iter().flatten().any(|volume| volume.name == SIDECAR) {
        return Some(format!("the pod has another volume named {SIDECAR}; rename it"));
    }
    let taken = [SIDECAR_PORT, SIDECAR_PROBE_PORT].map(i32::from);
    let holder = all_containers(spec).find_map(|container| {
        let ports = container.ports.iter().flatten().map(|port| port.container_port);
        ports.into_iter().find(|port| taken.contains(port)).map(|port| (&container.name, port))
    });
    holder.map(|(container, port)| {
        format!(
            "container {container} uses port {port}, which the sidecar needs; use another port there, or remove the label \
             {INJECT_LABEL} and paste the output of `heliosctl sidecar yaml --client {client} --port <free port>`"
        )
    })
}

fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// Returns the changes of a pod that [`asked`] for a sidecar of `client`; `image` is that of the sidecar. It is the first
/// init container, so that all others can use it.
pub fn patch(client: &str, spec: &PodSpec, image: &str, settings: SidecarSettings) -> Patch {
    let mut patch = Patch::default();
    let mut add = |path: &[&str], value: Value| {
        let path = PointerBuf::from_tokens(path.iter().copied());
        patch.0.push(PatchOperation::Add(AddOperation { path, value }));
    };
    let url = EnvVar {
        name: SIDECAR_URL.to_owned(),
        value: Some(format!("redis://localhost:{SIDECAR_PORT}")),
        ..EnvVar::default()
    };
    // Before the insertion of the sidecar, which moves the indexes.
    let lists =
        [("initContainers", spec.init_containers.as_deref()), ("containers", Some(&*spec.containers))];
    for (list, containers) in lists {
        for (index, container) in containers.unwrap_or_default().iter().enumerate() {
            let index = index.to_string();
            match &container.env {
                Some(env) if env.iter().any(|known| known.name == SIDECAR_URL) => {}
                Some(_) => add(&["spec", list, &index, "env", "-"], value(&url)),
                None => add(&["spec", list, &index, "env"], json!([url])),
            }
        }
    }
    let container = value(&sidecar_container(image, SIDECAR_PORT, settings));
    match &spec.init_containers {
        Some(_) => add(&["spec", "initContainers", "0"], container),
        None => add(&["spec", "initContainers"], json!([container])),
    }
    let volume = value(&sidecar_volume(client));
    match &spec.volumes {
        Some(_) => add(&["spec", "volumes", "-"], volume),
        None => add(&["spec", "volumes"], json!([volume])),
    }
    patch
}

fn value(part: &impl Serialize) -> Value {
    // Types of Kubernetes have string keys only, the one thing that can fail.
    serde_json::to_value(part).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use helios_crds::{SidecarOffline, SidecarReads};
    use serde_json::json;

    use super::*;

    fn pod(spec: Value) -> Pod {
        let metadata = json!({"name": "app", "labels": {INJECT_LABEL: "orders"}});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn injected(pod: &Pod, settings: SidecarSettings) -> Pod {
        let Asked::Sidecar { client, spec } = asked(pod) else { panic!("not injected") };
        let mut changed = serde_json::to_value(pod).unwrap();
        json_patch::patch(&mut changed, &patch(client, spec, "heliosd:0.1.0", settings)).unwrap();
        serde_json::from_value(changed).unwrap()
    }

    /// Compares a pod as YAML with a file.
    fn matches_golden(pod: &Pod, name: &str) {
        let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = serde_saphyr::to_string(&serde_json::to_value(pod).unwrap()).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{path}");
    }

    #[test]
    fn sidecar_is_the_first_init_container_and_every_container_knows_its_url() {
        let before = pod(json!({
            "initContainers": [{"name": "migrate", "env": [{"name": "A", "value": "1"}]}],
            "containers": [{"name": "app"}, {"name": "own", "env": [{"name": "HELIOS_URL", "value": "redis://x"}]}],
            "volumes": [{"name": "cache", "emptyDir": {}}],
        }));
        let after = injected(&before, SidecarSettings::Proxy);
        let spec = after.spec.as_ref().unwrap();
        let init = spec.init_containers.as_ref().unwrap();
        assert_eq!(init.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), [SIDECAR, "migrate"]);
        assert_eq!(init[0], sidecar_container("heliosd:0.1.0", 6379, SidecarSettings::Proxy));
        let url = |container: &Container| {
            let env = container.env.iter().flatten();
            env.filter(|env| env.name == SIDECAR_URL)
                .map(|env| env.value.clone().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(url(&init[0]), [""; 0], "the sidecar does not use itself");
        assert_eq!(url(&init[1]), ["redis://localhost:6379"]);
        assert_eq!(url(&spec.containers[0]), ["redis://localhost:6379"]);
        assert_eq!(url(&spec.containers[1]), ["redis://x"], "a user's value stays");
        assert_eq!(spec.volumes.as_ref().unwrap()[1], sidecar_volume("orders"));
        assert_eq!(asked(&after), Asked::Nothing, "a second call changes nothing");
        matches_golden(&after, "pod-with-proxy.yaml");
    }

    #[test]
    fn sidecar_is_injected_into_the_smallest_pod() {
        let (memory_mib, max_staleness_ms) = (256, 500);
        let (reads, offline) = (SidecarReads::Bounded, SidecarOffline::ServeStale);
        let settings = SidecarSettings::Replica { memory_mib, max_staleness_ms, reads, offline };
        let after = injected(&pod(json!({"containers": [{"name": "app"}]})), settings);
        let spec = after.spec.as_ref().unwrap();
        assert_eq!(
            (spec.init_containers.as_ref().unwrap().len(), spec.volumes.as_ref().unwrap().len()),
            (1, 1)
        );
        matches_golden(&after, "pod-with-replica.yaml");
    }

    #[test]
    fn pods_that_do_not_ask_and_pasted_sidecars_stay_as_they_are() {
        let mut other = pod(json!({"containers": [{"name": "app"}]}));
        other.labels_mut().clear();
        assert_eq!(asked(&other), Asked::Nothing);
        let pasted = pod(json!({
            "initContainers": [{"name": SIDECAR, "restartPolicy": "Always"}], "containers": [{"name": "app"}],
        }));
        assert_eq!(asked(&pasted), Asked::Nothing);
    }

    #[test]
    fn refusals_say_what_is_in_the_way_and_what_to_do() {
        let refused = |spec: Value| match asked(&pod(spec)) {
            Asked::Impossible(reason) => reason,
            other => panic!("{other:?}"),
        };
        let redis = json!({"containers": [{"name": "cache", "ports": [{"containerPort": 6379}]}]});
        let reason = refused(redis);
        assert!(reason.contains("container cache uses port 6379") && reason.contains("--port"), "{reason}");
        let host = refused(json!({"hostNetwork": true, "containers": [{"name": "app"}]}));
        assert!(host.contains("hostNetwork"), "{host}");
        let volume = json!({"containers": [{"name": "app"}], "volumes": [{"name": SIDECAR, "emptyDir": {}}]});
        assert!(refused(volume).contains("volume"));
        let mut unnamed = pod(json!({"containers": [{"name": "app"}]}));
        unnamed.labels_mut().insert(INJECT_LABEL.to_owned(), String::new());
        assert!(matches!(asked(&unnamed), Asked::Impossible(reason) if reason.contains("HeliosClient")));
    }
}
