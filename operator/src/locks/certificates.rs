//! When the authority of a cluster and the certificate of its members are made, renewed and replaced. Pure: one act at
//! a time, from what the two Secrets hold, so that whoever goes on after a crash finds out where it was.
//!
//! All members show the same certificate, and take a changed Secret up within [`SPREAD`]. So an authority is replaced
//! in three acts with that time between them: the next one is trusted, then it signs, then the old one is forgotten.
//! **At no moment do two members hold what the other does not trust.**

use std::collections::BTreeMap;

use helios_proto::tls::issue::Pair;
use jiff::{SignedDuration, Timestamp};

use super::check::{self, Names, Validity};
use super::keys::{self, Failed};

/// Longest time until every kubelet has brought a changed Secret to its pods (a minute and a half), with plenty over.
pub const SPREAD: SignedDuration = SignedDuration::from_mins(15);

pub const CERTIFICATE: &str = "tls.crt";
pub const KEY: &str = "tls.key";
pub const AUTHORITY: &str = "ca.crt";
/// Of whoever manages the cluster: in the Secret of the members' certificate, and in no pod.
pub const ADMIN_CERTIFICATE: &str = "admin.crt";
pub const ADMIN_KEY: &str = "admin.key";
pub const AUTHORITY_KEY: &str = "ca.key";
const NEXT: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const OLD: &str = "old.crt";

/// What a Secret holds, as text; all of it is PEM.
pub type Data = BTreeMap<String, String>;

/// Both Secrets of a cluster, as far as they can be read.
#[derive(Debug, Clone, Default)]
pub struct Existing {
    pub authority: Option<Authority>,
    pub leaf: Option<Leaf>,
}

/// Who signs, and who is trusted beside.
#[derive(Debug, Clone)]
pub struct Authority {
    pub current: Root,
    pub next: Option<Root>,
    pub old: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Root {
    pub pem: String,
    /// `None` when it was lost: then it signs nothing any more.
    pub key: Option<String>,
    pub validity: Validity,
}

/// The members' certificate.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub pair: Pair,
    /// Issued with it, for whoever manages the cluster. `None`: by an operator that knew of none, or it was spoiled.
    pub admin: Option<Pair>,
    /// Signed by the present authority for the names of today, and with its own key.
    pub fits: bool,
    pub validity: Validity,
    /// Whom members trust.
    pub bundle: String,
    /// When the Secret was last written; `None` when a person has.
    pub written_at: Option<Timestamp>,
    /// The wish for a renewal that it fulfils.
    pub wish: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Keep,
    /// There is none, or it has ended.
    BeginAuthority,
    TrustNext,
    /// The next authority signs from now on.
    SwitchAuthority,
    ForgetOld,
    IssueLeaf,
    /// The same certificate, with what members trust brought up to date.
    DistributeTrust,
}

/// What to write: one Secret, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Authority(Data),
    Leaf(Data),
}

pub fn plan_certificates(existing: &Existing, wish: Option<&str>, now: Timestamp) -> Act {
    let Some(authority) = existing.authority.as_ref().filter(|it| !it.current.validity.is_over(now)) else {
        return Act::BeginAuthority;
    };
    let can_sign = authority.current.key.is_some();
    let spread = match &existing.leaf {
        Some(leaf) if leaf.fits || !can_sign => {
            let is_stale = leaf.validity.is_due(now)
                || leaf.wish.as_deref() != wish
                || leaf.written_at.is_none()
                || leaf.admin.is_none();
            if can_sign && is_stale {
                return Act::IssueLeaf;
            }
            if leaf.bundle != authority.bundle() {
                return Act::DistributeTrust;
            }
            let useless = !leaf.fits || leaf.validity.is_over(now);
            useless || leaf.written_at.is_none_or(|then| now.duration_since(then) >= SPREAD)
        }
        _ if can_sign => return Act::IssueLeaf,
        // Members have nothing to show, so there is nothing to be careful of.
        _ => true,
    };
    match (&authority.next, &authority.old) {
        (Some(_), _) if spread => Act::SwitchAuthority,
        (None, Some(_)) if spread => Act::ForgetOld,
        (None, None) if !can_sign || authority.current.validity.is_due(now) => Act::TrustNext,
        _ => Act::Keep,
    }
}

/// What `act` writes; nothing for [`Act::Keep`].
///
/// # Errors
/// When a key cannot be drawn or used.
pub fn carry_out(
    act: Act,
    existing: &Existing,
    names: &Names,
    now: Timestamp,
) -> Result<Option<Write>, Failed> {
    let authority = existing.authority.as_ref().ok_or(Failed::NoAuthority);
    Ok(Some(match act {
        Act::Keep => return Ok(None),
        Act::BeginAuthority => Write::Authority(Root::draw(names, now)?.data()),
        Act::TrustNext => {
            Write::Authority(Authority { next: Some(Root::draw(names, now)?), ..authority?.clone() }.data())
        }
        Act::SwitchAuthority => {
            let Authority { current, next, .. } = authority?.clone();
            let current_now = next.ok_or(Failed::NoAuthority)?;
            Write::Authority(Authority { current: current_now, next: None, old: Some(current.pem) }.data())
        }
        Act::ForgetOld => Write::Authority(Authority { old: None, ..authority?.clone() }.data()),
        Act::IssueLeaf => {
            let authority = authority?;
            let (pair, admin) = authority.issue(names, now)?;
            Write::Leaf(leaf(&pair, Some(&admin), &authority.bundle()))
        }
        Act::DistributeTrust => {
            let kept = existing.leaf.as_ref().ok_or(Failed::NoAuthority)?;
            Write::Leaf(leaf(&kept.pair, kept.admin.as_ref(), &authority?.bundle()))
        }
    }))
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

/// The pair of whoever manages the cluster, as far as it can be used.
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
    /// Whom members trust.
    fn bundle(&self) -> String {
        let beside = self.next.as_ref().map(|next| &next.pem).into_iter().chain(&self.old);
        std::iter::once(&self.current.pem).chain(beside).map(|pem| format!("{}\n", pem.trim_end())).collect()
    }

    /// The members', and that of whoever manages them.
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

    /// What members trust is known from their Secret when that of the authority was lost, but no key.
    fn remembered(pair: &Pair, bundle: &str, names: &Names, now: Timestamp) -> Option<Self> {
        let mut roots = check::split(bundle);
        let signs = |root: &String| check::fits(pair, root, names, now).is_ok();
        let current = roots.remove(roots.iter().position(signs)?);
        Some(Self { current: Root::read(Some(&current), None)?, next: None, old: roots.into_iter().next() })
    }
}

impl Existing {
    /// What the Secrets hold; what of it cannot be read counts as lost. `written` and `wish` are the annotations of
    /// the members' Secret.
    pub fn read(
        authority: Option<&Data>,
        leaf_data: Option<&Data>,
        (written_at, wish): (Option<Timestamp>, Option<String>),
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
            wish,
        });
        Self { authority, leaf }
    }
}
