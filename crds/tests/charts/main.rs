//! Output of the charts, by the real Helm: a HeliosCluster that the API server accepts, and rights for no more
//! than the operator needs.
#![allow(clippy::unwrap_used)]

mod sidecar;

use std::process::Output;

use helios_crds::{HeliosCluster, HeliosClusterSpec};
use serde_json::{Value, json};

fn helm(arguments: &[&str]) -> Output {
    helios_testing::cluster::run("helm", arguments)
}

fn template(chart: &str, values: &[&str]) -> Result<Vec<Value>, String> {
    render(&format!("helm/{chart}"), values)
}

/// Output of the chart in the directory `chart`, or the error of Helm.
fn render(chart: &str, values: &[&str]) -> Result<Vec<Value>, String> {
    let mut arguments = vec!["template", "demo", chart, "--namespace", "apps"];
    for value in values {
        arguments.extend(["--set-json", value]);
    }
    let output = helm(&arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if !output.status.success() {
        return Err(text(output.stderr));
    }
    let documents = text(output.stdout);
    let documents = documents.split("\n---").filter(|document| document.contains("kind:"));
    Ok(documents
        .map(|document| serde_saphyr::from_str(document.trim_start_matches("---")).unwrap())
        .collect())
}

fn cluster(values: &[&str]) -> HeliosCluster {
    let documents = template("helios-cluster", values).unwrap();
    let found = documents.into_iter().find(|document| document["kind"] == "HeliosCluster").unwrap();
    serde_json::from_value(found).unwrap()
}

#[test]
fn all_charts_pass_the_strict_lint() {
    for chart in ["helm/helios-operator", "helm/helios-cluster", "helm/helios-sidecar"] {
        let output = helm(&["lint", "--strict", chart]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_default_values_are_the_default_cluster() {
    let found = cluster(&[]);
    found.validate_cel().unwrap();
    assert_eq!(found.spec, HeliosClusterSpec::default());
    assert_eq!(
        (found.metadata.name.as_deref(), found.metadata.namespace.as_deref()),
        (Some("demo"), Some("apps"))
    );
}

#[test]
fn every_value_reaches_the_spec_field_of_its_name() {
    let found = cluster(&[
        "replicas=5",
        r#"storage={"size":"1Gi","retain":false}"#,
        r#"raft={"preset":"wan"}"#,
        r#"resources={"requests":{"cpu":1,"memory":"2Gi"}}"#,
        r#"tolerations=[{"key":"db","operator":"Exists"}]"#,
        r#"podDisruptionBudget={"enabled":false}"#,
        "paused=true",
        r#"nameOverride="other""#,
        r#"labels={"team":"a"}"#,
    ]);
    found.validate_cel().unwrap();
    let wanted: HeliosClusterSpec = serde_json::from_value(json!({
        "replicas": 5, "storage": {"size": "1Gi", "retain": false}, "raft": {"preset": "wan"},
        "resources": {"requests": {"cpu": 1, "memory": "2Gi"}},
        "tolerations": [{"key": "db", "operator": "Exists"}],
        "podDisruptionBudget": {"enabled": false}, "paused": true,
    }))
    .unwrap();
    assert_eq!(found.spec, wanted);
    assert_eq!(found.metadata.name.as_deref(), Some("other"));
    assert_eq!(found.metadata.labels.unwrap()["team"], "a");
}

#[test]
fn a_misspelt_or_wrong_value_is_refused_by_its_name() {
    for (mistake, word) in [
        ("replcias=5", "replcias"),
        (r#"storage={"sise":"1Gi"}"#, "sise"),
        (r#"storage={"size":"1 GB"}"#, "storage/size"),
        (r#"raft={"preset":"turbo"}"#, "raft/preset"),
        (r#"updateStrategy={"maxLagEntries":0}"#, "maxLagEntries"),
    ] {
        let refusal = template("helios-cluster", &[mistake]).expect_err(mistake);
        assert!(refusal.contains(word), "{mistake}: {refusal}");
    }
}

/// Kind and namespace of each object that gives rights.
fn rights(values: &[&str]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let documents = template("helios-operator", values).unwrap();
    let roles = documents.iter().filter(|document| text(&document["kind"]).ends_with("Role"));
    roles.map(|role| (text(&role["kind"]), text(&role["metadata"]["namespace"]))).collect()
}

fn watched(values: &[&str]) -> Option<String> {
    let documents = template("helios-operator", values).unwrap();
    let deployment = documents.into_iter().find(|document| document["kind"] == "Deployment").unwrap();
    let arguments =
        deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap().clone();
    arguments.iter().find_map(|argument| Some(argument.as_str()?.strip_prefix("--namespace=")?.to_owned()))
}

#[test]
fn the_operator_has_rights_where_it_watches_and_nowhere_else() {
    let role = |namespace: &str| ("Role".to_owned(), namespace.to_owned());
    let lease = role("apps");
    assert_eq!(rights(&[]), [("ClusterRole".to_owned(), String::new()), lease.clone()]);
    assert_eq!(watched(&[]), None);

    let own = [r#"rbac.scope="namespace""#];
    assert_eq!(rights(&own), [role("apps"), lease.clone()]);
    assert_eq!(watched(&own).as_deref(), Some("apps"));

    let two = [r#"watchNamespaces=["a","b"]"#];
    let mut found = rights(&two);
    found.sort();
    assert_eq!(found, [role("a"), role("apps"), role("b")]);
    assert_eq!(watched(&two).as_deref(), Some("a,b"));
}

#[test]
fn the_operator_may_not_delete_secrets_nor_do_everything() {
    for document in template("helios-operator", &[]).unwrap() {
        for rule in document["rules"].as_array().into_iter().flatten() {
            let text = rule.to_string();
            assert!(!text.contains('*'), "{text}");
            assert!(!text.contains("secrets") || !text.contains("delete"), "{text}");
        }
    }
}

#[test]
fn webhook_is_asked_about_pods_with_the_label_only_and_reads_nothing_but_heliosclients() {
    let none = template("helios-operator", &[]).unwrap();
    assert!(none.iter().all(|document| document["kind"] != "MutatingWebhookConfiguration"));
    let all = template("helios-operator", &[r#"injection={"mode":"webhook"}"#, r#"watchNamespaces=["a"]"#])
        .unwrap();
    let named = |kind: &str| {
        let found = all
            .iter()
            .find(|it| it["kind"] == kind && it["metadata"]["name"].as_str().unwrap().ends_with("-webhook"));
        found.unwrap_or_else(|| panic!("no {kind}"))
    };
    let configuration = named("MutatingWebhookConfiguration");
    let hook = &configuration["webhooks"][0];
    assert_eq!(hook["objectSelector"]["matchExpressions"][0]["key"], helios_crds::INJECT_LABEL);
    assert_eq!(hook["clientConfig"].get("caBundle"), None, "the operator's, not the chart's");
    let namespaces = hook["namespaceSelector"]["matchExpressions"].to_string();
    assert!(namespaces.contains("kube-system") && namespaces.contains(r#"["a"]"#), "{namespaces}");
    let account = &named("Deployment")["spec"]["template"]["spec"]["serviceAccountName"];
    assert_eq!(account, "demo-helios-operator-webhook");
    let is_of_webhook = |binding: &&Value| {
        binding["kind"].as_str().unwrap().ends_with("Binding") && binding["subjects"][0]["name"] == *account
    };
    let bindings: Vec<_> = all.iter().filter(is_of_webhook).collect();
    let [binding] = bindings.as_slice() else { panic!("{bindings:?}") };
    assert_eq!((&binding["kind"], &binding["metadata"]["namespace"]), (&json!("RoleBinding"), &json!("a")));
    let read =
        all.iter().find(|it| it["kind"] == "Role" && it["metadata"]["name"] == binding["roleRef"]["name"]);
    let only = json!([{"apiGroups": ["heliosdb.io"], "resources": ["heliosclients"], "verbs": ["get"]}]);
    assert_eq!(read.unwrap()["rules"], only);
    let role = named("ClusterRole")["rules"].to_string();
    assert!(role.contains(configuration["metadata"]["name"].as_str().unwrap()), "{role}");
    let operator =
        all.iter().find(|it| it["kind"] == "Deployment" && it["metadata"]["name"] == "demo-helios-operator");
    let arguments = operator.unwrap()["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(arguments.contains("--injection-webhook=demo-helios-operator-webhook"), "{arguments}");
    assert!(
        template("helios-operator", &[r#"injection={"mode":"magic"}"#])
            .unwrap_err()
            .contains("injection/mode")
    );
}

#[test]
fn policies_inject_without_a_server_and_without_rights() {
    let policy = [r#"injection={"mode":"policy"}"#, r#"nodeImage={"repository":"registry/heliosd"}"#];
    assert_eq!(rights(&policy), rights(&[]));
    let all = template("helios-operator", &policy).unwrap();
    let deployments: Vec<_> = all.iter().filter(|it| it["kind"] == "Deployment").collect();
    let [operator] = deployments.as_slice() else { panic!("{deployments:?}") };
    let arguments = operator["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(
        arguments.contains("--injection-watchdog") && !arguments.contains("--injection-webhook"),
        "{arguments}"
    );
    let of_kind =
        |kind: &str| all.iter().find(|it| it["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"));
    let mutating = of_kind("MutatingAdmissionPolicy");
    assert!(mutating["spec"]["mutations"].to_string().contains("image: 'registry/heliosd:"), "{mutating}");
    for kind in ["MutatingAdmissionPolicy", "ValidatingAdmissionPolicy"] {
        let (policy, binding) = (of_kind(kind), of_kind(&format!("{kind}Binding")));
        let constraints = &policy["spec"]["matchConstraints"];
        assert_eq!(constraints["objectSelector"]["matchExpressions"][0]["key"], helios_crds::INJECT_LABEL);
        assert!(constraints["namespaceSelector"].to_string().contains("kube-system"), "{constraints}");
        assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    }
    for (kubernetes, version) in [("1.34.0", "v1beta1"), ("1.36.0", "v1")] {
        let chart = "helm/helios-operator";
        let mode = ["--set", "injection.mode=policy", "--kube-version", kubernetes];
        let text = helm(&[&["template", "demo", chart], &mode[..]].concat()).stdout;
        let wanted = format!("admissionregistration.k8s.io/{version}\nkind: MutatingAdmissionPolicy");
        assert_eq!(String::from_utf8(text).unwrap().matches(&wanted).count(), 2, "{kubernetes}");
    }
}

#[test]
fn monitoring_is_there_when_it_is_asked_for_and_points_to_the_runbooks() {
    let of_kind = |documents: &[Value], kind: &str| -> Vec<Value> {
        documents.iter().filter(|document| document["kind"] == kind).cloned().collect()
    };
    let none = template("helios-operator", &[]).unwrap();
    for kind in ["PodMonitor", "PrometheusRule", "ConfigMap"] {
        assert!(of_kind(&none, kind).is_empty(), "{kind} unasked");
    }
    let asked = r#"monitoring={"podMonitors":true,"rules":true,"dashboards":true,"labels":{"release":"prometheus"},"runbooks":"https://git.example.com/"}"#;
    let all = template("helios-operator", &[asked, r#"watchNamespaces=["a","b"]"#]).unwrap();
    let monitors = of_kind(&all, "PodMonitor");
    let nodes =
        monitors.iter().find(|monitor| monitor["metadata"]["name"].as_str().unwrap().ends_with("-nodes"));
    let nodes = nodes.unwrap();
    assert_eq!((monitors.len(), &nodes["metadata"]["labels"]["release"]), (4, &json!("prometheus")));
    assert_eq!(nodes["spec"]["namespaceSelector"], json!({"matchNames": ["a", "b"]}));
    assert_eq!(nodes["spec"]["podMetricsEndpoints"][0]["relabelings"][0]["targetLabel"], "cluster");
    let rules = of_kind(&all, "PrometheusRule").remove(0);
    for rule in rules["spec"]["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
    {
        let page = format!("https://git.example.com/docs/runbooks/{}.md", rule["alert"].as_str().unwrap());
        assert_eq!(rule["annotations"]["runbook_url"], page);
    }
    let dashboards = of_kind(&all, "ConfigMap");
    assert_eq!(dashboards.len(), 3);
    for dashboard in dashboards {
        assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
        let (_, text) = dashboard["data"].as_object().unwrap().iter().next().unwrap();
        serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap();
    }
}

#[test]
fn the_test_pods_are_where_the_password_is_and_tell_it_by_environment_only() {
    for (chart, namespace) in [("helios-operator", "default"), ("helios-cluster", "apps")] {
        let documents = template(chart, &[]).unwrap();
        let pod = documents.into_iter().find(|document| document["kind"] == "Pod").unwrap();
        assert_eq!(pod["metadata"]["namespace"], namespace, "{chart}");
        let secret = &pod["spec"]["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"];
        assert_eq!((&secret["name"], &secret["key"]), (&json!("demo-auth"), &json!("password")), "{chart}");
        assert_eq!(secret["optional"], true, "a cluster without passwords is tested, too");
    }
}
