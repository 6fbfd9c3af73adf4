//! One reconcile of all HeliosClients of a cluster: reads, plans, and writes Secrets, the list of users, and statuses.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use helios_crds::ConditionStatus::{False, Unknown};
use helios_crds::{HAS_CLIENTS_LABEL, HeliosClient, HeliosClientStatus, HeliosCluster, Reason};
use helios_proto::tls::ClientTls;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{self, Secret};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use super::grant::{Namespace, grant};
use super::password::Passwords;
use super::plan::{List, Member, Outcome, Seen, plan};
use super::secret::{passwords, secret};
use crate::apply::is_gone;
use crate::error::Error;
use crate::execute::secrets::put;
use crate::names::{self, FIELD_MANAGER, Key};
use crate::observe::secrets::{self, data, refused};
use crate::ownership::{self, Owner};
use crate::security::users::{ClientLine, Needed, USERS, clients_of, draw, list_digest, with_clients};
use crate::validate::spec_in_force;

/// Pause while members reload the list of users.
const WHILE_WAITING: Duration = Duration::from_secs(5);
/// Pause until a user has changed the cluster.
const WHILE_UNSUITED: Duration = Duration::from_secs(30);
/// Longest pause: labels of namespaces, and Secrets that a user deletes, are not watched.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// Requests to the API server at the same time.
const CONCURRENCY: usize = 8;

/// The cluster, as a reconcile needs it.
struct Cluster {
    resource: HeliosCluster,
    /// Secret with the list of users.
    users: Secret,
    list: String,
    lines: Vec<ClientLine>,
    /// Names of the users that are not of HeliosClients.
    others: Vec<String>,
    needed: Needed,
    tls: Option<ClientTls>,
}

/// Reconciles `clients`, all HeliosClients of the cluster `key`, as of `now`; returns when to do so again. `members` asks
/// the members which list of users they use.
///
/// # Errors
/// When the API server does not answer, or another client has changed the list of users at the same time.
pub async fn reconcile(
    client: &Client,
    key: &Key,
    clients: &[Arc<HeliosClient>],
    now: Timestamp,
    members: impl AsyncFn(&Key, Option<&ClientTls>) -> Result<Vec<Member>, Error>,
) -> Result<Option<Duration>, Error> {
    let mut clients: Vec<_> =
        clients.iter().filter(|it| it.metadata.deletion_timestamp.is_none()).cloned().collect();
    clients.sort_by_key(|it| (it.creation_timestamp().map(|time| time.0), it.namespace(), it.name_any()));
    let cluster = match find_cluster(client, key, now).await? {
        Ok(cluster) => cluster,
        Err((is_refused, reason, message)) => {
            for resource in &clients {
                let waits = Outcome::waits(None, reason, message.clone());
                let status = if is_refused { False } else { Unknown };
                let outcome = Outcome { granted: (status, reason, message.clone()), ..waits };
                write_status(client, resource, &outcome.status(resource, None, now)).await?;
            }
            return Ok(
                (!clients.is_empty()).then(|| if is_refused { LONGEST_PAUSE } else { pause_after(reason) })
            );
        }
    };
    let lines = &cluster.lines;
    if clients.is_empty() && lines.is_empty() {
        return Ok(None);
    }
    let read =
        stream::iter(clients.iter().cloned().map(|resource| read(client, &cluster.resource, resource)));
    let read: Vec<_> = read.buffered(CONCURRENCY).collect().await;
    let read = read.into_iter().collect::<Result<Vec<_>, _>>()?;
    let seen: Vec<_> = read
        .iter()
        .map(|read| Seen {
            client: &read.client,
            granted: read.granted.clone(),
            passwords: passwords(&read.client, read.secret.as_ref()),
        })
        .collect();
    let list = List { lines, others: &cluster.others, digest: list_digest(&cluster.list) };
    let members = members(key, cluster.tls.as_ref()).await?;
    let mut outcomes = plan(&seen, &list, &members, now, draw);

    // Secrets before the list: a password that only members know is of use to nobody.
    let held: Vec<_> = seen.iter().map(|seen| seen.passwords.clone().ok()).collect();
    let writes = read.iter().zip(&outcomes).zip(&held).map(|((read, outcome), held)| {
        let wanted =
            outcome.passwords.clone().or_else(|| held.clone()).filter(|_| outcome.rotation.is_some());
        write_secret(client, read, wanted, &cluster.needed)
    });
    let written: Vec<_> = stream::iter(writes).buffered(CONCURRENCY).collect().await;
    for (outcome, written) in outcomes.iter_mut().zip(&written) {
        if let Err((reason, message)) = written {
            let old = outcome.line.as_ref().and_then(|line| lines.iter().find(|old| old.name == line.name));
            *outcome = Outcome::waits(old.cloned(), *reason, message.clone());
        }
    }
    let wanted: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.line.clone()).collect();
    let is_changed = wanted != *lines;
    if is_changed {
        write_list(client, key, &cluster, wanted).await?;
    }
    for ((read, outcome), written) in read.iter().zip(&outcomes).zip(&written) {
        let held = written.as_ref().ok().and_then(Option::as_ref);
        write_status(client, &read.client, &outcome.status(&read.client, held, now)).await?;
    }
    if clients.is_empty() {
        return Ok(None);
    }
    if is_changed || outcomes.iter().any(|outcome| outcome.is_waiting) {
        return Ok(Some(WHILE_WAITING));
    }
    let unsuited = outcomes.iter().map(|outcome| outcome.ready.1);
    let unsuited =
        unsuited.filter(|reason| [Reason::ClusterNotReady, Reason::MembersTooOld].contains(reason));
    if let Some(pause) = unsuited.map(pause_after).min() {
        return Ok(Some(pause));
    }
    let due = outcomes.iter().filter_map(|outcome| outcome.due).min();
    let due = due.map(|due| due.duration_since(now).max(SignedDuration::from_secs(1)).unsigned_abs());
    Ok(Some(due.unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE)))
}

/// Pause while the cluster or its members are not as HeliosClients need them. One that is created is ready soon.
fn pause_after(reason: Reason) -> Duration {
    if reason == Reason::ClusterNotReady { WHILE_WAITING } else { WHILE_UNSUITED }
}

/// The cluster, or why its HeliosClients have no users, and whether that is a refusal.
async fn find_cluster(
    client: &Client,
    key: &Key,
    now: Timestamp,
) -> Result<Result<Cluster, (bool, Reason, String)>, Error> {
    let Key { namespace, name } = key;
    let api = Api::<HeliosCluster>::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await.map_err(Error::kube("read HeliosCluster", name))?;
    let Some(resource) = found.filter(|cluster| cluster.metadata.deletion_timestamp.is_none()) else {
        let message = format!(
            "there is no HeliosCluster {name} in namespace {namespace}; create it, or correct spec.cluster"
        );
        return Ok(Err((true, Reason::ClusterNotFound, message)));
    };
    if resource.spec.paused {
        let message = format!("HeliosCluster {namespace}/{name} is paused; set its spec.paused to false");
        return Ok(Err((false, Reason::Paused, message)));
    }
    let owner = resource.controller_owner_ref(&()).ok_or(Error::Incomplete("uid"))?;
    let sets = Api::<StatefulSet>::namespaced(client.clone(), namespace);
    let live = sets.get_opt(name).await.map_err(Error::kube("read StatefulSet", name))?;
    let live = live.filter(|set| ownership::owner(&set.metadata, &owner) == Owner::Us);
    let (spec, _) = spec_in_force(&resource, live.as_ref());
    if !spec.auth.enabled {
        let message = format!(
            "HeliosCluster {namespace}/{name} has no users, so every client has all rights; set its spec.auth.enabled to true, which restarts its members"
        );
        return Ok(Err((true, Reason::AuthDisabled, message)));
    }
    let read = secrets::secrets(client, &resource, &spec, &owner, now).await?;
    let list = read.secrets.users.as_ref().and_then(|users| data(users).remove(USERS));
    let (Some(users), Some(list)) = (read.secrets.users, list) else {
        let message = format!("HeliosCluster {namespace}/{name} has no Secret with users yet");
        return Ok(Err((false, Reason::ClusterNotReady, message)));
    };
    Ok(match clients_of(&list) {
        Ok((lines, others)) => {
            Ok(Cluster { resource, users, list, lines, others, needed: read.secrets.needed, tls: read.tls })
        }
        Err(why) => Err((
            false,
            Reason::AuthInvalid,
            format!("Secret {} in {namespace}: {why}", names::auth_secret(name)),
        )),
    })
}

struct Read {
    client: Arc<HeliosClient>,
    granted: Result<super::grant::Rights, (Reason, String)>,
    secret: Option<Secret>,
}

async fn read(client: &Client, cluster: &HeliosCluster, resource: Arc<HeliosClient>) -> Result<Read, Error> {
    let namespace = resource.namespace().ok_or(Error::Incomplete("namespace"))?;
    let has_selector =
        cluster.spec.clients.iter().flat_map(|it| &it.allow).any(|entry| entry.namespace_selector.is_some());
    let labels = match has_selector {
        true => labels(client, &namespace).await?,
        false => None,
    };
    let granted = grant(cluster, &resource.spec, &Namespace { name: namespace.clone(), labels });
    let name = helios_crds::client_secret(&resource.name_any());
    let api = Api::<Secret>::namespaced(client.clone(), &namespace);
    let secret = api.get_opt(&name).await.map_err(Error::kube("read Secret", name))?;
    Ok(Read { client: resource, granted, secret })
}

/// Labels of a namespace; `None`: they may not be read, as by an operator that is limited to namespaces.
async fn labels(
    client: &Client,
    namespace: &str,
) -> Result<Option<std::collections::BTreeMap<String, String>>, Error> {
    match Api::<v1::Namespace>::all(client.clone()).get_metadata(namespace).await {
        Ok(found) => Ok(Some(found.labels().clone())),
        Err(kube::Error::Api(answer)) if [403, 404].contains(&answer.code) => Ok(None),
        Err(error) => Err(Error::kube("read namespace", namespace)(error)),
    }
}

/// Writes the Secret of a HeliosClient if it differs; returns the passwords that it has now. A refusal concerns this
/// HeliosClient only.
async fn write_secret(
    client: &Client,
    read: &Read,
    wanted: Option<Passwords>,
    needed: &Needed,
) -> Result<Option<Passwords>, (Reason, String)> {
    let Some(wanted) = wanted else { return Ok(None) };
    let Some(secret) = secret(&read.client, read.secret.as_ref(), &wanted, needed) else {
        return Ok(Some(wanted));
    };
    let (name, namespace) = (secret.name_any(), secret.namespace().unwrap_or_default());
    let api = Api::<Secret>::namespaced(client.clone(), &namespace);
    match put(&api, read.secret.is_some(), &secret).await {
        Ok(_) => Ok(Some(wanted)),
        Err(error) => {
            let action = if read.secret.is_some() { "update" } else { "create" };
            Err(match refused(action, &name, error) {
                Ok(problem) => (problem.reason, problem.message),
                Err(error) => (Reason::ClusterNotReady, error.to_string()),
            })
        }
    }
}

/// Writes the list once for all HeliosClients, over what was read.
async fn write_list(
    client: &Client,
    key: &Key,
    cluster: &Cluster,
    lines: Vec<ClientLine>,
) -> Result<(), Error> {
    let name = names::auth_secret(&key.name);
    let count = lines.len();
    let list = with_clients(&cluster.list, lines).map_err(|message| Error::Refused {
        member: format!("Secret {name}"),
        action: "take the list of users",
        code: helios_proto::v1::ErrorCode::Internal,
        message,
    })?;
    let mut secret = cluster.users.clone();
    secret.data.get_or_insert_default().insert(USERS.to_owned(), ByteString(list.into_bytes()));
    match count {
        0 => _ = secret.labels_mut().remove(HAS_CLIENTS_LABEL),
        _ => _ = secret.labels_mut().insert(HAS_CLIENTS_LABEL.to_owned(), "true".to_owned()),
    }
    let api = Api::<Secret>::namespaced(client.clone(), &key.namespace);
    put(&api, true, &secret).await.map_err(Error::kube("update Secret", &name))?;
    tracing::info!(
        cluster = key.name,
        namespace = key.namespace,
        clients = count,
        "users of HeliosClients written"
    );
    Ok(())
}

async fn write_status(
    client: &Client,
    resource: &HeliosClient,
    status: &HeliosClientStatus,
) -> Result<(), Error> {
    if resource.status.as_ref() == Some(status) {
        return Ok(());
    }
    let name = resource.name_any();
    // By UID alone: nobody else writes the status, and the resource may have been read before the last one.
    let patch = json!({
        "apiVersion": HeliosClient::api_version(&()),
        "kind": HeliosClient::kind(&()),
        "metadata": {"name": name, "uid": resource.uid()},
        "status": status,
    });
    let api = Api::<HeliosClient>::namespaced(client.clone(), &resource.namespace().unwrap_or_default());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&name, &params, &Patch::Apply(patch)).await {
        Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(()),
        Err(error) if !is_gone(&error) => Err(Error::kube("write status of HeliosClient", &name)(error)),
        _ => Ok(()),
    }
}
