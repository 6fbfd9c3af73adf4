//! Decides whether a pod gets a sidecar, and by which changes. Pure.

use helios_crds::{
    INJECT_LABEL, SIDECAR, SIDECAR_PORT, SIDECAR_PROBE_PORT, SIDECAR_URL, is_client_name, sidecar_container,
    sidecar_volume,
};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, PodSpec};
use kube::ResourceExt;
use serde::Serialize;
use serde_json::{Value, json};

/// Outcome for a pod.
#[derive(Debug, PartialEq)]
pub enum Decision {
    Inject(Patch),
    /// It does not ask for a sidecar, or has one.
    Skip,
    /// It asks for one and cannot have it: the reason, and what to do.
    Refuse(String),
}

/// Whether the pod has a container of the sidecar, injected or written by hand.
pub fn has_sidecar(spec: &PodSpec) -> bool {
    all_containers(spec).any(|container| container.name == SIDECAR)
}

/// Decides on a pod that is created; `image` is that of the sidecar.
pub fn decide(pod: &Pod, image: &str) -> Decision {
    let (Some(client), Some(spec)) = (pod.labels().get(INJECT_LABEL), &pod.spec) else {
        return Decision::Skip;
    };
    if has_sidecar(spec) {
        return Decision::Skip;
    }
    match refusal(client, spec) {
        Some(reason) => Decision::Refuse(reason),
        None => Decision::Inject(patch(client, spec, image)),
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

/// The sidecar is the first init container, so that all others can use it.
fn patch(client: &str, spec: &PodSpec, image: &str) -> Patch {
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
    let container = value(&sidecar_container(image, SIDECAR_PORT));
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
    use serde_json::json;

    use super::*;

    fn pod(spec: Value) -> Pod {
        let metadata = json!({"name": "app", "labels": {INJECT_LABEL: "orders"}});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn injected(pod: &Pod) -> Pod {
        let Decision::Inject(patch) = decide(pod, "heliosd:0.1.0") else { panic!("not injected") };
        let mut changed = serde_json::to_value(pod).unwrap();
        json_patch::patch(&mut changed, &patch).unwrap();
        serde_json::from_value(changed).unwrap()
    }

    #[test]
    fn sidecar_is_the_first_init_container_and_every_container_knows_its_url() {
        let before = pod(json!({
            "initContainers": [{"name": "migrate", "env": [{"name": "A", "value": "1"}]}],
            "containers": [{"name": "app"}, {"name": "own", "env": [{"name": "HELIOS_URL", "value": "redis://x"}]}],
            "volumes": [{"name": "cache", "emptyDir": {}}],
        }));
        let after = injected(&before);
        let spec = after.spec.as_ref().unwrap();
        let init = spec.init_containers.as_ref().unwrap();
        assert_eq!(init.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), [SIDECAR, "migrate"]);
        assert_eq!(init[0], sidecar_container("heliosd:0.1.0", 6379));
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
        assert_eq!(decide(&after, "heliosd:0.2.0"), Decision::Skip, "a second call changes nothing");
    }

    #[test]
    fn sidecar_is_injected_into_the_smallest_pod() {
        let after = injected(&pod(json!({"containers": [{"name": "app"}]})));
        let spec = after.spec.unwrap();
        assert_eq!((spec.init_containers.unwrap().len(), spec.volumes.unwrap().len()), (1, 1));
    }

    #[test]
    fn pods_that_do_not_ask_and_pasted_sidecars_stay_as_they_are() {
        let mut other = pod(json!({"containers": [{"name": "app"}]}));
        other.labels_mut().clear();
        assert_eq!(decide(&other, "x"), Decision::Skip);
        let pasted = pod(json!({
            "initContainers": [{"name": SIDECAR, "restartPolicy": "Always"}], "containers": [{"name": "app"}],
        }));
        assert_eq!(decide(&pasted, "x"), Decision::Skip);
    }

    #[test]
    fn refusals_say_what_is_in_the_way_and_what_to_do() {
        let refused = |spec: Value| match decide(&pod(spec), "x") {
            Decision::Refuse(reason) => reason,
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
        assert!(matches!(decide(&unnamed, "x"), Decision::Refuse(reason) if reason.contains("HeliosClient")));
    }
}
