//! HeliosClients at a real API server: users, their Secrets, rotation under a clock of the test, and deletion.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use helios_crds::{HAS_CLIENTS_LABEL, HeliosClient, HeliosCluster};
use helios_operator::clients::plan::Member;
use helios_operator::clients::reconcile;
use helios_operator::names::Key;
use helios_operator::security::users::{clients_of, hash, list_digest};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};

use super::operator::Operator;
use super::server::Server;
use super::{begin, change, create, create_as, until};

const PATIENCE: Duration = Duration::from_secs(90);
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A cluster without an operator: reconciles are called by the test, at times of its choice.
struct World {
    server: Server,
    now: Timestamp,
    /// Digest of the list that the members use.
    members: String,
}

impl World {
    async fn begin() -> Self {
        let (server, _) = begin().await;
        let client = &server.client;
        create_as(client, "c0", json!({"tls": {"mode": "off"}})).await;
        let cluster = Api::<HeliosCluster>::default_namespaced(client.clone()).get("c0").await.unwrap();
        let users = "users:\n- {name: default, password_sha256: x, role: admin}\n";
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": "c0-auth", "ownerReferences": [cluster.controller_owner_ref(&()).unwrap()]},
            "stringData": {"username": "default", "password": "p", "token": "t", "users.yaml": users},
        }))
        .unwrap();
        secrets(client, "default").create(&PostParams::default(), &secret).await.unwrap();
        let shop: Namespace =
            serde_json::from_value(json!({"metadata": {"name": "shop", "labels": {"team": "shop"}}}))
                .unwrap();
        Api::all(client.clone()).create(&PostParams::default(), &shop).await.unwrap();
        Self { server, now: Timestamp::now(), members: "before".to_owned() }
    }

    fn client(&self) -> &Client {
        &self.server.client
    }

    async fn create(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["cluster"] = json!({"name": "c0", "namespace": "default"});
        let client = HeliosClient::new(name, serde_json::from_value(spec).unwrap());
        clients(self.client()).create(&PostParams::default(), &client).await.unwrap();
    }

    async fn reconcile(&self) {
        let found = clients(self.client()).list(&Default::default()).await.unwrap().items;
        let found: Vec<_> = found.into_iter().map(Arc::new).collect();
        let key = Key { namespace: "default".to_owned(), name: "c0".to_owned() };
        let member = Member { name: "c0-0".to_owned(), is_ready: true, digest: Some(self.members.clone()) };
        let ask = async |_: &Key, _: Option<&helios_proto::tls::ClientTls>| Ok(vec![member.clone()]);
        reconcile(self.client(), &key, &found, self.now, ask).await.unwrap();
    }

    /// Has the members reload the list of users.
    async fn reload(&mut self) {
        self.members =
            list_digest(&entries(self.client(), "default", "c0-auth").await.unwrap()["users.yaml"]);
    }

    /// The Secret of the HeliosClient `cart`.
    async fn secret(&self) -> BTreeMap<String, String> {
        entries(self.client(), "shop", "cart-helios").await.unwrap()
    }

    /// The hashes that members accept for the user of `cart`.
    async fn hashes(&self) -> Vec<String> {
        let list = entries(self.client(), "default", "c0-auth").await.unwrap().remove("users.yaml").unwrap();
        let (lines, others) = clients_of(&list).unwrap();
        assert_eq!(others, ["default"]);
        let line = lines.into_iter().find(|line| line.name == "shop.cart");
        line.into_iter()
            .flat_map(|line| [Some(line.password_sha256), line.previous_password_sha256])
            .flatten()
            .collect()
    }

    /// Status and reason of a condition of `cart`.
    async fn condition(&self, type_: &str) -> (String, String) {
        let status = clients(self.client()).get("cart").await.unwrap().status.unwrap();
        let found = status.conditions.into_iter().find(|condition| condition.type_ == type_).unwrap();
        (found.status, found.reason)
    }
}

fn secrets(client: &Client, namespace: &str) -> Api<Secret> {
    Api::namespaced(client.clone(), namespace)
}

fn clients(client: &Client) -> Api<HeliosClient> {
    Api::namespaced(client.clone(), "shop")
}

async fn entries(client: &Client, namespace: &str, name: &str) -> Option<BTreeMap<String, String>> {
    let secret = secrets(client, namespace).get_opt(name).await.unwrap()?;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Some(secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, text(value.0))).collect())
}

fn found(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn client_gets_a_secret_when_it_is_granted_and_its_password_rotates_with_an_overlap() {
    let mut world = World::begin().await;
    world.create("cart", json!({"prefixes": ["shop:cart:"]})).await;
    world.reconcile().await;
    assert_eq!(world.condition("Granted").await, found("False", "NamespaceNotAllowed"));
    assert_eq!(world.condition("Ready").await, found("False", "NamespaceNotAllowed"));
    assert_eq!((world.hashes().await.len(), entries(world.client(), "shop", "cart-helios").await), (0, None));

    let selector = json!({"matchLabels": {"team": "shop"}});
    change(
        world.client(),
        "c0",
        json!({"clients": {"allow": [{"namespaceSelector": selector, "prefixes": ["shop:"]}]}}),
    )
    .await;
    world.reconcile().await;
    assert_eq!(world.condition("Granted").await, found("True", "Granted"));
    assert_eq!(world.condition("Ready").await, found("False", "MembersNotUpdated"));
    let secret = world.secret().await;
    assert_eq!((secret.get("password"), secret["user"].as_str()), (None, "shop.cart"));
    let first = secret["next-password"].clone();
    assert_eq!(world.hashes().await, [hash(&first)]);
    world.reconcile().await;
    assert!(!world.secret().await.contains_key("password"), "members have an earlier list");
    world.reload().await;
    world.reconcile().await;
    assert_eq!(world.condition("Ready").await, found("True", "UserActive"));
    let secret = world.secret().await;
    assert_eq!(secret["password"], first);
    assert_eq!(secret["uri"], format!("redis://shop.cart:{first}@c0.default.svc:6379"));

    world.now += 30 * DAY;
    world.reconcile().await;
    let second = world.secret().await["next-password"].clone();
    assert_eq!(world.hashes().await, [hash(&second), hash(&first)]);
    assert_eq!(
        (world.secret().await["password"].clone(), world.condition("Ready").await.0.as_str()),
        (first.clone(), "True")
    );
    world.reload().await;
    world.reconcile().await;
    assert_eq!(world.secret().await["password"], second);
    world.now += DAY - SignedDuration::from_secs(60);
    world.reconcile().await;
    assert_eq!(world.hashes().await, [hash(&second), hash(&first)], "within the overlap");
    world.now += SignedDuration::from_secs(120);
    world.reconcile().await;
    assert_eq!(world.hashes().await, [hash(&second)]);

    // A narrower grant, and none.
    change(
        world.client(),
        "c0",
        json!({"clients": {"allow": [{"namespaces": ["shop"], "prefixes": ["other:"]}]}}),
    )
    .await;
    world.reconcile().await;
    assert_eq!(
        (world.condition("Granted").await.1.as_str(), world.hashes().await.len()),
        ("PrefixNotAllowed", 0)
    );
    change(world.client(), "c0", json!({"clients": {"allow": [{"namespaces": ["shop"]}]}})).await;
    world.reconcile().await;
    assert_eq!(world.hashes().await, [hash(&second)]);
    let labelled = secrets(world.client(), "default").get("c0-auth").await.unwrap();
    assert!(labelled.labels().contains_key(HAS_CLIENTS_LABEL));
    clients(world.client()).delete("cart", &DeleteParams::default()).await.unwrap();
    world.reconcile().await;
    let list = entries(world.client(), "default", "c0-auth").await.unwrap().remove("users.yaml").unwrap();
    assert!(!list.contains("clients") && list.contains("default"), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn many_clients_cost_one_write_of_the_list_of_users() {
    const COUNT: usize = 100;
    let mut world = World::begin().await;
    change(world.client(), "c0", json!({"clients": {"allow": [{"namespaceSelector": {}}]}})).await;
    for number in 0..COUNT {
        world.create(&format!("client-{number}"), json!({})).await;
    }
    let api = secrets(world.client(), "default");
    let before = api.get("c0-auth").await.unwrap().resource_version().unwrap();
    world.reconcile().await;
    world.reload().await;
    world.reconcile().await;
    world.reconcile().await;
    let mark = Patch::Merge(json!({"metadata": {"annotations": {"mark": "end"}}}));
    api.patch("c0-auth", &PatchParams::default(), &mark).await.unwrap();
    let params = WatchParams::default().fields("metadata.name=c0-auth");
    let mut changes = api.watch(&params, &before).await.unwrap().boxed();
    let mut writes = 0;
    while let Some(change) = changes.next().await {
        let WatchEvent::Modified(secret) = change.unwrap() else { continue };
        if secret.annotations().contains_key("mark") {
            break;
        }
        writes += 1;
    }
    assert_eq!(writes, 1);
    let all = clients(world.client()).list(&Default::default()).await.unwrap();
    let ready = all.iter().filter(|client| {
        let conditions = &client.status.as_ref().unwrap().conditions;
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    });
    assert_eq!(ready.count(), COUNT);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn operator_serves_a_client_of_the_clusters_namespace_and_removes_its_user_when_it_is_deleted() {
    let (server, nodes) = begin().await;
    let operator = Operator::start(&server, "first");
    let client = &server.client;
    create(client, "c0").await;
    let api = Api::<HeliosClient>::default_namespaced(client.clone());
    let spec = serde_json::from_value(json!({"cluster": {"name": "c0"}, "role": "read-only"})).unwrap();
    api.create(&PostParams::default(), &HeliosClient::new("app", spec)).await.unwrap();
    let reason = async || {
        let status = api.get("app").await.unwrap().status?;
        status.conditions.into_iter().find(|it| it.type_ == "Ready").map(|it| it.reason)
    };
    until("members of an earlier version are reported", PATIENCE, async || {
        reason().await.as_deref() == Some("MembersTooOld")
    })
    .await;
    let reload = async || {
        let Some(mut auth) = entries(client, "default", "c0-auth").await else { return };
        nodes.use_users("c0", list_digest(&auth.remove("users.yaml").unwrap()));
    };
    until("the client is ready", PATIENCE, async || {
        reload().await;
        reason().await.as_deref() == Some("UserActive")
    })
    .await;
    let secret = entries(client, "default", "app-helios").await.unwrap();
    assert!(secret["uri"].starts_with("redis://default.app:"), "{:?}", secret["user"]);
    api.delete("app", &DeleteParams::default()).await.unwrap();
    until("its user is removed", PATIENCE, async || {
        let auth = entries(client, "default", "c0-auth").await.unwrap();
        !auth["users.yaml"].contains("default.app")
    })
    .await;
    drop(operator);
}
