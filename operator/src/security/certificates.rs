//! Contents of the two Secrets with certificates: the authority's, and the members'. Pure, but for the keys that are drawn.
//! `plan::secrets` decides what is written next.

use std::collections::BTreeMap;
use std::fmt;

use helios_proto::tls::issue::Pair;
use jiff::Timestamp;

use super::check::{self, Names, Validity};
use super::keys::{self, Failed};
use crate::plan::CertificateStep;

pub const CERTIFICATE: &str = "tls.crt";
pub const KEY: &str = "tls.key";
pub const AUTHORITY: &str = "ca.crt";
/// The admin's certificate: in the Secret of the members', and mounted in no pod.
pub const ADMIN_CERTIFICATE: &str = "admin.crt";
pub const ADMIN_KEY: &str = "admin.key";
pub const AUTHORITY_KEY: &str = "ca.key";
const NEXT: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const OLD: &str = "old.crt";

/// Entries of a Secret that are text, by name; all are PEM.
pub type Data = BTreeMap<String, String>;

/// Contents of both Secrets, as far as they can be parsed.
#[derive(Debug, Clone, Default)]
pub struct Existing {
    pub authority: Option<Authority>,
    pub leaf: Option<Leaf>,
}

/// The authority that signs, and those that are trusted beside it.
#[derive(Debug, Clone)]
pub struct Authority {
    pub current: Root,
    pub next: Option<Root>,
    pub old: Option<String>,
}

#[derive(Clone)]
pub struct Root {
    pub pem: String,
    /// `None` when it was lost: then the authority signs nothing any more.
    pub key: Option<String>,
    pub validity: Validity,
}

/// Without the key: a snapshot, which contains it, may be printed.
impl fmt::Debug for Root {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Root").field("validity", &self.validity).finish_non_exhaustive()
    }
}

/// The members' certificate.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub pair: Pair,
    /// Admin's certificate, issued with it. `None`: an earlier operator issued none, or it is unusable.
    pub admin: Option<Pair>,
    /// Signed by the present authority for the present names, and with its own key.
    pub fits: bool,
    pub validity: Validity,
    /// Authorities that members trust.
    pub bundle: String,
    /// When the operator wrote the Secret last; `None` when a user did.
    pub written_at: Option<Timestamp>,
    /// Renewal request that it was issued for.
    pub renewal_request: Option<String>,
}

/// One Secret, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Authority(Data),
    Leaf(Data),
}

/// Contents of the Secret that `step` writes.
///
/// # Errors
/// When a key cannot be drawn or used.
pub fn contents_after(
    step: CertificateStep,
    existing: &Existing,
    names: &Names,
    now: Timestamp,
) -> Result<Write, Failed> {
    let authority = existing.authority.as_ref().ok_or(Failed::NoAuthority);
    Ok(match step {
        CertificateStep::CreateAuthority => Write::Authority(Root::draw(names, now)?.data()),
        CertificateStep::TrustNextAuthority => {
            Write::Authority(Authority { next: Some(Root::draw(names, now)?), ..authority?.clone() }.data())
        }
        CertificateStep::SwitchAuthority => {
            let Authority { current, next, .. } = authority?.clone();
            let current_now = next.ok_or(Failed::NoAuthority)?;
            Write::Authority(Authority { current: current_now, next: None, old: Some(current.pem) }.data())
        }
        CertificateStep::RemoveOldAuthority => {
            Write::Authority(Authority { old: None, ..authority?.clone() }.data())
        }
        CertificateStep::IssueCertificates => {
            let authority = authority?;
            let (pair, admin) = authority.issue(names, now)?;
            Write::Leaf(leaf(&pair, Some(&admin), &authority.bundle()))
        }
        CertificateStep::DistributeTrust => {
            let kept = existing.leaf.as_ref().ok_or(Failed::NoAuthority)?;
            Write::Leaf(leaf(&kept.pair, kept.admin.as_ref(), &authority?.bundle()))
        }
    })
}

fn leaf(pair: &Pair, admin: Option<&Pair>, bundle: &str) -> Data {
    let mut data = Data::from([
        (CERTIFICATE.to_owned(), pair.certificate.clone()),
        (KEY.to_owned(), pair.key.clone()),
        (AUTHORITY.to_owned(), bundle.to_owned()),
    ]);
    if let Some(admin) = admin {
        data.insert(ADMIN_CERTIFICATE.to_owned(), admin.certificate.clone());
        data.insert(ADMIN_KEY.to_owned(), admin.key.clone());
    }
    data
}

/// The admin's certificate and key, if they are usable.
pub fn admin_of(data: &Data) -> Option<Pair> {
    let pair = Pair { certificate: data.get(ADMIN_CERTIFICATE)?.clone(), key: data.get(ADMIN_KEY)?.clone() };
    check::belong_together(&pair.certificate, &pair.key).ok()?;
    check::is_for_management(&pair.certificate).then_some(pair)
}

impl Root {
    fn draw(names: &Names, now: Timestamp) -> Result<Self, Failed> {
        let (pair, validity) = keys::authority(names, now)?;
        Ok(Self { pem: pair.certificate, key: Some(pair.key), validity })
    }

    fn read(pem: Option<&String>, key: Option<&String>) -> Option<Self> {
        let pem = pem?;
        let validity = check::validity(pem).ok()?;
        let key = key.filter(|key| check::belong_together(pem, key).is_ok()).cloned();
        Some(Self { pem: pem.clone(), key, validity })
    }

    fn data(self) -> Data {
        Authority { current: self, next: None, old: None }.data()
    }
}

impl Authority {
    /// Certificates of the authorities that members trust.
    pub fn bundle(&self) -> String {
        let beside = self.next.as_ref().map(|next| &next.pem).into_iter().chain(&self.old);
        std::iter::once(&self.current.pem).chain(beside).map(|pem| format!("{}\n", pem.trim_end())).collect()
    }

    /// The members' certificate and the admin's.
    fn issue(&self, names: &Names, now: Timestamp) -> Result<(Pair, Pair), Failed> {
        let key = self.current.key.as_ref().ok_or(Failed::NoAuthority)?;
        let signer = Pair { certificate: self.current.pem.clone(), key: key.clone() };
        let limit = self.current.validity.not_after;
        Ok((keys::member(&signer, limit, names, now)?, keys::admin(&signer, limit, names, now)?))
    }

    fn data(self) -> Data {
        let Self { current, next, old } = self;
        let next = next.map(|next| (next.pem, next.key)).unzip();
        let entries = [
            (AUTHORITY, Some(current.pem)),
            (AUTHORITY_KEY, current.key),
            (NEXT, next.0),
            (NEXT_KEY, next.1.flatten()),
            (OLD, old),
        ];
        entries.into_iter().filter_map(|(name, pem)| Some((name.to_owned(), pem?))).collect()
    }

    fn read(data: &Data) -> Option<Self> {
        let current = Root::read(data.get(AUTHORITY), data.get(AUTHORITY_KEY))?;
        let next = Root::read(data.get(NEXT), data.get(NEXT_KEY)).filter(|next| next.key.is_some());
        Some(Self { current, next, old: data.get(OLD).cloned() })
    }

    /// The authority as the members' Secret shows it, without its key, when its own Secret was lost.
    fn remembered(pair: &Pair, bundle: &str, names: &Names, now: Timestamp) -> Option<Self> {
        let mut roots = check::split(bundle);
        let signs = |root: &String| check::fits(pair, root, names, now).is_ok();
        let current = roots.remove(roots.iter().position(signs)?);
        Some(Self { current: Root::read(Some(&current), None)?, next: None, old: roots.into_iter().next() })
    }
}

impl Existing {
    /// Contents of the Secrets; an entry that cannot be parsed counts as lost. The pair has the annotations of the members'
    /// Secret: time and renewal request of its last write.
    pub fn read(
        authority: Option<&Data>,
        leaf_data: Option<&Data>,
        (written_at, renewal_request): (Option<Timestamp>, Option<String>),
        names: &Names,
        now: Timestamp,
    ) -> Self {
        let parts = leaf_data.and_then(|data| {
            let pair = Pair { certificate: data.get(CERTIFICATE)?.clone(), key: data.get(KEY)?.clone() };
            Some((
                check::validity(&pair.certificate).ok()?,
                pair,
                data.get(AUTHORITY).cloned().unwrap_or_default(),
            ))
        });
        let authority = authority.and_then(Authority::read).or_else(|| {
            let (_, pair, bundle) = parts.as_ref()?;
            Authority::remembered(pair, bundle, names, now)
        });
        let leaf = parts.map(|(validity, pair, bundle)| Leaf {
            fits: authority
                .as_ref()
                .is_some_and(|it| check::fits(&pair, &it.current.pem, names, now).is_ok()),
            pair,
            admin: leaf_data.and_then(admin_of),
            validity,
            bundle,
            written_at,
            renewal_request,
        });
        Self { authority, leaf }
    }
}
