//! The sidecars of pods, by their pods, their HeliosClients and their metrics. Pure.

use std::collections::BTreeMap;

use helios_crds::{HeliosClient, REPLICA_FLAG, SIDECAR, SidecarMode, client_of_secret};
use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use kube::ResourceExt;
use serde::Serialize;

use crate::table::table;

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarView {
    pub namespace: String,
    pub pod: String,
    /// HeliosClient whose Secret the sidecar uses.
    pub client: String,
    /// Mode by the arguments of its container.
    pub mode: SidecarMode,
    pub ready: bool,
    pub restarts: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
    /// Difference to the HeliosClient, or the reason why there are no figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Figures from the metrics of a sidecar.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    pub since_contact_seconds: f64,
    /// In mode Replica: `disconnected`, `loading`, `following` or `over_memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// How old the state may be; absent: there is none, or its age is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staleness_seconds: Option<f64>,
    pub local_reads: u64,
    pub forwarded: u64,
}

/// Names and namespaces of HeliosClients, with the mode that new sidecars of them have.
pub type Modes = BTreeMap<(String, String), SidecarMode>;

pub fn modes(clients: &[HeliosClient]) -> Modes {
    let named = |client: &HeliosClient| (client.namespace().unwrap_or_default(), client.name_any());
    clients.iter().map(|client| (named(client), client.spec.mode)).collect()
}

/// Returns the sidecar of a pod that runs or starts, injected or pasted; `None` if it has none.
pub fn view(pod: &Pod, modes: Option<&Modes>) -> Option<SidecarView> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref());
    if matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed")) {
        return None;
    }
    let is_ours = |container: &&Container| container.name == SIDECAR;
    let container = spec.init_containers.iter().flatten().chain(&spec.containers).find(is_ours)?;
    let volume = spec.volumes.iter().flatten().find(|volume| volume.name == SIDECAR);
    let secret = volume.and_then(secret_of).unwrap_or_default();
    let client = client_of_secret(secret).unwrap_or_default().to_owned();
    let is_replica = container.args.iter().flatten().any(|argument| argument == REPLICA_FLAG);
    let mode = if is_replica { SidecarMode::Replica } else { SidecarMode::Proxy };
    let namespace = pod.namespace().unwrap_or_default();
    let wanted = modes.map(|modes| modes.get(&(namespace.clone(), client.clone())).copied());
    let note = match wanted {
        Some(None) => Some("no such HeliosClient".to_owned()),
        Some(Some(wanted)) if wanted != mode => Some(format!("a new pod has mode {wanted:?}")),
        _ => None,
    };
    let statuses = status
        .into_iter()
        .flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses));
    let state = statuses.flatten().find(|status| status.name == SIDECAR);
    Some(SidecarView {
        namespace,
        pod: pod.name_any(),
        client,
        mode,
        ready: state.is_some_and(|state| state.ready),
        restarts: state.map_or(0, |state| state.restart_count),
        figures: None,
        note,
    })
}

/// Returns the name of the Secret; sidecars of earlier releases have it as the volume.
fn secret_of(volume: &Volume) -> Option<&str> {
    let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    let mut names = projected.filter_map(|source| Some(source.secret.as_ref()?.name.as_str()));
    names.next().or_else(|| volume.secret.as_ref()?.secret_name.as_deref())
}

/// Reads the figures from the metrics of a sidecar; `None` if they are not those of one.
pub fn figures(metrics: &str) -> Option<Figures> {
    let samples = || {
        let lines = metrics.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.strip_prefix("helios_sidecar_")?.rsplit_once(' '))
    };
    let one = |wanted: &str| samples().find(|(name, _)| *name == wanted).map(|(_, value)| value);
    let seconds = |name: &str| one(name)?.parse::<f64>().ok();
    let phase = samples().filter(|(_, value)| *value == "1").find_map(|(name, _)| {
        Some(name.strip_prefix("replica_phase{phase=\"")?.strip_suffix("\"}")?.to_owned())
    });
    let forwarded = samples().filter(|(name, _)| name.starts_with("forwarded_total{"));
    Some(Figures {
        since_contact_seconds: seconds("since_contact_seconds")?,
        phase,
        staleness_seconds: seconds("staleness_seconds").filter(|age| *age >= 0.0),
        local_reads: one("local_reads_total").and_then(|value| value.parse().ok()).unwrap_or_default(),
        forwarded: forwarded.filter_map(|(_, value)| value.parse::<u64>().ok()).sum(),
    })
}

/// Sorts by namespace, HeliosClient and pod.
pub fn sort(sidecars: &mut [SidecarView]) {
    sidecars.sort_by(|a, b| (&a.namespace, &a.client, &a.pod).cmp(&(&b.namespace, &b.client, &b.pod)));
}

pub fn text(sidecars: &[SidecarView], has_namespaces: bool) -> String {
    if sidecars.is_empty() {
        return "no pod has a sidecar; docs/guide/sidecar.md shows how to inject one\n".to_owned();
    }
    let rows: Vec<_> = sidecars.iter().map(|sidecar| row(sidecar, has_namespaces)).collect();
    let headers =
        ["NAMESPACE", "CLIENT", "POD", "MODE", "READY", "RESTARTS", "STATE", "AGE OF STATE", "LOCAL", "NOTE"];
    table(headers, &rows)
}

fn row(sidecar: &SidecarView, has_namespaces: bool) -> [String; 10] {
    let figures = sidecar.figures.as_ref();
    let state = figures.map(|figures| match &figures.phase {
        Some(phase) => phase.clone(),
        None if sidecar.ready => "forwarding".to_owned(),
        None => format!("no contact for {:.0} s", figures.since_contact_seconds),
    });
    let age = figures.filter(|figures| figures.phase.is_some()).map(|figures| {
        figures.staleness_seconds.map_or_else(|| "unknown".to_owned(), |age| format!("{:.0} ms", age * 1e3))
    });
    let share = figures.and_then(|figures| {
        let all = figures.local_reads + figures.forwarded;
        (all > 0).then(|| format!("{} %", figures.local_reads * 100 / all))
    });
    [
        if has_namespaces { sidecar.namespace.clone() } else { String::new() },
        sidecar.client.clone(),
        sidecar.pod.clone(),
        format!("{:?}", sidecar.mode),
        if sidecar.ready { "yes" } else { "no" }.to_owned(),
        sidecar.restarts.to_string(),
        state.unwrap_or_default(),
        age.unwrap_or_default(),
        share.unwrap_or_default(),
        sidecar.note.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use helios_crds::{INJECT_LABEL, SidecarSettings, sidecar_container, sidecar_volume};
    use serde_json::{Value, json};

    use super::*;

    const METRICS: &str = "# TYPE helios_sidecar_ready gauge\nhelios_sidecar_ready 1\n\
        helios_sidecar_since_contact_seconds 0.25\nhelios_sidecar_staleness_seconds 0.031\n\
        helios_sidecar_replica_phase{phase=\"loading\"} 0\nhelios_sidecar_replica_phase{phase=\"following\"} 1\n\
        helios_sidecar_local_reads_total 75\nhelios_sidecar_forwarded_total{reason=\"command\"} 20\n\
        helios_sidecar_forwarded_total{reason=\"behind\"} 5\n# EOF\n";

    fn pod(name: &str, settings: SidecarSettings, status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {INJECT_LABEL: "orders"}},
            "spec": {
                "initContainers": [sidecar_container("x", 6379, settings)], "containers": [{"name": "app"}],
                "volumes": [sidecar_volume("orders")],
            },
            "status": status,
        }))
        .unwrap()
    }

    fn state(is_ready: bool) -> Value {
        let sidecar =
            json!({"name": SIDECAR, "ready": is_ready, "restartCount": 2, "image": "x", "imageID": "x"});
        json!({"phase": "Running", "initContainerStatuses": [sidecar]})
    }

    #[test]
    fn sidecars_are_listed_with_their_mode_age_and_share_of_local_reads() {
        let client = HeliosClient::new(
            "orders",
            serde_json::from_value(json!({"cluster": {"name": "demo"}})).unwrap(),
        );
        let client = HeliosClient {
            metadata: kube::core::ObjectMeta {
                namespace: Some("shop".to_owned()),
                ..client.metadata.clone()
            },
            ..client
        };
        let modes = modes(&[client]);
        let replica = SidecarSettings::new(SidecarMode::Replica, None, None).unwrap();
        let mut reader = view(&pod("reader", replica, state(true)), Some(&modes)).unwrap();
        reader.figures = figures(METRICS);
        let other = view(&pod("other", SidecarSettings::Proxy, state(false)), Some(&modes)).unwrap();
        let mut all = [reader, other];
        sort(&mut all);
        assert_eq!(
            text(&all, false),
            "CLIENT   POD      MODE      READY   RESTARTS   STATE       AGE OF STATE   LOCAL   NOTE\n\
             orders   other    Proxy     no      2          -           -              -       -\n\
             orders   reader   Replica   yes     2          following   31 ms          75 %    a new pod has mode Proxy\n"
        );
        assert!(text(&all, true).starts_with("NAMESPACE   CLIENT"));
        let alone = view(&pod("reader", replica, state(true)), Some(&Modes::new())).unwrap();
        assert_eq!(alone.note.as_deref(), Some("no such HeliosClient"));
        assert_eq!(
            view(&pod("reader", replica, state(true)), None).unwrap().note,
            None,
            "they may not be read"
        );
    }

    #[test]
    fn pods_that_are_over_or_have_no_sidecar_are_left_out() {
        assert_eq!(view(&pod("job", SidecarSettings::Proxy, json!({"phase": "Succeeded"})), None), None);
        let plain = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "app"}]}});
        assert_eq!(view(&serde_json::from_value(plain).unwrap(), None), None);
        assert!(text(&[], false).contains("no pod has a sidecar"));
    }

    #[test]
    fn unknown_age_and_foreign_metrics_are_no_figures() {
        let cut = METRICS.replace("staleness_seconds 0.031", "staleness_seconds -1.0");
        assert_eq!(figures(&cut).unwrap().staleness_seconds, None);
        assert_eq!(figures("up 1\n"), None);
    }
}
