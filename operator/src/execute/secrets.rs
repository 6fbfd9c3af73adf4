//! Writes one Secret: certificates, or users.

use helios_crds::{RENEW_CERTIFICATES, Reason};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};

use crate::build::metadata;
use crate::error::Error;
use crate::names::{self, FIELD_MANAGER};
use crate::observe::Snapshot;
use crate::observe::secrets::{self, Secrets, WRITTEN_AT, data};
use crate::plan::{CertificateStep, SecretStep};
use crate::security::certificates::{Data, Write, contents_after};
use crate::security::{Problem, users};
use crate::validate::ValidatedCluster;

/// Executes `step` over what was read as `secrets`; the problem, when it was refused.
///
/// # Errors
/// When the API server does not answer, or another client has written at the same time.
pub async fn write(
    client: &Client,
    cluster: &ValidatedCluster,
    seen: &Snapshot,
    secrets: &Secrets,
    step: SecretStep,
) -> Result<Option<Problem>, Error> {
    let writer = Writer { api: Api::namespaced(client.clone(), &cluster.namespace), cluster, seen, secrets };
    tracing::info!(cluster = cluster.name, namespace = cluster.namespace, step = step.name(), "secret");
    match step {
        SecretStep::Certificates(step) => writer.certificates(step).await,
        SecretStep::Users => writer.users().await,
    }
}

struct Writer<'a> {
    api: Api<Secret>,
    cluster: &'a ValidatedCluster,
    seen: &'a Snapshot,
    secrets: &'a Secrets,
}

impl Writer<'_> {
    async fn certificates(&self, step: CertificateStep) -> Result<Option<Problem>, Error> {
        let Some(existing) = &self.seen.security.certificates else { return Ok(None) };
        let cluster = &self.cluster.name;
        let refused = match contents_after(step, existing, &self.secrets.names, self.seen.now) {
            Err(error) => {
                return Ok(Some(Problem::blocking(Reason::CertificateInvalid, error.to_string())));
            }
            Ok(Write::Authority(data)) => {
                let found = self.secrets.authority.clone();
                self.replace(&names::authority_secret(cluster), found, data, |_| {}).await?
            }
            Ok(Write::Leaf(data)) => {
                let found = self.secrets.leaf.clone();
                let annotate = |secret: &mut Secret| self.annotate(secret);
                self.replace(&names::peer_tls_secret(cluster), found, data, annotate).await?
            }
        };
        // A certificate that works for a while yet is better than none.
        Ok(refused.map(|problem| Problem { blocks: existing.leaf.is_none(), ..problem }))
    }

    /// Time and renewal request that the certificate was issued for.
    fn annotate(&self, secret: &mut Secret) {
        let annotations = secret.annotations_mut();
        annotations.insert(WRITTEN_AT.to_owned(), self.seen.now.to_string());
        match self.seen.security.renewal_request.clone() {
            Some(request) => annotations.insert(RENEW_CERTIFICATES.to_owned(), request),
            None => annotations.remove(RENEW_CERTIFICATES),
        };
    }

    async fn users(&self) -> Result<Option<Problem>, Error> {
        let name = names::auth_secret(&self.cluster.name);
        let found = self.secrets.users.clone();
        let held = found.as_ref().map(data).unwrap_or_default();
        // Drawn beforehand, so that a failure is one of drawing.
        let mut drawn = match (0..3).map(|_| users::draw()).collect::<Result<Vec<_>, _>>() {
            Ok(drawn) => drawn,
            Err(why) => return Ok(Some(Problem::blocking(Reason::SecretsRefused, why))),
        };
        let wanted = users::complete(&held, &self.secrets.needed, || drawn.pop().unwrap_or_default());
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(why) => {
                return Ok(Some(Problem::warning(Reason::AuthInvalid, format!("Secret {name}: {why}"))));
            }
        };
        let exists = found.is_some();
        let refused = self.replace(&name, found, wanted, |_| {}).await?;
        // Members continue with the users that they have.
        Ok(refused.map(|problem| Problem { blocks: !exists, ..problem }))
    }

    /// Replaces only what was read, so that two operators cannot undo each other's writes.
    async fn replace(
        &self,
        name: &str,
        found: Option<Secret>,
        data: Data,
        annotate: impl FnOnce(&mut Secret),
    ) -> Result<Option<Problem>, Error> {
        let exists = found.is_some();
        let mut secret = found.unwrap_or_else(|| Secret {
            metadata: metadata(self.cluster, name.to_owned()),
            ..Secret::default()
        });
        secret.labels_mut().extend(names::labels(&self.cluster.name));
        // A Secret that a user handed over by its labels has no owner yet.
        let owner = &self.cluster.owner;
        if secret.owner_references().iter().all(|other| other.uid != owner.uid) {
            secret.owner_references_mut().push(owner.clone());
        }
        let held = secret.data.get_or_insert_default();
        // The operator writes text only: other entries were written by others.
        held.retain(|_, value| std::str::from_utf8(&value.0).is_err());
        held.extend(data.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
        annotate(&mut secret);
        match put(&self.api, exists, &secret).await {
            Ok(_) => Ok(None),
            Err(error) => secrets::refused(if exists { "update" } else { "create" }, name, error).map(Some),
        }
    }
}

/// Creates a Secret, or replaces the version that was read, so that the write of another client is not overwritten.
///
/// # Errors
/// The API server refused it or does not answer, or another client has written at the same time.
pub async fn put(api: &Api<Secret>, exists: bool, secret: &Secret) -> kube::Result<Secret> {
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match exists {
        true => api.replace(&secret.name_any(), &params, secret).await,
        false => api.create(&params, secret).await,
    }
}
