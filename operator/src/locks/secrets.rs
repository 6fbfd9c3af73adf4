//! Brings the Secrets of a cluster in line: reads them, has the next act decided, writes, and looks again.

use helios_crds::{RENEW_CERTIFICATES, Reason, TlsMode};
use helios_proto::tls::ClientTls;
use helios_proto::tls::issue::Pair;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};

use super::certificates::{
    AUTHORITY, CERTIFICATE, Data, Existing, KEY, Write, admin_of, carry_out, plan_certificates,
};
use super::check::{self, Names};
use super::users::{self, Address};
use super::{Locks, Trouble};
use crate::build::metadata;
use crate::error::Error;
use crate::names::{self, CLIENT_PORT, FIELD_MANAGER};
use crate::ownership::{self, Owner, Taken};
use crate::validate::ValidatedCluster;

const WRITTEN_AT: &str = "heliosdb.io/written-at";
/// From nothing to a certificate takes two, and no case takes more than three at a time.
const MOST_ACTS: usize = 4;

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    pub locks: Locks,
    /// How the operator shows itself to members; `None` without TLS, and when there is nothing to show.
    pub tls: Option<ClientTls>,
    /// Secrets of the operator's names that are not of this HeliosCluster. What they hold counts for nothing.
    pub taken: Vec<Taken>,
}

/// Reads the Secrets of `cluster` and, unless it is paused, makes and renews them. `wish` is the value of
/// [`RENEW_CERTIFICATES`] on the HeliosCluster. What the API server refuses is told as trouble.
///
/// # Errors
/// When the API server does not answer, or another has written at the same time.
pub async fn keep(
    client: &Client,
    cluster: &ValidatedCluster,
    wish: Option<&str>,
    now: Timestamp,
) -> Result<Kept, Error> {
    let api = Api::<Secret>::namespaced(client.clone(), &cluster.namespace);
    let keeper = Keeper { api, cluster, now };
    let certificate = match cluster.spec.tls.mode {
        TlsMode::Off => Ok(Found::default()),
        TlsMode::Auto => keeper.certificate(wish).await,
        TlsMode::Secret => keeper.own_certificate().await,
    };
    let mut kept = Kept::default();
    let Found { certificate, admin, trouble, taken } = kept.judge(certificate)?.unwrap_or_default();
    trouble.into_iter().for_each(|trouble| kept.locks.note(trouble));
    kept.taken.extend(taken);
    if let Some((pair, bundle)) = &certificate {
        kept.locks.expires = check::validity(&pair.certificate).ok().map(|validity| validity.not_after);
        // Members of an earlier version take any certificate of the cluster's authority.
        let shown = admin.as_ref().unwrap_or(pair);
        let identity = Some((shown.certificate.as_bytes(), shown.key.as_bytes()));
        match ClientTls::from_pem(bundle.as_bytes(), identity) {
            Ok(tls) => kept.tls = Some(tls),
            Err(error) => kept.locks.note(Trouble::blocking(
                Reason::CertificateInvalid,
                format!("the members' certificate cannot be used: {error}"),
            )),
        }
    }
    if cluster.spec.auth.enabled {
        let authority = certificate.filter(|_| cluster.spec.tls.clients).map(|(_, bundle)| bundle);
        let users = keeper.users(authority).await;
        kept.judge(users)?;
    }
    Ok(kept)
}

/// What stops one part: something for a person, or for the next pass.
enum Stopped {
    Trouble(Trouble),
    Taken(Taken),
    Error(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Kept {
    fn judge<T>(&mut self, result: Result<T, Stopped>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Stopped::Error(error)) => Err(error),
            Err(Stopped::Trouble(trouble)) => {
                self.locks.note(trouble);
                Ok(None)
            }
            Err(Stopped::Taken(taken)) => {
                self.taken.push(taken);
                Ok(None)
            }
        }
    }
}

struct Keeper<'a> {
    api: Api<Secret>,
    cluster: &'a ValidatedCluster,
    now: Timestamp,
}

/// The certificate that members show, whom they trust, and what is not right with it.
#[derive(Default)]
struct Found {
    certificate: Option<(Pair, String)>,
    /// What the operator shows to members; `None`: theirs.
    admin: Option<Pair>,
    trouble: Option<Trouble>,
    taken: Option<Taken>,
}

impl Keeper<'_> {
    fn names(&self) -> Names {
        Names {
            cluster: self.cluster.name.clone(),
            namespace: self.cluster.namespace.clone(),
            replicas: self.cluster.replicas,
            for_clients: self.cluster.spec.tls.clients,
        }
    }

    /// That of the operator's own making.
    async fn certificate(&self, wish: Option<&str>) -> Result<Found, Stopped> {
        let name = &self.cluster.name;
        let (authority_name, leaf_name) = (names::authority_secret(name), names::peer_tls_secret(name));
        let mut leaf = self.read(&leaf_name).await?;
        let mut authority = match self.read(&authority_name).await {
            // Members go on with what they show. Nothing is signed until the authority is ours.
            Err(Stopped::Taken(taken)) => {
                let certificate =
                    self.existing(None, leaf.as_ref()).leaf.map(|leaf| (leaf.pair, leaf.bundle));
                return Ok(Found { certificate, taken: Some(taken), ..Found::default() });
            }
            found => found?,
        };
        for _ in 0..MOST_ACTS {
            let existing = self.existing(authority.as_ref(), leaf.as_ref());
            let act = plan_certificates(&existing, wish, self.now);
            let write = carry_out(act, &existing, &self.names(), self.now).map_err(|error| {
                Stopped::Trouble(Trouble::blocking(Reason::CertificateInvalid, error.to_string()))
            })?;
            let admin = existing.leaf.as_ref().and_then(|leaf| leaf.admin.clone());
            let usable = existing.leaf.map(|leaf| (leaf.pair, leaf.bundle));
            let Some(write) = write.filter(|_| !self.cluster.spec.paused) else {
                return Ok(Found { certificate: usable, admin, ..Found::default() });
            };
            tracing::info!(cluster = name, namespace = self.cluster.namespace, ?act, "certificates");
            let result = match write {
                Write::Authority(data) => self
                    .write(&authority_name, authority.take(), data, None)
                    .await
                    .map(|new| authority = Some(new)),
                Write::Leaf(data) => {
                    let wish = wish.map(str::to_owned);
                    self.write(&leaf_name, leaf.take(), data, Some(wish)).await.map(|new| leaf = Some(new))
                }
            };
            match result {
                Ok(()) => {}
                // One that works for a while yet is better than none.
                Err(Stopped::Trouble(trouble)) if usable.is_some() => {
                    let trouble = Some(Trouble { blocks: false, ..trouble });
                    return Ok(Found { certificate: usable, admin, trouble, taken: None });
                }
                Err(stopped) => return Err(stopped),
            }
        }
        Err(Stopped::Trouble(Trouble::blocking(
            Reason::CertificateInvalid,
            "the certificates do not settle; see the log",
        )))
    }

    /// A person's own.
    async fn own_certificate(&self) -> Result<Found, Stopped> {
        let name = self.cluster.spec.tls.secret_name.as_deref().unwrap_or_default();
        let unfit = |why: String| {
            let message = format!("Secret {name} of spec.tls.secretName {why}");
            Trouble::blocking(Reason::CertificateInvalid, message)
        };
        // A person's, whoever owns it.
        let Some(secret) = self.find(name).await? else {
            let why = format!("is missing; create it with {CERTIFICATE}, {KEY} and {AUTHORITY}");
            return Err(Stopped::Trouble(unfit(why)));
        };
        let data = data(&secret);
        let part = |key: &str| {
            let missing = || Stopped::Trouble(unfit(format!("has no {key} (PEM); add it")));
            data.get(key).cloned().ok_or_else(missing)
        };
        let pair = Pair { certificate: part(CERTIFICATE)?, key: part(KEY)? };
        let bundle = part(AUTHORITY)?;
        let trouble = check::fits(&pair, &bundle, &self.names(), self.now).err();
        let trouble = trouble.map(|why| unfit(format!("does not fit: {why}")));
        Ok(Found { certificate: Some((pair, bundle)), admin: admin_of(&data), trouble, taken: None })
    }

    fn existing(&self, authority: Option<&Secret>, leaf: Option<&Secret>) -> Existing {
        let written = (
            annotation(leaf, WRITTEN_AT).and_then(|text| text.parse().ok()),
            annotation(leaf, RENEW_CERTIFICATES),
        );
        let (held, shown) = (authority.map(data), leaf.map(data));
        Existing::read(held.as_ref(), shown.as_ref(), written, &self.names(), self.now)
    }

    async fn users(&self, authority: Option<String>) -> Result<(), Stopped> {
        let name = names::auth_secret(&self.cluster.name);
        let found = self.read(&name).await?;
        let held = found.as_ref().map(data).unwrap_or_default();
        let address = Address {
            host: format!("{}.{}.svc", self.cluster.name, self.cluster.namespace),
            port: CLIENT_PORT.unsigned_abs() as u16,
            authority,
        };
        // Drawn beforehand, so that a failure is one of drawing.
        let mut drawn = (0..2)
            .map(|_| users::draw())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| Stopped::Trouble(Trouble::blocking(Reason::SecretsRefused, why)))?;
        let wanted = users::complete(&held, &address, || drawn.pop().unwrap_or_default()).map_err(|why| {
            Stopped::Trouble(Trouble::warning(Reason::AuthInvalid, format!("Secret {name}: {why}")))
        })?;
        if wanted == held || self.cluster.spec.paused {
            return Ok(());
        }
        let exists = found.is_some();
        match self.write(&name, found, wanted, None).await {
            // Members go on with what they have.
            Err(Stopped::Trouble(trouble)) if exists => {
                Err(Stopped::Trouble(Trouble { blocks: false, ..trouble }))
            }
            result => result.map(drop),
        }
    }

    async fn find(&self, name: &str) -> Result<Option<Secret>, Stopped> {
        self.api.get_opt(name).await.map_err(|error| refused("read", name, error))
    }

    /// One of ours. Whoever made another one under this name knows the keys and passwords in it.
    async fn read(&self, name: &str) -> Result<Option<Secret>, Stopped> {
        let Some(found) = self.find(name).await? else { return Ok(None) };
        match ownership::owner(&found.metadata, &self.cluster.owner) {
            Owner::Us => Ok(Some(found)),
            by => Err(Stopped::Taken(Taken { kind: "Secret".to_owned(), name: name.to_owned(), by })),
        }
    }

    /// Only over what was read, so that two operators cannot undo each other's acts.
    async fn write(
        &self,
        name: &str,
        found: Option<Secret>,
        data: Data,
        leaf: Option<Option<String>>,
    ) -> Result<Secret, Stopped> {
        let exists = found.is_some();
        let mut secret = found.unwrap_or_else(|| Secret {
            metadata: metadata(self.cluster, name.to_owned()),
            ..Secret::default()
        });
        secret.labels_mut().extend(names::labels(&self.cluster.name));
        // One that a person handed over by its labels has no owner yet.
        let owner = &self.cluster.owner;
        if secret.owner_references().iter().all(|other| other.uid != owner.uid) {
            secret.owner_references_mut().push(owner.clone());
        }
        let held = secret.data.get_or_insert_default();
        // What is no text is not of our making.
        held.retain(|_, value| std::str::from_utf8(&value.0).is_err());
        held.extend(data.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
        if let Some(wish) = leaf {
            let annotations = secret.annotations_mut();
            annotations.insert(WRITTEN_AT.to_owned(), self.now.to_string());
            match wish {
                Some(wish) => annotations.insert(RENEW_CERTIFICATES.to_owned(), wish),
                None => annotations.remove(RENEW_CERTIFICATES),
            };
        }
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = match exists {
            true => self.api.replace(name, &params, &secret).await,
            false => self.api.create(&params, &secret).await,
        };
        written.map_err(|error| refused(if exists { "update" } else { "create" }, name, error))
    }
}

/// A refusal is for a person; no answer, and a write over a write, for the next pass.
fn refused(doing: &'static str, name: &str, error: kube::Error) -> Stopped {
    match error {
        kube::Error::Api(status) if status.code != 409 && status.code < 500 => {
            let message = format!("cannot {doing} Secret {name}: {}", status.message);
            Stopped::Trouble(Trouble::blocking(Reason::SecretsRefused, message))
        }
        error => Stopped::Error(Error::kube(doing, format!("Secret {name}"))(error)),
    }
}

fn annotation(secret: Option<&Secret>, name: &str) -> Option<String> {
    secret?.annotations().get(name).cloned()
}

/// What of it is text.
fn data(secret: &Secret) -> Data {
    let entries = secret.data.iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?))).collect()
}
