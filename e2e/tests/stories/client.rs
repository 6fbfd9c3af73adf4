//! A HeliosClient in another namespace: its Secret works inside its prefix and is refused outside; a rotation keeps an open
//! connection, and the deletion refuses the user.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, ensure};
use helios_e2e::cluster::{Cluster, PATIENCE, eventually};
use helios_e2e::forward::Forward;
use helios_e2e::kubectl::Kubectl;
use helios_e2e::story::Story;
use serde_json::{Value, json};

const NAME: &str = "cart";

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    let watch = cluster.watch()?;
    let namespace = format!("{}-shop", story.kubectl.namespace);
    story
        .kubectl
        .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))?;
    let shop = Kubectl::new(&namespace);
    shop.apply(&client(&cluster, &story.kubectl.namespace))?;
    shop.wait(
        &format!("hcl/{NAME}"),
        "jsonpath={.status.conditions[?(@.type==\"Granted\")].reason}=NamespaceNotAllowed",
        PATIENCE,
    )?;
    cluster.change(json!({"clients": {"allow": [{"namespaces": [namespace], "prefixes": ["shop:"]}]}}))?;
    shop.wait(&format!("hcl/{NAME}"), "condition=Ready", PATIENCE)?;
    let first = secret(&shop)?;
    ensure!(first["user"] == format!("{namespace}.{NAME}"), "the user is {}", first["user"]);
    user_is_limited_to_its_prefix(story, &first)?;
    ensure!(watch.created().is_empty(), "members were restarted: {:?}", watch.created());
    story.part_without_failure("a user for an application", &writer)?;
    rotation_keeps_connections(story, &shop, &first)?;
    story.nothing_is_lost(writer)?;

    let last = secret(&shop)?;
    shop.run(&["delete", &format!("hcl/{NAME}")])?;
    eventually(PATIENCE, || {
        let said = redis_cli(story, &last, &["GET", "shop:a"])?;
        ensure!(said.contains("WRONGPASS"), "the user still exists: {said:?}");
        Ok(())
    })?;
    eventually(PATIENCE, || {
        let left: Vec<Value> = shop.list("secrets", "heliosdb.io/client")?;
        ensure!(left.is_empty(), "its Secret is still there");
        Ok(())
    })?;
    story.kubectl.run(&["delete", "namespace", &namespace, "--wait=false"])?;
    Ok(())
}

fn client(cluster: &Cluster, namespace: &str) -> Value {
    json!({
        "apiVersion": "heliosdb.io/v1alpha1", "kind": "HeliosClient", "metadata": {"name": NAME},
        "spec": {"cluster": {"name": cluster.name, "namespace": namespace}, "prefixes": ["shop:"]},
    })
}

fn user_is_limited_to_its_prefix(story: &Story, secret: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for (words, expected) in [
        (&["SET", "shop:a", "1"][..], "OK"),
        (&["GET", "shop:a"], "1"),
        (&["GET", "other"], "NOPERM"),
        (&["SET", "other", "1"], "NOPERM"),
        (&["KEYS", "*"], "NOPERM"),
        (&["DBSIZE"], "NOPERM"),
        (&["EVAL", "return redis.call('get', 'other')", "0"], "NOPERM"),
    ] {
        let said = redis_cli(story, secret, words)?;
        ensure!(said.contains(expected), "{words:?} was answered with {said:?}");
    }
    Ok(())
}

/// The Secret is deleted, which makes another password, and the interval is then so short that it is rotated.
fn rotation_keeps_connections(
    story: &Story,
    shop: &Kubectl,
    first: &BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let open = Forward::to(&story.kubectl, "service/demo", 6379)?;
    let (_, port) = open
        .address()
        .rsplit_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .context("a port")?;
    let url = format!("redis://{}:{}@127.0.0.1:{port}", first["user"], first["password"]);
    let mut connection = redis::Client::open(url)?.get_connection()?;
    let rotation = json!({"spec": {"passwordRotation": {"interval": "1m", "overlap": "10m"}}}).to_string();
    shop.run(&["patch", &format!("hcl/{NAME}"), "--type=merge", "-p", &rotation])?;
    let second = eventually(PATIENCE, || {
        let found = secret(shop)?;
        ensure!(found["password"] != first["password"], "it is still the first password");
        Ok(found)
    })?;
    for secret in [first, &second] {
        let said = redis_cli(story, secret, &["GET", "shop:a"])?;
        ensure!(said.trim() == "1", "within the overlap the user of {} gets {said:?}", secret["user"]);
    }
    let value: String = redis::cmd("GET").arg("shop:a").query(&mut connection)?;
    ensure!(value == "1", "the open connection reads {value:?}");
    Ok(())
}

fn secret(shop: &Kubectl) -> anyhow::Result<BTreeMap<String, String>> {
    let found: k8s_openapi::api::core::v1::Secret = shop.get(&format!("secret/{NAME}-helios"))?;
    let text = |(name, bytes): (String, k8s_openapi::ByteString)| Ok((name, String::from_utf8(bytes.0)?));
    let found: BTreeMap<_, _> =
        found.data.unwrap_or_default().into_iter().map(text).collect::<anyhow::Result<_>>()?;
    ensure!(found.contains_key("password"), "the Secret has no password yet");
    Ok(found)
}

/// Returns the output of redis-cli through the Service, errors included.
fn redis_cli(story: &Story, secret: &BTreeMap<String, String>, words: &[&str]) -> anyhow::Result<String> {
    let forward = Forward::to(&story.kubectl, "service/demo", 6379)?;
    let address = forward.address();
    let (_, port) = address.rsplit_once(':').context("an address has a port")?;
    let credentials = ["--no-auth-warning", "-p", port, "--user", &secret["user"], "-a", &secret["password"]];
    let output = Command::new("redis-cli").args(credentials).args(words).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}
