//! The certificate of the webhook and its rotation. Pure, but for the keys that are drawn.
//!
//! Each certificate has a CA of its life time, whose key is dropped once it has signed: no key of a CA is at rest. A
//! certificate is replaced in steps, so that the API server always trusts the one that a webhook shows: the next CA is
//! trusted first, then its certificate is shown, and the previous CA is trusted until no webhook shows its certificate.

use std::ops::Range;

use helios_proto::tls::issue::{IssueError, Pair};
use helios_proto::tls::{certificates, names_of};
use jiff::{SignedDuration, Timestamp};

use crate::security::certificates::{AUTHORITY, CERTIFICATE, Data, KEY};
use crate::security::{check, keys};

const LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);
/// Time for which the next CA is trusted before its certificate is shown: all API servers have it by then.
const TRUSTED_BEFORE: SignedDuration = SignedDuration::from_hours(1);
/// Time for which the previous CA is trusted: the kubelet has updated the Secret of every webhook by then.
const TRUSTED_AFTER: SignedDuration = SignedDuration::from_hours(24);

const NEXT_AUTHORITY: &str = "next-ca.crt";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const OLD_AUTHORITY: &str = "old-ca.crt";
/// When the last step was done, RFC 3339.
const CHANGED_AT: &str = "changed-at";

/// Returns what the Secret shall have after the step that is due; `None` if none is.
///
/// # Errors
/// The system's random numbers fail.
pub fn next(held: &Data, hosts: &[String], now: Timestamp) -> Result<Option<Data>, IssueError> {
    let Some(life) = usable(held, hosts, now) else { return replaced(held, hosts, now).map(Some) };
    let age = held.get(CHANGED_AT).and_then(|text| text.parse::<Timestamp>().ok());
    // Without a time the step before is taken for done long ago.
    let age = age.map_or(SignedDuration::MAX, |at| now.duration_since(at));
    let mut data = held.clone();
    data.insert(CHANGED_AT.to_owned(), now.to_string());
    let staged = [NEXT_AUTHORITY, NEXT_CERTIFICATE, NEXT_KEY].map(|name| data.remove(name));
    if let [Some(authority), Some(certificate), Some(key)] = staged {
        let old = data.insert(AUTHORITY.to_owned(), authority);
        data.extend(old.map(|old| (OLD_AUTHORITY.to_owned(), old)));
        data.insert(CERTIFICATE.to_owned(), certificate);
        data.insert(KEY.to_owned(), key);
        return Ok((age >= TRUSTED_BEFORE).then_some(data));
    }
    if held.contains_key(OLD_AUTHORITY) {
        data.remove(OLD_AUTHORITY);
        return Ok((age >= TRUSTED_AFTER).then_some(data));
    }
    let third = (life.end - life.start) / 3;
    if now.as_second() < life.end - third {
        return Ok(None);
    }
    let (authority, pair) = draw(hosts, now)?;
    data.insert(NEXT_AUTHORITY.to_owned(), authority);
    data.insert(NEXT_CERTIFICATE.to_owned(), pair.certificate);
    data.insert(NEXT_KEY.to_owned(), pair.key);
    Ok(Some(data))
}

/// Returns the CAs that the API server shall trust, as PEM.
pub fn bundle(data: &Data) -> String {
    let authorities =
        [AUTHORITY, NEXT_AUTHORITY, OLD_AUTHORITY].into_iter().filter_map(|name| data.get(name));
    authorities.map(|pem| format!("{}\n", pem.trim_end())).collect()
}

/// Returns the life of the certificate, seconds since 1970, if a webhook can show it under all of `hosts` now.
fn usable(data: &Data, hosts: &[String], now: Timestamp) -> Option<Range<i64>> {
    let (certificate, key) = (data.get(CERTIFICATE)?, data.get(KEY)?);
    check::belong_together(certificate, key).ok()?;
    let names = names_of(certificates(certificate.as_bytes()).ok()?.first()?).ok()?;
    let validity = check::validity(certificate).ok()?;
    let is_usable = hosts.iter().all(|host| names.contains(host))
        && !validity.is_over(now)
        && check::validity(data.get(AUTHORITY)?).is_ok();
    is_usable.then(|| validity.seconds())
}

/// A certificate in place of one that is missing or unusable, shown at once. The CA that was trusted stays trusted, for
/// webhooks that still show what it signed.
fn replaced(held: &Data, hosts: &[String], now: Timestamp) -> Result<Data, IssueError> {
    let (authority, pair) = draw(hosts, now)?;
    let mut data = Data::from([
        (AUTHORITY.to_owned(), authority),
        (CERTIFICATE.to_owned(), pair.certificate),
        (KEY.to_owned(), pair.key),
        (CHANGED_AT.to_owned(), now.to_string()),
    ]);
    let old = held.get(AUTHORITY).filter(|pem| check::validity(pem).is_ok_and(|life| !life.is_over(now)));
    data.extend(old.map(|old| (OLD_AUTHORITY.to_owned(), old.clone())));
    Ok(data)
}

/// A new CA, and the certificate that it signed.
fn draw(hosts: &[String], now: Timestamp) -> Result<(String, Pair), IssueError> {
    let valid = keys::validity(now, LIFE).seconds();
    let authority = Pair::authority(&format!("helios webhook CA {}", now.as_second()), valid.clone())?;
    let pair = authority.sign("helios webhook", hosts, valid)?;
    Ok((authority.certificate, pair))
}

#[cfg(test)]
mod tests {
    use helios_proto::tls::{private_key, roots};
    use rustls::client::verify_server_cert_signed_by_trust_anchor;
    use rustls::pki_types::UnixTime;
    use rustls::server::ParsedCertificate;

    use super::*;

    fn hosts() -> Vec<String> {
        vec!["webhook.helios-system.svc".to_owned()]
    }

    fn is_trusted(certificate: &str, bundle: &str, now: Timestamp) -> bool {
        let chain = certificates(certificate.as_bytes()).unwrap();
        let parsed = ParsedCertificate::try_from(&chain[0]).unwrap();
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let seconds = std::time::Duration::from_secs(u64::try_from(now.as_second()).unwrap());
        let now = UnixTime::since_unix_epoch(seconds);
        let roots = roots(bundle.as_bytes()).unwrap();
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &chain[1..], now, algorithms.all).is_ok()
    }

    /// A year, in which the operator looks every `step`. An API server uses the bundle of up to 10 minutes before, a
    /// webhook shows the certificate of up to 2 hours before.
    #[test]
    fn api_server_trusts_what_a_webhook_shows_at_every_moment_of_a_year() {
        for step in [SignedDuration::from_mins(10), SignedDuration::from_hours(7)] {
            let mut now = Timestamp::from_second(1_800_000_000).unwrap();
            let end = now + SignedDuration::from_hours(24 * 365);
            let mut data = next(&Data::new(), &hosts(), now).unwrap().unwrap();
            let (mut shown, mut switches) = (vec![(now, data[CERTIFICATE].clone())], 0);
            while now < end {
                let trusted_before = bundle(&data);
                if let Some(after) = next(&data, &hosts(), now).unwrap() {
                    if after[CERTIFICATE] != data[CERTIFICATE] {
                        switches += 1;
                        shown.push((now, after[CERTIFICATE].clone()));
                    }
                    data = after;
                }
                private_key(data[KEY].as_bytes()).unwrap();
                for trusted in [&trusted_before, &bundle(&data)] {
                    assert!(
                        is_trusted(&data[CERTIFICATE], trusted, now),
                        "{now}: shown before it was trusted"
                    );
                }
                let late = shown
                    .iter()
                    .rev()
                    .find(|(at, _)| now.duration_since(*at) >= SignedDuration::from_hours(2));
                if let Some((_, late)) = late {
                    assert!(
                        is_trusted(late, &bundle(&data), now),
                        "{now}: a webhook that is late is not trusted"
                    );
                }
                now += step;
            }
            assert!((4..=6).contains(&switches), "{switches} in a year");
        }
    }

    #[test]
    fn unusable_certificate_is_replaced_at_once() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let data = next(&Data::new(), &hosts(), now).unwrap().unwrap();
        assert_eq!(next(&data, &hosts(), now).unwrap(), None);
        let renamed = next(&data, &["other.svc".to_owned()], now).unwrap().unwrap();
        assert_eq!(renamed[OLD_AUTHORITY], data[AUTHORITY]);
        for broken in [CERTIFICATE, KEY, AUTHORITY] {
            let mut held = data.clone();
            held.insert(broken.to_owned(), "x".to_owned());
            let repaired = next(&held, &hosts(), now).unwrap().unwrap();
            assert_ne!(repaired[CERTIFICATE], data[CERTIFICATE], "{broken}");
            assert!(is_trusted(&repaired[CERTIFICATE], &bundle(&repaired), now));
        }
        let late = now + SignedDuration::from_hours(24 * 100);
        let expired = next(&data, &hosts(), late).unwrap().unwrap();
        assert!(!expired.contains_key(OLD_AUTHORITY), "a CA that has ended is not trusted");
    }
}
