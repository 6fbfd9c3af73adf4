//! Each port rejects foreign clients and accepts authorized ones; certificates and the password are changed
//! while clients write, without a restart.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use helios_e2e::cluster::{Cluster, PATIENCE, auth_secret, eventually};
use helios_e2e::forward::Forward;
use helios_e2e::story::Story;
use helios_proto::tls::{self, ClientTls};
use helios_proto::v1::StatusRequest;
use helios_proto::v1::cluster_client::ClusterClient;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(5);
const RENEW: &str = "heliosdb.io/renew-certificates";

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({}))?;
    let other = story.cluster_named("other", json!({"replicas": 1}))?;
    let writer = story.writer(&cluster)?;
    peer_port_requires_the_clusters_certificate(story, &cluster, &other)?;
    client_port_requires_the_password(story, &cluster)?;
    gateway_requires_the_token(story, &cluster)?;
    let policy: Value = story.kubectl.get("networkpolicy/demo")?;
    ensure!(policy["spec"]["podSelector"]["matchLabels"]["heliosdb.io/cluster"] == "demo", "{policy}");
    story.part_without_failure("foreign clients at all ports", &writer)?;

    let before = cluster.leader()?;
    let watch = cluster.watch()?;
    renewed(story, &cluster, "a deleted certificate is in use everywhere", |story| {
        story.kubectl.run(&["delete", "secret", "demo-peer-tls"])?;
        Ok(())
    })?;
    renewed(story, &cluster, "a renewed certificate is in use everywhere", |story| {
        story.kubectl.run(&["annotate", "hc/demo", &format!("{RENEW}=1")])?;
        Ok(())
    })?;
    ensure!(watch.created().is_empty(), "pods were replaced: {:?}", watch.created());
    ensure!(cluster.leader()? == before, "leader and term were {before:?}, and are {:?}", cluster.leader()?);
    story.part_without_failure("certificate renewed twice", &writer)?;
    story.nothing_is_lost(writer)?;
    changed_password_is_reloaded(story, &cluster)
}

fn peer_port_requires_the_clusters_certificate(
    story: &Story,
    cluster: &Cluster,
    other: &Cluster,
) -> anyhow::Result<()> {
    let mine = cluster.secret("demo-peer-tls")?;
    let theirs = other.secret("other-peer-tls")?;
    let part = |secret: &std::collections::BTreeMap<String, String>, key: &str| {
        secret.get(key).cloned().with_context(|| format!("no {key} in the Secret"))
    };
    let ca = part(&mine, "ca.crt")?;
    let stranger = (part(&theirs, "tls.crt")?, part(&theirs, "tls.key")?);
    let foreign = ClientTls::from_pem(ca.as_bytes(), Some((stranger.0.as_bytes(), stranger.1.as_bytes())))?;
    let anonymous = ClientTls::from_pem(ca.as_bytes(), None)?;
    let member = cluster.identity()?.context("a member has a certificate")?;
    ask_member(story, Some(&member)).context("with the members' certificate")?;
    for (who, tls) in [
        ("without TLS", None),
        ("without a certificate", Some(&anonymous)),
        ("of another cluster", Some(&foreign)),
    ] {
        let refusal = ask_member(story, tls).err().with_context(|| format!("a client {who} was let in"))?;
        story.say(&format!("{who}: {refusal:#}"));
    }
    Ok(())
}

/// Requests the status of demo-0, each time by a new port-forward: kubectl ends it when a connection breaks.
fn ask_member(story: &Story, tls: Option<&ClientTls>) -> anyhow::Result<()> {
    let forward = Forward::to(&story.kubectl, "pod/demo-0", 7000)?;
    let name = format!("demo-0.demo-peers.{}.svc", story.kubectl.namespace);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let channel = tls::connect(&forward.address(), &name, tls, TIMEOUT, TIMEOUT).await?;
        let answer = ClusterClient::new(channel).status(StatusRequest {}).await;
        answer.map(drop).map_err(|status| anyhow::anyhow!(status.message().to_owned()))
    })
}

fn client_port_requires_the_password(story: &Story, cluster: &Cluster) -> anyhow::Result<()> {
    let password = cluster.secret(&auth_secret("demo"))?.remove("password").context("a password")?;
    let right = redis_cli(story, &["-a", &password, "PING"])?;
    ensure!(right.trim() == "PONG", "the right password was answered with {right:?}");
    for (arguments, word) in [(vec!["PING"], "NOAUTH"), (vec!["-a", "wrong", "PING"], "WRONGPASS")] {
        let said = redis_cli(story, &arguments)?;
        ensure!(said.contains(word) && !said.contains("PONG"), "{arguments:?} was answered with {said:?}");
    }
    Ok(())
}

/// Returns the output of redis-cli through the Service, errors included.
fn redis_cli(story: &Story, arguments: &[&str]) -> anyhow::Result<String> {
    let forward = Forward::to(&story.kubectl, "service/demo", 6379)?;
    let address = forward.address();
    let (_, port) = address.rsplit_once(':').context("an address has a port")?;
    let output =
        Command::new("redis-cli").args(["--no-auth-warning", "-p", port]).args(arguments).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

fn gateway_requires_the_token(story: &Story, cluster: &Cluster) -> anyhow::Result<()> {
    let token = cluster.secret(&auth_secret("demo"))?.remove("token").context("a token")?;
    for (header, code) in [
        (String::new(), "401"),
        (format!("Authorization: Bearer {token}\r\n"), "200"),
        ("Authorization: Bearer x\r\n".to_owned(), "401"),
    ] {
        let answer = http_get(story, &header)?;
        let line = answer.lines().next().unwrap_or_default();
        ensure!(
            line.split(' ').nth(1) == Some(code),
            "{header:?} was answered with {line:?}, and not {code}"
        );
    }
    Ok(())
}

fn http_get(story: &Story, header: &str) -> anyhow::Result<String> {
    let forward = Forward::to(&story.kubectl, "service/demo", 8443)?;
    let mut stream = TcpStream::connect(forward.address())?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /status HTTP/1.1\r\nHost: demo\r\n{header}Connection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Waits until every member has reloaded the certificate that follows from `change`.
fn renewed(
    story: &Story,
    cluster: &Cluster,
    what: &str,
    change: impl FnOnce(&Story) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let certificate = || cluster.secret("demo-peer-tls").map(|mut secret| secret.remove("tls.crt"));
    let old = certificate()?;
    let began = std::time::Instant::now();
    change(story)?;
    let new = eventually(PATIENCE, || {
        let new = certificate()?.context("no certificate")?;
        ensure!(Some(&new) != old.as_ref(), "it is still the old certificate");
        Ok(new)
    })?;
    let expires = tls::not_after(new.as_bytes())?;
    eventually(PATIENCE, || {
        for pod in cluster.pods()?.into_keys() {
            let metrics = story.kubectl.http_get(&pod, 9090, "metrics")?;
            let found = expiry(&metrics).with_context(|| format!("{pod} reports no certificate"))?;
            ensure!(
                found == expires,
                "{pod} shows one that ends at {found}, and the new one ends at {expires}"
            );
        }
        Ok(())
    })?;
    story.took(what, began.elapsed());
    Ok(())
}

fn expiry(metrics: &str) -> Option<i64> {
    let line = metrics.lines().find(|line| {
        line.starts_with("helios_cert_expiry_timestamp_seconds{") && line.contains("\"peer\"")
    })?;
    line.rsplit_once(' ')?.1.trim().parse::<f64>().ok().map(|seconds| seconds as i64)
}

/// A user writes another password into the Secret; without a restart, soon only the new one is accepted.
fn changed_password_is_reloaded(story: &Story, cluster: &Cluster) -> anyhow::Result<()> {
    let old = cluster.secret(&auth_secret("demo"))?.remove("password").context("a password")?;
    let patch = json!({"stringData": {"password": "chosen by the user"}}).to_string();
    story.kubectl.run(&["patch", "secret", "demo-auth", "--patch", &patch])?;
    let began = std::time::Instant::now();
    eventually(PATIENCE, || {
        let (new, old) = (
            redis_cli(story, &["-a", "chosen by the user", "PING"])?,
            redis_cli(story, &["-a", &old, "PING"])?,
        );
        ensure!(new.trim() == "PONG" && old.contains("WRONGPASS"), "new: {new:?}, old: {old:?}");
        Ok(())
    })?;
    story.took("a changed password is reloaded", began.elapsed());
    cluster.await_ready()
}
