//! Reads the Secrets of a cluster.

use helios_crds::{HeliosCluster, HeliosClusterSpec, RENEW_CERTIFICATES, Reason, TlsMode};
use helios_proto::tls::ClientTls;
use helios_proto::tls::issue::Pair;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, ResourceExt};

use crate::error::Error;
use crate::names::{self, CLIENT_PORT};
use crate::ownership::{self, Owner, Taken};
use crate::security::certificates::{AUTHORITY, CERTIFICATE, Data, Existing, KEY, admin_of};
use crate::security::check::{self, Names};
use crate::security::users::{self, Needed};
use crate::security::{Problem, Security, UsersSecret};

/// Annotation on the members' Secret: when the operator wrote it last.
pub const WRITTEN_AT: &str = "heliosdb.io/written-at";

/// The Secrets that the operator writes, as read: a write replaces only what was read.
pub struct Secrets {
    pub authority: Option<Secret>,
    pub leaf: Option<Secret>,
    pub users: Option<Secret>,
    /// Names that certificates are issued for.
    pub names: Names,
    /// Contents of the Secret of the users.
    pub needed: Needed,
}

pub struct SecretsRead {
    pub secrets: Secrets,
    pub security: Security,
    /// The operator's identity at members; absent without TLS, and without a usable certificate.
    pub tls: Option<ClientTls>,
    /// Secrets of the operator's names that are not of this HeliosCluster. Their contents are ignored.
    pub taken: Vec<Taken>,
}

/// Reads the Secrets that `cluster` needs by `spec`, the one in force.
///
/// # Errors
/// When the API server does not answer. A read that it refuses is a problem in the result.
pub async fn secrets(
    client: &Client,
    cluster: &HeliosCluster,
    spec: &HeliosClusterSpec,
    owner: &OwnerReference,
    now: Timestamp,
) -> Result<SecretsRead, Error> {
    let namespace = cluster.namespace().ok_or(Error::Incomplete("namespace"))?;
    let name = cluster.name_any();
    let [.., read] = names::client_services(&name);
    let mut reader = Reader {
        api: Api::namespaced(client.clone(), &namespace),
        owner,
        now,
        read: SecretsRead {
            secrets: Secrets {
                authority: None,
                leaf: None,
                users: None,
                names: Names {
                    cluster: name.clone(),
                    namespace: namespace.clone(),
                    replicas: u32::try_from(spec.replicas).unwrap_or_default(),
                    for_clients: spec.tls.clients,
                },
                needed: Needed {
                    host: format!("{name}.{namespace}.svc"),
                    port: CLIENT_PORT.unsigned_abs() as u16,
                    read_host: format!("{read}.{namespace}.svc"),
                    authority: None,
                    backup_user: spec.backup.is_some(),
                },
            },
            security: Security {
                renewal_request: cluster.annotations().get(RENEW_CERTIFICATES).cloned(),
                ..Security::default()
            },
            tls: None,
            taken: Vec::new(),
        },
    };
    let shown = match spec.tls.mode {
        TlsMode::Off => Ok(None),
        TlsMode::Auto => reader.issued_certificate().await,
        TlsMode::Secret => reader.supplied_certificate(spec.tls.secret_name.as_deref()).await.map(Some),
    };
    if let Some(shown) = reader.add_problem(shown)?.flatten() {
        if spec.tls.clients {
            reader.read.secrets.needed.authority = Some(shown.bundle.clone());
        }
        reader.use_certificate(&shown);
    }
    if spec.auth.enabled {
        let users = reader.users().await;
        reader.add_problem(users)?;
    }
    Ok(reader.read)
}

/// The certificate that members show, and the authorities that they trust.
struct Shown {
    pair: Pair,
    /// The operator's certificate; `None`: the operator shows the members' certificate.
    admin: Option<Pair>,
    bundle: String,
}

/// Why one of the Secrets cannot be used.
enum Unusable {
    Problem(Problem),
    Taken(Taken),
    Error(Error),
}

struct Reader<'a> {
    api: Api<Secret>,
    owner: &'a OwnerReference,
    now: Timestamp,
    read: SecretsRead,
}

impl Reader<'_> {
    fn add_problem<T>(&mut self, result: Result<T, Unusable>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => return Ok(Some(value)),
            Err(Unusable::Error(error)) => return Err(error),
            Err(Unusable::Problem(problem)) => self.read.security.add_problem(problem),
            Err(Unusable::Taken(taken)) => self.read.taken.push(taken),
        }
        Ok(None)
    }

    fn use_certificate(&mut self, shown: &Shown) {
        let security = &mut self.read.security;
        security.expires = check::validity(&shown.pair.certificate).ok().map(|validity| validity.not_after);
        security.has_admin = shown.admin.is_some();
        // Members of an earlier version accept any certificate of the cluster's authority.
        let pair = shown.admin.as_ref().unwrap_or(&shown.pair);
        let identity = Some((pair.certificate.as_bytes(), pair.key.as_bytes()));
        match ClientTls::from_pem(shown.bundle.as_bytes(), identity) {
            Ok(tls) => self.read.tls = Some(tls),
            Err(error) => security.add_problem(Problem::blocking(
                Reason::CertificateInvalid,
                format!("the members' certificate cannot be used: {error}"),
            )),
        }
    }

    /// The certificate that the operator issues.
    async fn issued_certificate(&mut self) -> Result<Option<Shown>, Unusable> {
        let cluster = self.read.secrets.names.cluster.clone();
        let leaf = self.find_ours(&names::peer_tls_secret(&cluster)).await?;
        let (authority, may_issue) = match self.find_ours(&names::authority_secret(&cluster)).await {
            Ok(authority) => (authority, true),
            // Members keep their certificate. Nothing is signed until the authority is ours.
            Err(Unusable::Taken(taken)) => {
                self.read.taken.push(taken);
                (None, false)
            }
            Err(unusable) => return Err(unusable),
        };
        let existing = self.existing(authority.as_ref(), leaf.as_ref());
        let shown = existing.leaf.clone().map(|leaf| Shown {
            pair: leaf.pair,
            admin: leaf.admin.filter(|_| may_issue),
            bundle: leaf.bundle,
        });
        (self.read.secrets.authority, self.read.secrets.leaf) = (authority, leaf);
        self.read.security.certificates = may_issue.then_some(existing);
        Ok(shown)
    }

    /// The certificate that a user supplies, in a Secret of any owner.
    async fn supplied_certificate(&mut self, name: Option<&str>) -> Result<Shown, Unusable> {
        let name = name.unwrap_or_default();
        let unfit = |why: String| {
            let message = format!("Secret {name} of spec.tls.secretName {why}");
            Problem::blocking(Reason::CertificateInvalid, message)
        };
        let Some(secret) = self.find(name).await? else {
            let why = format!("is missing; create it with {CERTIFICATE}, {KEY} and {AUTHORITY}");
            return Err(Unusable::Problem(unfit(why)));
        };
        let data = data(&secret);
        let part = |key: &str| {
            let missing = || Unusable::Problem(unfit(format!("has no {key} (PEM); add it")));
            data.get(key).cloned().ok_or_else(missing)
        };
        let pair = Pair { certificate: part(CERTIFICATE)?, key: part(KEY)? };
        let bundle = part(AUTHORITY)?;
        if let Err(why) = check::fits(&pair, &bundle, &self.read.secrets.names, self.now) {
            self.read.security.add_problem(unfit(format!("does not fit: {why}")));
        }
        Ok(Shown { pair, admin: admin_of(&data), bundle })
    }

    fn existing(&self, authority: Option<&Secret>, leaf: Option<&Secret>) -> Existing {
        let written = (
            annotation(leaf, WRITTEN_AT).and_then(|text| text.parse().ok()),
            annotation(leaf, RENEW_CERTIFICATES),
        );
        let (held, shown) = (authority.map(data), leaf.map(data));
        Existing::read(held.as_ref(), shown.as_ref(), written, &self.read.secrets.names, self.now)
    }

    async fn users(&mut self) -> Result<(), Unusable> {
        let name = names::auth_secret(&self.read.secrets.names.cluster);
        let found = self.find_ours(&name).await?;
        let held = found.as_ref().map(data).unwrap_or_default();
        let is_complete = users::is_complete(&held, &self.read.secrets.needed).map_err(|why| {
            Unusable::Problem(Problem::warning(Reason::AuthInvalid, format!("Secret {name}: {why}")))
        })?;
        self.read.security.users = Some(UsersSecret { exists: found.is_some(), is_complete });
        self.read.secrets.users = found;
        Ok(())
    }

    async fn find(&self, name: &str) -> Result<Option<Secret>, Unusable> {
        self.api.get_opt(name).await.map_err(|error| match refused("read", name, error) {
            Ok(problem) => Unusable::Problem(problem),
            Err(error) => Unusable::Error(error),
        })
    }

    /// A Secret of this HeliosCluster. The creator of another one under this name knows the keys and passwords in it.
    async fn find_ours(&self, name: &str) -> Result<Option<Secret>, Unusable> {
        let Some(found) = self.find(name).await? else { return Ok(None) };
        match ownership::owner(&found.metadata, self.owner) {
            Owner::Us => Ok(Some(found)),
            by => Err(Unusable::Taken(Taken { kind: "Secret".to_owned(), name: name.to_owned(), by })),
        }
    }
}

/// The problem of a request that the API server refuses.
///
/// # Errors
/// When it did not answer, or another client wrote at the same time: the next reconcile tries again.
pub fn refused(action: &'static str, name: &str, error: kube::Error) -> Result<Problem, Error> {
    match error {
        kube::Error::Api(status) if status.code != 409 && status.code < 500 => {
            let message = format!("cannot {action} Secret {name}: {}", status.message);
            Ok(Problem::blocking(Reason::SecretsRefused, message))
        }
        error => Err(Error::kube(action, format!("Secret {name}"))(error)),
    }
}

fn annotation(secret: Option<&Secret>, name: &str) -> Option<String> {
    secret?.annotations().get(name).cloned()
}

/// The entries that are text.
pub fn data(secret: &Secret) -> Data {
    let entries = secret.data.iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?))).collect()
}
